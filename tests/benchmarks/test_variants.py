"""Variants of a model that exist for measuring only."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.configuration import MODELS, parse_sides
from benchmarks.variants import MAX_POOL, write_resized, write_with_max_pool
from contract.errors import CallerError
from contract.model_card import read_card
from demonstration.plaintext import PlaintextModel
from model_owner.onnx_import.compiling import compile_model

BASE = MODELS["resnet18"]


def test_a_resized_model_runs_at_its_size(tmp_path: Path) -> None:
    folder = write_resized(BASE, tmp_path / "small", 64)
    card = read_card(folder / "card.json")
    assert (card.input.height, card.input.width) == (64, 64)
    assert card.model_sha256 == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    assert compile_model(folder / "model.onnx", card).network.input_shape == (1, 64, 64)
    assert PlaintextModel(folder).logits(np.zeros((1, 64, 64), np.float32)).shape == (3,)


def test_the_other_stem_pools_by_maximum(tmp_path: Path) -> None:
    folder = write_with_max_pool(BASE, tmp_path / "max")
    operators = {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}
    assert "MaxPool" in operators
    assert "AveragePool" not in operators
    assert read_card(folder / "card.json").name == MAX_POOL


@pytest.mark.parametrize("text", ["", "64", "64,large", "64,31", "64,2048", "64,-1"])
def test_sides_are_numbers_of_pixels(text: str) -> None:
    with pytest.raises(CallerError, match="--sides"):
        parse_sides(text)
    assert parse_sides("64, 128") == (64, 128)
