"""Records of answers: those that are kept now, and those that an earlier version kept."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contract.files import INCOMING
from contract.model_card import ModelCard, Task
from contract.ticket import Engine
from data_owner.answers import ClassAnswer
from data_owner.calibration import Calibration
from data_owner.ui.history import History, KeptName, Record, make_record_id
from data_owner.ui.showing import load_templates
from imaging.formats import ImageWarning
from tests.data_owner.answering import card, diagnosis_of, multi_label_card

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WRONG_AGE = ImageWarning("wrong-age", "by the file, the patient is <b>older</b>", needs_confirmation=True)
OLD: dict[str, Any] = {
    "id": "20250301T120000-0123456789abcdef",
    "date": "2025-03-01T12:00:00Z",
    "file_digest": "ab" * 32,
    "model": "pediatric-pneumonia-resnet18",
    "version": "1.0.0",
    "engine": "masked",
    "label": "virus",
    "probabilities": {"normal": 0.25, "virus": 0.75},
    "uncertain": True,
    "seconds": 4.5,
    "bytes_sent": 7,
}
"""As version 0.1 wrote it."""


def record_of(model: ModelCard, logits: tuple[float, ...], *noticed: ImageWarning) -> Record:
    diagnosis = diagnosis_of(model, logits, *noticed)
    return Record(
        id=make_record_id(NOW),
        date=NOW,
        file_digest="cd" * 32,
        model="tiny",
        version="1.0.0",
        engine=Engine.MASKED,
        answer=diagnosis.diagnosis,
        calibration=diagnosis.calibration,
        warnings=diagnosis.warnings,
        seconds=1.0,
        bytes_sent=1,
    )


def shown(*records: Record) -> str:
    return (
        load_templates().get_template("history.html").render(records=records, pictures=set(), theme="auto", place=None)
    )


@pytest.mark.parametrize(
    "model", [card(), card(task=Task.BINARY), multi_label_card(), multi_label_card(calibration_temperature=1.0)]
)
def test_a_record_comes_back_as_it_was_kept(tmp_path: Path, model: ModelCard) -> None:
    record = record_of(model, (1.0, 0.0, -1.0)[: len(model.classes)], WRONG_AGE)
    history = History(tmp_path / "history")
    assert history.add(record)
    assert history.records() == [record]
    assert record.warnings[0].confirmed
    assert "older" not in repr(record.answer)


def test_what_an_earlier_version_kept_is_shown_without_a_claim_of_calibration(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    (tmp_path / "history" / f"{OLD['id']}.json").write_text(json.dumps(OLD))
    (record,) = history.records()
    assert record.answer == ClassAnswer(label="virus", probabilities={"normal": 0.25, "virus": 0.75}, uncertain=True)
    assert (record.calibration, record.warnings) == (None, ())
    page = shown(record)
    assert "uncertain, most like virus" in page
    assert "75.0 %" in page
    assert "calibrated" not in page


def test_the_page_says_of_each_answer_what_it_is_worth(tmp_path: Path) -> None:
    calibrated = shown(record_of(card(calibration_temperature=1.0), (1.0, 0.0)))
    assert ">calibrated<" in calibrated
    doubtful = record_of(multi_label_card(calibration_temperature=1.0), (-1.0, -2.0, -3.0), WRONG_AGE)
    assert doubtful.calibration is Calibration.OUTSIDE_RANGE
    page = shown(doubtful)
    assert ">not calibrated<" in page
    assert "no finding above its threshold" in page
    assert "&lt;b&gt;older&lt;/b&gt; (you submitted it anyway)." in page
    for name, percent in (("effusion", "26.9 %"), ("mass", "11.9 %"), ("no-such-thing", "4.7 %")):
        assert f"{name} {percent}" in page


def test_an_answer_with_very_many_findings_is_kept_whole(tmp_path: Path) -> None:
    names = tuple(f"finding number {number}" for number in range(2000))
    record = record_of(multi_label_card(classes=names), (0.5,) * len(names))
    history = History(tmp_path / "history")
    assert history.add(record)
    assert history.records() == [record]


def test_deleting_all_deletes_what_a_crash_left_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "history"
    history = History(folder)
    record = record_of(card(), (1.0, 0.0))
    history.add(record)
    named = KeptName(name="Doe Jane", identifier="", accession="", file_name="")
    assert history.keep_name(record.id, named)
    (folder / f"{INCOMING}x1y2").write_bytes(b'{"name":"Doe Ja')
    history.delete_all()
    assert list(folder.iterdir()) == []
