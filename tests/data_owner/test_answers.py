"""What a model's logits become, by its task: in JSON, for programs, and on a terminal, for people."""

import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from contract.model_card import ModelCard, OutputPolicy, Task, View
from data_owner.answers import ClassAnswer, Finding, FindingsAnswer, answer_from_label, answer_from_logits
from data_owner.calibration import Calibration, judge_calibration
from data_owner.diagnosis import Diagnosis
from data_owner.presentation import print_diagnosis
from data_owner.wording import explain, list_lines
from imaging.formats import ImageWarning, Polarity
from imaging.reading import read_image
from tests.data_owner.answering import FINDINGS, card, diagnosis_of, multi_label_card
from tests.end_to_end.models import INPUT
from tests.imaging.samples import data_set, dicom_bytes, picture

WRONG_AGE = ImageWarning("wrong-age", "the patient is older than the model was made for", needs_confirmation=True)
INVERTED = ImageWarning("inverted", "bright and dark were exchanged, as you asked")
NO_AGE = ImageWarning("age-unknown", "the file names no age")


def shown(model: ModelCard, logits: tuple[float, ...], *noticed: ImageWarning) -> tuple[dict[str, Any], str]:
    """What --json gives, and what the terminal shows."""
    diagnosis = diagnosis_of(model, logits, *noticed)
    assert Diagnosis.model_validate_json(diagnosis.model_dump_json()) == diagnosis
    output = StringIO()
    print_diagnosis(Console(file=output, width=100), diagnosis, model)
    return json.loads(diagnosis.model_dump_json()), output.getvalue()


# One class of several


@pytest.mark.parametrize(
    ("threshold", "logits", "uncertain"),
    [
        (0.8, (1.0, 0.0), True),  # 0.73
        (0.8, (2.0, 0.0), False),  # 0.88
        (0.5, (0.0, 0.0), False),  # an answer that just reaches it
        (None, (0.1, 0.0), False),
    ],
)
def test_an_uncertain_answer_says_so(threshold: float | None, logits: tuple[float, ...], uncertain: bool) -> None:
    fields, text = shown(card(uncertain_below=threshold), logits)
    assert fields["diagnosis"]["uncertain"] is uncertain
    assert fields["diagnosis"]["label"] == "normal"
    assert ("uncertain, most like normal" in text) is uncertain


def test_uncertainty_is_judged_at_the_cards_temperature() -> None:
    model = card(uncertain_below=0.8, calibration_temperature=0.5)
    assert shown(model, (1.0, 0.0))[0]["diagnosis"]["uncertain"] is False
    model = card(uncertain_below=0.8, calibration_temperature=2)
    assert shown(model, (2.0, 0.0))[0]["diagnosis"]["uncertain"] is True


@pytest.mark.parametrize("wrong", [0, 1, -0.5, 1.5, float("nan")])
def test_a_threshold_is_a_probability(wrong: float) -> None:
    with pytest.raises(ValidationError, match="uncertain_below"):
        card(uncertain_below=wrong)


def test_a_model_that_gives_its_label_only_has_no_threshold() -> None:
    with pytest.raises(ValidationError, match="needs probabilities"):
        card(uncertain_below=0.8, output_policy=OutputPolicy.LABEL_ONLY)


def test_a_classification_keeps_the_fields_that_programs_read() -> None:
    fields, text = shown(card(), (0.0, 1.0))
    probability = 1 / (1 + math.exp(-1))
    assert fields["diagnosis"] == {
        "task": "classification",
        "label": "virus",
        "probabilities": {"normal": pytest.approx(1 - probability), "virus": pytest.approx(probability)},
        "uncertain": False,
    }
    assert "73.1 %" in text
    assert "26.9 %" in text
    assert "it always names one of them" in text


def test_an_answer_without_a_task_is_a_classification() -> None:
    """As versions before this one wrote it."""
    fields, _ = shown(card(), (0.0, 1.0))
    del fields["diagnosis"]["task"]
    assert isinstance(Diagnosis.model_validate(fields).diagnosis, ClassAnswer)


# One finding, present or not


