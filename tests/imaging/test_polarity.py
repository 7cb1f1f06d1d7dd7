"""Which values are bright: told by the file, by a person who has looked, or asked."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.model_card import FrameChoice
from imaging.formats import DecodedFile, FileFormat, ImageWarning, Polarity, PolaritySource
from imaging.polarity import INVERTED, POLARITY_CONTRADICTS, POLARITY_UNKNOWN, TAKEN_AS_IT_IS, settle
from imaging.reading import Radiograph, read_for_viewing, read_image, read_model_input
from tests.imaging.samples import data_set, dicom_bytes, nifti_bytes, picture, specification, volume

GREY = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)


def decoded(told_by: PolaritySource) -> DecodedFile:
    return DecodedFile(pixels=GREY, encoding="grey", polarity=told_by)


@pytest.mark.parametrize(
    ("told_by", "polarity", "code", "asks"),
    [
        (PolaritySource.FILE, None, None, False),
        (PolaritySource.FILE, Polarity.AS_READ, None, False),
        (PolaritySource.FILE, Polarity.INVERTED, INVERTED, False),
        (PolaritySource.NOBODY, None, POLARITY_UNKNOWN, True),
        (PolaritySource.NOBODY, Polarity.AS_READ, TAKEN_AS_IT_IS, False),
        (PolaritySource.NOBODY, Polarity.INVERTED, INVERTED, False),
        (PolaritySource.CONTRADICTION, None, POLARITY_CONTRADICTS, True),
        (PolaritySource.CONTRADICTION, Polarity.AS_READ, TAKEN_AS_IT_IS, False),
        (PolaritySource.CONTRADICTION, Polarity.INVERTED, INVERTED, False),
    ],
)
def test_it_is_asked_where_nobody_says_and_what_a_person_said_stays(
    told_by: PolaritySource, polarity: Polarity | None, code: str | None, *, asks: bool
) -> None:
    image = settle(decoded(told_by), FileFormat.PNG, polarity)
    assert [(one.code, one.needs_confirmation) for one in image.warnings] == ([(code, asks)] if code else [])
    np.testing.assert_array_equal(image.pixels, 1 - GREY if polarity is Polarity.INVERTED else GREY)
    assert image.polarity is told_by


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 100, "WindowWidth": 120}])
def test_an_inverted_dicom_is_the_other_photometric_interpretation(tmp_path: Path, window: dict[str, object]) -> None:
    paths = {}
    for name in ("MONOCHROME1", "MONOCHROME2"):
        paths[name] = tmp_path / name
        paths[name].write_bytes(dicom_bytes(data_set(picture(), changes=window, PhotometricInterpretation=name)))
    inverted = read_model_input(paths["MONOCHROME1"], specification(), polarity=Polarity.INVERTED)
    plain = read_model_input(paths["MONOCHROME2"], specification())
    np.testing.assert_allclose(inverted.tensor, plain.tensor, atol=1e-6)
    np.testing.assert_array_equal(inverted.picture, plain.picture)
    looks = [read_for_viewing(paths["MONOCHROME2"], specification(), polarity=one)[1] for one in (None, *Polarity)]
    assert [look.inverted for look in looks] == [False, False, True]
    assert not inverted.asks_polarity


def questions(image: Radiograph) -> list[ImageWarning]:
    return [one for one in image.warnings if one.needs_confirmation]


def raster(folder: Path, values: np.ndarray, kind: str) -> Path:
    target = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(target, kind, **({"quality": 100} if kind == "JPEG" else {}))
    path = folder / kind
    path.write_bytes(target.getvalue())
    return path


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_png_or_jpeg_asks_and_either_answer_settles_it(tmp_path: Path, kind: str) -> None:
    path = raster(tmp_path, picture(), kind)
    asked = read_image(path, specification())
    assert asked.asks_polarity
    assert asked.needs_confirmation
    assert asked.polarity_told_by is PolaritySource.NOBODY
    (question,) = questions(asked)
    assert question.text == f"{kind} files do not say whether the picture is a negative"
    for polarity, words in (
        (Polarity.AS_READ, f"{question.text}; it was taken as it is"),
        (Polarity.INVERTED, "bright and dark were exchanged, as you asked"),
    ):
        answered = read_image(path, specification(), polarity=polarity)
        assert not answered.needs_confirmation
        assert words in [one.text for one in answered.warnings]
        expected = asked.pixels if polarity is Polarity.AS_READ else 1 - asked.pixels
        np.testing.assert_array_equal(answered.pixels, expected)


def test_a_tiff_tells_by_its_photometric_interpretation_unless_it_is_in_colours(tmp_path: Path) -> None:
    assert not read_image(raster(tmp_path, picture(), "TIFF"), specification()).asks_polarity
    grey_as_colours = np.dstack([picture()] * 3)
    (question,) = questions(read_image(raster(tmp_path, grey_as_colours, "TIFF"), specification()))
    assert question.text == "the file does not say whether the picture is a negative"


@pytest.mark.parametrize(("slices", "asks"), [(1, True), (2, False)])
def test_a_volume_is_measured_and_a_single_plane_may_be_anything(tmp_path: Path, slices: int, *, asks: bool) -> None:
    path = tmp_path / "volume.nii"
    path.write_bytes(nifti_bytes(volume(shape=(6, 5, slices))))
    assert read_image(path, specification(frame=FrameChoice.MIDDLE)).asks_polarity is asks
