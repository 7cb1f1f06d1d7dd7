"""Who the patient is, as a DICOM file says: read for the page, in memory while names are shown, and never sent.

Only the history keeps it, where the clinician asks for that (`history.KeptName`).
"""

import hashlib
import hmac
from dataclasses import dataclass, fields
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from contract.errors import ImageError
from imaging import Limits
from imaging.dicom.patient_age import AGE_TAGS, completed_years
from imaging.dicom.syntax import open_dicom
from imaging.formats import FileFormat, open_bounded, sniff, third_party_reader

_TAGS: dict[str, str] = {
    "name": "PatientName",
    "identifier": "PatientID",
    "born": "PatientBirthDate",
    "study": "StudyDate",
    "accession": "AccessionNumber",
}
_WHOLE_TAGS = sorted({*_TAGS.values(), *AGE_TAGS})
_LONGEST = 80


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What is shown. Empty where the file does not say."""

    name: str
    identifier: str
    born: str
    study: str
    accession: str
    """By which the archive calls the study."""
    age: str
    """At the study."""

    def __repr__(self) -> str:
        """Nothing of the patient."""
        return "Patient()"

    def told_apart(self, key: bytes) -> bytes | None:
        """A code by which two files of one patient are known as such, under a key of this process; None for nobody."""
        who = (self.name, self.identifier, self.born)
        return hmac.digest(key, "\n".join(who).encode(), hashlib.sha256) if any(who) else None


def read_patient(path: Path) -> Patient | None:
    """The patient that a file names; None for a file that names none, and for one that cannot be read."""
    try:
        with open_bounded(path, Limits()) as source, third_party_reader("the DICOM file"):
            if sniff(source) is not FileFormat.DICOM:
                return None
            file = open_dicom(source)
            if file.transfer_syntax == DeflatedExplicitVRLittleEndian:
                return None  # all of it would have to be inflated first
            header = dcmread(file.beginning(), stop_before_pixels=True, specific_tags=_WHOLE_TAGS)
            found = {name: _text(header, tag) for name, tag in _TAGS.items()}
            age = _age(completed_years(header))
    except ImageError:
        return None
    dated = {name: _date(text) if name in ("born", "study") else text for name, text in found.items()}
    patient = Patient(**dated, age=age)
    return patient if any(getattr(patient, each.name) for each in fields(patient)) else None


def _text(header: Dataset, tag: str) -> str:
    """One value, of printable characters; a name without the separators of its parts."""
    words = str(header.get(tag) or "").replace("^", " ").replace("=", " ").split()
    return "".join(character for character in " ".join(words) if character.isprintable())[:_LONGEST]


def _age(years: frozenset[int]) -> str:
    """In words; where the file contradicts itself, both."""
    words = [f"{number} year{'' if number == 1 else 's'}" if number else "under 1 year" for number in sorted(years)]
    return " or ".join(words)


def _date(text: str) -> str:
    """20260131 as 2026-01-31."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else text
