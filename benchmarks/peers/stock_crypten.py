"""CrypTen 0.4.1 as it is published, on one image: the baseline that our engines are compared with.

Three processes on the loopback device, one thread each: rank 0 holds the image, rank 1 the weights, rank 2 is CrypTen's
own trusted third party. Nothing of CrypTen is replaced; its import merely needs a module name that torch dropped. Its
randomness, its plaintext links and its pickled messages are not fit for real images: this is a measuring device.

    python -m benchmarks.peers.stock_crypten NETWORK.json WEIGHTS.npz IMAGE.npy
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.configuration import ROOT
from benchmarks.peers import relayed_gloo
from benchmarks.peers.relayed_gloo import rendezvous_url
from benchmarks.processes import POLL_SECONDS, last_words, peak_rss_bytes, started
from benchmarks.relay import Relay
from contract.errors import CallerError, ComputationFailed, DeadlineExceeded, EncryptedInferenceError
from plumbing.command_line import one_line, say
from secure_computation.network import (
    INPUT,
    MAX_NETWORK_BYTES,
    Add,
    AveragePool,
    Concat,
    Convolution2d,
    FullyConnected,
    GlobalAveragePool,
    MaxPool,
    Network,
    Operation,
    Pad,
    Padding,
    Relu,
    Reshape,
    parse_network,
)
from secure_computation.private_weights import PrivateWeights

DATA_OWNER, MODEL_OWNER, THIRD_PARTY = range(3)
PARTIES = ("data_owner", "model_owner", "third_party")
DEFAULT_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class StockCrypTenResult:
    """One encrypted evaluation, as CrypTen's own counters and the data owner's clock saw it."""

    logits: tuple[float, ...]
    online_seconds: float
    """From both parties ready, image and weights shared, to the logits in the data owner's hands."""
    online_bytes: int
    """Payload between the two parties, both directions."""
    third_party_bytes: int
    """Payload from the third party, which stock CrypTen asks for while the image waits: a part of the online time."""
    rounds: int
    """Exchanges between the two parties; each is one message in both directions at once."""
    third_party_requests: int
    """Round trips between data owner and third party, in the same time."""
    peak_rss_bytes: Mapping[str, int]
    cpu_seconds: Mapping[str, float]
    """Processor time of each process while the online clock ran; of the third party, from its first request on."""


def run(
    network_path: Path,
    weights_path: Path,
    image_path: Path,
    *,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    relay: Relay | None = None,
) -> StockCrypTenResult:
    """Evaluate images, float32 of shape (batch, *input shape) in an .npy file, in three new processes.

    The processes are gone when this returns or raises. With `relay`, every two of them are connected through it.
    Raises DeadlineExceeded after `timeout` seconds, and ComputationFailed with the last words of the process that
    failed.
    """
    with tempfile.TemporaryDirectory(prefix="stock-crypten-") as name:
        folder = Path(name)
        paths = [str(path.resolve()) for path in (network_path, weights_path, image_path)]
        with _processes(folder, paths, timeout, relay) as processes:
            _wait(processes, folder, timeout)
        try:
            return _combine(*(json.loads((folder / f"{party}.json").read_text()) for party in PARTIES))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ComputationFailed(
                "stock CrypTen: a process left a report that cannot be read: report this"
            ) from error


def _combine(owner: dict[str, Any], model: dict[str, Any], third: dict[str, Any]) -> StockCrypTenResult:
    # Each process counts what it sends and receives. The model owner talks to the data owner only, so its count is
    # everything between the two; the third party's is what it dealt.
    reports = dict(zip(PARTIES, (owner, model, third), strict=True))
    return StockCrypTenResult(
        logits=tuple(owner["logits"]),
        online_seconds=owner["seconds"],
        online_bytes=int(model["bytes"]),
        third_party_bytes=int(third["bytes"]),
        rounds=int(model["rounds"]),
        third_party_requests=int(third["requests"]),
        peak_rss_bytes={party: int(report["peak_rss_bytes"]) for party, report in reports.items()},
        cpu_seconds={party: float(report["cpu_seconds"]) for party, report in reports.items()},
    )


