"""Every supported operator with its attributes, against onnxruntime."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from contract.errors import ModelFileError
from model_owner.onnx_import.reading import NEWEST_OPSET, OLDEST_OPSET
from secure_computation.float_reference import evaluate
from tests.model_owner.graphs import agree, build, compiled, floats, kinds, node

quick = settings(max_examples=15)
opsets = st.sampled_from([11, 13, 15, 17, 18, 20, 22])


@st.composite
def windows(draw: st.DrawFn, *, dilated: bool, pool: bool) -> dict[str, object]:
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    attributes: dict[str, object] = {
        "kernel_shape": kernel,
        "strides": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
    }
    automatic = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if automatic != "NOTSET":
        attributes["auto_pad"] = automatic
        if pool:  # onnxruntime refuses a stride beyond the kernel here
            attributes["strides"] = kernel
    else:
        most = [k - 1 if pool else 2 for k in kernel]
        attributes["pads"] = [draw(st.integers(0, most[axis % 2])) for axis in range(4)]
    if dilated and automatic == "NOTSET":
        attributes["dilations"] = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    return attributes


@quick
@given(attributes=windows(dilated=True, pool=False), groups=st.integers(1, 2), bias=st.booleans(), opset=opsets)
def test_convolution(attributes: dict[str, object], groups: int, bias: bool, opset: int) -> None:
    kernel = attributes["kernel_shape"]
    tensors = {"w": floats(4, 2, *kernel), "b": floats(4)}  # type: ignore[misc]
    conv = node("Conv", ["image", "w", "b"] if bias else ["image", "w"], "y", group=groups, **attributes)
    network = agree(build([conv], tensors, size=(2 * groups, 6, 7), opset=opset, flatten="y"))
    assert kinds(network) == ["convolution2d", "reshape"]


@quick
@given(attributes=windows(dilated=False, pool=True), ceil=st.booleans(), opset=opsets)
def test_max_pool(attributes: dict[str, object], ceil: bool, opset: int) -> None:
    ceil_mode = int(ceil and "auto_pad" not in attributes)
    pool = node("MaxPool", ["image"], "y", ceil_mode=ceil_mode, **attributes)
    agree(build([pool], {}, size=(2, 7, 8), opset=opset, flatten="y"))


@quick
@given(attributes=windows(dilated=False, pool=True), include=st.integers(0, 1), opset=opsets)
def test_average_pool(attributes: dict[str, object], include: int, opset: int) -> None:
    pool = node("AveragePool", ["image"], "y", count_include_pad=include, **attributes)
    agree(build([pool], {}, size=(2, 7, 8), opset=opset, flatten="y"))


BATCH_NORM = {"gain": floats(4), "offset": floats(4, seed=2), "mean": floats(4, seed=3), "var": floats(4, seed=4) ** 2}
NORM_INPUTS = ["gain", "offset", "mean", "var"]


def test_batch_norm_joins_the_convolution() -> None:
    conv = node("Conv", ["image", "w"], "c")
    norm = node("BatchNormalization", ["c", *NORM_INPUTS], "n", epsilon=1e-3)
    network = agree(build([conv, norm], {"w": floats(4, 1, 3, 3), **BATCH_NORM}, flatten="n"))
    assert kinds(network) == ["convolution2d", "reshape"]


def test_batch_norm_stays_where_the_convolution_is_read_twice() -> None:
    conv = node("Conv", ["image", "w"], "c")
    norm = node("BatchNormalization", ["c", *NORM_INPUTS], "n")
    add = node("Add", ["n", "c"], "a")
    network = agree(build([conv, norm, add], {"w": floats(4, 1, 3, 3), **BATCH_NORM}, flatten="a"))
    assert kinds(network) == ["convolution2d", "convolution2d", "add", "reshape"]


def test_batch_norm_after_relu_is_a_depthwise_convolution() -> None:
    relu = node("Relu", ["image"], "r")
    norm = node("BatchNormalization", ["r", *NORM_INPUTS], "n")
    network = agree(build([relu, norm], BATCH_NORM, size=(4, 5, 5), flatten="n"))
    assert kinds(network) == ["relu", "convolution2d", "reshape"]


def test_batch_norm_of_features_folded_and_not() -> None:
    gemm = node("Gemm", ["f", "w"], "g")
    folded = node("BatchNormalization", ["g", *NORM_INPUTS], "n")
    relu = node("Relu", ["n"], "r")
    alone = node("BatchNormalization", ["r", *NORM_INPUTS], "logits")
    network = agree(
        build([node("Flatten", ["image"], "f"), gemm, folded, relu, alone], {"w": floats(42, 4), **BATCH_NORM})
    )
    assert kinds(network) == ["reshape", "fully_connected", "relu", "reshape", "convolution2d", "reshape"]


STEPS = ("conv", "norm", "relu", "clip", "pad", "shift", "scale", "sub", "rsub", "div", "add", "concat", "identity")


@settings(max_examples=40)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 99)), min_size=1, max_size=10), opset=opsets)
def test_random_networks(steps: list[tuple[str, int]], opset: int) -> None:
    """Any chain of these, with residuals and concatenations of earlier values, keeps its meaning under folding."""
    tensors: dict[str, Any] = {
        "zero": np.float32(0),
        "six": np.float32(1.5),
        "pads": np.array([0, 0, 1, 0, 0, 0, 0, 2]),
    }
    values = [("image", (2, 5, 5))]
    nodes = []
    for index, (step, choice) in enumerate(steps):
        source, shape = values[-1]
        channels, output = shape[0], f"v{index}"
        constant = {f"c{index}": floats(1, channels, 1, 1, seed=index)}
        if step == "conv":
            tensors |= {f"w{index}": floats(3, channels, 1, 1, seed=index)}
            nodes.append(node("Conv", [source, f"w{index}"], output))
            shape = (3, *shape[1:])
        elif step == "norm":
            tensors |= {f"{name}{index}": np.abs(floats(channels, seed=index)) + 0.5 for name in NORM_INPUTS}
            nodes.append(node("BatchNormalization", [source, *(f"{name}{index}" for name in NORM_INPUTS)], output))
        elif step in {"relu", "identity"}:
            nodes.append(node(step.capitalize(), [source], output))
        elif step == "clip":
            nodes.append(node("Clip", [source, "zero", "six"], output))
        elif step == "pad":
            nodes.append(node("Pad", [source, "pads"], output))
            shape = (channels, shape[1] + 1, shape[2] + 2)
        elif step in {"shift", "scale", "sub", "rsub"}:
            tensors |= constant
            operands = [f"c{index}", source] if step == "rsub" else [source, f"c{index}"]
            operator = {"shift": "Add", "scale": "Mul"}.get(step, "Sub")
            nodes.append(node(operator, operands, output))
        elif step == "div":
            tensors |= {f"c{index}": np.float32(2.0)}
            nodes.append(node("Div", [source, f"c{index}"], output))
        else:
            fitting = [value for value in values if (value[1] == shape if step == "add" else value[1][1:] == shape[1:])]
            other, other_shape = fitting[choice % len(fitting)]
            nodes.append(
                node("Add", [source, other], output)
                if step == "add"
                else node("Concat", [source, other], output, axis=1)
            )
            shape = shape if step == "add" else (channels + other_shape[0], *shape[1:])
        values.append((output, shape))
    network = agree(build(nodes, tensors, size=(2, 5, 5), opset=opset, flatten=values[-1][0]))
    affines_in_a_row = [
        operation for operation in network.operations if operation.kind == "convolution2d" and operation.groups > 1
    ]
    assert len(affines_in_a_row) <= sum(step in {"norm", "shift", "scale", "sub", "rsub", "div"} for step, _ in steps)


@quick
@given(
    transposed=st.booleans(),
    alpha=st.floats(0.5, 2.0, width=32),
    beta=st.floats(0.5, 2.0, width=32),
    bias=st.sampled_from([None, (), (1,), (3,), (1, 3)]),
)
def test_gemm(transposed: bool, alpha: float, beta: float, bias: tuple[int, ...] | None) -> None:
    tensors = {"w": floats(3, 42) if transposed else floats(42, 3)}
    if bias is not None:
        tensors["b"] = floats(*bias)
    inputs = ["f", "w"] if bias is None else ["f", "w", "b"]
    gemm = node("Gemm", inputs, "logits", transB=int(transposed), alpha=alpha, beta=beta)
    network = agree(build([node("Flatten", ["image"], "f"), gemm], tensors))
    assert kinds(network) == ["reshape", "fully_connected"]


def test_matrix_product_and_its_bias() -> None:
    nodes = [node("Flatten", ["image"], "f"), node("MatMul", ["f", "w"], "m"), node("Add", ["b", "m"], "logits")]
    network = agree(build(nodes, {"w": floats(42, 3), "b": floats(3)}))
    assert kinds(network) == ["reshape", "fully_connected"]
    assert set(network.weight_shapes()) == {"fully_connected1.weight", "fully_connected1.bias"}


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
@pytest.mark.parametrize("opset", [13, 18])
def test_spatial_mean(keepdims: int, axes: list[int], opset: int) -> None:
    if opset < 18:
        mean = node("ReduceMean", ["image"], "m", axes=axes, keepdims=keepdims)
    else:
        mean = node("ReduceMean", ["image", "axes"], "m", keepdims=keepdims)
    network = agree(build([mean], {"axes": np.array(axes)}, size=(3, 4, 5), opset=opset, flatten="m"))
    assert kinds(network) == ["global_average_pool", "reshape"]


def test_global_average_pool() -> None:
    agree(build([node("GlobalAveragePool", ["image"], "p")], {}, size=(3, 4, 5), flatten="p"))


@pytest.mark.parametrize("target", [[0, -1], [-1, 42], [1, 42]])
def test_reshape(target: list[int]) -> None:
    batch: int | str = 1 if target[0] == 1 else "batch"
    network = agree(build([node("Reshape", ["image", "s"], "logits")], {"s": np.array(target)}, batch=batch))
    assert kinds(network) == ["reshape"]


def test_reshape_to_a_shape_computed_from_the_batch() -> None:
    """What torch's older exporter writes for `x.view(x.size(0), -1)`."""
    nodes = [
        node("Shape", ["image"], "s"),
        node("Gather", ["s", "first"], "n", axis=0),
        node("Unsqueeze", ["n", "axis"], "u"),
        node("Concat", ["u", "rest"], "target", axis=0),
        node("Reshape", ["image", "target"], "logits"),
    ]
    agree(build(nodes, {"first": np.array(0), "axis": np.array([0]), "rest": np.array([-1])}))


