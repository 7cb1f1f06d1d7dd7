"""Products of two values and the activations made of them, in the forms in which exporters write them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contract.errors import ModelFileError
from imaging.phantom import draw_phantom
from model_owner.onnx_import.compiling import lower
from model_owner.onnx_import.reading import read_onnx
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.float_reference import evaluate
from secure_computation.network import Clip, Network
from tests.model_owner.graphs import agree, build, compiled, floats, kinds, node
from tests.secure_computation.engines.masked.parties import Model, parties_of
from tests.secure_computation.engines.masked.sessions import Session
from tests.secure_computation.networks import run_all

SIZE = (3, 4, 5)
NUMBERS = {
    name: np.float32(value) for name, value in {"zero": 0, "half": 0.5, "three": 3, "six": 6, "sixth": 1 / 6}.items()
}
CONVOLUTION = node("Conv", ["image", "w"], "c", pads=[1, 1, 1, 1])
SQUEEZE = [
    CONVOLUTION,
    node("GlobalAveragePool", ["c"], "m"),
    node("Conv", ["m", "u"], "e"),
    node("Sigmoid", ["e"], "g"),
]


def network_of(*nodes: onnx.NodeProto, **tensors: object) -> Network:
    """Compared with onnxruntime on two images."""
    given = NUMBERS | {"w": floats(4, 3, 3, 3), "u": floats(4, 4, 1, 1, seed=1)} | tensors
    used = {name for one in nodes for name in one.input}
    return agree(build(nodes, {name: given[name] for name in given if name in used}, size=SIZE, flatten="y"))


# Products


@pytest.mark.parametrize("factors", [["c", "g"], ["g", "c"]])
def test_an_image_times_a_weight_for_each_channel(factors: list[str]) -> None:
    network = network_of(*SQUEEZE, node("Mul", factors, "y"))
    assert kinds(network)[-3:] == ["activation", "multiply", "reshape"]


def test_weights_of_channels_from_a_fully_connected_layer() -> None:
    nodes = [
        CONVOLUTION,
        node("ReduceMean", ["c"], "m", axes=[2, 3], keepdims=0),
        node("Gemm", ["m", "v"], "e"),
        node("Sigmoid", ["e"], "s"),
        node("Reshape", ["s", "shape"], "g"),
        node("Mul", ["c", "g"], "y"),
    ]
    network = network_of(*nodes, v=floats(4, 4), shape=np.array([-1, 4, 1, 1]))
    assert "multiply" in kinds(network)


def test_an_image_times_a_weight_for_each_place() -> None:
    nodes = [CONVOLUTION, node("Conv", ["c", "k"], "e"), node("Sigmoid", ["e"], "g"), node("Mul", ["g", "c"], "y")]
    assert "multiply" in kinds(network_of(*nodes, k=floats(1, 4, 1, 1)))


def test_a_value_times_another_ones_sigmoid_is_a_product_and_no_silu() -> None:
    network = network_of(node("Relu", ["image"], "r"), node("Sigmoid", ["r"], "g"), node("Mul", ["image", "g"], "y"))
    assert kinds(network) == ["relu", "activation", "multiply", "reshape"]


@pytest.mark.parametrize("square", [node("Mul", ["c", "c"], "y"), node("Pow", ["c", "two"], "y")])
def test_squares(square: onnx.NodeProto) -> None:
    assert kinds(network_of(CONVOLUTION, square, two=np.float32(2))) == ["convolution2d", "multiply", "reshape"]


def test_vectors() -> None:
    nodes = [
        node("Flatten", ["image"], "f"),
        node("Gemm", ["f", "v"], "a"),
        node("Relu", ["a"], "r"),
        node("Mul", ["r", "a"], "y"),
    ]
    assert kinds(network_of(*nodes, v=floats(60, 6)))[-1] == "multiply"


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("ReduceMean", ["image"], "h", axes=[2]), node("ReduceMean", ["image"], "w", axes=[3]),
          node("Mul", ["h", "w"], "y")], r"it multiplies values of shapes .*; both must have one shape"),
        ([node("Pow", ["image", "three"], "y")], "its exponent is not 2; only squares are computed"),
        ([node("Div", ["image", "image"], "y")], "it divides by a value that depends on the image"),
    ],
)  # fmt: skip
def test_products_that_are_refused(nodes: list[onnx.NodeProto], message: str) -> None:
    used = {name for one in nodes for name in one.input}
    tensors = {name: value for name, value in NUMBERS.items() if name in used}
    with pytest.raises(ModelFileError, match=message):
        compiled(build(nodes, tensors, size=SIZE, flatten="y"))


# Activations

WRITTEN = {
    "one node": [node("HardSwish", ["c"], "y")],
    "a gate of one node": [node("HardSigmoid", ["c"], "g", alpha=1 / 6), node("Mul", ["g", "c"], "y")],
    "divided at the end": [
        node("Add", ["c", "three"], "a"),
        node("Clip", ["a", "zero", "six"], "k"),
        node("Mul", ["c", "k"], "p"),
        node("Div", ["p", "six"], "y"),
    ],
    "divided before": [
        node("Add", ["c", "three"], "a"),
        node("Clip", ["a", "zero", "six"], "k"),
        node("Mul", ["k", "sixth"], "g"),
        node("Mul", ["c", "g"], "y"),
    ],
}


@pytest.mark.parametrize("form", WRITTEN)
def test_hard_swish_in_every_form_is_one_clip_and_one_product(form: str) -> None:
    network = network_of(CONVOLUTION, *WRITTEN[form])
    assert kinds(network) == ["convolution2d", "convolution2d", "clip", "multiply", "reshape"]
    (cut,) = [operation for operation in network.operations if isinstance(operation, Clip)]
    assert cut.high == pytest.approx(1.0)


def test_a_clip_that_others_read_is_not_scaled() -> None:
    nodes = [
        node("Clip", ["image", "zero", "six"], "k"),
        node("Div", ["k", "six"], "d"),
        node("Concat", ["k", "d"], "y", axis=1),
    ]
    assert kinds(network_of(*nodes)) == ["clip", "convolution2d", "concat", "reshape"]


@pytest.mark.parametrize("attributes", [{}, {"alpha": 1 / 6}, {"alpha": -0.5, "beta": 0.75}])
def test_hard_sigmoid(attributes: dict[str, float]) -> None:
    assert "clip" in kinds(
        network_of(node("HardSigmoid", ["image"], "gate", **attributes), node("Mul", ["image", "gate"], "y"))
    )


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 2.5, -0.5])
def test_leaky_relu(alpha: float) -> None:
    assert "relu" in kinds(network_of(node("LeakyRelu", ["image"], "y", alpha=alpha)))


@pytest.mark.parametrize("shape", [(1,), (3, 1, 1), (1, 3, 1, 1)])
def test_prelu_of_one_slope_or_one_for_each_channel(shape: tuple[int, ...]) -> None:
    assert "relu" in kinds(network_of(node("PRelu", ["image", "slope"], "y"), slope=floats(*shape, seed=2)))


def test_prelu_of_features() -> None:
    nodes = [node("Flatten", ["image"], "f"), node("Gemm", ["f", "v"], "a"), node("PRelu", ["a", "slope"], "y")]
    network_of(*nodes, v=floats(60, 6), slope=floats(6, seed=3))


# Whole networks


class Mobile(nn.Module):
    """What MobileNetV3, RegNetY and EfficientNet are made of, and the leaky activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False), nn.BatchNorm2d(6), nn.PReLU(6))
        self.excite = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 2, 1), nn.ReLU(), nn.Conv2d(2, 6, 1))
        self.project = nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6))
        last = nn.Linear(6, 3)
        last.weight.data.mul_(10)  # logits far enough apart for an error to be small beside them
        self.head = nn.Sequential(nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        hidden = self.depthwise(stem)
        hidden = hidden * nn.functional.hardsigmoid(self.excite(hidden))
        return self.head(self.project(hidden) + stem)  # type: ignore[no-any-return]


class Excited(nn.Module):
    """A bottleneck with squeeze-and-excite: EfficientNet's with SiLU, RegNetY's with ReLU."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.widen = nn.Sequential(nn.Conv2d(1, 8, 1, bias=False), nn.BatchNorm2d(8), activation())
        self.convolve = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, 2, groups=4, bias=False), nn.BatchNorm2d(8), activation()
        )
        self.excite = nn.Sequential(nn.Conv2d(8, 4, 1), activation(), nn.Conv2d(4, 8, 1), nn.Sigmoid())
        self.project = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 3)
        self.head.weight.data.mul_(10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.convolve(self.widen(images))
        hidden = self.excite(hidden.mean((2, 3), keepdim=True)) * hidden
        logits: Tensor = self.head((self.project(hidden) + hidden).relu().mean((2, 3)))
        return logits


def settled(module: nn.Module) -> nn.Module:
    """With batch norm's statistics of some images."""
    for _ in range(3):
        module(torch.randn(8, 1, 16, 16))
    return module.eval()


def expected_logits(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """As onnxruntime has them."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = [entry.name for entry in session.get_inputs()]
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.isinstance\\(treespec, LeafSpec\\). is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("dynamo", "opset"),
    [pytest.param(True, 18, marks=pytest.mark.slow), (False, 11), pytest.param(False, 17, marks=pytest.mark.slow)],
)
def test_an_exported_network_under_encryption(dynamo: bool, opset: int, tmp_path: Path) -> None:
    """Both engines answer as onnxruntime does, the masked one as the integer reference in every bit."""
    torch.manual_seed(0)
    path, example = tmp_path / "model.onnx", (torch.zeros(1, 1, 16, 16),)
    module = settled(Mobile())
    torch.onnx.export(module, example, path, dynamo=dynamo, opset_version=opset, external_data=False, verbose=False)
    network, weights, _ = lower(read_onnx(path))
    images = floats(4, 1, 16, 16, seed=5)
    expected = expected_logits(path, images)
    np.testing.assert_allclose(evaluate(network, weights, torch.from_numpy(images)).numpy(), expected, atol=1e-4)
    assert kinds(network).count("multiply") == 2
    lowering = lower_masked(network, weights, images)
    integers = round_weights(lowering, weights)
    assert lowering.is_exact
    model = Model(network, lowering, integers, images)
    session = Session(parties_of(model), images[0]).run()
    logits = session.honest()
    np.testing.assert_array_equal(logits, model.expected_logits(images[0], session.seeds))
    assert np.abs(logits - expected[0]).max() < 0.01
    assert np.ptp(expected[0]) > 1
    assert np.abs(run_all(network, weights, images[0]).logits - expected[0]).max() < 0.001


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Constant folding:UserWarning")
@pytest.mark.parametrize(("activation", "smooth"), [(nn.SiLU, 4), (nn.ReLU, 1)])
def test_squeeze_and_excite_under_encryption(activation: type[nn.Module], smooth: int, tmp_path: Path) -> None:
    """EfficientNet's and RegNetY's block, in both engines."""
    torch.manual_seed(1)
    path = tmp_path / "model.onnx"
    torch.onnx.export(settled(Excited(activation)), (torch.zeros(1, 1, 16, 16),), path, dynamo=False)
    network, weights, _ = lower(read_onnx(path))
    assert (kinds(network).count("activation"), kinds(network).count("multiply")) == (smooth, 1)
    images = floats(4, 1, 16, 16, seed=5)
    expected = expected_logits(path, images)[0]
    lowering = lower_masked(network, weights, images)
    integers = round_weights(lowering, weights)
    masked = Session(parties_of(Model(network, lowering, integers, images)), images[0]).run().honest()
    assert np.abs(masked - expected).max() < 0.03 * np.ptp(expected)
    assert np.abs(run_all(network, weights, images[0]).logits - expected).max() < 0.01 * np.ptp(expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Constant folding:UserWarning")
def test_efficientnet_b0_under_encryption(tmp_path: Path) -> None:
    """With random weights, whose answers mean nothing; batch norm's statistics are the pictures'."""
    from monai.networks.nets.efficientnet import EfficientNetBN

    torch.manual_seed(0)
    module = EfficientNetBN("efficientnet-b0", pretrained=False, in_channels=1, num_classes=3)
    module.set_swish(memory_efficient=False)
    images = torch.stack([torch.from_numpy(draw_phantom(seed=seed, side=64)) for seed in range(24)]).float()[:, None]
    images = (images - images.mean()) / images.std()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the mean of all batches
    with torch.no_grad():
        module(images)
    path = tmp_path / "model.onnx"
    torch.onnx.export(module.eval(), (images[:1],), path, dynamo=False)
    network, weights, _ = lower(read_onnx(path))
    assert (kinds(network).count("activation"), kinds(network).count("multiply")) == (65, 16)
    lowering = lower_masked(network, weights, images.numpy())
    integers = round_weights(lowering, weights)
    model = Model(network, lowering, integers, images.numpy())
    expected = expected_logits(path, images.numpy())
    logits = Session(parties_of(model), model.images[0]).run().honest()
    assert np.abs(logits - expected[0]).max() < 0.05 < 0.02 * np.ptp(expected)
