"""What this workstation keeps of its answers: one small file for each, for the clinician alone (0600 in 0700).

Kept are date, model, answer, warnings and a digest of the file, by which the image can be found again in the archive.
No name, no file name, nothing else of the patient; a picture, and whose it is, only where the clinician asks for it,
each in a file of its own.
"""

import re
import secrets
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from contract.base import Name, Strict, Version
from contract.files import INCOMING, create, private_folder, try_to_replace
from contract.ticket import Engine
from data_owner.answers import ModelAnswer
from data_owner.calibration import Calibration
from data_owner.diagnosis import Diagnosis, Warned

if TYPE_CHECKING:  # takes long to load, and the page is up before it
    from data_owner.ui.patient import Patient

_RECORD = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{16}")
_MAX_BYTES = 8 << 20


class Record(Strict):
    """One answer."""

    id: Annotated[str, Field(pattern=_RECORD.pattern, max_length=40)]
    date: AwareDatetime
    file_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    """SHA-256 of the file as it was dropped."""
    model: Name
    version: Version
    engine: Engine
    answer: Annotated[ModelAnswer, Field(repr=False)]
    calibration: Calibration | None = None
    """Of its probabilities; None if there are none, or if an earlier version kept the record."""
    warnings: tuple[Warned, ...] = ()
    """What was noticed about the file, with what the user confirmed."""
    seconds: float
    """From submission to answer, as the session measured it."""
    bytes_sent: int
    """By this workstation."""

    @staticmethod
    def of(answered: Diagnosis, *, date: datetime, file_digest: str, warnings: tuple[Warned, ...]) -> "Record":
        """An answer, under a new id."""
        return Record(
            id=make_record_id(date),
            date=date,
            file_digest=file_digest,
            model=answered.model.name,
            version=answered.model.version,
            engine=answered.engine,
            answer=answered.diagnosis,
            calibration=answered.calibration,
            warnings=warnings,
            seconds=answered.seconds.offline + answered.seconds.online,
            bytes_sent=answered.bytes.data_owner_sent,
        )

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_version(cls, kept: Any) -> Any:
        """Records once held the answer of a classification in fields of their own."""
        if not isinstance(kept, dict) or "answer" in kept:
            return kept
        answer = {name: kept[name] for name in ("label", "probabilities", "uncertain") if name in kept}
        return {name: value for name, value in kept.items() if name not in answer} | {"answer": answer}


class KeptName(Strict):
    """Whose picture it was, if the clinician asked to keep it. Empty if the file does not say."""

    name: Annotated[str, Field(max_length=300, repr=False)]
    identifier: Annotated[str, Field(max_length=300, repr=False)]
    accession: Annotated[str, Field(max_length=300, repr=False)]
    file_name: Annotated[str, Field(max_length=4000, repr=False)]

    @staticmethod
    def of(patient: "Patient | None", *, file_name: str) -> "KeptName":
        """As far as the patient is known."""
        return KeptName(
            name=patient.name if patient else "",
            identifier=patient.identifier if patient else "",
            accession=patient.accession if patient else "",
            file_name=file_name,
        )


def make_record_id(now: datetime) -> str:
    """A name for a record: it sorts by date."""
    return f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(8)}"


class History:
    """The records in one folder."""

    def __init__(self, folder: Path) -> None:
        """Keep records in `folder`, which is made (0700) if it is missing."""
        private_folder(folder, check=False)
        self._folder = folder

    def add(self, record: Record) -> bool:
        """Keep a record. False if the disk will not."""
        return try_to_replace(self._path(record.id), record.model_dump_json().encode())

    def records(self) -> list[Record]:
        """What is kept, the newest first; damaged files are left out."""
        names = (path.stem for path in self._folder.glob("*.json"))
        found = (self._read(name) for name in names if _RECORD.fullmatch(name))
        kept = (record for record in found if record is not None)
        return sorted(kept, key=lambda record: record.date, reverse=True)

    def keep_picture(self, record: str, png: bytes) -> bool:
        """Keep a picture with a record. False if the disk will not, or the record is gone."""
        if not self._path(record).exists():
            return False
        try:
            create(self._picture(record), png)
        except FileExistsError:
            return True
        except OSError:
            return False
        return True

    def picture(self, record: str) -> Path | None:
        """The picture that is kept with a record, if any."""
        path = self._picture(record)
        return path if path.is_file() else None

    def find_by_file(self, digest: str, *, model: str, version: str) -> Record | None:
        """The newest answer of a model's version to the file with this SHA-256, if any."""
        for path in sorted(self._folder.glob("*.json"), reverse=True):
            if not _RECORD.fullmatch(path.stem) or not _holds(path, digest):
                continue
            record = self._read(path.stem)
            if record is not None and (record.file_digest, record.model, record.version) == (digest, model, version):
                return record
        return None

    def keep_name(self, record: str, name: KeptName) -> bool:
        """Keep with a record whose picture it was. False if the disk will not, or the record is gone."""
        return self._path(record).exists() and try_to_replace(self._name(record), name.model_dump_json().encode())

    def name(self, record: str) -> KeptName | None:
        """Whose picture it was, if that is kept."""
        try:
            return KeptName.model_validate_json(self._name(record).read_bytes())
        except (OSError, ValidationError):
            return None

    def forget_name(self, record: str) -> None:
        """Keep the answer without whose it is."""
        self._name(record).unlink(missing_ok=True)

    def delete(self, record: str) -> None:
        """Forget a record, its picture and its name."""
        for path in (self._name(record), self._picture(record), self._path(record)):
            path.unlink(missing_ok=True)

    def delete_all(self) -> None:
        """Forget everything: damaged files too, and what was being written when a page crashed."""
        for path in self._folder.iterdir():
            if path.suffix in (".json", ".png") or path.name.startswith(INCOMING):
                path.unlink(missing_ok=True)

    def _read(self, record: str) -> Record | None:
        path = self._path(record)
        try:
            if path.stat().st_size > _MAX_BYTES:
                return None
            return Record.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def _path(self, record: str) -> Path:
        return self._folder / f"{_check_record_id(record)}.json"

    def _name(self, record: str) -> Path:
        return self._folder / f"{_check_record_id(record)}.name.json"

    def _picture(self, record: str) -> Path:
        return self._folder / f"{_check_record_id(record)}.png"


def _holds(path: Path, digest: str) -> bool:
    """Whether a record may be of this file: cheaper than to read it as one."""
    try:
        return path.stat().st_size <= _MAX_BYTES and digest.encode() in path.read_bytes()
    except OSError:
        return False


def is_record_id(text: str) -> bool:
    """Whether a text, say of a request, can be the name of a record."""
    return _RECORD.fullmatch(text) is not None


def _check_record_id(record: str) -> str:
    if not is_record_id(record):
        raise ValueError("not the name of a record")
    return record
