"""One small, real run of each subcommand but three (`ELSEWHERE`): half a minute altogether.

Parties compute and talk as in service, but all run in this process (`servers_here`), so that nobody waits for one to
start. Runs with real processes are slow tests beside each subcommand.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import case, secure_aggregation
from benchmarks import scale as scale_module
from benchmarks.__main__ import COMMANDS, app
from benchmarks.agreement import Agreement
from benchmarks.ariann import AriannTable
from benchmarks.comparison import Peers, Status
from benchmarks.document.page import MISSING
from benchmarks.emulated_links import LinkResults, add_predictions
from benchmarks.growth import Growth
from benchmarks.latency import Summary
from benchmarks.layers import Layers
from benchmarks.results import read_part
from benchmarks.scale import Scale
from benchmarks.secure_aggregation import AggregationCost
from plumbing.command_line import run
from tests.benchmarks.servers_here import servers_here
from tests.benchmarks.test_ariann import PARAMETERS
from tests.benchmarks.test_latency import own_files
from tests.benchmarks.test_secure_aggregation import SHAPES
from tests.end_to_end.models import radiograph, write_tiny_model

PARTIES = {"data_owner", "model_owner", "crypto_provider", "inference_service"}

ELSEWHERE = {"endurance", "federation", "figures"}
"""The first two take minutes, with real processes: slow tests of their names. The last measures nothing."""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for room in (case, scale_module):  # a small picture: a phantom takes seconds to draw and to read
        monkeypatch.setattr(room, "write_phantom", radiograph)
    with servers_here(monkeypatch):
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An empty folder. Results are read from files here: the servers, too, write on this process's stdout."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(app, name="bench", arguments=arguments)
    assert caught.value.code == 0, capsys.readouterr().err


def only_file(folder: Path) -> bytes:
    (path,) = folder.iterdir()
    return path.read_bytes()


def test_no_subcommand_is_left_out() -> None:
    here = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert [one.__name__ for one in COMMANDS if one.__name__ not in here | ELSEWHERE] == []


def test_latency(tiny: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From stock; other subcommands here have material dealt on demand."""
    arguments = ["--engines", "masked-stocked,plaintext", "--runs", "1", "--save", str(results)]
    bench(capsys, "latency", "--model", str(tiny), *arguments)
    masked, plaintext = Summary.model_validate_json(only_file(results)).results
    assert (masked.engine, plaintext.engine) == ("masked-stocked", "plaintext")
    assert masked.cold_seconds is not None
    assert masked.cold_seconds.later > masked.total_seconds  # the command does more than its session
    assert plaintext.cold_seconds is None
    assert set(masked.peak_rss_bytes) == set(masked.cpu_seconds) == PARTIES
    assert masked.max_abs_error < 0.1
    assert sum(link.online_bytes for link in masked.links) == masked.online_bytes > 0
    assert 0 < masked.online_seconds < masked.total_seconds


def test_latency_of_batches(tiny: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--engines", "plaintext", "--batch", "1,2", "--runs", "1", "--json", "--save", str(results)]
    bench(capsys, "latency", "--model", str(tiny), *asked)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["batch"], line["size"], line["pictures"]) for line in lines] == [(1, 32, 1), (2, 32, 2)]
    assert len(list(results.glob("latency-tiny-chest-32px*.json"))) == 2
    for path in results.iterdir():
        assert Summary.model_validate_json(path.read_text()).results[0].max_abs_error < 1e-5


