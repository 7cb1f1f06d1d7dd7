"""SPU 0.9.5 (SecretFlow) as it is published: compiles a network for it, or is one of its two parties.

Runs under the Python of SPU's own virtual environment (benchmarks/peers/spu_environment.py), so it imports nothing of
this project. Rank 0 holds the image, rank 1 the weights; each shares what it holds and the logits go to rank 0 alone.
The links are SPU's own, over TCP, and not encrypted: this is a measuring device, not fit for real images.

    python spu_party.py compile NETWORK.json --shapes SHAPES.json --code CODE
    python spu_party.py evaluate NETWORK.json --shapes SHAPES.json --code CODE --protocol SEMI2K --rank 1
        --addresses HOST:PORT,HOST:PORT --weights WEIGHTS.npz --report FOLDER

A party evaluates once for every line on its stdin, which names the image (.npy, batch 1; rank 0 alone reads it), and
ends with it, so it does not outlive the program that started it. For evaluation n (0 when it is ready) it writes
`RANK-n.json` to the report folder.
"""

import argparse
import json
import math
import os
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DATA_OWNER, MODEL_OWNER = 0, 1
SETUP_TIMEOUT_MILLISECONDS = 120_000
IMAGE, LOGITS = "image", "logits"
_AXES = ("NCHW", "OIHW", "NCHW")
LOWEST = -(2.0**20)
"""Stands for minus infinity where a max pool pads: far below any activation, far above the ring's lowest number."""

Operation = Mapping[str, Any]
Weights = Mapping[str, Any]


# The network in jax.numpy. It is what SPU compiles, and what a user of SPU would write.


def _convolve(jax: Any, operation: Operation, image: Any, weights: Weights) -> Any:
    return jax.lax.conv_general_dilated(
        image,
        weights[f"{operation['name']}.weight"],
        window_strides=tuple(operation["stride"]),
        padding=_sides(operation),
        rhs_dilation=tuple(operation["dilation"]),
        feature_group_count=operation["groups"],
        dimension_numbers=_AXES,
    )


def _activate(jax: Any, operation: Operation, values: Any) -> Any:
    return getattr(jax.nn if hasattr(jax.nn, operation["function"]) else jax.numpy, operation["function"])(values)


def _average(jax: Any, operation: Operation, image: Any) -> Any:
    def add(values: Any) -> Any:
        return jax.lax.reduce_window(values, 0.0, jax.lax.add, *_windows(operation), _borders(operation))

    if operation["count_include_pad"] or not any(operation["padding"]):
        return add(image) * (1.0 / math.prod(operation["kernel"]))
    return add(image) * (1.0 / add(jax.numpy.ones(image.shape, dtype=np.float32)))


def _pad(jax: Any, operation: Operation, image: Any, value: float) -> Any:
    return jax.numpy.pad(image, _borders(operation), constant_values=value)


def _add_bias(operation: Operation, result: Any, weights: Weights, shape: Sequence[int]) -> Any:
    return result + weights[f"{operation['name']}.bias"].reshape(shape) if operation["bias"] else result


def _borders(operation: Operation) -> list[tuple[int, int]]:
    return [(0, 0), (0, 0), *_sides(operation)]


def _sides(operation: Operation) -> list[tuple[int, int]]:
    top, left, bottom, right = operation["padding"]
    return [(top, bottom), (left, right)]


def _windows(operation: Operation) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (1, 1, *operation["kernel"]), (1, 1, *operation["stride"])


