"""What was dropped on the page: one entry for each file, with its pictures in a folder that goes with it."""

import secrets
import shutil
import threading
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from data_owner.ui.words import Problem

if TYPE_CHECKING:  # takes long to load, and the page is up before it
    from data_owner.diagnosis import Diagnosis
    from data_owner.ui.history import Record
    from data_owner.ui.patient import Patient
    from imaging.formats import ImageWarning, Polarity, PolaritySource
    from imaging.reading import ModelInput

MOST_ENTRIES: Final = 200


class State(StrEnum):
    """Where an entry stands."""

    WAITING = "waiting"
    """For the model's card: without it nobody knows how to read the file."""
    UNREADABLE = "unreadable"
    READY = "ready"
    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"
    ANSWERED = "answered"


BUSY: Final = (State.QUEUED, State.RUNNING, State.STOPPING)
CAN_SUBMIT: Final = (State.READY, State.FAILED)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the viewer needs to know of an entry's values, see imaging.Viewing."""

    rows: int
    columns: int
    low: float
    high: float
    inverted: bool
    center: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is shown of a file beside its pictures. Nothing of the patient."""

    format: str
    encoding: str
    rows: int
    columns: int
    frames: int
    frame: int
    modality: str | None
    body_part: str | None
    look: Look
    seen_rows: int
    seen_columns: int
    polarity_told_by: "PolaritySource"

    @property
    def tells_polarity(self) -> bool:
        """Whether the file says itself which of its values are bright."""
        return self.polarity_told_by == "file"


@dataclass(kw_only=True, eq=False)
class Entry:
    """One file. Changed under the workplace's lock only."""

    number: int
    """By which it is called: its file's name often is the patient's."""
    folder: Path
    drop: str
    """Names the files that were dropped together."""
    file_name: str = field(repr=False)
    """Shown where the patient's data are."""
    digest: str = field(default="", repr=False)
    """SHA-256 of the file; empty until all of it is there."""
    patient: bytes | None = field(default=None, repr=False)
    """See Patient.told_apart."""
    reading: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while its file is read."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: State = State.WAITING
    error: Problem | None = None
    facts: Facts | None = None
    polarity: "Polarity | None" = None
    """What the user says who has looked."""
    reads: int = 0
    """How often the file was read. Stands in its pictures' addresses: browsers show a picture again that they have."""
    warnings: tuple["ImageWarning", ...] = ()
    image: "ModelInput | None" = field(default=None, repr=False)
    """Kept until it is answered."""
    diagnosis: "Diagnosis | None" = field(default=None, repr=False)
    answer: "Record | None" = field(default=None, repr=False)
    """What the history has of the answer, or would have."""
    record: str | None = None
    """Of the answer, in the history."""
    name_kept: bool = False
    picture_kept: bool = False
    separate: bool = False
    """The user said that several patients in one drop are meant."""
    named: "Patient | None" = field(default=None, repr=False)
    """Who is on it, while names are shown."""
    answered_before: "Record | None" = field(default=None, repr=False)
    """An answer to the same file that the history had when it arrived."""
    repeat_meant: bool = False
    """The user said that the same file once more is meant."""

    def __repr__(self) -> str:
        """Which entry; nothing of its file."""
        return f"Entry({self.number}, {self.state})"

    @property
    def name(self) -> str:
        """What it is called."""
        return f"Image {self.number}"

    @property
    def file(self) -> Path:
        """The file as it was dropped."""
        return self.folder / "file"

    @property
    def original(self) -> Path:
        """PNG of the whole picture, as the file says it is shown."""
        return self.folder / "original.png"

    @property
    def seen(self) -> Path:
        """PNG of what the model sees, at its size."""
        return self.folder / "seen.png"

    @property
    def values(self) -> Path:
        """The values behind the picture, as `Look` says: unsigned 16 bits, little endian, row by row."""
        return self.folder / "values"

    @property
    def busy(self) -> bool:
        """Whether a session has it, or will."""
        return self.state in BUSY

    @property
    def needs_confirmation(self) -> bool:
        """Whether a warning asks for it, other than which way round the picture is."""
        asked = self.polarity_question
        return any(warning.needs_confirmation for warning in self.warnings if warning is not asked)

    @property
    def polarity_question(self) -> "ImageWarning | None":
        """The warning that asks which way round the picture is; None if that is known."""
        from imaging.polarity import POLARITY_QUESTIONS

        return next((warning for warning in self.warnings if warning.code in POLARITY_QUESTIONS), None)

    def delete_files(self) -> None:
        """Forget the file and its pictures."""
        self.image = None
        shutil.rmtree(self.folder, ignore_errors=True)
