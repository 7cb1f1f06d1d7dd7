"""One small, real run of each subcommand that deploys the product; those that do not have theirs beside their rooms.

Parties compute and talk as in service; the servers run in this process (`servers_here`), so that all of it is quick.
Runs with real server processes are slow tests beside each subcommand.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import ariann as ariann_module
from benchmarks import case
from benchmarks import scale as scale_module
from benchmarks.__main__ import app
from benchmarks.ariann import AriannTable
from benchmarks.foretelling import foretell
from benchmarks.growth import Growth
from benchmarks.networks import Networks
from benchmarks.reporting import Summary
from benchmarks.scale import Scale
from contract.command_line import run
from tests.benchmarks.servers_here import servers_here
from tests.benchmarks.test_ariann import PARAMETERS
from tests.end_to_end.models import radiograph, write_tiny_model

PARTIES = {"data_owner", "model_owner", "crypto_provider", "inference_service"}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for room in (case, scale_module, ariann_module):  # a small picture: a phantom takes seconds to draw and to read
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


def test_latency(tiny: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--engines", "masked,plaintext", "--runs", "1", "--save", str(results)]
    bench(capsys, "latency", "--model", str(tiny), *arguments)
    masked, plaintext = Summary.model_validate_json(only_file(results)).results
    assert (masked.engine, plaintext.engine) == ("masked", "plaintext")
    assert set(masked.peak_rss_bytes) == set(masked.cpu_seconds) == PARTIES
    assert masked.max_abs_error < 0.05
    assert sum(link.online_bytes for link in masked.links) == masked.online_bytes > 0
    assert 0 < masked.online_seconds < masked.total_seconds


def test_networks(tiny: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--engines", "masked", "--networks", "latency_ms=5,mbit=1000", "--runs", "1", "--save", str(results)]
    bench(capsys, "networks", "--model", str(tiny), *arguments)
    result = Networks.model_validate_json(only_file(results))  # measurements alone
    _near, far = result.rows
    assert far.online_seconds >= 0.005 * (far.one_way_trips - 1)  # every trip took its latency
    assert [run.measurement["details"]["waited_share"] for run in result.runs] == [1.0] * 4
    assert [one.network for one in foretell(result).predictions] == [far.network]


def test_scale(tiny: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sessions", "1", "--images", "1", "--save", str(results / "scale.json")]
    bench(capsys, "scale", "--model", str(tiny), *arguments)
    result = Scale.model_validate_json(only_file(results))
    assert [(level.sessions, level.stocked, level.images) for level in result.levels] == [(1, False, 1), (1, True, 1)]
    for level in result.levels:
        assert 0 < level.online_seconds.median < level.latency_seconds.largest <= level.seconds
        assert set(level.peak_rss_bytes) == PARTIES


@pytest.mark.slow
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
