from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import nn

from contract.errors import ModelFileError
from contract.model_card import InputSpecification, Modality
from federated_learning.architectures import PreactivationBlock, ResidualBlock, StandardisedConvolution2d, build
from federated_learning.export import OPERATORS, largest_difference, run_onnx, to_onnx
from federated_learning.run_records import Description
from federated_learning.torch_networks import predict
from model_owner.onnx_import.compiling import compile_model
from secure_computation.float_reference import evaluate
from tests.federated_learning.conftest import SIDE
from tests.federated_learning.test_architectures import POOLS, stirred
from tests.model_owner.graphs import card_for

SPECIFICATION = InputSpecification(
    modalities=(Modality.OTHER,), height=SIDE, width=SIDE, mean=(0.5,), standard_deviation=(0.25,)
)


CASES = [
    (architecture, pool)
    for architecture in ("small-cnn", "resnet10-narrow", "resnet10-narrow-normaliser-free")
    for pool in POOLS
]
LARGE = pytest.mark.slow


@pytest.fixture(
    scope="module",
    params=[
        *CASES,
        *(
            pytest.param((name, pool), marks=LARGE)
            for name in ("resnet18", "resnet18-normaliser-free")
            for pool in POOLS
        ),
    ],
    ids="-".join,
)
def exported(request: pytest.FixtureRequest) -> tuple[nn.Module, onnx.ModelProto]:
    """A network with everything away from its start, and its export."""
    architecture, pool = request.param
    network = stirred(architecture, pool=pool)
    return network, to_onnx(network, SPECIFICATION)


def pictures() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(5, 1, SIDE, SIDE)).astype(np.float32)


def test_exported_model_gives_the_network_s_logits(exported: tuple[nn.Module, onnx.ModelProto], tmp_path: Path) -> None:
    network, model = exported
    images = pictures()
    expected = predict(network, images)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    scale = np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 0.01 * scale  # the logits do depend on the image
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", images), expected, atol=3e-3 * scale)
    np.testing.assert_allclose(run_onnx(model, images[:1]), expected[:1], atol=3e-3 * scale)
    assert largest_difference(network, model, images) < 3e-3 * scale


def test_exported_model_holds_half_precision_weights_and_plain_operators(
    exported: tuple[nn.Module, onnx.ModelProto], tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(exported[1].SerializeToString())
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert {node.op_type for node in model.graph.node} <= OPERATORS
    assert "BatchNormalization" not in OPERATORS
    for tensor in model.graph.initializer:
        if numpy_helper.to_array(tensor).size >= 256:
            assert tensor.data_type == TensorProto.FLOAT16
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert str(Path(__file__).parents[2]).encode() not in model.SerializeToString()


def test_model_owner_serves_what_was_exported(exported: tuple[nn.Module, onnx.ModelProto], tmp_path: Path) -> None:
    network, model = exported
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    compiled = compile_model(path, card_for(path, height=SIDE, width=SIDE, class_count=3))
    images = pictures()
    logits = evaluate(compiled.network, compiled.weights, torch.from_numpy(images)).numpy()
    expected = predict(network, images)
    np.testing.assert_allclose(logits, expected, atol=3e-3 * np.abs(expected).max())
    convolutions = [operation for operation in compiled.network.operations if operation.kind == "convolution2d"]
    assert len(convolutions) == sum(
        isinstance(module, nn.Conv2d | StandardisedConvolution2d) for module in network.modules()
    )
    relus = [operation for operation in compiled.network.operations if operation.kind == "relu"]
    assert len(relus) == sum(isinstance(m, nn.ReLU) for m in network.modules()) + extra_relus(network)


def extra_relus(network: nn.Module) -> int:
    """Applied as a function: two in each block, and a last one where blocks begin with theirs."""
    before = sum(isinstance(module, PreactivationBlock) for module in network.modules())
    after = sum(isinstance(module, ResidualBlock) for module in network.modules())
    return 2 * (before + after) + bool(before)


def test_an_operator_outside_the_list_is_refused(description: Description) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 3), nn.Sigmoid())
    with pytest.raises(ModelFileError, match="Sigmoid"):
        to_onnx(network, description.input)


def test_weights_beyond_float16_are_refused(description: Description) -> None:
    network = build("small-cnn", channels=1, classes=3)
    with torch.no_grad():
        network.get_parameter("head.weight").mul_(1e6)
    with pytest.raises(ModelFileError, match="float16"):
        to_onnx(network, description.input)