def test_of_a_binary_model_people_see_the_finding_and_programs_both_classes() -> None:
    model = card(task=Task.BINARY, classes=("no pneumonia", "pneumonia"))
    fields, text = shown(model, (0.0, -2.0))
    probability = 1 / (1 + math.exp(2))
    assert fields["diagnosis"]["task"] == "binary"
    assert fields["diagnosis"]["label"] == "no pneumonia"
    assert fields["diagnosis"]["probabilities"]["pneumonia"] == pytest.approx(probability)
    assert "chest.dcm: no pneumonia" in text
    assert "pneumonia  11.9 %" in text
    assert "88.1" not in text
    assert "robability of pneumonia: above 50 % the answer is pneumonia." in text
    assert shown(model, (0.0, 2.0))[0]["diagnosis"]["label"] == "pneumonia"
    unsure = shown(card(task=Task.BINARY, classes=("no pneumonia", "pneumonia"), uncertain_below=0.8), (0.0, 0.1))[1]
    assert "the answer is" not in unsure


def test_a_binary_label_alone_has_its_task() -> None:
    model = card(task=Task.BINARY, output_policy=OutputPolicy.LABEL_ONLY)
    answer = answer_from_label(model, 1)
    assert (answer.task, answer.label, list_lines(answer)) == (Task.BINARY, "virus", ())
    assert explain(answer, None) == "The model's owner gives the label only."


# Several findings, each present or not


def test_findings_are_judged_each_on_its_own() -> None:
    """The logits of 0.999, 0.992 and 0.981, which a softmax would turn into a third each."""
    logits = tuple(math.log(p / (1 - p)) for p in (0.999, 0.992, 0.981))
    fields, text = shown(multi_label_card(thresholds={"no-such-thing": 0.99}), logits)
    assert fields["diagnosis"] == {
        "task": "multi-label",
        "findings": [
            {"name": "effusion", "probability": pytest.approx(0.999), "threshold": 0.5, "present": True},
            {"name": "mass", "probability": pytest.approx(0.992), "threshold": 0.5, "present": True},
            {"name": "no-such-thing", "probability": pytest.approx(0.981), "threshold": 0.99, "present": False},
        ],
    }
    assert "chest.dcm: effusion, mass" in text
    for row in ("99.9 %  present, from 50 % on", "99.2 %  present, from 50 % on", "98.1 %  not present, from 99 % on"):
        assert row in text
    assert "they do not add up to 100 %" in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_terminal_is_too_narrow_for_a_findings_name_and_number(width: int) -> None:
    name = "Enlarged_Cardiomediastinum"
    model, output = multi_label_card(classes=(name, "mass")), StringIO()
    print_diagnosis(Console(file=output, width=width), diagnosis_of(model, (2.0, -2.0)), model)
    rows = [row for row in output.getvalue().splitlines() if row.startswith("│")]
    first = next(number for number, row in enumerate(rows) if "88.1 %" in row)
    second = next(number for number, row in enumerate(rows) if "11.9 %" in row)
    of_it = [row.strip("│ ") for row in rows[first:second]]
    assert name in "".join(part.split("  ")[0] for part in of_it)
    beside = " ".join(" ".join(part.split("  ")[1:]) for part in of_it)
    assert "present, from 50 % on" in " ".join(beside.split())
    assert any("█" in row for row in rows) is (width >= 80)


def test_without_a_finding_above_its_threshold_the_answer_says_that() -> None:
    fields, text = shown(multi_label_card(), (-1.0, -0.1, -9.0))
    assert not any(finding["present"] for finding in fields["diagnosis"]["findings"])
    assert "chest.dcm: no finding above its threshold" in text


def test_what_is_present_stands_first_and_a_threshold_that_is_reached_counts() -> None:
    model = multi_label_card(thresholds={"effusion": 0.6, "mass": 0.5, "no-such-thing": 0.02})
    answer = answer_from_logits(model, (0.2, 0.0, -3.0))  # 0.55, 0.5, 0.047
    assert isinstance(answer, FindingsAnswer)
    assert [finding.name for finding in answer.findings] == list(FINDINGS)
    assert [finding.name for finding in answer.present] == ["mass", "no-such-thing"]
    assert [line.name for line in list_lines(answer)] == ["mass", "no-such-thing", "effusion"]


@pytest.mark.parametrize(
    ("probability", "threshold", "words"),
    [(0.49996, 0.5, "49.996 %"), (0.5, 0.5, "50.0 %"), (0.03251, 0.0325, "3.3 %"), (0.0324, 0.0325, "3.2 %")],
)
def test_no_rounding_puts_a_finding_on_the_other_side(probability: float, threshold: float, words: str) -> None:
    present = probability >= threshold
    finding = Finding(name="mass", probability=probability, threshold=threshold, present=present)
    (line,) = list_lines(FindingsAnswer(findings=(finding,)))
    assert line.percent == words
    assert line.stands is present


