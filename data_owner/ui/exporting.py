"""Answers for other programs: a table as CSV (RFC 4180), and the text of one answer.

Whose pictures they are stands in them only where the caller was told to say so.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from data_owner.answers import ClassAnswer, FindingsAnswer
from data_owner.calibration import Calibration
from data_owner.ui.history import KeptName, Record
from data_owner.wording import explain, list_lines
from plumbing.output import printable

RESEARCH_USE: Final = "Research use only, not a medical device. No result may be used to treat a patient."

_FORMULA: Final = re.compile("(^|;)(\\s*)(?=[=+\uff1d\uff0b\uff0d\uff20@-])")
"""Where a spreadsheet would read a formula: at the beginning of a field, also in full width. A semicolon begins a field
too where a spreadsheet parts by it, as those that write decimals with a comma do."""

_ANSWER: Final = ("date", "model", "version", "engine", "answer", "uncertain", "calibrated")
_NAME: Final = ("patient", "patient_id", "accession_number", "file_name")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One answer, and whose it is if that may be said."""

    record: Record
    image: str = ""
    """What the page calls it."""
    name: KeptName | None = field(default=None, repr=False)


def format_csv(rows: Sequence[Row], *, names: bool) -> bytes:
    """A table in UTF-8, a line for each answer below a line of headings, with columns for each class or finding.

    Probabilities are numbers in [0, 1]. `names`: with columns that say whose pictures they are.
    """
    classes = list(dict.fromkeys(name for row in rows for name in _list_probabilities(row.record)))
    findings = list(dict.fromkeys(name for row in rows for name in _list_present(row.record)))
    target = io.StringIO()
    writer = csv.writer(target)  # "excel": quotes where needed, lines end in CR LF
    columns = [*(f"probability of {name}" for name in classes), *(f"{name} is present" for name in findings)]
    heading = ["image", *_ANSWER, *columns, "warnings", "file_sha256", *(_NAME if names else ())]
    writer.writerow([_escape_cell(text) for text in heading])
    for row in rows:
        writer.writerow([_escape_cell(text) for text in _list_fields(row, classes, findings, names=names)])
    return target.getvalue().encode()


def _list_fields(row: Row, classes: Iterable[str], findings: Iterable[str], *, names: bool) -> list[str]:
    record, chances, present = row.record, _list_probabilities(row.record), _list_present(row.record)
    fields = [
        row.image,
        record.date.astimezone().isoformat(timespec="seconds"),
        record.model,
        record.version,
        record.engine.value,
        record.answer.words,
        _format_truth(isinstance(record.answer, ClassAnswer) and record.answer.uncertain),
        "" if record.calibration is None else _format_truth(record.calibration is Calibration.CALIBRATED),
        *(f"{chances[name]:.6f}" if name in chances else "" for name in classes),
        *(_format_truth(present[name]) if name in present else "" for name in findings),
        "; ".join(warning.words for warning in record.warnings),
        record.file_digest,
    ]
    who = row.name
    if names:
        fields += ["", "", "", ""] if who is None else [who.name, who.identifier, who.accession, who.file_name]
    return fields


def _list_probabilities(record: Record) -> dict[str, float]:
    answer = record.answer
    if isinstance(answer, FindingsAnswer):
        return {finding.name: finding.probability for finding in answer.findings}
    return answer.probabilities or {}


def _list_present(record: Record) -> dict[str, bool]:
    answer = record.answer
    return {one.name: one.present for one in answer.findings} if isinstance(answer, FindingsAnswer) else {}


def _format_truth(truth: object) -> str:
    return "yes" if truth else "no"


def _escape_cell(text: str) -> str:
    """A field that a spreadsheet shows and does not compute: what looks like a formula begins with an apostrophe.

    OWASP, "CSV Injection". Line breaks and control characters are escaped.
    """
    return _FORMULA.sub(r"\1'\2", printable(text))


def format_text(row: Row, *, title: str, intended_use: str) -> str:
    """One answer as lines of text, for a report of one's own."""
    record = row.record
    lines = [f"{title}: {record.answer.words}"]
    lines += [f"  {line.name}: {line.percent}{_put_in_brackets(line.verdict)}" for line in list_lines(record.answer)]
    lines += [explain(record.answer, record.calibration)]
    lines += [f"Warning: {warning.words}" for warning in record.warnings]
    lines += [f"Model: {record.model} {record.version}, {format_full_date(record.date)}"]
    if row.name is not None:
        who = (row.name.name, row.name.identifier, row.name.accession, row.name.file_name)
        lines += [f"Image of: {', '.join(one for one in who if one)}"]
    lines += [f"Intended use: {intended_use}"] if intended_use else []
    lines += [f"File (SHA-256): {record.file_digest}", RESEARCH_USE]
    return "\n".join(printable(line) for line in lines)


def _put_in_brackets(words: str) -> str:
    return f" ({words})" if words else ""


def format_full_date(date: datetime) -> str:
    """A date in this workstation's time zone, with its offset: a report is read elsewhere and later."""
    return f"{date.astimezone():%Y-%m-%d %H:%M (UTC%z)}"


def make_file_name(now: datetime, kind: str) -> str:
    """A file's name for an export: when it was made, and nothing of anybody."""
    return f"answers-{now.astimezone():%Y%m%d-%H%M%S}.{kind}"
