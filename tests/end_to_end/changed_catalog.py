"""One UPDATE of a front end's database while all parties run: what whoever holds the front end can do at any time."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from inference_service.settings import DATABASE_FILE

Change = Callable[[dict[str, Any]], dict[str, Any]]
"""The columns of a model's row -> those that are written."""


def of_card(change: Callable[[dict[str, Any]], Any]) -> Change:
    def columns(row: dict[str, Any]) -> dict[str, Any]:
        card = json.loads(row["card"])
        change(card)
        return {"card": json.dumps(card)}

    return columns


def lying(card: dict[str, Any]) -> None:
    """'bacteria' becomes 'normal', certain, and nothing warns."""
    card["classes"] = [*card["classes"][1:], card["classes"][0]]
    card["calibration_temperature"] = (card["calibration_temperature"] or 1.0) / 20
    card["uncertain_below"] = None
    card["input"]["mean"], card["input"]["ages"] = [0.1], None


@contextmanager
def changed(front_end: Path, change: Change) -> Iterator[None]:
    """The catalog's only row while the block runs; as it was afterwards. `front_end`: its data folder."""
    with closing(sqlite3.connect(front_end / DATABASE_FILE, timeout=10, isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        (row,) = map(dict, database.execute("SELECT * FROM model_versions"))

        def update(columns: dict[str, Any]) -> None:
            assignments = ", ".join(f"{name} = ?" for name in columns)
            database.execute(f"UPDATE model_versions SET {assignments}", tuple(columns.values()))

        columns = change(row)
        update(columns)
        try:
            yield
        finally:
            update({name: row[name] for name in columns})


def sessions(front_end: Path) -> int:
    """How many the front end has opened."""
    with closing(sqlite3.connect(front_end / DATABASE_FILE, timeout=10)) as database:
        return int(database.execute("SELECT count(*) FROM sessions").fetchone()[0])