@contextmanager
def _processes(
    folder: Path, paths: Sequence[str], timeout: float, relay: Relay | None
) -> Iterator[list[subprocess.Popen[bytes]]]:
    meeting = str(folder / "rendezvous")
    environment = {
        **os.environ,
        "DISTRIBUTED_BACKEND": "gloo",
        "RENDEZVOUS": f"file://{meeting}" if relay is None else rendezvous_url(meeting, relay.control_port),
        "WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    with ExitStack() as stack:
        processes = []
        for rank, party in enumerate(PARTIES):
            command = [sys.executable, "-m", "benchmarks.peers.stock_crypten", *paths, "--timeout", str(timeout)]
            command += ["--rank", str(rank), "--report", str(folder / f"{party}.json")]
            log = stack.enter_context((folder / f"{party}.log").open("wb"))
            own = {**environment, "RANK": str(rank)}
            processes.append(stack.enter_context(started(command, own, stdout=log, stderr=log, folder=folder)))
        yield processes


def _wait(processes: Sequence[subprocess.Popen[bytes]], folder: Path, timeout: float) -> None:
    begun = time.monotonic()
    while True:
        states = [process.poll() for process in processes]
        for state, party in zip(states, PARTIES, strict=True):
            if state:
                raise ComputationFailed(f"stock CrypTen, {party}: {last_words(folder / f'{party}.log')}")
        if None not in states:
            return
        if time.monotonic() - begun > timeout:
            raise DeadlineExceeded(peer="stock CrypTen", step="evaluate one image", waited_seconds=timeout)
        time.sleep(POLL_SECONDS)


# What follows runs in the three processes.


def import_crypten() -> Any:
    """CrypTen, untouched. Its import asks for a module that torch dropped; its converter, which used it, is not run."""
    name = "torch.onnx._internal.registration"
    if name not in sys.modules:
        placeholder = types.ModuleType(name)
        placeholder.registry = None  # type: ignore[attr-defined]
        sys.modules[name] = placeholder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sleeping project: its syntax and deprecation warnings help nobody here
        import crypten
    crypten.cfg.communicator.verbose = True  # count bytes and rounds
    crypten.cfg.mpc.provider = "TTP"
    return crypten


def _take_part(rank: int, network_path: Path, weights_path: Path, image_path: Path, report: Path) -> None:
    torch.set_num_threads(1)
    crypten = import_crypten()
    relayed_gloo.register()  # used if the parties meet through a relay
    network = read_network(network_path)
    if rank == THIRD_PARTY:
        content = _deal(crypten)
    else:
        images = _read_images(image_path, network)
        image = images if rank == DATA_OWNER else None
        weights = PrivateWeights.load(network, weights_path) if rank == MODEL_OWNER else None
        content = _compute(crypten, network, image, weights, batch=len(images))  # a public number
    report.write_text(json.dumps({**content, "peak_rss_bytes": peak_rss_bytes(os.getpid())}))


def _deal(crypten: Any) -> dict[str, float]:
    started = time.process_time()
    crypten.mpc.provider.TTPServer()  # returns when the data owner shuts down
    cpu_seconds = time.process_time() - started
    statistics = crypten.communicator.get().get_communication_stats()
    # For each request it receives a message, answers with a size and sends the tensor; one message more says goodbye.
    return {"bytes": statistics["bytes"], "requests": (statistics["rounds"] - 1) // 3, "cpu_seconds": cpu_seconds}


def _compute(
    crypten: Any, network: Network, image: torch.Tensor | None, weights: PrivateWeights | None, *, batch: int
) -> dict[str, Any]:
    crypten.init()
    communicator = crypten.communicator.get()
    with crypten.no_grad():
        # Who does not hold a tensor passes zeros of its shape.
        plain = torch.zeros(batch, *network.input_shape) if image is None else image
        encrypted_image = crypten.cryptensor(plain, src=DATA_OWNER)
        encrypted_weights = {
            name: crypten.cryptensor(
                torch.zeros(shape) if weights is None else torch.from_numpy(np.array(weights[name])), src=MODEL_OWNER
            )
            for name, shape in network.weight_shapes().items()
        }
        communicator.barrier()
        communicator.reset_communication_stats()
        started, started_cpu = time.perf_counter(), time.process_time()
        logits = evaluate(crypten, network, encrypted_image, encrypted_weights).get_plain_text(dst=DATA_OWNER)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    statistics = communicator.get_communication_stats()
    crypten.uninit()
    held = logits.reshape(-1).tolist() if image is not None else []
    counted = {"bytes": statistics["bytes"], "rounds": statistics["rounds"]}
    return {"logits": held, "seconds": seconds, "cpu_seconds": cpu_seconds} | counted


def evaluate(crypten: Any, network: Network, image: Any, weights: Mapping[str, Any]) -> Any:
    """The network on CrypTen's own tensor methods, as a user of CrypTen would write it. Output: (batch, classes)."""
    values = {INPUT: image}
    last_uses = network.last_uses()
    for index, operation in enumerate(network.operations):
        values[operation.output] = _apply(crypten, operation, [values[name] for name in operation.inputs], weights)
        for name in set(operation.inputs):
            if last_uses[name] == index:
                del values[name]
    return values[network.output]


def _apply(  # noqa: C901, PLR0911  (one case for each operation)
    crypten: Any, operation: Operation, inputs: Sequence[Any], weights: Mapping[str, Any]
) -> Any:
    x = inputs[0]
    match operation:
        case Convolution2d():
            return _convolution(x, operation, weights)
        case FullyConnected():
            product = x.matmul(weights[f"{operation.name}.weight"].t())
            return product + weights[f"{operation.name}.bias"] if operation.bias else product
        case Relu():
            return x.relu()
        case MaxPool():
            return x.max_pool2d(operation.kernel, stride=operation.stride, padding=_symmetric(operation))
        case AveragePool():
            if any(operation.padding) and not operation.count_include_pad:
                raise _unsupported(operation)
            return x.avg_pool2d(operation.kernel, stride=operation.stride, padding=_symmetric(operation))
        case GlobalAveragePool():
            return x.avg_pool2d(tuple(x.size()[2:]))
        case Add():
            return inputs[0] + inputs[1]
        case Concat():
            return crypten.cat(list(inputs), dim=1)
        case Pad():
            return _pad(x, operation.padding, operation.value)
        case Reshape():
            return x.reshape(x.size()[0], *operation.shape)
        case _:
            raise _unsupported(operation)


def _convolution(x: Any, operation: Convolution2d, weights: Mapping[str, Any]) -> Any:
    result = x.conv2d(
        weights[f"{operation.name}.weight"],
        stride=operation.stride,
        padding=_symmetric(operation),
        dilation=operation.dilation,
        groups=operation.groups,
    )
    return result + weights[f"{operation.name}.bias"].reshape(1, -1, 1, 1) if operation.bias else result


def _pad(x: Any, padding: Padding, value: float) -> Any:
    top, left, bottom, right = padding
    return x.pad((left, right, top, bottom), value=value)


def _symmetric(operation: Convolution2d | MaxPool | AveragePool) -> tuple[int, int]:
    top, left, bottom, right = operation.padding
    if (top, left) != (bottom, right):
        raise _unsupported(operation)
    return top, left


def _unsupported(operation: Operation) -> CallerError:
    return CallerError(
        f"stock CrypTen has no {operation.kind} as '{operation.name}' needs it: leave stock-crypten out of --engines"
    )


def read_network(path: Path) -> Network:
    """Parse a network file of bounded size."""
    with path.open("rb") as file:
        return parse_network(file.read(MAX_NETWORK_BYTES + 1))


def _read_images(path: Path, network: Network) -> torch.Tensor:
    images = np.load(path, allow_pickle=False, mmap_mode="r")
    if images.dtype != np.float32 or images.ndim != 4 or images.shape[1:] != network.input_shape:
        raise CallerError(f"{path}: holds {images.dtype} {images.shape}, the network asks for {network.input_shape}")
    return torch.from_numpy(np.array(images))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stock_crypten", description="Evaluate one image on CrypTen as published.")
    parser.add_argument("network", type=Path, help="network.json of a compiled model")
    parser.add_argument("weights", type=Path, help="its weights, .npz")
    parser.add_argument("image", type=Path, help="float32 array, (batch, *input shape), .npy")
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT_SECONDS, help="seconds for the whole run")
    parser.add_argument("--rank", type=int, choices=range(3), help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run all three parties and print the result as JSON; with --rank, be one of them."""
    arguments = _arguments()
    paths = (arguments.network, arguments.weights, arguments.image)
    try:
        if arguments.rank is not None:
            signal.alarm(int(arguments.timeout) + 10)  # ends with its parent, even if the parent was killed
            _take_part(arguments.rank, *paths, report=arguments.report)
        else:
            print(json.dumps(asdict(run(*paths, timeout=arguments.timeout))))
    except EncryptedInferenceError as error:
        say(f"stock_crypten: {one_line(error)}")
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
