from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from contract.errors import ModelFileError
from federated_learning.architectures import build
from federated_learning.export import OPERATORS, largest_difference, run_onnx, to_onnx, write_model
from federated_learning.records import Description
from federated_learning.training import predict


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    network = build("resnet10-narrow", channels=1, classes=3)
    network.train()
    with torch.no_grad():
        for _ in range(3):  # statistics of normalisation away from their start
            network(torch.randn(8, 1, 32, 32))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return network.eval()


def test_exported_model_gives_the_network_s_logits(
    network: nn.Module, description: Description, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).normal(size=(5, 1, 32, 32)).astype(np.float32)
    expected = predict(network, images)
    model = to_onnx(network, description.input)
    write_model(model, tmp_path / "model.onnx")
    scale = np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 0.01 * scale  # the logits do depend on the image
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", images), expected, atol=3e-3 * scale)
    np.testing.assert_allclose(run_onnx(model, images[:1]), expected[:1], atol=3e-3 * scale)
    assert largest_difference(network, model, images) < 3e-3 * scale


def test_exported_model_holds_half_precision_weights_and_known_operators(
    network: nn.Module, description: Description, tmp_path: Path
) -> None:
    write_model(to_onnx(network, description.input), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert {node.op_type for node in model.graph.node} <= OPERATORS
    for tensor in model.graph.initializer:
        if numpy_helper.to_array(tensor).size >= 256:
            assert tensor.data_type == TensorProto.FLOAT16
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert str(Path(__file__).parents[2]).encode() not in model.SerializeToString()


def test_an_operator_outside_the_list_is_refused(description: Description) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 3), nn.Sigmoid())
    with pytest.raises(ModelFileError, match="Sigmoid"):
        to_onnx(network, description.input)


def test_weights_beyond_float16_are_refused(network: nn.Module, description: Description) -> None:
    with torch.no_grad():
        next(network.parameters()).mul_(1e6)
    with pytest.raises(ModelFileError, match="float16"):
        to_onnx(network, description.input)