def test_predict(tiny: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--engines", "plaintext", "--runs", "1", "--save", str(results)]
    bench(capsys, "latency", "--model", str(tiny), *asked)
    capsys.readouterr()
    bench(capsys, "predict", "--network", "wan", "--model", "tiny-chest", "--results", str(results), "--json")
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    assert found["engine"] == "plaintext"
    assert found["online_seconds"] > 0


def test_peers(tiny: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours beside torch and onnxruntime, with SPU where it is not installed. Stock CrypTen has tests of its own."""
    monkeypatch.setattr("benchmarks.peers.spu_environment.find", lambda _folder: None)
    chosen = "masked,plaintext-torch,plaintext-onnxruntime,spu-semi2k,spu-cheetah"
    asked = ["--peers", chosen, "--runs", "1", "--no-install", "--json", "--save", str(results / "peers.json")]
    bench(capsys, "peers", "--model", str(tiny), *asked)
    result = Peers.model_validate_json(capsys.readouterr().out.splitlines()[-1])  # after the front end's own line
    assert result == Peers.model_validate_json((results / "peers.json").read_bytes())
    rows = {row.peer: row for row in result.rows}
    assert rows["spu-semi2k"].status is rows["spu-cheetah"].status is Status.NOT_INSTALLED
    for name, bound in (("masked", 0.05), ("plaintext-torch", 1e-5), ("plaintext-onnxruntime", 1e-5)):
        assert rows[name].status is Status.MEASURED
        error, seconds = rows[name].max_logit_error, rows[name].online_seconds
        assert error is not None
        assert error < bound
        assert seconds is not None
        assert seconds.median > 0


def test_networks(tiny: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--engines", "masked", "--networks", "latency_ms=5,mbit=1000", "--runs", "1", "--save", str(results)]
    bench(capsys, "networks", "--model", str(tiny), *arguments)
    result = LinkResults.model_validate_json(only_file(results))  # measurements alone
    _near, far = result.rows
    assert far.online_seconds >= 0.005 * (far.one_way_trips - 1)  # every trip took its latency
    assert [run.measurement.details["waited_share"] for run in result.runs] == [1.0] * 4
    assert [one.network for one in add_predictions(result).predictions] == [far.network]


def test_scale(tiny: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sessions", "1", "--images", "1", "--save", str(results / "scale.json")]
    bench(capsys, "scale", "--model", str(tiny), *arguments)
    result = Scale.model_validate_json(only_file(results))
    assert [(level.sessions, level.stocked, level.images) for level in result.levels] == [(1, False, 1), (1, True, 1)]
    for level in result.levels:
        assert 0 < level.online_seconds.median < level.latency_seconds.largest <= level.seconds
        assert set(level.peak_rss_bytes) == PARTIES


def test_growth(tiny: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sides", "32,64", "--runs", "1", "--save", str(results / "growth.json")]
    bench(capsys, "growth", "--model", str(tiny), *arguments)
    small, large = Growth.model_validate_json(only_file(results)).sizes
    assert small.online_bytes < large.online_bytes
    assert small.one_way_trips == large.one_way_trips


def test_ariann(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--rows", "lenet-28", "--networks", "loopback", "--runs", "1", "--save", str(results / "ariann.json")]
    bench(capsys, "ariann", *arguments)
    (row,) = AriannTable.model_validate_json(only_file(results)).rows
    (cost,) = row.ours
    assert row.published.online_megabytes == 0.43
    assert 0 < cost.online_seconds_range.smallest <= cost.online_seconds <= cost.online_seconds_range.largest
    assert cost.online_bytes > 0
    assert cost.weights_bytes > PARAMETERS["lenet-28"]  # at least a byte each
    assert cost.max_abs_error < 0.1 * cost.largest_logit
    assert set(cost.peak_rss_bytes) == PARTIES


def test_aggregation(results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(secure_aggregation, "list_resnet18_shapes", lambda: SHAPES)
    bench(capsys, "aggregation", "--runs", "1", "--save", str(results / "cost.json"))
    assert AggregationCost.model_validate_json(only_file(results)).hospitals == 3


def test_agreement(tiny: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(3):
        radiograph(images / f"{seed}.dcm", seed=seed)
    bench(capsys, "agreement", str(images), "--model", str(tiny), "--save", str(results / "agreement.json"))
    result = Agreement.model_validate_json(only_file(results))
    assert result == Agreement.model_validate_json(capsys.readouterr().out)
    assert result.images == 3
    assert result.max_abs_error < 0.1
    assert result.clear_disagreements == 0


def test_report(
    tiny: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    temporary, page = tmp_path / "temporary", tmp_path / "page" / "benchmarks.md"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    where = ["--save", str(results), "--page", str(page)]
    bench(capsys, "report", "--only", "layers", "--model", str(tiny), "--runs", "1", *where)
    found = read_part("layers", results, Layers)
    assert found is not None
    relu = next(one for one in found.result.layers if one.kind == "Relu")
    assert relu.has_round_trip
    assert relu.data_owner_cpu_seconds > 0
    assert relu.model_owner_seconds > 0
    assert "| Relu | 2 |" in page.read_text()
    assert MISSING in page.read_text()
    assert [path.name for path in (page.parent / "plots").iterdir()] == ["layers.svg"]
    assert own_files(temporary) == []
