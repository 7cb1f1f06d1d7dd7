"""Who the patient is, as a DICOM file says: read for the page, in memory while names are shown, and never sent.

Only the history keeps it, where the clinician asks for that (`history.KeptName`).
"""

import hashlib
import hmac
from dataclasses import dataclass, fields
from pathlib import Path

from contract.errors import ImageError
from imaging.reading import read_patient_words

_LONGEST = 80


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What is shown. Empty if the file does not say."""

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

    def make_code(self, key: bytes) -> bytes | None:
        """A code by which two files of one patient are known as such, under a key of this process; None for nobody."""
        who = (self.name, self.identifier, self.born)
        return hmac.digest(key, "\n".join(who).encode(), hashlib.sha256) if any(who) else None


def read_patient(path: Path) -> Patient | None:
    """The patient that a file names; None for a file that names none, and for one that cannot be read."""
    try:
        told = read_patient_words(path)
    except ImageError:
        return None
    patient = Patient(
        name=_clean_text(told.name),
        identifier=_clean_text(told.identifier),
        born=_format_date(_clean_text(told.born)),
        study=_format_date(_clean_text(told.study)),
        accession=_clean_text(told.accession),
        age=_format_age(told.years),
    )
    return patient if any(getattr(patient, each.name) for each in fields(patient)) else None


def _clean_text(told: str) -> str:
    """One value, of printable characters; a name without the separators of its parts."""
    words = told.replace("^", " ").replace("=", " ").split()
    return "".join(character for character in " ".join(words) if character.isprintable())[:_LONGEST]


def _format_age(years: frozenset[int]) -> str:
    """In words; if the file contradicts itself, both."""
    words = [f"{number} year{'' if number == 1 else 's'}" if number else "under 1 year" for number in sorted(years)]
    return " or ".join(words)


def _format_date(text: str) -> str:
    """20260131 as 2026-01-31."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else text
