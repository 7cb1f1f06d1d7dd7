"""How a result that is one object is checked for a place, printed and kept."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from contract.base import Strict
from contract.errors import CallerError

if TYPE_CHECKING:
    from rich.table import Table

TABLE_WIDTH = 140
"""Columns of text that a table needs at most."""


def check_file(path: Path | None) -> None:
    """Raise CallerError, before minutes of measuring, where the result cannot be written."""
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise CallerError(f"{path}: is not a file in a folder that exists; give --save the path of a JSON file")


def give(result: Strict, table: "Table | None", save: Path | None) -> None:
    """Print the table for people, or without one the JSON; write the JSON to `save` as well."""
    text = result.model_dump_json(indent=2) + "\n"
    if table is None:
        sys.stdout.write(text)
    else:
        from rich.console import Console

        output = Console(highlight=False)
        if not output.is_terminal:
            output.width = TABLE_WIDTH
        output.print(table)
    if save is not None:
        save.write_text(text)