def test_pad_with_axes_and_a_value() -> None:
    tensors: dict[str, Any] = {"pads": np.array([1, 2, 0, 1]), "value": np.float32(0.5), "axes": np.array([3, -2])}
    network = agree(build([node("Pad", ["image", "pads", "value", "axes"], "p")], tensors, opset=18, flatten="p"))
    assert network.operations[0].shape == (1, 6 + 2 + 1, 7 + 1)


def test_clip_without_a_maximum_is_a_relu() -> None:
    network = agree(build([node("Clip", ["image", "zero"], "c")], {"zero": np.float32(0)}, flatten="c"))
    assert kinds(network) == ["relu", "reshape"]


def test_half_weights_constants_identity_and_dropout_disappear() -> None:
    constant = helper.make_node("Constant", [], ["b"], value_floats=[0.5, -0.5])
    nodes = [
        node("Cast", ["half"], "w", to=TensorProto.FLOAT),
        constant,
        node("Conv", ["image", "w", "b"], "c"),
        node("Identity", ["c"], "i"),
        node("Dropout", ["i"], "d"),
        node("Cast", ["d"], "f", to=TensorProto.FLOAT),
    ]
    network = agree(build(nodes, {"half": floats(2, 1, 3, 3).astype(np.float16)}, flatten="f"))
    assert kinds(network) == ["convolution2d", "reshape"]


