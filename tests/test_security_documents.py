"""Pages on security keep to what is shown: claims have tests, bounds are the program's, figures are measured.

docs/conformance.md lists claims and their tests; docs/hostile-input.md readers, bounds and runs of the fuzzer.
"""

import ast
import importlib
import json
import re
from functools import cache, reduce
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


CONFORMANCE = (DOCS / "conformance.md").read_text()
SOURCES = {"R": "README.md", "F": "docs/faults.md"} | dict.fromkeys("GATNW", "docs/threat-model.md")
"""Where the numbers of claims come from; numbers of other letters are the page's own."""
LISTS = {"R": "## Security in brief", "F": "## What counts as a failure"}
"""Headings of the lists whose items have no letter of their own."""
NO_TEST = ("**argued", "**assumed")


def claims(text: str) -> list[Row]:
    """Items of the page: number, claim, and what shows it, which stands below the claim, one test a line."""
    items = re.findall(r"^- \*\*([A-Z]\d+)\*\* (.+(?:\n  (?!- ).+)*)((?:\n  .+)*)", text, re.MULTILINE)
    return [
        (number, " ".join(claim.split()), " ".join(shown.replace("\n  - ", " ").split()))
        for number, claim, shown in items
    ]


def numbers_in(text: str, letter: str) -> list[str]:
    """Numbers of a document: items of the list that the letter stands for, or bold items and first cells of tables."""
    if letter in LISTS:
        section = text.partition(f"{LISTS[letter]}\n")[2].partition("\n## ")[0]
        return [f"{letter}{number}" for number in re.findall(r"^(\d+)\. ", section, re.MULTILINE)]
    return re.findall(rf"^(?:- \*\*|\| )({letter}\d+)\b", text, re.MULTILINE)


def numbers_that_differ(text: str, letter: str, document: str) -> set[str]:
    """Numbers that stand in one of the two alone."""
    rows = {row[0] for row in claims(text) if row[0].startswith(letter)}
    return rows ^ set(numbers_in(document, letter))


def out_of_order(text: str) -> list[str]:
    """Numbers that do not follow the one before them: each letter counts from 1, and no number stands twice."""
    expected: dict[str, int] = {}
    wrong = []
    for number, *_ in claims(text):
        expected[number[0]] = expected.get(number[0], 0) + 1
        if int(number[1:]) != expected[number[0]]:
            wrong.append(number)
    return wrong


