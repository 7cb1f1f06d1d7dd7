"""What exporters write every day, by kind: each answers as onnxruntime does, or is refused for the true reason."""

from typing import Any

import numpy as np
import onnx
import pytest

from contract.errors import ModelFileError
from model_owner.onnx_import.ending import Ending, find_ending
from tests.model_owner.graphs import agree, build, compiled, floats, kinds, node

STEM = [node("Conv", ["image", "w"], "c", pads=[1, 1, 1, 1]), node("Relu", ["c"], "r")]
HEAD = [node("GlobalAveragePool", ["y"], "pooled"), node("Flatten", ["pooled"], "f"), node("Gemm", ["f", "m"], "z")]
WEIGHTS = {"w": floats(4, 1, 3, 3), "m": floats(4, 3, seed=2)}


def between(*nodes: onnx.NodeProto, width: int = 7, batch: int | str = "batch", **tensors: Any) -> list[str]:
    """Kinds of operations of a network with these nodes from `c` or `r` to `y`, which agrees with onnxruntime's."""
    network = agree(build([*STEM, *nodes], WEIGHTS | tensors, size=(1, 6, width), flatten="y", batch=batch))
    return kinds(network)[1:]


ENDINGS: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "clipped": ([node("Sigmoid", ["z"], "p"), node("Clip", ["p", "low", "high"], "logits")], "Clip"),
    "a hard sigmoid": ([node("HardSigmoid", ["z"], "logits")], "HardSigmoid"),
    "stretched": ([node("Sigmoid", ["z"], "p"), node("Mul", ["p", "two"], "logits")], "Sigmoid"),
    "turned round": ([node("Softmax", ["z"], "p"), node("Sub", ["one", "p"], "logits")], "Softmax"),
    "beside the opposite": (
        [
            node("Sigmoid", ["z"], "p"),
            node("Sub", ["one", "p"], "q"),
            node("Concat", ["q", "p"], "logits", axis=1),
        ],
        "Sigmoid",
    ),
    "one of a softmax": (
        [node("Softmax", ["z"], "p", axis=1), node("Gather", ["p", "first"], "logits", axis=1)],
        "Softmax",
    ),
    "the mean of two": (
        [
            node("Softmax", ["z"], "p"),
            node("Mul", ["z", "two"], "z2"),
            node("Softmax", ["z2"], "q"),
            node("Mean", ["p", "q"], "logits"),
        ],
        "Softmax",
    ),
    "all of them at once": (
        [node("Sigmoid", ["z"], "p"), node("Sub", ["one", "p"], "q"), node("Mul", ["q", "p"], "logits")],
        "Sigmoid",
    ),
}
NUMBERS = {"low": np.float32(1e-4), "high": np.float32(0.9999), "one": np.float32(1), "two": np.float32(2)}


@pytest.mark.parametrize("case", ENDINGS)
def test_an_output_made_of_probabilities_is_not_taken_for_logits(case: str) -> None:
    nodes, operator = ENDINGS[case]
    head = [node("GlobalAveragePool", ["r"], "pooled"), *HEAD[1:]]
    model = build([*STEM, *head, *nodes], WEIGHTS | NUMBERS | {"first": np.array([1])})
    with pytest.raises(ModelFileError, match=f"{operator} in node .*: the model's output is made of its probabilities"):
        compiled(model)


def test_some_of_the_sigmoids_stand_for_themselves() -> None:
    nodes = [node("GlobalAveragePool", ["r"], "pooled"), *HEAD[1:], node("Sigmoid", ["z"], "p")]
    model = build(
        [*STEM, *nodes, node("Gather", ["p", "some"], "logits", axis=1)], WEIGHTS | {"some": np.array([2, 0])}
    )
    assert find_ending(model.graph) is Ending.SIGMOID
    assert compiled(model)[0].classes == 2


