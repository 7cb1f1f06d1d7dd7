"""Answers that leave the page: a table that no spreadsheet computes, text, a report; names only where shown."""

import csv
import io
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contract.ticket import Engine
from data_owner.answers import ClassAnswer, answer_from_logits
from data_owner.calibration import Calibration
from data_owner.diagnosis import Warned
from data_owner.ui.exporting import RESEARCH_USE, Row, format_csv, format_text, make_file_name
from data_owner.ui.history import KeptName, Record, make_record_id
from data_owner.wording import list_lines
from tests.data_owner.answering import FINDINGS, multi_label_card
from tests.data_owner.ui.conftest import Page
from tests.data_owner.ui.test_batch import WHO, answered, named
from tests.end_to_end.models import CLASSES

__all__ = ["named"]
NOW = datetime(2026, 1, 31, 10, 31, tzinfo=UTC)
NASTY = KeptName(name='=cmd|"/C calc"!A0', identifier="@SUM(1)", accession="-1+1", file_name="a,\x1b\n+b.dcm")
CLASS = ClassAnswer(label="virus", probabilities={"normal": 0.25, "virus": 0.75}, uncertain=True)


def record(**changes: object) -> Record:
    fields: dict[str, object] = {
        "id": make_record_id(NOW),
        "date": NOW,
        "file_digest": "0" * 64,
        "model": "tiny",
        "version": "1.0.0",
        "engine": Engine.MASKED,
        "answer": CLASS,
        "calibration": Calibration.NOT_MEASURED,
        "warnings": (Warned(code="wrong-age", text='the file says "90 years", twice'),),
        "seconds": 1.0,
        "bytes_sent": 1,
    }
    return Record(**fields | changes)  # type: ignore[arg-type]


def read(table: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.decode(), newline="")))


def test_a_table_is_read_back_as_it_was_meant() -> None:
    findings = answer_from_logits(multi_label_card(), (4.0, 0.1, -3.0))
    table = format_csv([Row(record=record(), image="Image 1"), Row(record=record(answer=findings))], names=False)
    assert table.count(b"\r\n") == 3
    assert b"\n" not in table.replace(b"\r\n", b"")
    first, second = read(table)
    assert (first["image"], first["answer"], first["uncertain"]) == ("Image 1", "uncertain, most like virus", "yes")
    assert float(first["probability of virus"]) == 0.75
    assert first["warnings"] == 'the file says "90 years", twice'
    assert first["calibrated"] == "no"
    assert datetime.fromisoformat(first["date"]) == NOW
    assert first["probability of mass"] == ""
    assert {f"probability of {name}" for name in FINDINGS} < set(second)
    assert second["answer"] == findings.words
    assert [second[f"{name} is present"] for name in FINDINGS] == ["yes", "yes", "no"]
    assert first["mass is present"] == ""
    assert float(second["probability of effusion"]) == pytest.approx(
        next(line.share for line in list_lines(findings) if line.name == "effusion"), abs=1e-6
    )
    assert not set(first) & {"patient", "patient_id", "accession_number", "file_name"}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@A1", " =1", "\t=1", "\uff1d1", "\uff20A"])
def test_no_field_is_a_formula(text: str) -> None:
    name = KeptName(name=text, identifier="", accession="", file_name="")
    (row,) = read(format_csv([Row(record=record(), name=name)], names=True))
    assert row["patient"].startswith(("'", r"\x09"))
    assert row["patient"].endswith(text[-1])


def test_a_spreadsheet_that_parts_by_semicolons_sees_no_formula_either() -> None:
    name = KeptName(name='Doe;=HYPERLINK("x")', identifier="a; @A1", accession="b;\uff1d1", file_name="a;b.dcm")
    table = format_csv([Row(record=record(), name=name)], names=True).decode()
    cells = [cell for line in csv.reader(table.splitlines(), delimiter=";", quoting=csv.QUOTE_NONE) for cell in line]
    assert len(cells) > 5
    assert not any(cell.lstrip(' "').startswith(("=", "@", "\uff1d")) for cell in cells)
    (row,) = read(table.encode())
    assert row["file_name"] == "a;b.dcm"


def test_names_stand_in_a_table_only_where_they_may() -> None:
    rows = [Row(record=record(), name=NASTY), Row(record=record())]
    one, none = read(format_csv(rows, names=True))
    assert one["file_name"] == r"a,\x1b\n+b.dcm".replace(r"\n", r"\x0a")
    assert none["patient"] == ""
    hidden = format_csv(rows, names=False).decode()
    assert not any(part in hidden for part in ("calc", "SUM", "+b.dcm"))


def test_the_text_of_an_answer_says_all_that_the_page_says() -> None:
    text = format_text(Row(record=record(), name=NASTY), title="Tiny", intended_use="tests")
    for words in (
        *("Tiny: uncertain, most like virus", "virus: 75.0 %", "Not calibrated", "Warning: the file says"),
        *("tiny 1.0.0", "2026-01-31", "Intended use: tests", RESEARCH_USE, "@SUM(1)"),
    ):
        assert words in text
    assert "\x1b" not in text
    assert "SUM" not in format_text(Row(record=record()), title="Tiny", intended_use="")


def test_the_name_of_an_export_says_when_and_nothing_else() -> None:
    assert re.fullmatch(r"answers-\d{8}-\d{6}\.csv", make_file_name(NOW, "csv"))


def test_what_is_exported_names_nobody_until_names_are_shown(page: Page, named: Path) -> None:
    entry = answered(page, named)

    def exported() -> list[str]:
        answers = [page.get(path) for path in ("/answers.csv", "/report", "/history.csv")]
        assert all(answer.status_code == 200 for answer in answers)
        disposition = answers[0].headers["content-disposition"]
        assert re.fullmatch(r'attachment; filename="answers-[0-9-]+\.csv"', disposition)
        assert answers[0].headers["content-type"].startswith("text/csv")
        return [answer.text for answer in answers]

    assert not any(one in text for text in exported() for one in WHO)
    page.post("/names", show="yes")
    table, report, history = exported()
    assert all(one in table and one in report for one in WHO)
    assert not any(one in history for one in WHO)  # it has what was kept
    page.post(f"/entries/{entry.id}/keep-name")
    assert all(one in exported()[2] for one in WHO)
    (row,) = read(table.encode())
    assert row["answer"] in CLASSES
    for words in (row["answer"], "tiny-chest 1.0.0", "Research use only, not a medical device.", "original.png"):
        assert words in report
    assert row["answer"] in page.html(entry.id).partition('data-testid="copy-text"')[2].partition("</pre>")[0]


def test_a_report_of_nothing_is_none(page: Page, tmp_path: Path) -> None:
    assert page.get("/report").status_code == 404
    assert page.get("/report", params={"entry": "none"}).status_code == 404
    assert page.get("/answers.csv").text.count("\r\n") == 1
