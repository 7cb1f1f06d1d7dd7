"""Views, orientations and regions that tags name, against what a card takes."""

from pathlib import Path

import pytest

from contract.model_card import View
from imaging.reading import read_image
from tests.imaging.dicom_kinds import coded
from tests.imaging.samples import data_set, dicom_bytes, picture, specification

Codes = list[tuple[str, bool]]


def warned(folder: Path, *, views: tuple[View, ...] = (), **tags: object) -> Codes:
    path = folder / "image"
    path.write_bytes(dicom_bytes(data_set(picture(), changes=tags)))
    image = read_image(path, specification(views=views))
    return [(warning.code, warning.needs_confirmation) for warning in image.warnings]


FITS: Codes = []
WRONG: Codes = [("wrong-view", True)]
UNKNOWN: Codes = [("view-unknown", False)]
CONTRADICTS: Codes = [("view-contradicts", True)]
TURNED: Codes = [("orientation", True)]
AP, PA = View.AP, View.PA


@pytest.mark.parametrize(
    ("tags", "views", "expected"),
    [
        ({"ViewPosition": "AP"}, (AP,), FITS),
        ({"ViewPosition": "PA"}, (AP,), WRONG),
        ({"ViewPosition": "PA"}, (AP, PA), FITS),
        ({"ViewPosition": "LL"}, (AP, PA), WRONG),
        ({"ViewPosition": "LATERAL"}, (AP, PA), WRONG),
        ({"ViewPosition": "LATERAL"}, (View.LEFT_LATERAL, View.RIGHT_LATERAL), FITS),
        ({"ViewPosition": "LLD"}, (AP,), WRONG),
        ({"ViewPosition": "SWIMMERS"}, (AP,), WRONG),
        ({"ViewPosition": "FRONTAL"}, (AP, PA), FITS),
        ({"ViewPosition": "FRONTAL"}, (AP,), UNKNOWN),
        ({}, (AP,), UNKNOWN),
        ({"PatientOrientation": ["L", "F"]}, (AP,), UNKNOWN),
        ({"PatientOrientation": ["L", "F"]}, (AP, PA), FITS),
        ({"PatientOrientation": ["A", "F"]}, (AP,), WRONG),
        ({"PatientOrientation": ["P", "FL"]}, (AP,), WRONG),
        ({"ViewCodeSequence": coded("399348003")}, (AP,), FITS),
        ({"ViewCodeSequence": coded("R-10206")}, (AP,), FITS),
        ({"ViewCodeSequence": coded("272479007")}, (AP,), WRONG),
        ({"ViewCodeSequence": coded("399067008")}, (AP,), WRONG),
        ({"ViewCodeSequence": coded("1")}, (AP,), UNKNOWN),
        ({"ViewPosition": "AP", "ViewCodeSequence": coded("399173006")}, (AP,), CONTRADICTS),
        ({"ViewPosition": "AP", "ViewCodeSequence": coded("272479007")}, (), CONTRADICTS),
        ({"ViewPosition": "AP", "PatientOrientation": ["A", "F"]}, (), CONTRADICTS),
        ({"ViewPosition": "LL", "PatientOrientation": ["L", "F"]}, (View.LEFT_LATERAL,), CONTRADICTS),
        ({"ViewPosition": "LL", "PatientOrientation": ["A", "F"]}, (View.LEFT_LATERAL,), FITS),
        ({"ViewPosition": "AP"}, (), FITS),
        ({"ViewPosition": "LL"}, (), [("view-not-judged", False)]),
    ],
)
def test_a_view_is_judged_by_the_card(
    tmp_path: Path, tags: dict[str, object], views: tuple[View, ...], expected: Codes
) -> None:
    assert warned(tmp_path, views=views, **tags) == expected


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (["L", "F"], FITS),
        (["R", "F"], TURNED),
        (["L", "H"], TURNED),
        (["R", "H"], TURNED),
        (["F", "L"], TURNED),
        (["H", "R"], TURNED),
        (["LF", "FR"], FITS),
        (["L", "P"], TURNED),
        (["L"], [("bad-orientation", False)]),
        (["X", "Y"], [("bad-orientation", False)]),
    ],
)
def test_a_picture_that_is_mirrored_or_turned_is_asked_about_whatever_the_card_names(
    tmp_path: Path, orientation: list[str], expected: Codes
) -> None:
    assert warned(tmp_path, PatientOrientation=orientation) == expected
    with_view = warned(tmp_path, views=(AP,), ViewPosition="AP", PatientOrientation=orientation)
    assert with_view == expected


def test_a_hand_may_lie_as_it_likes(tmp_path: Path) -> None:
    codes = warned(tmp_path, BodyPartExamined="HAND", PatientOrientation=["R", "H"])
    assert codes == [("wrong-body-part", True)]


@pytest.mark.parametrize(
    ("part", "code", "expected"),
    [
        (None, "51185008", []),
        (None, "T-D3000", []),
        (None, "39607008", []),  # the lungs are in the chest
        (None, "818983003", [("wrong-body-part", True)]),
        (None, "T-D4000", [("wrong-body-part", True)]),
        (None, "1", [("body-part-unknown", False)]),
        ("CHEST", "1", []),
        ("CHEST", "51185008", []),
        ("CHEST", "818983003", [("body-part-contradicts", True)]),
        ("ABDOMEN", "51185008", [("body-part-contradicts", True)]),
        ("KNEE", "818983003", [("wrong-body-part", True)]),
    ],
)
def test_the_region_counts_as_much_as_the_body_part(
    tmp_path: Path, part: str | None, code: str, expected: Codes
) -> None:
    assert warned(tmp_path, BodyPartExamined=part, AnatomicRegionSequence=coded(code)) == expected


def test_every_body_part_that_a_file_names_counts(tmp_path: Path) -> None:
    assert warned(tmp_path, BodyPartExamined=["CHEST", "ABDOMEN"]) == [("body-part-contradicts", True)]


def test_no_words_of_the_file_are_repeated_but_codes(tmp_path: Path) -> None:
    made = data_set(
        picture(),
        SeriesDescription="Secret^Name lateral",
        AnatomicRegionSequence=coded("818983003", "Secret^Name"),
        ViewCodeSequence=coded("399173006", "Secret^Name"),
    )
    path = tmp_path / "image"
    path.write_bytes(dicom_bytes(made).replace(b"818983003", b"Secret^Na"))
    image = read_image(path, specification(views=(AP,)))
    assert image.warnings
    assert not any("ecret" in warning.text for warning in image.warnings)
