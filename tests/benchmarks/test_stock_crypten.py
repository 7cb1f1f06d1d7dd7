"""The baseline runner: right answers, plausible counts, and no process left behind."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.case import CompiledFiles
from benchmarks.cost_model import GLOO_TRIPS_OF_REQUEST, GLOO_TRIPS_OF_ROUND
from benchmarks.engines.stock_crypten import StockCrypTen
from benchmarks.measuring import Measurement
from benchmarks.peers.stock_crypten import read_network
from benchmarks.relay import Relay, start_relay
from benchmarks.wiring import Wiring
from contract.errors import ComputationFailed, DeadlineExceeded
from secure_computation.network import (
    Add,
    AveragePool,
    Convolution2d,
    FullyConnected,
    GlobalAveragePool,
    MaxPool,
    Network,
    Relu,
    Reshape,
)
from secure_computation.private_weights import PrivateWeights

SMALL = Network(
    input_shape=(1, 8, 8),
    operations=(
        Convolution2d(
            name="stem", inputs=("input",), shape=(2, 8, 8), weight_shape=(2, 1, 3, 3), bias=True, padding=(1, 1, 1, 1)
        ),
        Relu(name="relu1", inputs=("stem",), shape=(2, 8, 8)),
        AveragePool(
            name="pool",
            inputs=("relu1",),
            shape=(2, 4, 4),
            kernel=(3, 3),
            stride=(2, 2),
            padding=(1, 1, 1, 1),
            count_include_pad=True,
        ),
        Convolution2d(name="branch", inputs=("pool",), shape=(2, 4, 4), weight_shape=(2, 2, 1, 1), bias=False),
        Add(name="sum", inputs=("pool", "branch"), shape=(2, 4, 4)),
        MaxPool(name="largest", inputs=("sum",), shape=(2, 2, 2), kernel=(2, 2), stride=(2, 2)),
        GlobalAveragePool(name="mean", inputs=("largest",), shape=(2, 1, 1)),
        Reshape(name="flat", inputs=("mean",), shape=(2,)),
        FullyConnected(name="head", inputs=("flat",), shape=(3,), in_features=2, out_features=3, bias=True),
    ),
    output="head",
    classes=3,
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Network, weights and image on disk."""
    generator = np.random.default_rng(7)
    tensors = {name: generator.normal(size=shape).astype(np.float32) for name, shape in SMALL.weight_shapes().items()}
    network, weights, image = (tmp_path / name for name in ("network.json", "weights.npz", "image.npy"))
    network.write_bytes(SMALL.canonical_bytes())
    PrivateWeights(SMALL, tensors).save(weights)
    np.save(image, generator.normal(size=(2, *SMALL.input_shape)).astype(np.float32), allow_pickle=False)
    return network, weights, image


def expected_logits(files: tuple[Path, Path, Path]) -> tuple[float, ...]:
    import torch

    from secure_computation.float_reference import evaluate

    network, weights, image = files
    batch = torch.from_numpy(np.load(image, allow_pickle=False))
    output = evaluate(read_network(network), PrivateWeights.load(SMALL, weights), batch)
    return tuple(output.reshape(-1).tolist())


def run(files: tuple[Path, Path, Path], timeout_seconds: float, relay: Relay | None = None) -> Measurement:
    network, weights, images = files
    return StockCrypTen(CompiledFiles(network=network, weights=weights), timeout_seconds, relay).evaluate(images)


def running_parties() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes()
        except OSError:
            continue
        if b"benchmarks.peers.stock_crypten" in command and b"--rank" in command:
            found.append(command.decode())
    return found


def test_answers_as_the_plain_evaluation_does(files: tuple[Path, Path, Path]) -> None:
    result = run(files, 100)
    assert result.logits == pytest.approx(expected_logits(files), abs=0.01)
    assert result.online_seconds > 0
    assert result.details["rounds"] > 10
    assert result.details["third_party_requests"] > 10
    assert result.online_bytes - result.details["third_party_bytes"] > 8 * 64  # at least the image, in 64-bit numbers
    assert result.details["third_party_bytes"] > 0
    assert set(result.peak_rss_bytes) == {"data_owner", "model_owner", "third_party"}
    assert all(size > 10_000_000 for size in result.peak_rss_bytes.values())
    assert set(result.cpu_seconds) == set(result.peak_rss_bytes)
    assert all(seconds > 0 for seconds in result.cpu_seconds.values())


@pytest.mark.slow
def test_over_a_relay_it_answers_the_same_in_the_trips_that_the_cost_model_counts(
    files: tuple[Path, Path, Path],
) -> None:
    link = Wiring(name="slow", one_way_milliseconds=20.0, megabits_per_second=1000.0)
    at_home = run(files, 200).online_seconds
    found = []
    for _ in range(3):  # other work only adds time
        with start_relay(link) as relay:
            result = run(files, 200, relay)
        assert result.logits == pytest.approx(expected_logits(files), abs=0.01)
        trips = GLOO_TRIPS_OF_ROUND * result.details["rounds"]
        trips += GLOO_TRIPS_OF_REQUEST * result.details["third_party_requests"]
        assert result.online_seconds >= 0.98 * link.latency_seconds * trips
        found.append((result.online_seconds - at_home) / (link.latency_seconds * trips))
        if found[-1] < 1.25:
            break
    assert min(found) < 1.25


def test_a_deadline_ends_the_processes(files: tuple[Path, Path, Path]) -> None:
    with pytest.raises(DeadlineExceeded):
        run(files, 0.3)
    assert not [command for command in running_parties() if str(files[0]) in command]


@pytest.mark.slow
def test_one_party_that_fails_ends_the_others(files: tuple[Path, Path, Path]) -> None:
    np.save(files[2], np.zeros((1, 1, 4, 4), dtype=np.float32), allow_pickle=False)
    with pytest.raises(ComputationFailed, match="_owner") as caught:
        run(files, 100)
    assert "asks for" in str(caught.value)
    assert not [command for command in running_parties() if str(files[0]) in command]
