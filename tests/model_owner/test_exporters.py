"""Both of torch's exporters, and the whole way from a torch module to the public network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_owner.onnx_import.compiling import lower
from model_owner.onnx_import.reading import read_onnx
from secure_computation.float_reference import evaluate
from secure_computation.network import Activation
from tests.model_owner.graphs import kinds


class SmallResidual(nn.Module):
    """What the importer meets in practice: batch norm, groups, a residual, ReLU6, both pools, dropout, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.block = nn.Sequential(
            nn.Conv2d(4, 8, 3, 2, 1, groups=2), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1)
        )
        self.shortcut = nn.Sequential(nn.Conv2d(4, 8, 1, 2, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 3))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images)
        return self.head(torch.relu(self.block(hidden) + self.shortcut(hidden)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    module = SmallResidual()
    for _ in range(3):
        module(torch.randn(8, 1, 32, 32))
    return module.eval()


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:# 'dynamic_axes' is not recommended:UserWarning")
@pytest.mark.filterwarnings("ignore:.isinstance\\(treespec, LeafSpec\\). is deprecated:FutureWarning")
@pytest.mark.parametrize("exporter", ["dynamo", "dynamo-external", "torchscript"])
def test_torch_export(module: nn.Module, exporter: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    example = (torch.zeros(1, 1, 32, 32),)
    if exporter == "torchscript":
        torch.onnx.export(
            module, example, path, dynamo=False, dynamic_axes={"images": {0: "batch"}}, input_names=["images"]
        )
    else:
        torch.onnx.export(
            module, example, path, dynamo=True, external_data=exporter == "dynamo-external", verbose=False
        )
    model = read_onnx(path)
    assert len(model.files) == (2 if exporter == "dynamo-external" else 1)
    network, weights, _ = lower(model)
    images = torch.randn(4, 1, 32, 32)
    with torch.inference_mode():
        expected = module(images).numpy()
    np.testing.assert_allclose(evaluate(network, weights, images).numpy(), expected, rtol=1e-4, atol=1e-4)
    assert kinds(network) == [
        "convolution2d", "relu", "max_pool", "convolution2d", "clip", "convolution2d", "convolution2d", "add", "relu",
        "global_average_pool", "reshape", "fully_connected",
    ]  # fmt: skip


class Smooth(nn.Module):
    """SiLU, sigmoid and tanh, which torch writes in its own ways."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(64, 3), nn.Tanh()
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.isinstance\\(treespec, LeafSpec\\). is deprecated:FutureWarning")
@pytest.mark.parametrize("dynamo", [True, False])
def test_smooth_functions_as_torch_writes_them(tmp_path: Path, dynamo: bool) -> None:
    torch.manual_seed(1)
    module, path = Smooth().eval(), tmp_path / "model.onnx"
    torch.onnx.export(module, (torch.zeros(1, 1, 8, 8),), path, dynamo=dynamo, verbose=False)
    network, weights, _ = lower(read_onnx(path))
    functions = [operation.function for operation in network.operations if isinstance(operation, Activation)]
    assert functions == ["silu", "sigmoid", "tanh"]
    images = torch.randn(1, 1, 8, 8)
    with torch.inference_mode():
        expected = module(images).numpy()
    np.testing.assert_allclose(evaluate(network, weights, images).numpy(), expected, rtol=1e-4, atol=1e-5)


class Soft(nn.Module):
    """Softmax amid a network and at its end, as classifiers are often exported."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.Softmax(dim=1), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.layers(images), dim=-1)


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.isinstance\\(treespec, LeafSpec\\). is deprecated:FutureWarning")
@pytest.mark.parametrize("dynamo", [True, False])
def test_softmax_as_torch_writes_it(tmp_path: Path, dynamo: bool) -> None:
    torch.manual_seed(1)
    module, path = Soft().eval(), tmp_path / "model.onnx"
    torch.onnx.export(module, (torch.zeros(1, 1, 8, 8),), path, dynamo=dynamo, verbose=False)
    network, weights, _ = lower(read_onnx(path))
    assert kinds(network) == ["convolution2d", "softmax", "convolution2d", "reshape", "fully_connected"]
    images = torch.randn(1, 1, 8, 8)
    with torch.inference_mode():
        expected = module.layers(images).numpy()
    np.testing.assert_allclose(evaluate(network, weights, images).numpy(), expected, rtol=1e-4, atol=1e-5)
