"""The shipped model on real radiographs: every element of every layer equals the integer reference."""

import csv
from pathlib import Path

import numpy as np
import pytest

from contract.model_card import read_card
from imaging.reading import read_model_input
from model_owner.calibration_images import load_calibration_images
from model_owner.onnx_import.compiling import compile_model
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan.fixed_point import round_weights
from tests.secure_computation.engines.masked.parties import Model, check_every_value, recorded_halves, run

FOLDER = Path(__file__).resolve().parents[4] / "models" / "pediatric-pneumonia-resnet18"
SEED = 20


@pytest.mark.slow
@pytest.mark.real_data
def test_no_element_of_any_layer_differs(medical_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = read_card(FOLDER / "card.json")
    compiled = compile_model(FOLDER / "model.onnx", card)
    lowering = lower_masked(compiled.network, compiled.weights, load_calibration_images(card.input, ()))
    integers = round_weights(lowering, compiled.weights)
    with (medical_data / "kermany_manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["role"] == "dev_test_internal"]
    chosen = np.random.default_rng(SEED).choice(len(rows), size=20, replace=False)
    paths = [medical_data / "kermany224" / rows[index]["label"] / rows[index]["file"] for index in chosen]
    images = np.stack([read_model_input(path, card.input).tensor for path in paths])
    model = Model(compiled.network, lowering, integers, images)
    with recorded_halves(monkeypatch) as halves:
        for image in images:
            check_every_value(model, image, halves, run(model, image))
