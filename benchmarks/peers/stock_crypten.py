"""CrypTen 0.4.1 as it is published, on one image: one of the three processes that `benchmarks.engines` starts.

Rank 0 holds the image, rank 1 the weights, rank 2 is CrypTen's own trusted third party; each has one thread, and links
are loopback. Nothing of CrypTen is replaced; its import merely needs a module name that torch dropped. Its randomness,
its plaintext links and its pickled messages are not fit for real images: this is a measuring device.

    python -m benchmarks.peers.stock_crypten NETWORK.json WEIGHTS.npz IMAGE.npy --rank 0 --report REPORT.json
"""

import argparse
import json
import os
import signal
import sys
import time
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import relayed_gloo
from benchmarks.processes import peak_rss_bytes
from contract.errors import CallerError, EncryptedInferenceError
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


def main() -> None:
    """Be one of the three parties."""
    parser = argparse.ArgumentParser(prog="stock_crypten", description="One party of CrypTen as published.")
    parser.add_argument("network", type=Path, help="network.json of a compiled model")
    parser.add_argument("weights", type=Path, help="its weights, .npz")
    parser.add_argument("image", type=Path, help="float32 array, (batch, *input shape), .npy")
    parser.add_argument("--rank", type=int, choices=range(3), required=True)
    parser.add_argument("--report", type=Path, required=True, help="JSON file for what was counted")
    parser.add_argument("--timeout", type=float, required=True, help="seconds for the whole run")
    arguments = parser.parse_args()
    signal.alarm(int(arguments.timeout) + 10)  # ends with its parent, even if the parent was killed
    try:
        _take_part(arguments.rank, arguments.network, arguments.weights, arguments.image, report=arguments.report)
    except EncryptedInferenceError as error:
        say(f"stock_crypten: {one_line(error)}")
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
