"""Small ONNX files that ask for much memory: refused in one line, before it is taken."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from contract.errors import ModelFileError
from contract.model_card import read_card
from model_owner.bounded_memory import bounded_memory
from model_owner.onnx_import import compiling
from model_owner.onnx_import.compiling import compile_model
from tests.model_owner.graphs import build, compiled, floats, node
from tests.model_owner.test_imported_models_and_command import write_model

HEAD = node("GlobalAveragePool", ["body"], "pooled")
MIB = 1 << 20


def made(*shape: int) -> tuple[onnx.NodeProto, np.ndarray]:
    """A tensor of this shape from a file that holds its extents alone."""
    return node("ConstantOfShape", ["shape"], "made"), np.array(shape)


def of_a_large_kernel() -> onnx.ModelProto:
    """16 million weights in each of eight layers, from eight numbers."""
    constant, shape = made(1024, 1024, 4, 4)
    nodes = [constant]
    first = node("Conv", ["image", "first"], "v0")
    layers = [node("Conv", [f"v{index}", "made"], f"v{index + 1}", pads=[2, 2, 1, 1]) for index in range(8)]
    last = node("Conv", ["v8", "last"], "body")
    return build(
        [*nodes, first, *layers, last, HEAD],
        {"shape": shape, "first": floats(1024, 1, 1, 1), "last": floats(3, 1024, 1, 1)},
        flatten="pooled",
    )


def of_one_weight_many_times() -> onnx.ModelProto:
    """A million weights, used in a hundred layers."""
    layers = [node("Conv", [f"v{index}", "same"], f"v{index + 1}") for index in range(100)]
    first, last = node("Conv", ["image", "first"], "v0"), node("Conv", ["v100", "last"], "body")
    tensors = {"first": floats(1024, 1, 1, 1), "same": floats(1024, 1024, 1, 1), "last": floats(3, 1024, 1, 1)}
    return build([first, *layers, last, HEAD], tensors, flatten="pooled")


def of_constants(*operators: onnx.NodeProto, **tensors: object) -> onnx.ModelProto:
    """Constants that are computed and used for nothing."""
    convolution = node("Conv", ["image", "kernel"], "body")
    return build([*operators, convolution, HEAD], {"kernel": floats(3, 1, 1, 1)} | tensors, flatten="pooled")


def grown(operator: str) -> onnx.ModelProto:
    """4000 numbers, made 16 million by one operator; ten times."""
    second = {"Expand": [4000, 4000], "Tile": [4000], "Gather": [0] * 4000}[operator]
    source = floats(1, 4000) if operator != "Tile" else floats(4000)
    nodes = [node(operator, ["source", "second"], f"c{index}") for index in range(10)]
    return of_constants(*nodes, source=source, second=np.array(second))


COSTLY = {
    "a large kernel": (of_a_large_kernel, "weights, many times what the model holds"),
    "one weight many times": (of_one_weight_many_times, "weights, many times what the model holds"),
    "Expand": (lambda: grown("Expand"), "elements, with those before"),
    "Tile": (lambda: grown("Tile"), "elements, with those before"),
    "Gather": (lambda: grown("Gather"), "elements, with those before"),
    "ConstantOfShape": (
        lambda: of_constants(made(1 << 28)[0], shape=np.array([1 << 28])),
        "elements, with those before",
    ),
    "Range": (
        lambda: of_constants(
            node("Range", ["from", "to", "step"], "c"),
            **{"from": np.int64(0), "to": np.int64(1 << 27)},
            step=np.int64(1),
        ),
        "elements, with those before",
    ),
    "elementwise": (
        lambda: of_constants(
            *(node("Add", ["row", "column"], f"c{index}") for index in range(10)),
            row=floats(1, 4000),
            column=floats(4000, 1),
        ),
        "elements, with those before",
    ),
    "Concat": (
        lambda: of_constants(node("Concat", ["a"] * 2000, "c", axis=0), a=floats(20_000)),
        "elements, with those before",
    ),
}
"""Each file is below 5 MB."""


@pytest.mark.parametrize("case", list(COSTLY))
def test_a_small_file_takes_no_more_memory_than_it_fills_many_times(case: str) -> None:
    make, refused = COSTLY[case]
    model = make()
    assert len(model.SerializeToString()) < 5_000_000
    with pytest.raises(ModelFileError, match=refused) as caught, bounded_memory(600 * MIB, remedy="none"):
        compiled(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(1, 6, 7), (1, 1 << 20, 1 << 20)], ids=str)
def test_a_value_that_would_fill_the_memory_is_refused_where_it_is_made(size: tuple[int, int, int]) -> None:
    borders = np.array([0, 0, 4096, 4096, 0, 0, 4096, 4096])
    nodes = [
        node("Pad", ["image", "borders"], "v0"),
        node("Pad", ["v0", "borders"], "v1"),
        node("Transpose", ["v1"], "v2", perm=[0, 1, 3, 2]),
        node("Transpose", ["v2"], "body", perm=[0, 1, 3, 2]),
    ]
    with pytest.raises(ModelFileError, match=r"makes a value of \d+ elements|images have \d+ values"):
        compiled(build([*nodes, HEAD], {"borders": borders}, size=size, flatten="pooled"))


def test_channels_that_are_picked_between_thin_layers_stay_a_layer_of_their_own() -> None:
    """Merged, the 2000 x 1 weights behind one of 2000 channels would be 2000 x 2000, and so on for longer ones."""
    nodes = [
        node("Conv", ["image", "wide"], "v0"),
        node("Gather", ["v0", "one"], "v1", axis=1),
        node("Conv", ["v1", "again"], "v2"),
        node("Conv", ["v2", "last"], "body"),
        HEAD,
    ]
    tensors = {
        "wide": floats(3000, 1, 1, 1),
        "one": np.array([7]),
        "again": floats(3000, 1, 1, 1, seed=1),
        "last": floats(3, 3000, 1, 1),
    }
    network, _ = compiled(build(nodes, tensors, flatten="pooled"))
    assert sum(np.prod(shape) for shape in network.weight_shapes().values()) < 100_000


def test_values_of_an_image_that_would_fill_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, card = write_model(tmp_path)
    monkeypatch.setattr(compiling, "MAX_AT_ONCE", 10)
    with pytest.raises(ModelFileError, match="values in memory at once"):
        compile_model(model, read_card(card))


def test_more_memory_than_is_allowed_ends_in_one_line_and_the_bound_ends_with_the_block() -> None:
    import torch

    for take in (
        lambda: np.ones(1 << 28),
        lambda: torch.ones(1 << 28),
        lambda: bytearray(1 << 30),
    ):
        with (
            pytest.raises(ModelFileError, match="takes more than 64 MiB of memory: use less"),
            bounded_memory(64 * MIB, remedy="use less"),
        ):
            take()
    assert np.ones(1 << 25).sum() == 1 << 25  # 256 MiB
    with pytest.raises(RuntimeError, match="something else"), bounded_memory(64 * MIB, remedy="use less"):
        raise RuntimeError("something else")


def test_the_command_says_so_in_one_line(tmp_path: Path) -> None:
    program = (
        "from model_owner import command, imported_models\n"
        "imported_models.ImportedModels.add = lambda *_, **_more: bytearray(2 << 30)\n"
        "command.run(command.app, name='model-owner')\n"
    )
    key = tmp_path / "key"
    key.write_text("0" * 64)
    key.chmod(0o600)
    arguments = ["import", "model.onnx", "--card", "card.json", "--key-file", str(key), "--memory", "1"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == ModelFileError.exit_status
    assert done.stderr == (
        "model-owner: this model takes more than 1,024 MiB of memory: use a smaller one, or allow more with --memory\n"
    )