Rule = Callable[[Any, Operation, Sequence[Any], Weights], Any]
"""From jax, the operation, its inputs and all weights to its result."""
EVALUATORS: Mapping[str, Rule] = {
    "convolution2d": lambda jax, o, x, w: _add_bias(o, _convolve(jax, o, x[0], w), w, (1, -1, 1, 1)),
    "fully_connected": lambda _jax, o, x, w: _add_bias(o, x[0] @ w[f"{o['name']}.weight"].T, w, (-1,)),
    "relu": lambda jax, _o, x, _w: jax.numpy.maximum(x[0], 0.0),
    "clip": lambda jax, o, x, _w: jax.numpy.minimum(jax.numpy.maximum(x[0], 0.0), o["high"]),
    "activation": lambda jax, o, x, _w: _activate(jax, o, x[0]),
    "softmax": lambda jax, _o, x, _w: jax.nn.softmax(x[0], axis=1),
    "max_pool": lambda jax, o, x, _w: jax.lax.reduce_window(
        _pad(jax, o, x[0], LOWEST), -jax.numpy.inf, jax.lax.max, *_windows(o), "VALID"
    ),
    "average_pool": lambda jax, o, x, _w: _average(jax, o, x[0]),
    "global_average_pool": lambda jax, _o, x, _w: jax.numpy.mean(x[0], axis=(2, 3), keepdims=True),
    "add": lambda _jax, _o, x, _w: x[0] + x[1],
    "concat": lambda jax, _o, x, _w: jax.numpy.concatenate(x, axis=1),
    "pad": lambda jax, o, x, _w: _pad(jax, o, x[0], o["value"]),
    "reshape": lambda _jax, o, x, _w: x[0].reshape(1, *o["shape"]),
}
"""One for each kind of operation that it can compute."""


def evaluate(jax: Any, network: Mapping[str, Any], image: Any, weights: Weights) -> Any:
    """Logits (1, classes) of an image (1, channels, height, width)."""
    values = {"input": image}
    for operation in network["operations"]:
        if operation["kind"] not in EVALUATORS:
            raise SystemExit(
                f"SPU's program has no rule for {operation['kind']}: add one to benchmarks/peers/spu_party.py"
            )
        inputs = [values[name] for name in operation["inputs"]]
        values[operation["name"]] = EVALUATORS[operation["kind"]](jax, operation, inputs, weights)
    return values[network["output"]]


def compile_network(network: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], code: Path) -> None:
    """Write SPU's bytecode for the network, with image and weights secret. No value is needed for it."""
    import jax
    import spu
    from spu.utils import frontend

    def logits(image: Any, *weights: Any) -> Any:
        return evaluate(jax, network, image, dict(zip(shapes, weights, strict=True)))

    every = [(1, *network["input_shape"]), *shapes.values()]
    arguments = [jax.ShapeDtypeStruct(tuple(shape), np.float32) for shape in every]
    executable, _ = frontend.compile(
        frontend.Kind.JAX,
        logits,
        arguments,
        {},
        [IMAGE, *shapes],
        [spu.Visibility.VIS_SECRET] * len(arguments),
        lambda _outputs: [LOGITS],
    )
    code.write_bytes(executable.code)


class Party:
    """One of the two, linked to the other, with its share of the weights in SPU's hands."""

    def __init__(self, arguments: argparse.Namespace, names: Sequence[str]) -> None:
        """Link up and share the weights of these names. Blocks until the other party does the same."""
        import spu

        self._spu = spu
        self._rank: int = arguments.rank
        description = spu.link.Desc()
        for rank, address in enumerate(arguments.addresses.split(",")):
            description.add_party(f"party{rank}", address)
        description.recv_timeout_ms = SETUP_TIMEOUT_MILLISECONDS + int(1000 * arguments.timeout)
        self._link = spu.link.create_brpc(description, self._rank)
        config = spu.RuntimeConfig()
        config.protocol = spu.parse_protocol_kind(arguments.protocol)
        config.field = spu.FieldType.FM64
        config.max_concurrency = arguments.threads
        config.enable_pphlo_profile = True  # logs what the link sent and received in each run
        self._io = spu.Io(2, config)
        self._runtime = spu.Runtime(self._link, config)
        self._executable = spu.Executable(
            name="network", input_names=[IMAGE, *names], output_names=[LOGITS], code=arguments.code.read_bytes()
        )
        if self._rank == MODEL_OWNER:
            with np.load(arguments.weights, allow_pickle=False) as tensors:
                self._share({name: tensors[name] for name in names}, own=True)
        else:
            self._share(dict.fromkeys(names), own=False)

    def _share(self, values: Mapping[str, Any], *, own: bool) -> None:
        """Cut own values into shares and send the other party its half; or receive a half of the other's."""
        for name, value in values.items():
            if own:
                shares = self._io.make_shares(value, self._spu.Visibility.VIS_SECRET)
                _send(self._link, 1 - self._rank, shares[1 - self._rank])
                self._runtime.set_var(name, shares[self._rank])
            else:
                self._runtime.set_var(name, _receive(self._link, 1 - self._rank, self._spu.libspu.Share()))

    def evaluate(self, image: Path) -> dict[str, Any]:
        """Share rank 0's image and evaluate it once. Only rank 0 learns the logits."""
        if self._rank == DATA_OWNER:
            self._share({IMAGE: np.load(image, allow_pickle=False)}, own=True)
        else:
            self._share({IMAGE: None}, own=False)
        # The clock starts with both parties ready, image and weights shared: as for stock CrypTen.
        self._link.barrier()
        started, started_cpu = time.perf_counter(), time.process_time()
        self._runtime.run(self._executable)
        share = self._runtime.get_var(LOGITS)
        logits: list[float] = []
        if self._rank == MODEL_OWNER:
            _send(self._link, DATA_OWNER, share)
        else:
            # The one reveal: the data owner receives the model owner's share of its own image's logits.
            other = _receive(self._link, MODEL_OWNER, self._spu.libspu.Share())
            logits = [float(one) for one in self._io.reconstruct([share, other]).reshape(-1)]
        return {
            "logits": logits,
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - started_cpu,
            "peak_rss_bytes": _peak_rss_bytes(),
        }