def test_gates_amid_the_network_are_no_ending() -> None:
    gate = [node("Sigmoid", ["c"], "gate"), node("Mul", ["r", "gate"], "y")]
    assert between(*gate)[:3] == ["relu", "activation", "multiply"]


def test_an_output_for_the_whole_batch_is_refused() -> None:
    nodes = [node("GlobalAveragePool", ["r"], "pooled"), *HEAD[1:], node("ReduceSum", ["z"], "logits", keepdims=0)]
    model = build([*STEM, *nodes], {"w": WEIGHTS["w"], "m": floats(4, 1)})
    with pytest.raises(ModelFileError, match="output is one number for a whole batch: keep its first axis"):
        compiled(model)


@pytest.mark.parametrize("opset", [11, 12])
@pytest.mark.parametrize(("taken", "brought"), [([3, 2], [1, 0]), ([-1, -2], [-1]), ([3], [-1, -3]), ([-1], [3])])
def test_axes_of_old_opsets_are_those_that_are_named(opset: int, taken: list[int], brought: list[int]) -> None:
    nodes = [
        node("GlobalAveragePool", ["r"], "g"),
        node("Squeeze", ["g"], "s", axes=taken),
        node("Unsqueeze", ["s"], "u", axes=brought),
        node("Reshape", ["u", "flat"], "f"),
        node("Gemm", ["f", "m"], "logits"),
    ]
    agree(build([*STEM, *nodes], WEIGHTS | {"flat": np.array([1, 4])}, opset=opset, batch=1))


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_a_pool_without_padding_is_rounded_up_as_onnxruntime_does(operator: str) -> None:
    between(node(operator, ["c"], "y", auto_pad="VALID", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1))


CHANNELS: dict[str, Any] = {"bound": floats(4, 1, 1, seed=6), "zero": np.float32(0), "six": np.float32(6)}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("Neg", ["c"], "y")], []),
        ([node("Abs", ["c"], "y")], ["relu", "convolution2d", "relu", "add"]),
        ([node("Max", ["c", "zero"], "y")], ["relu"]),
        ([node("Max", ["zero", "c"], "x"), node("Min", ["x", "six"], "y")], ["relu6"]),
        ([node("Max", ["bound", "c"], "y")], None),
        ([node("Min", ["c", "bound", "r"], "y")], None),
        ([node("Sum", ["r", "c", "bound", "r"], "y")], None),
        ([node("Mean", ["bound", "r", "c"], "y")], None),
    ],
)
def test_extremes_sums_and_means_of_any_number(nodes: list[onnx.NodeProto], expected: list[str] | None) -> None:
    found = between(*nodes, **CHANNELS)[:-1]
    if expected is not None:
        assert len(found) == len(expected), found


@pytest.mark.parametrize("operator", ["Sum", "Mean", "Max", "Min"])
def test_none_of_several_operands_is_left_out_silently(operator: str) -> None:
    """Where a MaxPool found its largest values is not computed."""
    pool = onnx.helper.make_node("MaxPool", ["c"], ["p", "places"], name="pool", kernel_shape=[2, 2])
    with pytest.raises(ModelFileError, match="input 1 must depend on the image"):
        compiled(build([*STEM, pool, node(operator, ["p", "places"], "y")], WEIGHTS, flatten="y"))


def test_attention_over_channels_by_a_convolution_of_one_axis() -> None:
    """ECA; its gate is repeated over the places by an Expand before it is multiplied."""
    nodes = [
        node("GlobalAveragePool", ["r"], "g"),
        node("Squeeze", ["g", "last"], "s"),
        node("Transpose", ["s"], "t", perm=[0, 2, 1]),
        node("Conv", ["t", "k"], "k1", pads=[1, 1], kernel_shape=[3]),
        node("Sigmoid", ["k1"], "p"),
        node("Transpose", ["p"], "q", perm=[0, 2, 1]),
        node("Unsqueeze", ["q", "last"], "u"),
        node("Expand", ["u", "whole"], "gate"),
        node("Mul", ["r", "gate"], "y"),
    ]
    tensors: dict[str, Any] = {"last": np.array([-1]), "k": floats(1, 1, 3, seed=8), "whole": np.array([1, 4, 6, 7])}
    found = between(*nodes, **tensors)
    assert found.count("multiply") == 1
    assert "fully_connected" not in found


