"""The patient's age as a DICOM file tells it: read only for a model that names the ages it was made for."""

import re
from datetime import date
from typing import Final

from pydicom import Dataset

from imaging.dicom.tags import texts
from imaging.formats import MOST_YEARS

AGE_TAGS: Final = ("PatientAge", "PatientBirthDate", "StudyDate")

_IN_A_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


def completed_years(told: Dataset) -> frozenset[int]:
    """The patient's age in completed years, by PatientAge and by birth and study dates.

    None, one, or two where the file contradicts itself. What cannot be an age is as good as absent; an age without a
    unit, which some archives write, is one in years.
    """
    ages = (_by_age(_text(told, "PatientAge")), _by_dates(told))
    return frozenset(age for age in ages if age is not None and 0 <= age < MOST_YEARS)


def _text(told: Dataset, keyword: str) -> str:
    return next(iter(texts(told, keyword)), "")


def _by_age(text: str) -> int | None:
    """An age string (PS3.5 AS) such as 018M."""
    found = re.fullmatch(r"([0-9]{1,3})([DWMY]?)", text.strip().upper())
    return None if found is None else int(int(found[1]) / _IN_A_YEAR[found[2] or "Y"])


def _by_dates(told: Dataset) -> int | None:
    born, study = (_date(_text(told, name)) for name in ("PatientBirthDate", "StudyDate"))
    if born is None or study is None:
        return None
    return study.year - born.year - ((study.month, study.day) < (born.month, born.day))


def _date(text: str) -> date | None:
    """A date (PS3.5 DA), with or without the full stops of files from before 1993."""
    found = re.fullmatch(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})", text.strip())
    try:
        return None if found is None else date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return None