def _send(link: Any, rank: int, share: Any) -> None:
    parts = [bytes(share.meta), *(bytes(chunk) for chunk in share.share_chunks)]
    link.send(rank, struct.pack("<Q", len(parts)))
    for part in parts:
        link.send(rank, part)


def _receive(link: Any, rank: int, share: Any) -> Any:
    (count,) = struct.unpack("<Q", link.recv(rank))
    share.meta = link.recv(rank)
    share.share_chunks = [link.recv(rank) for _ in range(count - 1)]
    return share


def _peak_rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not report peak memory: run the benchmark on Linux")


def _report(folder: Path, rank: int, number: int, content: Mapping[str, Any]) -> None:
    """Write a report whole or not at all: the reader may look at any moment."""
    unfinished = folder / f"{rank}-{number}.part"
    unfinished.write_text(json.dumps(content))
    unfinished.rename(folder / f"{rank}-{number}.json")


def _take_part(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    started = time.perf_counter()
    party = Party(arguments, names)
    _report(arguments.report, arguments.rank, 0, {"seconds": time.perf_counter() - started})
    for number, line in enumerate(sys.stdin, start=1):
        _report(arguments.report, arguments.rank, number, party.evaluate(Path(line.rstrip("\n"))))
    # The link's own threads may wait for a party that is gone: nothing is left to lose.
    sys.stdout.flush()
    os._exit(0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="spu_party", description="SPU as published: compile, or be one party.")
    parser.add_argument("task", choices=("compile", "evaluate"))
    parser.add_argument("network", type=Path, help="network.json of a compiled model")
    parser.add_argument("--shapes", type=Path, required=True, help="of its weights, in order: JSON, shape by name")
    parser.add_argument("--code", type=Path, required=True, help="SPU's bytecode for it")
    parser.add_argument("--protocol", choices=("SEMI2K", "CHEETAH"), default="SEMI2K")
    parser.add_argument("--rank", type=int, choices=(DATA_OWNER, MODEL_OWNER), default=DATA_OWNER)
    parser.add_argument("--addresses", default="", help="of both parties, HOST:PORT,HOST:PORT")
    parser.add_argument("--weights", type=Path, help="of rank 1, .npz")
    parser.add_argument("--report", type=Path, help="folder for what was measured")
    parser.add_argument("--threads", type=int, default=1, help="of one operation")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for the other party")
    return parser.parse_args()


def main() -> None:
    """Compile, or take part."""
    arguments = _arguments()
    shapes = json.loads(arguments.shapes.read_bytes())
    if arguments.task == "compile":
        compile_network(json.loads(arguments.network.read_bytes()), shapes, arguments.code)
    else:
        _take_part(arguments, tuple(shapes))


if __name__ == "__main__":
    main()
