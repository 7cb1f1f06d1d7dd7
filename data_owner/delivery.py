"""An answer reaches its reader: it is printed, and if that fails it is kept in a file. It was paid for."""

import io
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from contract.errors import ConfigurationError
from contract.files import create, private_folder
from contract.model_card import ModelCard
from data_owner.diagnosis import Diagnosis
from data_owner.presentation import print_diagnosis
from plumbing.command_line import say
from plumbing.output import json_line, shown_path, write_out

UNPRINTED: Final = "unprinted"
"""The folder below the data folder for answers that could not be printed."""


class Delivery:
    """Where the answers of one command go: to stdout, else each into a file for this user alone."""

    def __init__(self, data_folder: Path, *, as_json: bool) -> None:
        """Print as JSON, or for people. Nothing is made in `data_folder` before it is needed."""
        self._folder = data_folder / UNPRINTED
        self._as_json = as_json

    def deliver(self, diagnosis: Diagnosis, card: ModelCard) -> int:
        """Print an answer, or keep it and say where. Returns the exit status that this means."""
        try:
            write_out(json_line(diagnosis) if self._as_json else _format_for_people(diagnosis, card))
        except ConfigurationError as error:
            say(f"data-owner: {diagnosis.file}: {error}; {self._keep(diagnosis)}")
            return error.exit_status
        return 0

    def _keep(self, diagnosis: Diagnosis) -> str:
        """Keep an answer as JSON in a file (0600), or as the last resort in the words that are said of it."""
        line = json_line(diagnosis)
        path = self._folder / f"{datetime.now(tz=UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(8)}.json"
        try:
            private_folder(self._folder, check=False)
            create(path, f"{line}\n".encode())
        except (OSError, ConfigurationError):
            return f"it cannot be kept in {shown_path(self._folder)} either, so here is the answer: {line}"
        return f"the answer is kept in {shown_path(path)}"


def _format_for_people(diagnosis: Diagnosis, card: ModelCard) -> str:
    page = _LikeStdout()
    print_diagnosis(Console(file=page, highlight=False), diagnosis, card)
    return page.getvalue().removesuffix("\n")


class _LikeStdout(io.StringIO):
    """Text in memory, which rich takes for the same terminal as stdout: its capture() would write to stdout anyway."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return sys.stdout is not None and sys.stdout.isatty()
