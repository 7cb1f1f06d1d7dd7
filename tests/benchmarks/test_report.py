"""The report: parts are kept and taken up again, and the page is what the kept results make of it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.configuration import RESULTS, ROOT
from benchmarks.document import page as writing
from benchmarks.document import parts, plots
from benchmarks.document.blocks import Shown
from benchmarks.document.page import MISSING, SECTIONS
from benchmarks.document.parts import Part, Plan, measure_parts, parse_parts
from benchmarks.layers import Layers
from benchmarks.measuring import OnStep
from benchmarks.results import FORMAT, PartFile, locate_part, read_part
from contract.base import Strict
from contract.errors import CallerError
from tests.benchmarks.test_latency import own_files, tiny_model

__all__ = ["tiny_model"]


class Answer(Strict):
    value: int


@pytest.fixture
def diary(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two parts that note that they ran; a name in `failing` is interrupted."""
    found: list[str] = []

    def measuring(name: str) -> Callable[[Plan, Path, OnStep], Strict]:
        def measure(plan: Plan, folder: Path, _on_step: OnStep) -> Strict:
            found.append(name)
            assert list(folder.iterdir()) == []
            if found.count(name) == 1 and name == "second":
                raise KeyboardInterrupt
            return Answer(value=len(found))

        return measure

    both = tuple(
        Part(name=name, minutes=1.5, measure=measuring(name), kind=Answer, show=lambda _found: Shown("", [], None))
        for name in ("first", "second")
    )
    monkeypatch.setattr(parts, "PARTS", both)
    return found


def measure(folder: Path, *, only: tuple[str, ...] = (), again: tuple[str, ...] = ()) -> None:
    measure_parts(Plan(), folder, only=only, again=again)


def test_what_was_kept_is_not_measured_again_after_an_interrupt(
    tmp_path: Path, diary: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path)
    assert "first (1 of 2): about 1.5 minutes; 3 left for all" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["first.json"]
    measure(tmp_path)
    assert diary == ["first", "second", "second"]
    assert "first: kept" in capsys.readouterr().err
    measure(tmp_path, again=("first",))
    assert diary == ["first", "second", "second", "first"]
    kept = read_part("first", tmp_path, Answer)
    assert kept is not None
    assert (kept.format, kept.result.value) == (FORMAT, 4)


@pytest.mark.parametrize("change", [{"code": "of yesterday"}, {"format": 1}, {"machine": None}])
def test_results_of_other_code_or_another_version_are_measured_anew(
    tmp_path: Path, diary: list[str], change: dict[str, object]
) -> None:
    measure(tmp_path, only=("first",))
    path = locate_part("first", tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    measure(tmp_path, only=("first",))
    assert diary == ["first", "first"]


def test_results_of_another_machine_are_measured_anew(tmp_path: Path, diary: list[str]) -> None:
    measure(tmp_path, only=("first",))
    path = locate_part("first", tmp_path)
    content = PartFile[Any].model_validate_json(path.read_text())
    other = content.machine.model_copy(update={"cores": content.machine.cores + 1})
    path.write_text(content.model_copy(update={"machine": other}).model_dump_json())
    measure(tmp_path, only=("first",))
    assert diary == ["first", "first"]


def test_a_result_of_another_version_is_refused_when_it_is_read(tmp_path: Path, diary: list[str]) -> None:
    measure(tmp_path, only=("first",))
    path = locate_part("first", tmp_path)
    with pytest.raises(CallerError, match="measure again"):
        read_part("first", tmp_path, Layers)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT + 1}))
    with pytest.raises(CallerError, match=f"of version {FORMAT + 1}, and this program reads version {FORMAT}"):
        read_part("first", tmp_path, Answer)


def test_unknown_parts_are_refused() -> None:
    assert parse_parts("growth, layers", option="--only") == ("growth", "layers")
    with pytest.raises(CallerError, match="unknown part 'feelings': give --only some of latency-resnet18"):
        parse_parts("growth,feelings", option="--only")


def test_the_whole_fits_the_time() -> None:
    assert sum(part.minutes for part in parts.PARTS) < 75


def test_every_place_of_the_template_is_filled_and_every_section_has_a_place(tmp_path: Path) -> None:
    places = re.findall(r"\{\{([\w-]+)\}\}", writing.TEMPLATE.read_text())
    assert sorted(places) == sorted(SECTIONS)
    empty = writing.render(tmp_path)
    assert empty.text.count(MISSING) >= len(SECTIONS)
    assert empty.plots == {}
    with pytest.raises(CallerError, match="correct page"):
        writing.render(tmp_path, template="{{nothing}}")


def test_the_committed_page_is_what_the_committed_results_make() -> None:
    made = writing.render(RESULTS)
    assert writing.PAGE.read_text() == made.text
    folder = writing.PAGE.parent / "plots"
    assert {path.name for path in folder.glob("*")} == set(made.plots)
    for name in made.plots:
        assert f"(plots/{name})" in made.text


def test_plots_are_the_same_bytes_each_time() -> None:
    def drawn() -> list[bytes]:
        return [
            plots.draw_lines({"a": [(1, 2), (2, 3)], "b": [(1, 1), (2, 5)]}, across="x", up="y"),
            plots.draw_grouped_bars({"one": {"a": 1.0, "b": 20.0}, "two": {"b": 3.0}}, up="MB"),
            plots.draw_stacked_bars({"one": {"a": 1.0, "b": 2.0}, "two": {"a": 3.0}}, across="ms"),
        ]

    first = drawn()
    assert first == drawn()
    for one in first:
        assert one.startswith(b"<?xml")
        assert b"<dc:date>" not in one
        assert b"#000000" not in one  # black would vanish on a dark page


def report(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    temporary = folder / "temporary"
    temporary.mkdir()
    where = ["--save", str(folder / "results"), "--page", str(folder / "page" / "benchmarks.md")]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "report", *where, *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_interrupted_report_leaves_nothing_half_done(tiny_model: Path) -> None:
    folder = tiny_model.parent
    process = report(folder, "--only", "layers", "--model", str(tiny_model), "--runs", "1000000")
    assert process.stderr is not None
    assert "layers (1 of 1)" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert list((folder / "results").iterdir()) == []
    assert not (folder / "page").exists()
    assert own_files(folder / "temporary") == []
