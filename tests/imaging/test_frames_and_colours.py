"""Files with several pictures, and pictures in colours: what the card asks for is read."""

import gzip
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from contract.errors import ImageError
from contract.model_card import ColourChoice, FrameChoice, Window
from imaging.formats import Limits
from imaging.reading import read_image
from tests.imaging.samples import (
    colour_data_set,
    colour_picture,
    data_set,
    dicom_bytes,
    nifti_bytes,
    palette_data_set,
    picture,
    png_bytes,
    specification,
    tiff_bytes,
    volume,
)

LUMINANCE = specification(colour=ColourChoice.LUMINANCE)


def save(folder: Path, content: bytes) -> Path:
    path = folder / "image"
    path.write_bytes(content)
    return path


def brightness(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """ITU-R BT.601, in [0, 1]."""
    return np.asarray(colours @ np.array([0.299, 0.587, 0.114]) / 255)


def frames(count: int = 5) -> list[NDArray[np.uint16]]:
    return [picture(bits=12, seed=seed) for seed in range(count)]


def multi_frame(pictures: list[NDArray[np.uint16]], **tags: object) -> Dataset:
    made = data_set(pictures[0], bits=12, changes=dict(tags))
    made.NumberOfFrames = len(pictures)
    made.PixelData = b"".join(values.astype("<i2").tobytes() for values in pictures)
    return made


@pytest.mark.parametrize(("choice", "index"), [(FrameChoice.FIRST, 0), (FrameChoice.MIDDLE, 2)])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_chosen_frame_is_read(tmp_path: Path, choice: FrameChoice, index: int, *, compressed: bool) -> None:
    made = multi_frame(frames(), WindowCenter=2048, WindowWidth=4096)
    if compressed:
        made.compress(RLELossless)
    image = read_image(save(tmp_path, dicom_bytes(made)), specification(frame=choice))
    np.testing.assert_allclose(image.pixels, frames()[index] / 4095, atol=1e-6)
    assert (image.frame, image.frames) == (index + 1, 5)


def group(center: float, slope: float) -> Dataset:
    """Functional groups of an enhanced file: a window, and a rescale."""
    window, rescale, made = Dataset(), Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, 1000, "LINEAR_EXACT"
    rescale.RescaleSlope, rescale.RescaleIntercept = slope, 100
    made.FrameVOILUTSequence = Sequence([window])
    made.PixelValueTransformationSequence = Sequence([rescale])
    return made


def test_each_frame_has_its_own_window_and_rescale(tmp_path: Path) -> None:
    made = multi_frame(frames(3), WindowCenter=9, WindowWidth=9)
    made.SharedFunctionalGroupsSequence = Sequence([group(77, 7)])
    made.PerFrameFunctionalGroupsSequence = Sequence([group(600 + number, 1 + number) for number in range(3)])
    image = read_image(save(tmp_path, dicom_bytes(made)), specification(frame=FrameChoice.MIDDLE))
    expected = np.clip((frames(3)[1] * 2.0 + 100 - 101) / 1000, 0, 1)
    np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
    made.PerFrameFunctionalGroupsSequence = Sequence([Dataset() for _ in range(3)])
    shared = read_image(save(tmp_path, dicom_bytes(made)), specification(frame=FrameChoice.MIDDLE))
    np.testing.assert_allclose(shared.pixels, np.clip((frames(3)[1] * 7.0 + 523) / 1000, 0, 1), atol=1e-6)


def test_a_file_that_promises_frames_is_refused_before_they_take_memory(tmp_path: Path) -> None:
    made = multi_frame(frames(2))
    made.NumberOfFrames = 1 << 29
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_image(save(tmp_path, dicom_bytes(made)), specification(frame=FrameChoice.MIDDLE))


@pytest.mark.parametrize("kind", ["interleaved", "by plane", "compressed", "palette", "PNG", "TIFF"])
def test_brightness_of_colours(tmp_path: Path, kind: str) -> None:
    colours = colour_picture()
    made = colour_data_set(colours)
    if kind == "by plane":
        made.PlanarConfiguration = 1
        made.PixelData = np.ascontiguousarray(colours.transpose(2, 0, 1)).tobytes()
    if kind == "compressed":
        made.compress(RLELossless)
    if kind == "palette":
        palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint16)
        made = palette_data_set(colours[..., 0], (palette << 8).astype(np.uint16))
        colours = palette[colours[..., 0]].astype(np.uint8)
    content = {"PNG": lambda: png_bytes(colours), "TIFF": lambda: tiff_bytes([colours])}
    image = read_image(save(tmp_path, content.get(kind, lambda: dicom_bytes(made))()), LUMINANCE)
    np.testing.assert_allclose(image.pixels, brightness(colours), atol=1 / 255)
    assert "colour" in [warning.code for warning in image.warnings]


