"""From runs to figures: medians, worst cases, keys, table and saved file."""

import dataclasses
import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.configuration import ROOT, Configuration
from benchmarks.document.blocks import print_shown
from benchmarks.document.sections import show_summary
from benchmarks.latency import Result, Summary, save, summarise
from benchmarks.machine import FROM_RESULTS, PRODUCT, Machine, _processor, product_version, read_machine, read_versions
from benchmarks.measuring import Measured, Run
from benchmarks.results import FORMAT, read_file
from contract.errors import CallerError
from tests.benchmarks.fakes import fake_case, measurement
from tests.test_rooms import ALLOWED

REQUIRED = {
    *("model", "engine", "size", "batch", "online_seconds", "offline_seconds", "online_bytes", "offline_bytes"),
    *("one_way_trips", "peak_rss_bytes", "max_abs_error"),
}
MACHINE = Machine(processor="Abacus", cores=2, flags=("aes",), memory_bytes=1, kernel="Linux 1", load_average=0.25)


def runs_of(engine: str, seconds: list[float]) -> list[Run]:
    return [
        Run(
            engine=engine,
            round=turn,
            measurement=measurement(value, memory=100 * (turn + 1)),
            max_abs_error=value / 1000,
        )
        for turn, value in enumerate(seconds)
    ]


NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
RUNS = (*runs_of("crypten", [99.0, 3.0, 1.0, 2.0]), *runs_of("plaintext", [98.0, 0.4, 0.1, 0.2]))


def configuration(folder: Path) -> Configuration:
    return Configuration(
        model="tiny", model_folder=folder, engines=("plaintext", "small", "crypten"), runs=3, seed=5, timeout_seconds=1
    )


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    measured = Measured(runs=RUNS, not_served={"small": "takes no such image"})
    case = fake_case(tmp_path, rounds=3)
    return summarise(measured, case, configuration(tmp_path), MACHINE, {"python": "3"}, now=NOW)


@pytest.fixture
def results(summary: Summary) -> tuple[Result, ...]:
    return summary.results


def test_medians_and_worst_cases_without_the_warm_up(results: tuple[Result, ...]) -> None:
    assert [result.engine for result in results] == ["plaintext", "crypten"]
    crypten = results[1]
    assert crypten.online_seconds == 2.0
    assert crypten.offline_seconds == 1.0
    assert (crypten.online_seconds_range.smallest, crypten.online_seconds_range.largest) == (1.0, 3.0)
    assert crypten.peak_rss_bytes == {"data_owner": 400}
    assert crypten.max_abs_error == 0.003
    assert crypten.runs == 3
    assert crypten.total_seconds == 3.0
    assert crypten.cpu_seconds == {"data_owner": 0.5}
    assert (crypten.links[0].sender, crypten.links[0].online_bytes) == ("data_owner", 900)
    assert crypten.pictures == 3  # rounds 1 and 2, and round 3 begins again with the first


def test_an_even_number_of_runs_keeps_counts_whole(tmp_path: Path) -> None:
    one = dataclasses.replace(configuration(tmp_path), engines=("crypten",), runs=2)
    measured = Measured(runs=RUNS[:3], not_served={})
    (result,) = summarise(measured, fake_case(tmp_path), one, MACHINE, {}).results
    assert (result.online_seconds, result.online_bytes, result.one_way_trips) == (2.0, 1000, 7)


def test_json_lines_have_the_agreed_keys(results: tuple[Result, ...]) -> None:
    for result in results:
        line = result.model_dump_json()
        assert "\n" not in line
        content = json.loads(line)
        assert set(content) >= REQUIRED
        assert (content["model"], content["size"], content["batch"]) == ("tiny", 8, 1)
        assert content["machine"]["processor"] == "Abacus"


def test_the_table_names_every_engine_and_figure(summary: Summary, capsys: pytest.CaptureFixture[str]) -> None:
    print_shown(show_summary(summary))
    text = capsys.readouterr().out
    for words in ("crypten", "plaintext", "2 (1 - 3)", "0.2 (0.1 - 0.4)", "data owner", "0.5", "Abacus", "tiny, 8 x 8"):
        assert words in text
    assert "takes no such image" in text


def test_a_saved_file_holds_every_run_and_is_never_replaced(tmp_path: Path, summary: Summary) -> None:
    path = save(tmp_path, summary)
    assert path.name == "latency-tiny-8px-20300102T030405Z.json"
    content = json.loads(path.read_text())
    assert len(content["runs"]) == len(RUNS)
    assert content["runs"][0]["measurement"]["details"] == {"rounds": 3}
    assert read_file(path, Summary) == Summary.model_validate_json(path.read_text())
    assert read_file(path, Summary).results == summary.results
    assert str(tmp_path) not in path.read_text()
    with pytest.raises(FileExistsError):
        save(tmp_path, summary)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 1}, f"of version 1, and this program reads version {FORMAT}"),
        ({"format": None}, "of version None"),
        ({"results": 3}, "is not what"),
    ],
)
def test_a_file_of_another_version_is_refused_in_plain_words(
    tmp_path: Path, summary: Summary, change: dict[str, object], words: str
) -> None:
    path = save(tmp_path, summary)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CallerError, match=words) as caught:
        read_file(path, Summary)
    assert "measure again" in str(caught.value)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "letter.json"
    path.write_text("dear reader")
    with pytest.raises(CallerError, match="cannot be read"):
        read_file(path, Summary)


def test_this_machine_can_be_described() -> None:
    machine = read_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 28
    assert machine.processor
    assert {"python", "torch", "crypten", "onnxruntime"} <= set(read_versions())


def test_what_was_measured_is_known_by_the_code_that_runs_in_a_diagnosis(tmp_path: Path) -> None:
    names = (
        "secure_computation/engine.py",
        "model_owner/cost_prediction.py",
        "benchmarks/growth.py",
        "contract/wire.md",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
    seen = [product_version(tmp_path)]
    for name in names:
        (tmp_path / name).write_text("after")
        seen.append(product_version(tmp_path))
    assert [now != before for before, now in pairwise(seen)] == [True, False, False, False]
    assert all((ROOT / name).is_file() for name in FROM_RESULTS)


def test_every_room_that_may_run_in_a_diagnosis_counts() -> None:
    assert set(PRODUCT) == set(ALLOWED) - {"federated_learning", "encrypted_inference"}


def test_processor_facts_are_read_from_either_kind_of_description() -> None:
    assert _processor("model name\t: Fast One\nflags\t\t: fpu aes avx2\n\nmodel name\t: Other\n") == (
        "Fast One",
        ("avx2", "aes"),
    )
    assert _processor("processor\t: 0\nFeatures\t: fp asimd aes\n") == ("", ("aes", "asimd"))
