"""How far an evaluation lies from onnxruntime's, by the task of the card."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from contract.model_card import ModelCard, Task
from model_owner.agreement import Agreement
from tests.data_owner.answering import card, multi_label_card
from tests.end_to_end.models import write_tiny_model
from tests.model_owner.test_imported_models_and_command import run


def agreement(model: ModelCard, found: list[list[float]], expected: list[list[float]]) -> Agreement:
    return Agreement.of(model, np.array(found), np.array(expected))


def test_of_a_classification_the_same_class_must_be_the_largest() -> None:
    found = agreement(card(), [[1.0, 0.9], [0.0, 2.0], [0.4, 0.5]], [[1.0, 0.0], [0.0, 2.5], [0.5, 0.4]])
    assert found.labels_agree == 2
    assert found.max_abs_error == pytest.approx(0.9)
    assert found.largest_logit == 2.5
    assert found.relative_error == pytest.approx(0.9 / 2.5)
    assert found.max_probability_error == pytest.approx(1 / (1 + math.exp(-1)) - 1 / (1 + math.exp(-0.1)))


def test_of_findings_every_one_must_be_on_the_same_side_of_its_threshold() -> None:
    """The largest logit is the same in all; a softmax would call all the same."""
    model = multi_label_card(thresholds={"mass": 0.9})  # from a logit of 2.197 on
    expected = [[5.0, 2.0, -1.0]] * 3
    found = agreement(model, [[5.1, 2.1, -1.1], [5.0, 2.3, -1.0], [5.0, 2.0, 0.1]], expected)
    assert found.labels_agree == 1
    assert found.max_probability_error == pytest.approx(1 / (1 + math.exp(-0.1)) - 1 / (1 + math.exp(1)))


def test_probabilities_are_compared_at_the_cards_temperature() -> None:
    model = multi_label_card(calibration_temperature=10.0)
    found = agreement(model, [[1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]])
    assert found.max_probability_error == pytest.approx(1 / (1 + math.exp(-0.1)) - 0.5)


def test_an_error_is_reported_by_the_largest_logit_too() -> None:
    """ResNet-50: 0.59 looks large, and is a hundredth of its logits."""
    found = agreement(card(), [[48.59, 10.0]], [[48.0, 10.0]])
    assert found.relative_error == pytest.approx(0.59 / 48, rel=1e-6)
    assert agreement(card(), [[0.5, 0.0]], [[0.0, 0.0]]).relative_error == 0.5


@pytest.mark.parametrize("task", [Task.MULTI_LABEL, Task.BINARY])
def test_check_compares_what_the_clinician_sees(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_OWNER_AT_REST__KEY", bytes(range(32)).hex())
    classes = ("none", "virus") if task is Task.BINARY else ("a", "b", "c", "d")
    folder = write_tiny_model(tmp_path / "model", task=task, classes=classes)
    data = tmp_path / "data"
    assert run("import", folder / "model.onnx", "--card", folder / "card.json", "--data-folder", data) == 0
    assert run("check", "--data-folder", data, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["task"] == task
    assert 0 < report["max_probability_error"] < 1e-4
    assert report["relative_error"] == pytest.approx(report["max_abs_error"] / report["largest_logit"])
    fixed = report["fixed_point"]
    assert 0 < fixed["max_probability_error"] < 0.01
    assert 0 < fixed["relative_error"] < 0.1
    assert run("check", "--data-folder", data) == 0
    shown = capsys.readouterr().out
    same = "answers are on the same side of every threshold" if task is Task.MULTI_LABEL else "labels agree"
    assert f"{report['labels_agree']} of 4 {same}" in shown
    assert "of the largest" in shown
    assert "probabilities by at most" in shown
