"""Axes taken away, brought back and reordered, channels picked: as the exporters of other frameworks write graphs."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import ModelFileError
from secure_computation.network import Network
from tests.model_owner.graphs import agree, build, compiled, floats, kinds, node

HEAD = {"w": floats(4, 1, 3, 3), "m": floats(4, 3, seed=2), "b": floats(3, seed=3)}
POOLED = [node("Conv", ["image", "w"], "c"), node("Relu", ["c"], "r"), node("GlobalAveragePool", ["r"], "g")]
CLASSIFIER = ["convolution2d", "relu", "global_average_pool", "reshape", "fully_connected"]


def head(*nodes: Any, last: str, tensors: dict[str, Any] | None = None, opset: int = 17) -> Network:
    """Pooled channels, the nodes, and a matrix product with its bias."""
    product = [node("MatMul", [last, "m"], "p"), node("Add", ["p", "b"], "logits")]
    return agree(build([*POOLED, *nodes, *product], HEAD | (tensors or {}), opset=opset))


AXES = {"last": np.array([-1]), "both": np.array([2, 3]), "first": np.array(0), "order": np.array([0, -1])}
UNIT_AXES: dict[str, tuple[list[Any], str]] = {
    "one at a time": ([node("Squeeze", ["g", "last"], "s"), node("Squeeze", ["s", "last"], "f")], "f"),
    "at once": ([node("Squeeze", ["g", "both"], "f")], "f"),
    "away and back": (
        [node("Squeeze", ["g", "both"], "s"), node("Unsqueeze", ["s", "both"], "u"), node("Flatten", ["u"], "f")],
        "f",
    ),
    "a place that is picked": (
        [node("Gather", ["g", "first"], "s", axis=3), node("Gather", ["s", "first"], "f", axis=-1)],
        "f",
    ),
    "in another order": (
        [node("Transpose", ["g"], "t", perm=[0, 2, 3, 1]), node("Reshape", ["t", "order"], "f")],
        "f",
    ),
    "flattened from behind": ([node("Squeeze", ["g", "last"], "s"), node("Flatten", ["s"], "f", axis=-2)], "f"),
}


@pytest.mark.parametrize("case", UNIT_AXES)
def test_axes_of_one_element_come_and_go(case: str) -> None:
    nodes, last = UNIT_AXES[case]
    assert kinds(head(*nodes, last=last, tensors=AXES)) == CLASSIFIER


@pytest.mark.parametrize(
    ("axes", "keepdims"),
    [
        *(([[-1], [-1]], 0), ([[3], [2]], 0), ([[2], [-1]], 0), ([[-1, -2]], 0), ([[2], [2]], 0)),
        *(([[-1], [-2]], 1), ([[2], [3]], 1), ([[2, 3]], 1), ([[3], [3], [2]], 1)),
    ],
)
@pytest.mark.parametrize("opset", [13, 18])
def test_a_mean_one_axis_at_a_time_is_one_pool(axes: list[list[int]], keepdims: int, opset: int) -> None:
    nodes, last, tensors = [], "r", {}
    for index, given_axes in enumerate(axes):
        if opset < 18:
            nodes.append(node("ReduceMean", [last], f"mean{index}", axes=given_axes, keepdims=keepdims))
        else:
            tensors[f"axes{index}"] = np.array(given_axes)
            nodes.append(node("ReduceMean", [last, f"axes{index}"], f"mean{index}", keepdims=keepdims))
        last = f"mean{index}"
    network = agree(build([*POOLED[:2], *nodes, node("Flatten", [last], "f"), node("Gemm", ["f", "m", "b"], "logits")],
                          HEAD | tensors, opset=opset))  # fmt: skip
    assert kinds(network) == CLASSIFIER


@pytest.mark.parametrize("axis", [2, 3])
def test_a_mean_over_one_axis_alone(axis: int) -> None:
    nodes = [node("ReduceMean", ["image"], "m", axes=[axis], keepdims=0), node("Flatten", ["m"], "logits")]
    assert kinds(agree(build(nodes, {}, size=(3, 4, 5)))) == ["average_pool", "reshape"]


@pytest.mark.parametrize(("operator", "expected"), [("ReduceSum", "global_average_pool"), ("ReduceMax", "max_pool")])
def test_sum_and_maximum_over_the_image(operator: str, expected: str) -> None:
    tensors = {"axes": np.array([2, 3])}
    nodes = [node(operator, ["r", "axes"], "s", keepdims=0), node("MatMul", ["s", "m"], "logits")]
    network = agree(build([*POOLED[:2], *nodes], HEAD | tensors, opset=18))
    assert kinds(network) == ["convolution2d", "relu", expected, "reshape", "fully_connected"]


def test_the_largest_value_of_the_image() -> None:
    assert "max_pool" in kinds(agree(build([node("GlobalMaxPool", ["image"], "p")], {}, size=(3, 4, 5), flatten="p")))


def test_channels_last_in_between_as_tensorflow_writes_it() -> None:
    """Mean and dense layers over the last axis; batch norm's constants stand along the last axis too."""
    nodes = [
        node("Conv", ["image", "w"], "c"),
        node("Transpose", ["c"], "t", perm=[0, 2, 3, 1]),
        node("Mul", ["t", "gain"], "n"),
        node("Relu", ["n"], "r"),
        node("ReduceMean", ["r"], "g", axes=[1, 2], keepdims=0),
        node("MatMul", ["g", "m"], "p"),
        node("Add", ["p", "b"], "logits"),
    ]
    network = agree(build(nodes, HEAD | {"gain": floats(1, 1, 1, 4, seed=5)}))
    assert kinds(network) == CLASSIFIER