def test_what_nothing_reads_disappears() -> None:
    network = agree(
        build(
            [node("Relu", ["image"], "unused"), node("Clip", ["image", "zero"], "c")],
            {"zero": np.float32(0)},
            flatten="c",
        )
    )
    assert kinds(network) == ["relu", "reshape"]


@pytest.mark.parametrize("opset", [OLDEST_OPSET, NEWEST_OPSET])
def test_both_ends_of_the_opset_range(opset: int) -> None:
    nodes = [
        node("Conv", ["image", "w"], "c"),
        node("BatchNormalization", ["c", *NORM_INPUTS], "n"),
        node("Relu", ["n"], "r"),
    ]
    agree(build(nodes, {"w": floats(4, 1, 3, 3), **BATCH_NORM}, opset=opset, flatten="r"))


@pytest.mark.parametrize(("operator", "function"), [("Sigmoid", "sigmoid"), ("Tanh", "tanh")])
def test_smooth_functions(operator: str, function: str) -> None:
    network = agree(build([node(operator, ["image"], "s"), node("Relu", ["s"], "y")], {}, size=(2, 4, 5), flatten="y"))
    assert [getattr(operation, "function", None) for operation in network.operations] == [function, None, None]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_value_times_its_sigmoid_is_one_operation(swapped: bool) -> None:
    factors = ["gate", "image"] if swapped else ["image", "gate"]
    gate, product = node("Sigmoid", ["image"], "gate"), node("Mul", factors, "y")
    network = agree(build([gate, product], {}, size=(2, 4, 5), flatten="y"))
    assert [getattr(operation, "function", None) for operation in network.operations] == ["silu", None]


def test_gelu_in_its_tanh_form() -> None:
    gelu = node("Gelu", ["image"], "y", approximate="tanh")
    network = agree(build([gelu], {}, size=(2, 4, 5), opset=20, flatten="y"))
    assert getattr(network.operations[0], "function", None) == "gelu"