CUTS: dict[str, tuple[list[int], list[int], list[int], str]] = {
    "a crop": ([1, 2], [5, 6], [1, 1], "convolution2d"),
    "every second row and column": ([0, 0], [9, 9], [2, 2], "average_pool"),
    "every second one of a crop": ([1, 0], [6, 7], [2, 3], "convolution2d"),
}


@pytest.mark.parametrize("case", CUTS)
def test_pixels_on_a_grid_are_cut_out(case: str) -> None:
    start, end, step, kind = CUTS[case]
    tensors: dict[str, Any] = {"from": np.array(start), "to": np.array(end), "axes": np.array([2, 3])}
    nodes = [node("Slice", ["c", "from", "to", "axes", "step"], "x"), node("Relu", ["x"], "y")]
    assert between(*nodes, **tensors, step=np.array(step))[0] == kind


def test_blocks_of_pixels_become_channels() -> None:
    nodes = [
        node("Reshape", ["r", "blocks"], "six"),
        node("Transpose", ["six"], "turned", perm=[0, 3, 5, 1, 2, 4]),
        node("Reshape", ["turned", "whole"], "x"),
        node("Relu", ["x"], "y"),
    ]
    between(*nodes, width=8, batch=1, blocks=np.array([1, 4, 3, 2, 4, 2]), whole=np.array([1, 16, 3, 4]))


@pytest.mark.parametrize(
    ("pads", "value"),
    [
        ([0, 0, -1, 2, 0, 0, 0, -2], 0.5),
        ([0, 1, 0, 0, 0, 2, 0, 0], 0.0),
        ([0, 1, 1, -1, 0, -1, 0, 0], 0.0),
    ],
)
def test_pads_that_cut_off_or_add_channels(pads: list[int], value: float) -> None:
    between(node("Pad", ["r", "pads", "value"], "y"), pads=np.array(pads), value=np.float32(value))


@pytest.mark.parametrize("low", [-np.inf, -3.4028235e38])
def test_what_surrounds_a_maximum_never_wins(low: float) -> None:
    nodes = [node("Pad", ["c", "p", "low"], "x"), node("MaxPool", ["x"], "y", kernel_shape=[3, 3], strides=[2, 2])]
    found = between(*nodes, p=np.array([0, 0, 1, 0, 0, 0, 1, 1]), low=np.float32(low))
    assert found == ["max_pool", "reshape"]


def test_constants_are_computed_whatever_operators_make_them() -> None:
    """Padding as TensorFlow's networks have it (Clip of a shape), and standardised weights (NFNet)."""
    nodes = [
        node("Shape", ["r"], "shape"),
        node("Gather", ["shape", "three"], "width"),
        node("Clip", ["width", "none", "most"], "cut"),
        node("Sub", ["cut", "most"], "nothing"),
        node("Unsqueeze", ["nothing", "first"], "pad"),
        node("Concat", [*["zeros"] * 2, "one", "pad", *["zeros"] * 2, "pad", "one"], "pads", axis=0),
        node("Pad", ["r", "pads"], "padded"),
        node("BatchNormalization", ["v", "gain", "none4", "none4", "gain"], "standard"),
        node("Conv", ["padded", "standard"], "y"),
    ]
    numbers: dict[str, Any] = {"three": np.array(3), "none": np.array(0), "most": np.array(4), "first": np.array([0])}
    pads: dict[str, Any] = {"zeros": np.array([0]), "one": np.array([1])}
    layer: dict[str, Any] = {"v": floats(2, 4, 2, 2), "gain": floats(4) ** 2, "none4": np.zeros(4, np.float32)}
    between(*nodes, **numbers, **pads, **layer)
