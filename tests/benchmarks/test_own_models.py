"""Networks as people bring them: small ones by default, the measured ones among the slow tests."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.document.page import SECTIONS
from benchmarks.latency import NotMeasured
from benchmarks.own_models import OwnModel, OwnModels, draw_statistics_pictures
from benchmarks.torch_networks import (
    LOGIT_SPREAD,
    NETWORKS,
    TorchNetwork,
    densenet121,
    mobilenet_v2,
    resnet18,
    write_model,
)
from contract.model_card import Task, read_card
from demonstration.plaintext import PlaintextModel
from model_owner.calibration_images import load_calibration_images
from model_owner.choosing_precision import ERROR_BUDGET, lower_within_budget
from model_owner.onnx_import.compiling import compile_model
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.float_reference import evaluate
from tests.benchmarks.test_latency_results import MACHINE
from tests.benchmarks.test_sections import keep

SMALL = (
    TorchNetwork(
        name="densenet",
        build=lambda: densenet121(5, blocks=(2, 2), growth=4, first=8),
        outputs=5,
        task=Task.MULTI_LABEL,
        ends_in_sigmoid=True,
    ),
    TorchNetwork(name="resnet", build=lambda: resnet18(1, channels=(4, 8, 8, 8)), outputs=1, task=Task.BINARY),
    TorchNetwork(
        name="mobilenet",
        build=lambda: mobilenet_v2(3, stages=((1, 8, 1, 1), (4, 12, 2, 2)), last=32),
        outputs=3,
        task=Task.CLASSIFICATION,
    ),
)


def check_against_onnxruntime(network: TorchNetwork, folder: Path, side: int) -> None:
    """The float reference is onnxruntime's answer; the masked engine's integers come within two budgets."""
    write_model(network, folder, draw_statistics_pictures(side))
    card = read_card(folder / "card.json")
    model = compile_model(folder / "model.onnx", card)
    images = draw_statistics_pictures(side)[1:12:8].numpy()
    expected = PlaintextModel(folder).logits_of_batch(images)
    assert expected.shape == (2, len(card.classes))
    found = evaluate(model.network, model.weights, torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)
    lowering = lower_within_budget(model.network, model.weights, load_calibration_images(card.input, ())).lowering
    weights = round_weights(lowering, model.weights)
    for image, wanted in zip(images, expected, strict=True):
        integers = reference.evaluate(lowering, weights, reference.quantise_image(lowering, image), audit=True)
        assert np.abs(reference.read_logits(lowering, integers) - wanted).max() < 2 * ERROR_BUDGET * LOGIT_SPREAD


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)
def test_a_small_one_answers_as_onnxruntime_does(network: TorchNetwork, tmp_path: Path) -> None:
    check_against_onnxruntime(network, tmp_path / "model", 32)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_whole_one_answers_as_onnxruntime_does(network: TorchNetwork, tmp_path: Path) -> None:
    check_against_onnxruntime(network, tmp_path / "model", network.whole_side)


def test_the_page_shows_errors_and_costs(tmp_path: Path) -> None:
    row = OwnModel(
        name="densenet121-18-findings",
        side=224,
        ending="Sigmoid",
        task=Task.MULTI_LABEL,
        outputs=18,
        weights=7_000_000,
        million_products=2800.0,
        engine="masked",
        pictures=3,
        answers_agree=2,
        largest_logit=8.1,
        max_logit_error=0.0123,
        noise_moves_logits=0.0045,
        max_probability_error=0.0031,
        online_seconds=4.2,
        online_bytes=123_000_000,
        offline_bytes=4_000_000,
        one_way_trips=250,
    )
    left_out = NotMeasured(model="mobilenet-v2", engine="stock-crypten", size=64, batch=1, not_measured="has no clip")
    result = OwnModels(runs=3, models=(row,), not_measured=(left_out,), machine=MACHINE, versions={})
    keep(tmp_path, "own-models", result)
    text = SECTIONS["own-models"](tmp_path).text
    assert "- mobilenet-v2, stock-crypten: not measured: has no clip" in text
    start = "| densenet121-18-findings | masked | 224 | 18 Sigmoid, multi-label "
    start += "| 7.0 | 8.1 | 0.012 | 0.0045 | 0.0031 | 2 of 3 |"
    assert f"{start} 4.2 | 123 | 4.0 | 250 |" in text
    assert "Not measured" in SECTIONS["own-models"](tmp_path / "nothing").text
    busy = row.model_copy(update={"online_seconds": None})
    keep(tmp_path, "own-models", OwnModels(runs=3, models=(busy,), machine=MACHINE, versions={}))
    text = SECTIONS["own-models"](tmp_path).text
    assert f"{start} 123 | 4.0 | 250 |" in text
    assert "No seconds: other programs kept the machine busy." in text