@pytest.mark.parametrize(("opset", "axis"), [(13, 1), (17, -3), (22, 1)])
def test_softmax_over_channels_amid_a_network(opset: int, axis: int) -> None:
    nodes = [node("Softmax", ["image"], "s", axis=axis), node("Conv", ["s", "w"], "y")]
    network = agree(build(nodes, {"w": floats(2, 3, 1, 1)}, size=(3, 4, 5), opset=opset, flatten="y"))
    assert kinds(network) == ["softmax", "convolution2d", "reshape"]


@pytest.mark.parametrize(("opset", "attributes"), [(11, {}), (11, {"axis": -1}), (13, {}), (17, {"axis": 1})])
def test_softmax_over_features_amid_a_network(opset: int, attributes: dict[str, int]) -> None:
    nodes = [
        node("Flatten", ["image"], "f"),
        node("Softmax", ["f"], "s", **attributes),
        node("Gemm", ["s", "w"], "logits"),
    ]
    network = agree(build(nodes, {"w": floats(42, 3)}, opset=opset))
    assert kinds(network) == ["reshape", "softmax", "fully_connected"]


ENDINGS: dict[str, list[Any]] = {
    "a vector": [node("Flatten", ["g"], "f"), node("Softmax", ["f"], "logits", axis=1)],
    "log": [node("Flatten", ["g"], "f"), node("LogSoftmax", ["f"], "logits")],
    "an image of one place": [node("Softmax", ["g"], "s", axis=1), node("Flatten", ["s"], "logits")],
    "behind it": [
        node("Flatten", ["g"], "f"),
        node("Softmax", ["f"], "s"),
        node("Identity", ["s"], "i"),
        node("Reshape", ["i", "whole"], "logits"),
    ],
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_softmax_that_ends_the_model_is_left_out(ending: str) -> None:
    """What is left gives logits: their softmax is what the model gave."""
    nodes = [node("Conv", ["image", "w"], "c"), node("GlobalAveragePool", ["c"], "g"), *ENDINGS[ending]]
    tensors = {"w": floats(4, 1, 3, 3)} | ({"whole": np.array([0, -1])} if ending == "behind it" else {})
    model = build(nodes, tensors)
    network, weights = compiled(model)
    assert kinds(network) == ["convolution2d", "global_average_pool", "reshape"]
    images = floats(2, *network.input_shape, seed=1)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = torch.from_numpy(session.run(None, {"image": images})[0])
    logits = evaluate(network, weights, torch.from_numpy(images)).float()
    wanted = torch.log_softmax(logits, dim=1) if ending == "log" else torch.softmax(logits, dim=1)
    assert torch.allclose(given, wanted, atol=1e-5)


def test_a_softmax_that_is_read_elsewhere_too_stays() -> None:
    nodes = [
        node("Flatten", ["image"], "f"),
        node("Softmax", ["f"], "s"),
        node("Relu", ["s"], "r"),
        node("Add", ["s", "r"], "a"),
        node("Gemm", ["a", "m"], "logits"),
    ]
    network = agree(build(nodes, {"m": floats(42, 3)}))
    assert kinds(network) == ["reshape", "softmax", "relu", "add", "fully_connected"]


SOFTMAX_REFUSALS: dict[str, tuple[list[Any], int, str]] = {
    "width": (
        [node("Softmax", ["image"], "y")],
        17,
        "runs over axis -1 of a value of shape .1, 3, 4, 5.; only",
    ),
    "batch": ([node("Softmax", ["image"], "y", axis=0)], 17, "runs over axis 0 of"),
    "whole image": ([node("Softmax", ["image"], "y", axis=1)], 11, "axis 1 and all that follow, as before opset 13"),
    "logarithm": (
        [node("LogSoftmax", ["image"], "l", axis=1), node("Relu", ["l"], "y")],
        17,
        "LogSoftmax in node 'node_l': a logarithm is not supported under encryption; use Softmax here",
    ),
    "output of places": (
        [node("Softmax", ["image"], "y", axis=1)],
        17,
        "ends the model with a value of shape .3, 4",
    ),
    "one channel": (
        [node("Conv", ["image", "w"], "c"), node("Softmax", ["c"], "s", axis=1), node("Relu", ["s"], "y")],
        17,
        "a softmax runs over 2 to 4096 channels or features, not over 1",
    ),
}


@pytest.mark.parametrize("case", SOFTMAX_REFUSALS)
def test_a_softmax_that_is_not_supported(case: str) -> None:
    nodes, opset, message = SOFTMAX_REFUSALS[case]
    tensors = {"w": floats(1, 3, 1, 1)} if case == "one channel" else {}
    with pytest.raises(ModelFileError, match=message):
        compiled(build(nodes, tensors, size=(3, 4, 5), opset=opset, flatten="y"))