@cache
def collected(path: Path) -> frozenset[str]:
    """Names of the tests of a module and of its classes, as its source has them."""
    if not path.is_file():
        return frozenset()
    module = ast.parse(path.read_bytes())
    inner = (node for holder in module.body if isinstance(holder, ast.ClassDef) for node in holder.body)
    functions = (node for node in (*module.body, *inner) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def named_tests(cell: str) -> list[tuple[str, str]]:
    """(file, test) of everything that is named; `::test_x` is of the file named before it."""
    found, file = [], ""
    for name in re.findall(r"`([^`]*::[^`]*)`", cell):
        before, _, test = name.partition("::")
        file = before or file
        found.append((file, test))
    return found


def missing_tests(text: str) -> list[str]:
    named = {one for row in claims(text) for one in named_tests(row[-1])}
    return sorted(f"{file}::{test}" for file, test in named if test not in collected(ROOT / file))


def rows_without_ground(text: str) -> list[str]:
    """Claims that name no test and do not say that none shows them."""
    return [row[0] for row in claims(text) if not named_tests(row[-1]) and not row[-1].startswith(NO_TEST)]


def numbers_of_nothing(text: str, known: set[str]) -> set[str]:
    """Numbers that a text speaks of and that no claim has."""
    return set(re.findall(rf"\b[{''.join(SOURCES)}]\d+\b", text)) - known


def test_every_test_that_is_named_exists() -> None:
    assert missing_tests(CONFORMANCE) == []


def test_every_claim_names_tests_or_says_that_none_shows_it() -> None:
    assert len(claims(CONFORMANCE)) == len(re.findall(r"\*\*[A-Z]\d+\*\*", CONFORMANCE)) > 100
    assert rows_without_ground(CONFORMANCE) == []


@pytest.mark.parametrize(("letter", "document"), SOURCES.items())
def test_numbers_stand_in_their_document_and_on_the_page(letter: str, document: str) -> None:
    text = (ROOT / document).read_text()
    assert numbers_in(text, letter)
    assert numbers_that_differ(CONFORMANCE, letter, text) == set()


def test_numbers_follow_each_other() -> None:
    assert out_of_order(CONFORMANCE) == []


@pytest.mark.parametrize("document", ["threat-model.md", "conformance.md", "data-protection.md"])
def test_numbers_that_are_spoken_of_exist(document: str) -> None:
    assert numbers_of_nothing((DOCS / document).read_text(), {row[0] for row in claims(CONFORMANCE)}) == set()


def unpinned(lock: str) -> list[str]:
    """Requirements of a lock file without a version or without a hash."""
    lines = lock.replace("\\\n", " ").splitlines()
    wanted = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [line for line in wanted if not re.fullmatch(r"[\w.-]+==\S+( +--hash=sha256:[0-9a-f]{64})+ *", line)]


def test_every_dependency_is_pinned_by_hash() -> None:
    """But torch, of which each machine finds its own build."""
    lock = (ROOT / "requirements.lock").read_text()
    assert lock.count("==") > 50
    assert unpinned(lock) == []
    installs = re.findall(r'(?m)"\$\{pip\[@\]\}" install (.*)$', (ROOT / "scripts" / "install").read_text())
    assert len(installs) == 3
    assert re.fullmatch(r"torch==[\d.]+", installs[0])
    assert installs[1] == "--require-hashes --no-deps -r requirements.lock"
    assert installs[2] == "--no-deps --no-build-isolation -e ."


PAGE = """
- **G1** one, and
  all of it
  - `tests/test_security_documents.py::test_numbers_follow_each_other`
  - `::test_bounds_are_the_programs`
- **G2** two
  - **argued**
"""


def test_the_checkers_see_what_is_wrong() -> None:
    assert (missing_tests(PAGE), rows_without_ground(PAGE), out_of_order(PAGE)) == ([], [], [])
    assert missing_tests(PAGE.replace("::test_bounds", "::test_no_bounds")) == [
        "tests/test_security_documents.py::test_no_bounds_are_the_programs"
    ]
    assert len(missing_tests(PAGE.replace("test_security_documents.py", "test_nothing.py"))) == 2
    assert missing_tests(PAGE.replace("tests/test_security_documents.py", "")) != []
    assert rows_without_ground(PAGE.replace("**argued**", "obvious")) == ["G2"]
    assert out_of_order(PAGE.replace("G2", "G3")) == ["G3"]
    assert out_of_order(PAGE.replace("G2", "G1")) == ["G1"]
    document = "- **G1. One.**\n- **G2.** Two.\n"
    assert numbers_that_differ(PAGE, "G", document) == set()
    assert numbers_that_differ(PAGE, "G", document + "- **G3. Three.**") == {"G3"}
    assert numbers_that_differ(PAGE, "G", "- **G1. One.**") == {"G2"}
    assert numbers_that_differ(PAGE.replace("G", "T"), "T", "| T1 | one |\n| T2 | two |") == set()
    assert numbers_that_differ(PAGE.replace("G", "R"), "R", "## Security in brief\n\n1. One.\n2. Two.\n3. Three.") == {
        "R3"
    }
    assert numbers_of_nothing("As G2 says, but for G7.", {"G1", "G2"}) == {"G7"}
    pinned = f"a==1 \\\n    --hash=sha256:{'0' * 64}\n"
    assert unpinned(pinned) == []
    assert unpinned(pinned + "b==2\n") == ["b==2"]
    assert unpinned(pinned.replace("==1", ">=1")) != []
