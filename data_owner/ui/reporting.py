"""One answer as it leaves the page: what the printed report and the copied text are made of."""

from typing import Any

from data_owner.ui.entries import Entry
from data_owner.ui.exporting import Row, as_text
from data_owner.ui.history import KeptName
from data_owner.ui.workplace import Workplace


def row_of(place: Workplace, entry: Entry) -> Row:
    """An answer of the page; with whose it is only while the page shows names."""
    assert entry.answer is not None
    name = KeptName.of(entry.named, file_name=entry.file_name) if place.names_shown else None
    return Row(record=entry.answer, image=entry.name, name=name)


def report_of(place: Workplace, entry: Entry, result: dict[str, Any]) -> dict[str, Any]:
    """What the report's template is given of one entry, whose answer is shown as `result`."""
    row = row_of(place, entry)
    card = place.model.card if place.model is not None else None
    same_model = card is not None and card.name == row.record.model
    title = card.title if card is not None and same_model else "Answer"
    use = card.intended_use if card is not None and same_model else ""
    return {
        "entry": entry,
        "result": result,
        "record": row.record,
        "name": row.name,
        "title": title,
        "intended_use": use,
        "text": as_text(row, title=title, intended_use=use),
    }