def test_a_dense_layer_on_an_image_flattened_with_channels_last() -> None:
    nodes = [
        node("Conv", ["image", "w"], "c"),
        node("Transpose", ["c"], "t", perm=[0, 2, 3, 1]),
        node("Relu", ["t"], "r"),
        node("Reshape", ["r", "flat"], "f"),
        node("Gemm", ["f", "dense"], "logits"),
    ]
    network = agree(build(nodes, {"w": HEAD["w"], "flat": np.array([0, -1]), "dense": floats(4 * 4 * 5, 3)}))
    assert kinds(network) == ["convolution2d", "relu", "reshape", "fully_connected"]


def test_the_input_scaled_by_channel_as_torchvisions_googlenet_does() -> None:
    """Three channels, each picked, scaled and shifted, and put together again, are one 1 x 1 convolution."""
    nodes: list[Any] = []
    tensors: dict[str, Any] = {"w": floats(4, 3, 3, 3), "axis": np.array([1])}
    for channel in range(3):
        tensors |= {
            f"at{channel}": np.array(channel),
            f"s{channel}": np.float32(0.4 + channel),
            f"o{channel}": np.float32(channel - 1.2),
        }
        nodes += [
            node("Gather", ["image", f"at{channel}"], f"g{channel}", axis=1),
            node("Unsqueeze", [f"g{channel}", "axis"], f"u{channel}"),
            node("Mul", [f"u{channel}", f"s{channel}"], f"m{channel}"),
            node("Add", [f"m{channel}", f"o{channel}"], f"a{channel}"),
        ]
    nodes += [node("Concat", ["a0", "a1", "a2"], "x", axis=1), node("Conv", ["x", "w"], "y", pads=[1, 1, 1, 1])]
    network = agree(build(nodes, tensors, size=(3, 6, 7), flatten="y"))
    assert kinds(network) == ["convolution2d", "convolution2d", "reshape"]


@pytest.mark.parametrize("operator", ["Concat", "Expand", "Tile"])
def test_a_grey_image_made_three_channels_is_one_convolution(operator: str) -> None:
    tensors = {"w": floats(4, 3, 3, 3), "shape": np.array([1, 3, 6, 7]), "times": np.array([1, 3, 1, 1])}
    made = {
        "Concat": node("Concat", ["image"] * 3, "x", axis=1),
        "Expand": node("Expand", ["image", "shape"], "x"),
        "Tile": node("Tile", ["image", "times"], "x"),
    }[operator]
    network = agree(build([made, node("Conv", ["x", "w"], "y", pads=[1, 1, 1, 1])], tensors, flatten="y"))
    assert kinds(network) == ["convolution2d", "reshape"]
    assert network.weight_shapes()["convolution1.weight"] == (4, 1, 3, 3)