def test_temperature_belongs_to_findings_too() -> None:
    answer = answer_from_logits(multi_label_card(calibration_temperature=2), (1.0, 0.0, -1.0))
    assert isinstance(answer, FindingsAnswer)
    assert answer.findings[0].probability == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_no_answer_contradicts_itself_or_another_kind() -> None:
    with pytest.raises(ValidationError, match="present differs"):
        Finding(name="mass", probability=0.4, threshold=0.5, present=True)
    fields, _ = shown(multi_label_card(), (1.0, 1.0, 1.0))
    for mixed in ({"label": "mass"}, {"probabilities": {"mass": 1.0}}, {"task": "classification"}):
        with pytest.raises(ValidationError):
            Diagnosis.model_validate(fields | {"diagnosis": fields["diagnosis"] | mixed})


# Calibration, and what the user confirmed


@pytest.mark.parametrize(
    ("temperature", "noticed", "expected"),
    [
        (1.0, (), Calibration.CALIBRATED),
        (2.0, (INVERTED,), Calibration.CALIBRATED),
        (2.0, (NO_AGE,), Calibration.RANGE_UNKNOWN),
        (2.0, (NO_AGE, WRONG_AGE), Calibration.OUTSIDE_RANGE),
        (None, (), Calibration.NOT_MEASURED),
        (None, (WRONG_AGE,), Calibration.NOT_MEASURED),
    ],
)
@pytest.mark.parametrize("task", list(Task))
def test_calibrated_is_what_somebody_measured_on_such_pictures(
    task: Task, temperature: float | None, noticed: tuple[ImageWarning, ...], expected: Calibration
) -> None:
    fields, text = shown(card(task=task, calibration_temperature=temperature), (1.0, -1.0), *noticed)
    assert fields["calibration"] == expected.value
    calibrated = expected is Calibration.CALIBRATED
    assert ("Calibrated probabilit" in text) is calibrated
    assert ("Not calibrated" in text) is not calibrated
    assert expected.reason in " ".join(text.split())


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, Calibration.CALIBRATED),
        ({"BodyPartExamined": None}, Calibration.RANGE_UNKNOWN),
        ({"ViewPosition": ""}, Calibration.RANGE_UNKNOWN),
        ({"PatientAge": None}, Calibration.RANGE_UNKNOWN),
        ({"BodyPartExamined": "HAND"}, Calibration.OUTSIDE_RANGE),
        ({"ViewPosition": "LL"}, Calibration.OUTSIDE_RANGE),
        ({"PatientAge": "040Y"}, Calibration.OUTSIDE_RANGE),
        ({"Modality": None}, Calibration.OUTSIDE_RANGE),
        ({"Modality": "CT"}, Calibration.OUTSIDE_RANGE),
    ],
)
def test_a_file_that_does_not_say_what_it_shows_has_no_calibrated_answer(
    tmp_path: Path, tags: dict[str, Any], expected: Calibration
) -> None:
    path = tmp_path / "chest.dcm"
    path.write_bytes(dicom_bytes(data_set(picture(), changes={"ViewPosition": "AP"} | tags)))
    asked = INPUT.model_copy(update={"views": (View.AP,)})
    assert judge_calibration(card(calibration_temperature=2.0), read_image(path, asked).warnings) is expected


def test_a_png_that_somebody_looked_at_is_still_of_nobody_knows_what(tmp_path: Path) -> None:
    path, model = tmp_path / "chest.png", card(calibration_temperature=2.0)
    Image.fromarray(picture().astype(np.uint8)).save(path)
    image = read_image(path, INPUT, polarity=Polarity.AS_READ)
    assert judge_calibration(model, image.warnings) is Calibration.RANGE_UNKNOWN
    assert judge_calibration(model, read_image(path, INPUT).warnings) is Calibration.OUTSIDE_RANGE


def test_of_a_calibration_that_nobody_knows_nothing_is_said() -> None:
    words = explain(ClassAnswer(label="virus", probabilities={"normal": 0.25, "virus": 0.75}), None)
    assert words == "Probabilities of the model's classes; it always names one of them."


def test_a_warning_that_was_confirmed_stays_on_the_answer() -> None:
    fields, text = shown(card(), (1.0, -1.0), WRONG_AGE, NO_AGE)
    assert [(one["code"], one["confirmed"]) for one in fields["warnings"]] == [
        ("wrong-age", True),
        ("age-unknown", False),
    ]
    assert "older than the model was made for (you submitted it anyway)" in text
    assert "Warning: the file names no age\n" in text


def test_an_answer_shows_none_of_itself_in_its_repr() -> None:
    text = repr(diagnosis_of(multi_label_card(), (5.0, -5.0, 0.0)))
    assert "0.99" not in text
    assert "present" not in text