def test_colours_that_are_all_grey_are_grey(tmp_path: Path) -> None:
    values = picture().astype(np.uint8)
    made = colour_data_set(np.dstack([values] * 3))
    image = read_image(save(tmp_path, dicom_bytes(made)), specification())
    np.testing.assert_allclose(image.pixels, values / 255, atol=1e-6)
    assert image.warnings == ()


@pytest.mark.parametrize(("choice", "index"), [(FrameChoice.FIRST, 0), (FrameChoice.MIDDLE, 1)])
def test_pages_of_a_tiff(tmp_path: Path, choice: FrameChoice, index: int) -> None:
    pages = [picture(bits=16, seed=seed) for seed in range(3)]
    image = read_image(save(tmp_path, tiff_bytes(list(pages))), specification(frame=choice))
    np.testing.assert_allclose(image.pixels, pages[index] / 65535, atol=1e-6)
    assert (image.format, image.encoding, image.frame, image.frames) == ("TIFF", "grey, 16 bits", index + 1, 3)


def test_a_compressed_tiff_of_black_and_white(tmp_path: Path) -> None:
    path = tmp_path / "image"
    values = picture() > 100
    Image.fromarray(values).save(path, "TIFF", compression="group4")
    np.testing.assert_array_equal(read_image(path, specification()).pixels, values.astype(np.float32))


ORIENTATIONS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_a_slice_stands_upright_however_the_volume_lies(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    """The same body stored along other axes gives the same picture: that of nibabel's canonical volume."""
    stored = volume()
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[list(order)] * np.array(signs)
    image = read_image(save(tmp_path, nifti_bytes(stored, affine=affine)), specification(frame=FrameChoice.MIDDLE))
    canonical = np.asarray(nibabel.as_closest_canonical(nibabel.Nifti1Image(stored, affine)).dataobj, np.float64)
    middle = canonical.shape[2] // 2
    # Canonical axes grow to the right, the front and above. The front comes first; the right side is on the left.
    expected = canonical[::-1, ::-1, middle].T
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
    assert (image.frame, image.frames) == (middle + 1, canonical.shape[2])


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("zipped", [False, True])
def test_nifti_of_both_versions_zipped_or_not(tmp_path: Path, kind: type[nibabel.Nifti1Image], *, zipped: bool) -> None:
    content = nifti_bytes(volume(shape=(5, 6, 7, 2)), kind=kind)
    card = specification(frame=FrameChoice.FIRST, window=Window(center=0, width=2000))
    image = read_image(save(tmp_path, gzip.compress(content) if zipped else content), card)
    expected = np.clip((volume(shape=(5, 6, 7, 2))[::-1, ::-1, 0, 0].T + 1000) / 2000, 0, 1)
    np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
    assert [warning.code for warning in image.warnings] == ["several-volumes", "modality-unknown"]
    assert image.encoding == f"version {1 if kind is nibabel.Nifti1Image else 2}, int16"


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    content = nifti_bytes(np.zeros((200, 200, 100), np.int16))
    limits = Limits(max_file_bytes=1 << 20)
    assert len(gzip.compress(content)) < 1 << 15
    with pytest.raises(ImageError, match="inflates to more than 1 MiB"):
        read_image(save(tmp_path, gzip.compress(content)), specification(frame=FrameChoice.FIRST), limits=limits)


def test_a_header_that_is_put_right_is_not_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = bytearray(nifti_bytes(volume()[..., 0]))
    content[252:254] = b"\xe2\0"  # a qform_code that the standard does not know
    read_image(save(tmp_path, bytes(content)), specification())
    assert caplog.records == []


def test_values_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    values = np.full((4, 4, 4), np.nan, np.float32)
    with pytest.raises(ImageError, match="not finite"):
        read_image(save(tmp_path, nifti_bytes(values)), specification(frame=FrameChoice.FIRST))