def test_channels_shuffled_and_split_as_shufflenet_does() -> None:
    tensors = {
        "w": floats(6, 1, 3, 3),
        "groups": np.array([0, 2, 3, 4, 5]),
        "whole": np.array([0, 6, 4, 5]),
        "parts": np.array([3, 3]),
        "v": floats(3, 3, 1, 1, seed=4),
    }
    split = node("Split", ["shuffled", "parts"], "left", axis=1)
    split.output.append("right")
    nodes = [
        node("Conv", ["image", "w"], "c"),
        node("Relu", ["c"], "r"),
        node("Reshape", ["r", "groups"], "five"),
        node("Transpose", ["five"], "turned", perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["turned", "whole"], "shuffled"),
        split,
        node("Conv", ["right", "v"], "branch"),
        node("Concat", ["left", "branch"], "y", axis=1),
    ]
    agree(build(nodes, tensors, flatten="y"))


@pytest.mark.parametrize("opset", [11, 17])
def test_some_logits_picked_from_more(opset: int) -> None:
    """The layer before gives only these."""
    nodes = [*POOLED, node("Flatten", ["g"], "f"), node("Gemm", ["f", "m", "b"], "all")]
    nodes.append(node("Gather", ["all", "some"], "logits", axis=1))
    network = agree(build(nodes, HEAD | {"some": np.array([2, 0])}, opset=opset))
    assert kinds(network) == CLASSIFIER
    assert network.classes == 2


def test_a_slice_of_channels() -> None:
    tensors = {"w": floats(4, 1, 3, 3), "from": np.array([1]), "to": np.array([3]), "axis": np.array([1])}
    nodes = [*POOLED[:2], node("Slice", ["r", "from", "to", "axis"], "y")]
    assert agree(build(nodes, tensors, flatten="y")).operations[-2].shape == (2, 4, 5)


STEPS = ("transpose", "squeeze", "unsqueeze", "reshape", "relu", "scale", "identity")


@settings(max_examples=20)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 99)), max_size=8))
def test_any_chain_of_rearrangements_keeps_the_meaning(steps: list[tuple[str, int]]) -> None:
    """Compared with onnxruntime through a dense layer, which reads elements in the order that the chain leaves."""
    nodes: list[Any] = [node("Conv", ["image", "w"], "v")]
    tensors: dict[str, Any] = {"w": HEAD["w"], "flat": np.array([1, 80]), "dense": floats(80, 3), "k": np.float32(1.5)}
    value, shape = "v", [1, 4, 4, 5]
    for index, (step, choice) in enumerate(steps):
        output, extra = f"v{index}", f"c{index}"
        if step == "transpose":
            order = [int(axis) for axis in np.random.default_rng(choice).permutation(len(shape))]
            nodes.append(node("Transpose", [value], output, perm=order))
            shape = [shape[axis] for axis in order]
        elif step == "squeeze" and 1 in shape and len(shape) > 2:
            axis = shape.index(1)
            tensors[extra] = np.array([axis])
            nodes.append(node("Squeeze", [value, extra], output))
            del shape[axis]
        elif step == "unsqueeze" and len(shape) < 6:
            axis = choice % (len(shape) + 1)
            tensors[extra] = np.array([axis])
            nodes.append(node("Unsqueeze", [value, extra], output))
            shape.insert(axis, 1)
        elif step == "reshape":
            shape = [[1, 80], [4, 20], [1, 5, 16], [2, 40], [1, 8, 2, 5]][choice % 5]
            tensors[extra] = np.array(shape)
            nodes.append(node("Reshape", [value, extra], output))
        elif step == "scale":
            nodes.append(node("Mul", [value, "k"], output))
        else:
            nodes.append(node("Relu" if step == "relu" else "Identity", [value], output))
        value = output
    nodes += [node("Reshape", [value, "flat"], "f"), node("Gemm", ["f", "dense"], "logits")]
    agree(build(nodes, tensors, batch=1))


