"""The model in models/: its file, its card, and its figures on real radiographs."""

import hashlib
import math
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from contract.model_card import ModelCard, View, read_card
from federated_learning.data_source.examples import DataSource, Example, check_disjoint_patients, collect_labels, load
from federated_learning.data_source.table import read_table
from federated_learning.evaluation import choose_threshold
from federated_learning.export import MAX_BYTES, OPERATORS, run_onnx
from federated_learning.metrics import accuracy, compute_once, coverage, selective_accuracy
from federated_learning.model_readme import WANTED_ACCURACY
from federated_learning.publication import describe_recipe
from federated_learning.recipe import PEDIATRIC_PNEUMONIA_RECIPE
from federated_learning.temperature import fit_temperature, softmax

FOLDER = Path(__file__).parents[2] / "models" / "pediatric-pneumonia-resnet18"
TRAINING_ROLES = ("dev_train_A", "dev_train_B", "dev_train_C")
TEST_ROLES = ("dev_test_internal", "dev_test_official")


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return read_card(FOLDER / "card.json")


@pytest.fixture(scope="module")
def source(medical_data: Path, card: ModelCard) -> DataSource:
    manifest, folder = medical_data / "kermany_manifest.csv", medical_data / "kermany224"
    return read_table(manifest, folder=folder, classes=card.classes)


def stated(card: ModelCard, split: str, name: str = "accuracy") -> float:
    return next(metric.value for metric in card.metrics if (metric.name, metric.split) == (name, split))


def test_card_belongs_to_the_file(card: ModelCard) -> None:
    content = (FOLDER / "model.onnx").read_bytes()
    assert len(content) < MAX_BYTES
    assert hashlib.sha256(content).hexdigest() == card.model_sha256
    assert {node.op_type for node in onnx.load_model_from_string(content).graph.node} <= OPERATORS
    assert card.classes == ("normal", "bacteria", "virus")
    assert "10.17632/rscbjbr9sj.2" in " ".join(card.citations)
    assert "not a medical device" in card.intended_use
    assert card.input.views == (View.AP,)  # as its intended use says: frontal, anterior-posterior


def test_every_split_is_reported_with_intervals(card: ModelCard) -> None:
    for split in ("dev_val", *TEST_ROLES):
        intervals = [metric.interval_95 for metric in card.metrics if metric.split == split and "ROC" in metric.name]
        assert len(intervals) == 1
        assert intervals[0] is not None
    assert stated(card, "dev_val") >= 0.80
    assert stated(card, "dev_val", "macro one-versus-rest ROC-AUC") >= 0.92


def test_hospitals_trained_it_and_only_sums_were_seen(card: ModelCard) -> None:
    assert card.federation is not None
    assert card.federation.hospitals == ("hospital-a", "hospital-b", "hospital-c")
    assert card.federation.secure_aggregation is not None
    assert card.federation.secure_aggregation["threshold"] == 3


def test_it_was_trained_by_the_recipe_that_stands_here(card: ModelCard) -> None:
    assert describe_recipe(PEDIATRIC_PNEUMONIA_RECIPE, card.federation) in card.training


def test_answers_that_are_not_uncertain_are_right_as_often_as_promised(card: ModelCard) -> None:
    assert card.uncertain_below is not None
    share = f"share of answers with a probability of at least {card.uncertain_below:g}"
    assert stated(card, "dev_val", "accuracy of those answers") >= WANTED_ACCURACY
    for split in ("dev_val", *TEST_ROLES):
        assert 0.3 < stated(card, split, share) < 1
        assert stated(card, split, "accuracy of those answers") > stated(card, split)


def plain_input(example: Example, card: ModelCard) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The tensor without `imaging`: these files are grey JPEGs of the model's size already."""
    with Image.open(example.path) as image:
        grey = np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)
    return ((grey - np.float32(card.input.mean[0])) / np.float32(card.input.standard_deviation[0]))[np.newaxis]


@pytest.mark.real_data
def test_a_sample_is_read_and_predicted_as_stated(card: ModelCard, source: DataSource) -> None:
    examples = random.Random(7).sample(source.examples("dev_val"), 40)
    images = load(examples, card.input)
    np.testing.assert_array_equal(images, np.stack([plain_input(example, card) for example in examples]))
    expected = stated(card, "dev_val")
    found = compute_once(accuracy, softmax(run_onnx(FOLDER / "model.onnx", images)), collect_labels(examples))
    assert abs(found - expected) < 3.5 * math.sqrt(expected * (1 - expected) / len(examples))


@pytest.mark.real_data
def test_no_patient_is_in_two_splits(source: DataSource) -> None:
    training = source.examples(*TRAINING_ROLES)
    for role in ("dev_val", *TEST_ROLES):
        check_disjoint_patients(training, source.examples(role))


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("role", ["dev_val", *TEST_ROLES])
def test_stated_accuracy_is_found_again(card: ModelCard, source: DataSource, role: str) -> None:
    examples = source.examples(role)
    logits, labels = run_onnx(FOLDER / "model.onnx", load(examples, card.input)), collect_labels(examples)
    # one image in a hundred may fall on the other side of a tie on another processor
    assert compute_once(accuracy, softmax(logits), labels) == pytest.approx(stated(card, role), abs=0.01)
    assert card.uncertain_below is not None
    threshold, probabilities = card.uncertain_below, softmax(logits, temperature=card.temperature)
    share = f"share of answers with a probability of at least {threshold:g}"
    assert compute_once(coverage(threshold), probabilities, labels) == pytest.approx(
        stated(card, role, share), abs=0.01
    )
    right = compute_once(selective_accuracy(threshold), probabilities, labels)
    assert right == pytest.approx(stated(card, role, "accuracy of those answers"), abs=0.01)
    if role == "dev_val":
        assert fit_temperature(logits, labels) == pytest.approx(card.calibration_temperature, rel=0.01)
        assert choose_threshold(probabilities, labels, wanted=WANTED_ACCURACY) == pytest.approx(threshold, abs=0.01)
