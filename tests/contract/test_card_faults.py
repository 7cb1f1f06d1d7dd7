"""Every fault of a card at once: the field, what is wrong, what to write."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from contract.card_faults import WHAT_TO_WRITE, find_card_faults, list_faults
from contract.errors import ModelFileError
from contract.model_card import InputSpecification, ModelCard, read_card

GOOD: dict[str, Any] = {
    "name": "tiny",
    "version": "1.0.0",
    "title": "Tiny",
    "intended_use": "tests",
    "input": {"modalities": ["DX"], "height": 8, "width": 8, "mean": [0.5], "standard_deviation": [0.25]},
    "classes": ["no", "yes"],
    "training": "none",
    "model_sha256": "0" * 64,
}


def faults(**changes: Any) -> list[str]:
    """Of the good card with these changes; a value of None takes the field away."""
    card = {key: value for key, value in (GOOD | changes).items() if value is not None}
    return find_card_faults(json.dumps(card).encode(), ModelCard)


def test_a_good_card_has_none() -> None:
    assert faults() == []


def test_all_are_told_at_once(tmp_path: Path) -> None:
    wrong = GOOD | {"version": "one", "classes": ["only"], "taks": "binary", "model_sha256": "12"}
    wrong["input"] = GOOD["input"] | {"modalities": ["XR"], "height": 4, "mean": ["half"]}
    del wrong["title"]
    path = tmp_path / "card.json"
    path.write_text(json.dumps(wrong))
    with pytest.raises(ModelFileError) as caught:
        read_card(path)
    told = str(caught.value)
    assert "8 things to correct: (1) " in told
    for words in (
        'version: is not of the form that it must have; write three numbers, say "1.0.0"',
        "classes: needs at least 2; write one name for each output, in the model's order, each once",
        'taks: there is no such field; write "task" if that was meant, or remove it',
        "model_sha256: is not of the form that it must have; write the hash that `model-owner card --from model.onnx`",
        "input.modalities, entry 1: is none of the values that it may have; write one of 'CR', 'DX'",
        "input.height: must be at least 8; write the pixels that the model takes",
        "input.mean, entry 1: must be a number; write what training",
        "title: is missing; write a few words that a clinician reads above each answer",
    ):
        assert words in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"classes": ["a", "a"], "task": "binary", "thresholds": {"a": 0.5}},
            "classes must differ .*; thresholds belong",
        ),
        (
            {"task": "multi-label", "thresholds": {"x": 0.5}, "output_policy": "label-only", "uncertain_below": 0.5},
            "thresholds names 'x', .*; output_policy label-only .*; uncertain_below is .*; uncertain_below needs",
        ),
        ({"input": GOOD["input"] | {"channels": 3}}, r"input: mean and standard_deviation need 3 value\(s\)"),
        (
            {"input": GOOD["input"] | {"meen": [0]}},
            'input.meen: there is no such field; write "mean" if that was meant',
        ),
        (
            {"version": None, "uncertain_below": 0.5, "output_policy": "label-only"},
            "2 things .*version: is missing.*; .2. uncertain_below needs probabilities",
        ),
        ({"zzz": 1}, "zzz: there is no such field; write one of name, version"),
        (
            {"arithmetic": "rounded"},
            "arithmetic: is none of the values that it may have; write one of 'exact' or 'dithered'",
        ),
        ({"task": "regression"}, "task: is none of the values .*; write one of 'classification', 'binary' or 'multi"),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], words: str) -> None:
    import re

    assert re.search(words, list_faults(faults(**changes)))


def test_what_is_still_to_be_filled_in_is_told_by_field() -> None:
    """Once for a list, and without what is wrong with a placeholder besides."""
    specification = GOOD["input"] | {"mean": ["FILL IN: a number"], "modalities": ["FILL IN: some"]}
    told = faults(title="FILL IN: words", classes=["FILL IN: one", "FILL IN: two"], input=specification)
    assert [fault.partition(":")[0] for fault in told] == ["title", "input.modalities", "input.mean", "classes"]
    assert all("is still to be filled in; write " in fault for fault in told)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is not JSON"),
        (b"{'name': 1}", "the file is not JSON .*line 1 column 2"),
        (b'{"name": "a", // a comment\n}', "the file is not JSON"),
        (b"[" * 100_000, "the file is not JSON"),
        (b"[]", "holds no JSON object"),
        (b'"FILL IN"', "holds no JSON object"),
        (b"\xff\xfe", "the file is not JSON"),
        (b"{}", "8 things to correct"),
    ],
)
def test_no_card_at_all(content: bytes, words: str) -> None:
    import re

    assert re.search(words, list_faults(find_card_faults(content, ModelCard)))


def test_the_mark_with_which_some_editors_begin_a_file_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert read_card(path).name == "tiny"


def test_a_flood_of_faults_stays_one_short_line() -> None:
    told = list_faults(faults(classes=[{}] * 5000, **{f"x{number}": 1 for number in range(2000)}))
    assert "; and " in told
    assert len(told) < 20_000


def test_every_field_that_is_named_exists() -> None:
    fields = {*ModelCard.model_fields, *(f"input.{name}" for name in InputSpecification.model_fields)}
    assert set(WHAT_TO_WRITE) <= fields


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["no", "y\u202ese"]}, "classes, entry 2: holds a line break or characters that cannot be seen"),
        ({"classes": ["no", "no\u200b"]}, "classes, entry 2: holds a line break or characters that cannot be seen"),
        ({"classes": ["no", "\x1b[2Jyes"]}, "classes, entry 2: holds a line break"),
        ({"classes": ["no", " "]}, "classes, entry 2: holds a line break"),
        ({"title": "Tiny\nNothing found"}, "title: holds a line break"),
        ({"title": "T" * 201}, "title: is longer than 200 characters"),
        ({"training": "T" * 20_001}, "training: is longer than 20000 characters"),
        ({"classes": [str(number) for number in range(65_536)]}, "classes: has more than 10000"),
        ({"calibration_temperature": math.inf}, "calibration_temperature: must be a finite number"),
        ({"input": GOOD["input"] | {"mean": [math.nan]}}, "input.mean, entry 1: must be a finite number"),
        (
            {"input": GOOD["input"] | {"standard_deviation": [math.inf]}},
            "standard_deviation, entry 1: must be a finite",
        ),
    ],
)
def test_what_hides_misleads_or_floods_is_a_fault(changes: dict[str, Any], words: str) -> None:
    (told,) = faults(**changes)
    assert words in told


def test_names_in_any_script_are_none() -> None:
    assert faults(title="Größe \u2013 \u80ba\u708e", classes=["ذات الرئة", "No finding (0\u202f%)"]) == []


def test_a_card_of_very_many_faults_is_not_compared_with_itself_for_ever() -> None:
    """Each is compared with each: 50,000 would take a quarter of an hour."""
    assert len(faults(**{f"x{number}": "FILL IN" for number in range(50_000)})) <= 2000


def test_a_field_that_is_written_twice_is_told(tmp_path: Path) -> None:
    """JSON would let the last one count: a task, or a mean of one channel, that nobody meant."""
    path = tmp_path / "card.json"
    path.write_text(json.dumps(GOOD)[:-1] + ', "task": "binary", "task": "classification"}')
    with pytest.raises(ModelFileError, match="task: is written more than once; write it once"):
        read_card(path)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"input": GOOD["input"] | {"mean": [1e308]}}, "input.mean"),
        ({"input": GOOD["input"] | {"standard_deviation": [1e-320]}}, "input.standard_deviation"),
        ({"calibration_temperature": 1e-320}, "calibration_temperature"),
        ({"title": " Fill in: a title"}, "title"),
    ],
)
def test_a_number_that_leads_to_no_answer_is_told(changes: dict[str, Any], field: str) -> None:
    assert [fault for fault in faults(**changes) if fault.startswith(field)]


def test_a_name_that_would_steer_a_terminal_is_told_without_doing_so() -> None:
    [fault] = faults(**{"\x1b[31mtitle": "x"})
    assert fault.startswith("?[31mtitle: there is no such field")