REFUSALS: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "height and width exchanged": (
        [node("Transpose", ["image"], "y", perm=[0, 1, 3, 2])],
        {},
        "Conv in node 'node_z': its input holds the pixels of earlier values in another order; only channels can be",
    ),
    "a mirror": (
        [node("Slice", ["image", "from", "to", "axis", "step"], "y")],
        {"from": np.array([-1]), "to": np.array([-99]), "axis": np.array([3]), "step": np.array([-1])},
        "crop, turn or rearrange images before they go into the model",
    ),
    "three axes": (
        [node("Squeeze", ["image", "axis"], "y")],
        {"axis": np.array([1])},
        r"its input has shape \(1, 6, 7\) for a batch of 1",
    ),
    "indices that are not there": (
        [node("Gather", ["image", "at"], "y", axis=1)],
        {"at": np.array([7])},
        "Gather in node 'node_y': its shapes or indices do not fit",
    ),
    "indices from the image": (
        [node("Relu", ["image"], "r"), node("Gather", ["image", "r"], "y")],
        {},
        "Gather in node 'node_y': input 1 must be a constant",
    ),
    "an axis of several squeezed": (
        [node("Squeeze", ["image", "axis"], "y")],
        {"axis": np.array([2])},
        "Squeeze in node 'node_y': its shapes or indices do not fit",
    ),
    "an absurd repetition": (
        [node("Tile", ["image", "times"], "y")],
        {"times": np.array([1, 1 << 40, 1, 1])},
        "Tile in node 'node_y': it makes .* elements, with those before many times what the model holds",
    ),
    "an absurd constant": (
        [node("ConstantOfShape", ["size"], "big"), node("Add", ["image", "big"], "y")],
        {"size": np.array([1 << 50])},
        "ConstantOfShape in node 'node_big': it makes .* elements, with those before many times what the model holds",
    ),
    "an absurd range": (
        [node("Range", ["zero", "end", "one"], "big"), node("Add", ["image", "big"], "y")],
        {"zero": np.int64(0), "end": np.int64(1 << 60), "one": np.int64(1)},
        "Range in node 'node_big': it makes .* elements, with those before many times what the model holds",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_rearrangement_that_cannot_be_computed_is_refused(case: str) -> None:
    nodes, tensors, expected = REFUSALS[case]
    model = build([*nodes, node("Conv", ["y", "w"], "z")], {"w": HEAD["w"], **tensors}, flatten="z")
    with pytest.raises(ModelFileError, match=expected):
        compiled(model)


def test_constants_of_a_shape_are_computed() -> None:
    """What torch's older exporter writes for ZeroPad2d((0, 3, 1, 2))."""
    tensors = {
        "four": np.array([4]),
        "given": np.array([0, 3, 1, 2]),
        "pairs": np.array([-1, 2]),
        "from": np.array([-1]),
        "to": np.array([-(1 << 63) + 1]),
        "rows": np.array([0]),
        "step": np.array([-1]),
        "flat": np.array([-1]),
    }
    nodes = [
        node("ConstantOfShape", ["four"], "zeros", value=np_tensor(np.array([0]))),
        node("Concat", ["given", "zeros"], "all", axis=0),
        node("Reshape", ["all", "pairs"], "table"),
        node("Slice", ["table", "from", "to", "rows", "step"], "backwards"),
        node("Transpose", ["backwards"], "turned", perm=[1, 0]),
        node("Reshape", ["turned", "flat"], "raw"),
        node("Cast", ["raw"], "pads", to=7),
        node("Pad", ["image", "pads"], "y"),
    ]
    network = agree(build(nodes, tensors, flatten="y"))
    assert network.operations[0].shape == (1, 6 + 1 + 2, 7 + 3)


def np_tensor(value: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(value)


def test_a_reshape_to_a_shape_computed_from_the_values_own() -> None:
    tensors = {"from": np.array([0]), "to": np.array([2]), "rest": np.array([1, 1]), "last": np.array([-1])}
    nodes = [
        *POOLED,
        node("Shape", ["g"], "shape"),
        node("Slice", ["shape", "from", "to"], "kept"),
        node("Concat", ["kept", "rest"], "target", axis=0),
        node("Reshape", ["g", "target"], "x"),
        node("Squeeze", ["x", "last"], "s"),
        node("Flatten", ["s"], "f"),
        node("Gemm", ["f", "m", "b"], "logits"),
    ]
    assert kinds(agree(build(nodes, HEAD | tensors))) == CLASSIFIER
