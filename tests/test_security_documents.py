"""Pages on security keep to what is shown: claims have tests, bounds are the program's, figures are measured.

docs/conformance.md lists claims and their tests; docs/hostile-input.md readers, bounds and runs of the fuzzer.
"""

import importlib
import json
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tests.fuzzing.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

Row = tuple[str, ...]


def tables(text: str) -> list[Row]:
    """Cells of every row of every table, headings left out."""
    lines = text.splitlines()
    rules = {number for number, line in enumerate(lines) if line.startswith("|") and set(line) <= set("|- ")}
    return [
        tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        for number, line in enumerate(lines)
        if line.startswith("|") and number not in rules and number + 1 not in rules
    ]


def amount(bound: str) -> float:
    number, _, unit = bound.partition(" ")
    return float(number.replace(",", "")) * UNITS.get(unit, 1)


def constant(name: str) -> Any:
    """The value of `module:NAME`, or of `module:Class.field` its default."""
    module, _, path = name.partition(":")

    def inner(holder: Any, attribute: str) -> Any:
        if isinstance(holder, type) and issubclass(holder, BaseModel):
            return holder.model_fields[attribute].default
        return getattr(holder, attribute)

    return reduce(inner, path.split("."), importlib.import_module(module))


HOSTILE_INPUT = (DOCS / "hostile-input.md").read_text()
BOUNDS = [row for row in tables(HOSTILE_INPUT) if re.fullmatch(r"`[\w.]+:[\w.]+`", row[-1])]


@pytest.mark.parametrize(("bound", "name"), [row[-2:] for row in BOUNDS], ids=lambda text: text.strip("`"))
def test_bounds_are_the_programs(bound: str, name: str) -> None:
    assert amount(bound) == constant(name.strip("`"))


def test_every_fuzzed_reader_is_named() -> None:
    section = HOSTILE_INPUT.partition("## Readers")[2].partition("Runs of atheris")[0]
    assert [row[0] for row in tables(section)] == list(TARGETS)
    assert len(BOUNDS) > 30


def test_runs_of_the_fuzzer_are_those_of_the_result_file() -> None:
    saved = json.loads((ROOT / "benchmarks" / "results" / "fuzzing.json").read_text())
    section = HOSTILE_INPUT.partition("Runs of atheris")[2].partition("## ")[0]
    shown = [tuple(cell.replace(",", "") for cell in row) for row in tables(section)]
    keys = ("target", "inputs", "seconds", "seed", "findings")
    assert shown == [tuple(str(run[key]) for key in keys) for run in saved["runs"]]
    assert {run["target"] for run in saved["runs"]} <= set(TARGETS)
    assert max(run["inputs"] for run in saved["runs"] if run["target"] == "codec") >= 1_000_000
