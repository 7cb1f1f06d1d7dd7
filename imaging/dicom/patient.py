"""Who the patient is, and the age, as a DICOM file says.

Names are for the page, which shows them if the clinician asks for that. The age is read only for a model that names the
ages it was made for.
"""

import io
import re
from datetime import date
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from imaging.dicom.syntax import open_dicom
from imaging.dicom.tags import read_texts
from imaging.formats import MAX_LINE, MOST_YEARS, FileFormat, guard_library, sniff
from imaging.isolation.messages import PatientWords

AGE_TAGS: Final = ("PatientAge", "PatientBirthDate", "StudyDate")

_IN_A_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


def read_years(tags: Dataset) -> frozenset[int]:
    """The patient's age in completed years, by PatientAge and by birth and study dates.

    None, one, or two if the file contradicts itself. What cannot be an age is as good as absent; an age without a
    unit, which some archives write, is one in years.
    """
    ages = (_parse_age(_read_text(tags, "PatientAge")), _subtract_dates(tags))
    return frozenset(age for age in ages if age is not None and 0 <= age < MOST_YEARS)


def _read_text(tags: Dataset, keyword: str) -> str:
    return next(iter(read_texts(tags, keyword)), "")


def _parse_age(text: str) -> int | None:
    """An age string (PS3.5 AS) such as 018M."""
    found = re.fullmatch(r"([0-9]{1,3})([DWMY]?)", text.strip().upper())
    return None if found is None else int(int(found[1]) / _IN_A_YEAR[found[2] or "Y"])


def _subtract_dates(tags: Dataset) -> int | None:
    born, study = (_parse_date(_read_text(tags, name)) for name in ("PatientBirthDate", "StudyDate"))
    if born is None or study is None:
        return None
    return study.year - born.year - ((study.month, study.day) < (born.month, born.day))


def _parse_date(text: str) -> date | None:
    """A date (PS3.5 DA), with or without the full stops of files from before 1993."""
    found = re.fullmatch(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})", text.strip())
    try:
        return None if found is None else date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return None


_TAGS: Final = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber")
_WHOLE_TAGS: Final = sorted({*_TAGS, *AGE_TAGS})


def read_patient_words(source: io.BytesIO) -> PatientWords:
    """What the file says; nothing of one that is not DICOM, or is deflated. Raises ImageError for a damaged one."""
    if sniff(source) is not FileFormat.DICOM:
        return PatientWords()
    with guard_library("the DICOM file"):
        file = open_dicom(source)
        if file.transfer_syntax == DeflatedExplicitVRLittleEndian:
            return PatientWords()  # all of it would have to be inflated first
        header = dcmread(file.beginning(), stop_before_pixels=True, specific_tags=_WHOLE_TAGS)
        name, identifier, born, study, accession = (str(header.get(tag) or "")[:MAX_LINE] for tag in _TAGS)
        return PatientWords(
            name=name,
            identifier=identifier,
            born=born,
            study=study,
            accession=accession,
            years=read_years(header),
        )
