"""Models that end in Sigmoid, Softmax or a single logit, against the task of their card."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from contract.errors import ModelFileError
from contract.model_card import Task
from model_owner.checking import check_model, draw_random_images
from model_owner.imported_models import ImportedModels
from model_owner.in_clear import ModelInClear
from model_owner.onnx_import.compiling import compile_model
from secure_computation.at_rest import StorageKey
from secure_computation.float_reference import evaluate
from tests.end_to_end.models import DITHER
from tests.model_owner.graphs import build, card_for, floats, kinds, node

KEY = StorageKey(bytes(range(32)))
LAYERS = [
    node("Conv", ["image", "w"], "c"),
    node("Relu", ["c"], "r"),
    node("GlobalAveragePool", ["r"], "g"),
    node("Flatten", ["g"], "f"),
]


def write_model(folder: Path, ending: str, outputs: int, **card: Any) -> tuple[Path, Path]:
    """A small network with so many outputs; its card has as many classes, two where that is one."""
    last = (
        []
        if ending == "logits"
        else [node(ending, ["scores"], "logits", **({} if ending == "Sigmoid" else {"axis": -1}))]
    )
    gemm = node("Gemm", ["f", "m"], "scores" if last else "logits")
    path = folder / "model.onnx"
    tensors = {"w": floats(4, 1, 3, 3), "m": floats(4, outputs, seed=2)}
    path.write_bytes(build([*LAYERS, gemm, *last], tensors, size=(1, 9, 8)).SerializeToString())
    given = card_for(path, height=9, width=8, class_count=max(outputs, 2)).model_dump(mode="json") | card
    (folder / "card.json").write_text(json.dumps(given))
    return path, folder / "card.json"


def compiled_with(folder: Path, ending: str, outputs: int, **card: Any) -> Any:
    from contract.model_card import read_card

    path, card_path = write_model(folder, ending, outputs, **card)
    return read_card(card_path), compile_model(path, read_card(card_path)), path


@pytest.mark.parametrize(
    ("ending", "outputs", "task"),
    [
        ("Sigmoid", 3, "multi-label"),
        ("logits", 3, "multi-label"),
        ("Softmax", 3, "classification"),
        ("Softmax", 2, "classification"),
        ("logits", 2, "classification"),
        ("Sigmoid", 1, "binary"),
        ("logits", 1, "binary"),
    ],
)
def test_the_cards_probabilities_are_the_models_own(tmp_path: Path, ending: str, outputs: int, task: str) -> None:
    """Of a model that ends in logits, those that its task says."""
    card, model, path = compiled_with(tmp_path, ending, outputs, task=task)
    assert model.network.classes == len(card.classes)
    assert kinds(model.network)[-1] == "fully_connected"
    images = draw_random_images(card.input)
    logits = evaluate(model.network, model.weights, torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits, ModelInClear(model.onnx).logits(images), atol=1e-4)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    given = torch.from_numpy(session.run(None, {"image": images})[0])
    if ending == "logits":
        given = torch.softmax(given, dim=1) if task == "classification" else torch.sigmoid(given)
    for row, numbers in zip(logits, given.tolist(), strict=True):
        shown = list(card.probabilities(tuple(row)).values())
        np.testing.assert_allclose(shown, numbers if outputs > 1 else [1 - numbers[0], numbers[0]], atol=1e-4)


@pytest.mark.parametrize(
    ("ending", "outputs", "task", "words"),
    [
        ("Sigmoid", 3, "classification", 'ends in Sigmoid of 3 numbers, .* task classification: write "task": "multi-'),
        ("Sigmoid", 1, "classification", 'ends in Sigmoid of 1 number, .*: write "task": "binary" and two classes'),
        ("logits", 1, "classification", 'ends in 1 number, .* task classification: write "task": "binary" and two'),
        ("logits", 1, "multi-label", 'ends in 1 number, .* task multi-label: write "task": "binary"'),
        (
            "Softmax",
            3,
            "multi-label",
            'ends in Softmax of 3 numbers, .*: write "task": "classification" if exactly one',
        ),
        ("LogSoftmax", 2, "binary", 'ends in LogSoftmax of 2 numbers, .* binary: write "task": "classification"'),
        (
            "logits",
            2,
            "binary",
            'ends in 2 numbers, .*: write "task": "classification" if .*; or write "task": "multi-',
        ),
        ("Sigmoid", 2, "binary", 'ends in Sigmoid of 2 numbers, .*: write "task": "multi-label"'),
        ("Softmax", 1, "binary", "ends in Softmax of 1 number, which is always the same: end it in Sigmoid"),
    ],
)
def test_a_task_that_the_model_does_not_have(tmp_path: Path, ending: str, outputs: int, task: str, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        compiled_with(tmp_path, ending, outputs, task=task)


def test_classes_that_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="the model has 3 outputs, the card 2 classes: correct the card's classes"):
        compiled_with(tmp_path, "Sigmoid", 3, task="multi-label", classes=["one", "two"])


def test_a_binary_model_is_imported_and_checked_as_two_logits(tmp_path: Path) -> None:
    """The finding's logit becomes the second of two; the first is 0, by a row of zeros of the last layer."""
    added = ImportedModels(tmp_path / "data", KEY).add(*write_model(tmp_path, "Sigmoid", 1, task="binary"))
    assert added.card.task is Task.BINARY
    assert not added.weights["fully_connected1.weight"][0].any()
    report = check_model(added)
    assert report.max_abs_error < 1e-4
    assert report.labels_agree == report.samples
    assert report.fixed_point is not None
    assert report.fixed_point.max_abs_error is not None
    assert report.fixed_point.max_abs_error < DITHER


def test_thresholds_after_the_sigmoid_are_refused_with_advice(tmp_path: Path) -> None:
    """As torchxrayvision's op_threshs stands in a graph."""
    nodes = [
        *LAYERS,
        node("Gemm", ["f", "m"], "scores"),
        node("Sigmoid", ["scores"], "p"),
        node("Less", ["p", "t"], "low"),
        node("Where", ["low", "p", "p"], "logits"),
    ]
    path = tmp_path / "model.onnx"
    tensors = {"w": floats(4, 1, 3, 3), "m": floats(4, 3), "t": np.full(3, 0.4, np.float32)}
    path.write_bytes(build(nodes, tensors, size=(1, 9, 8)).SerializeToString())
    card = card_for(path, height=9, width=8, class_count=3, task="multi-label")
    with pytest.raises(ModelFileError, match=r"operator Less in node 'node_low': .* without its op_threshs"):
        compile_model(path, card)
