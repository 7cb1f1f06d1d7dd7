"""Padding is left out of the range from which a picture without a window is stretched."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from contract.model_card import Window
from imaging.reading import read_for_viewing, read_image
from tests.imaging.samples import data_set, dicom_bytes, specification

PICTURE = np.linspace(1000, 3000, 16 * 24).round().astype(np.int32).reshape(16, 24)
PADDED = np.zeros(PICTURE.shape, bool)
PADDED[:, :5] = True


def stretched() -> NDArray[np.float64]:
    within = PICTURE[~PADDED]
    return np.asarray((PICTURE - within.min()) / (within.max() - within.min()))


def save(folder: Path, made: Dataset) -> Path:
    path = folder / "image"
    path.write_bytes(dicom_bytes(made))
    return path


def with_padding(value: int, *, signed: bool = False, **tags: object) -> Dataset:
    made = data_set(np.where(PADDED, value, PICTURE), bits=16, changes=tags)
    made.PixelRepresentation = int(signed)
    return made


@pytest.mark.parametrize(
    ("value", "kind", "tag", "limit", "signed"),
    [
        (0, "US", 0, None, False),
        (65535, "US", 65535, None, False),
        (-2000, "SS", -2000, None, True),
        (-2000, "US", 63536, None, True),  # the tag has the other sign
        (40000, "SS", -25536, None, False),
        (10, "US", 0, 20, False),
        (10, "US", 20, 0, False),  # the limits in the other order
        (-1990, "SS", -2000, -1980, True),
        (-1990, "US", 63556, 63536, True),
    ],
)
def test_padding_does_not_count(
    tmp_path: Path, value: int, kind: str, tag: int, limit: int | None, *, signed: bool
) -> None:
    made = with_padding(value, signed=signed, PixelPaddingValue=tag)
    made["PixelPaddingValue"].VR = kind
    if limit is not None:
        made.PixelPaddingRangeLimit = limit
        made["PixelPaddingRangeLimit"].VR = kind
    pixels = read_image(save(tmp_path, made), specification()).pixels
    np.testing.assert_allclose(pixels[~PADDED], stretched()[~PADDED], atol=1e-6)
    assert set(pixels[PADDED].tolist()) == {0.0 if value < 1000 else 1.0}


def test_padding_is_told_by_stored_values_whatever_the_rescale(tmp_path: Path) -> None:
    made = with_padding(0, PixelPaddingValue=0, RescaleSlope=-2, RescaleIntercept=500)
    pixels = read_image(save(tmp_path, made), specification()).pixels
    np.testing.assert_allclose(pixels[~PADDED], 1 - stretched()[~PADDED], atol=1e-6)


def test_monochrome1_is_inverted_after_the_stretch(tmp_path: Path) -> None:
    made = with_padding(65535, PixelPaddingValue=65535, PhotometricInterpretation="MONOCHROME1")
    pixels = read_image(save(tmp_path, made), specification()).pixels
    np.testing.assert_allclose(pixels[~PADDED], 1 - stretched()[~PADDED], atol=1e-6)
    assert not pixels[PADDED].any()


def test_a_picture_that_is_all_padding_is_stretched_all_the_same(tmp_path: Path) -> None:
    made = with_padding(0, PixelPaddingValue=0, PixelPaddingRangeLimit=65535)
    pixels = read_image(save(tmp_path, made), specification()).pixels
    assert (pixels.min(), pixels.max()) == (0, 1)


def test_a_window_is_not_changed_by_padding(tmp_path: Path) -> None:
    made = with_padding(0, PixelPaddingValue=0, WindowCenter=2000, WindowWidth=2000)
    plain = with_padding(0, WindowCenter=2000, WindowWidth=2000)
    card = specification(window=Window(center=2000, width=500))
    for asked in (specification(), card):
        with_tag, without = (read_image(save(tmp_path, each), asked).pixels for each in (made, plain))
        np.testing.assert_array_equal(with_tag, without)


def test_people_begin_with_the_range_of_the_picture(tmp_path: Path) -> None:
    _, viewing = read_for_viewing(save(tmp_path, with_padding(0, PixelPaddingValue=0)), specification())
    within = PICTURE[~PADDED]
    assert viewing.window.center - viewing.window.width / 2 == pytest.approx(within.min())
    assert viewing.window.center + viewing.window.width / 2 == pytest.approx(within.max())
