"""Ages: how files give them, and what is said of a patient for whom a model was not made."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom import Dataset

from contract.model_card import AgeRange
from imaging.dicom.patient import read_years
from imaging.reading import ModelInput, read_model_input
from tests.imaging.samples import data_set, dicom_bytes, picture, png_bytes, specification

pytestmark = pytest.mark.usefixtures("in_process")

CHILDREN = AgeRange(youngest=1, oldest=5)


def years(*, age: str | None = None, born: str | None = None, study: str | None = None) -> set[int]:
    told = Dataset()
    for keyword, value in (("PatientAge", age), ("PatientBirthDate", born), ("StudyDate", study)):
        if value is not None:
            told.add_new(keyword, "LO", value)
    return set(read_years(told))


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        ("004Y", {4}),
        ("018M", {1}),
        ("011M", {0}),
        ("012M", {1}),
        ("104W", {1}),
        ("105W", {2}),
        ("364D", {0}),
        ("366D", {1}),
        ("62", {62}),
        ("22y", {22}),
        ("000Y", {0}),
        ("999Y", set()),
        ("", set()),
        ("Y", set()),
        ("-4Y", set()),
        ("0004Y", set()),
        ("four", set()),
        ("4 Y", set()),
        ("\u0664Y", set()),
    ],
)
def test_age_strings(age: str, expected: set[int]) -> None:
    assert years(age=age) == expected


@pytest.mark.parametrize(
    ("born", "study", "expected"),
    [
        ("20200615", "20260615", {6}),
        ("20200615", "20260614", {5}),
        ("20200229", "20210228", {0}),
        ("20200229", "20210301", {1}),
        ("2020.06.15", "2026.06.16", {6}),
        ("20260615", "20200615", set()),  # born after the study
        ("18000101", "20260101", set()),
        ("20201332", "20260101", set()),
        ("20200615", "", set()),
        ("", "20260615", set()),
        ("20200615", None, set()),
    ],
)
def test_dates_of_birth_and_study(born: str, study: str | None, expected: set[int]) -> None:
    assert years(born=born, study=study) == expected


def test_a_file_that_contradicts_itself_gives_both_ages() -> None:
    assert years(age="004Y", born="19600101", study="20260101") == {4, 66}


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_whatever_a_file_says_is_an_age_or_none(age: str, born: str, study: str) -> None:
    told = Dataset()
    for keyword, value in (("PatientAge", age), ("PatientBirthDate", born), ("StudyDate", study)):
        told.add_new(keyword, "LO", value)
    assert all(0 <= one < 130 for one in read_years(told))


@pytest.mark.parametrize(
    ("tags", "code", "asks"),
    [
        ({"PatientAge": "001Y"}, None, False),
        ({"PatientAge": "005Y"}, None, False),
        ({"PatientAge": "006Y"}, "wrong-age", True),
        ({"PatientAge": "011M"}, "wrong-age", True),
        ({"PatientAge": None}, "age-unknown", False),
        ({"PatientAge": None, "PatientBirthDate": "20230101", "StudyDate": "20260101"}, None, False),
        ({"PatientAge": None, "PatientBirthDate": "19600101", "StudyDate": "20260101"}, "wrong-age", True),
        ({"PatientBirthDate": "19600101", "StudyDate": "20260101"}, "wrong-age", True),
    ],
)
def test_a_patient_for_whom_the_model_was_not_made(
    tmp_path: Path, tags: dict[str, object], code: str | None, *, asks: bool
) -> None:
    image = read(tmp_path, dicom_bytes(data_set(picture(), changes=tags)), CHILDREN)
    assert [warning.code for warning in image.warnings] == ([] if code is None else [code])
    assert image.needs_confirmation is asks


def test_the_age_itself_is_repeated_nowhere(tmp_path: Path) -> None:
    image = read(tmp_path, dicom_bytes(data_set(picture(), PatientAge="077Y")), CHILDREN)
    (warning,) = image.warnings
    assert "older" in warning.text
    assert "1 to 5 years" in warning.text
    assert "77" not in warning.text + repr(image)


def test_without_ages_on_the_card_nobody_asks(tmp_path: Path) -> None:
    assert read(tmp_path, dicom_bytes(data_set(picture(), PatientAge="077Y")), None).warnings == ()


def test_a_picture_that_names_nothing_reminds_of_the_ages(tmp_path: Path) -> None:
    warnings = {one.code: one.text for one in read(tmp_path, png_bytes(picture().astype("uint8")), CHILDREN).warnings}
    assert "1 to 5 years" in warnings["modality-unknown"]


@pytest.mark.parametrize("ages", [(5, 1), (-1, 5), (0, 130)])
def test_a_range_that_cannot_be(ages: tuple[int, int]) -> None:
    with pytest.raises(ValidationError):
        AgeRange(youngest=ages[0], oldest=ages[1])


def read(folder: Path, content: bytes, ages: AgeRange | None) -> ModelInput:
    path = folder / "image"
    path.write_bytes(content)
    return read_model_input(path, specification(ages=ages))
