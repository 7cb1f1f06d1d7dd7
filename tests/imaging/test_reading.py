"""Files that read: the same picture gives the same tensor whatever it is stored in."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from contract.model_card import Window
from imaging.reading import read_image, read_model_input
from tests.imaging.samples import data_set, dicom_bytes, picture, png_bytes, specification


def save(folder: Path, content: bytes) -> Path:
    path = folder / "image"
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@settings(max_examples=25)
@given(rows=st.integers(2, 40), columns=st.integers(2, 40), seed=st.integers(0, 99))
def test_png_and_both_photometric_interpretations_agree(folder: Path, rows: int, columns: int, seed: int) -> None:
    values = picture(rows=rows, columns=columns, seed=seed)
    bright = data_set(values)
    dark = data_set(255 - values, PhotometricInterpretation="MONOCHROME1", WindowCenter=128, WindowWidth=256)
    png, mono2, mono1 = (
        read_model_input(save(folder, content), specification()).tensor
        for content in (png_bytes(values.astype(np.uint8)), dicom_bytes(bright), dicom_bytes(dark))
    )
    np.testing.assert_allclose(mono2, png, atol=1e-5)
    np.testing.assert_allclose(mono1, png, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_grey_pngs_of_every_kind_agree(folder: Path, mode: str) -> None:
    values = picture().astype(np.uint8)
    image = read_image(save(folder, png_bytes(values, mode=mode)), specification())
    np.testing.assert_array_equal(image.pixels, values.astype(np.float32) / np.float32(255))
    assert (image.format, image.modality, image.original_size) == ("PNG", None, (24, 32))
    assert [warning.code for warning in image.warnings] == ["polarity-unknown", "modality-unknown"]


def test_16_bit_png(folder: Path) -> None:
    values = picture(bits=16)
    image = read_image(save(folder, png_bytes(values)), specification())
    np.testing.assert_allclose(image.pixels, values / 65535, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_jpeg(folder: Path, mode: str) -> None:
    target = io.BytesIO()
    original = Image.linear_gradient("L").resize((50, 40))
    original.convert(mode).save(target, "JPEG", quality=70)
    image = read_image(save(folder, target.getvalue()), specification())
    assert image.format == "JPEG"
    assert np.abs(image.pixels - np.asarray(original) / 255).max() < 0.03


def test_exif_rotation_is_applied(folder: Path) -> None:
    target, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    Image.new("L", (30, 20)).save(target, "JPEG", exif=exif)
    assert read_image(save(folder, target.getvalue()), specification()).original_size == (30, 20)


def test_transparency_is_ignored_with_a_warning(folder: Path) -> None:
    values = np.dstack([picture().astype(np.uint8)] * 4)
    image = read_image(save(folder, png_bytes(values)), specification())
    assert "transparency" in [warning.code for warning in image.warnings]


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (8, True), (10, False), (12, True), (16, False), (16, True)])
def test_every_depth_and_sign_spans_its_own_range(folder: Path, bits: int, signed: bool) -> None:
    values = picture(bits=bits).astype(np.int32)
    stored = values - (1 << (bits - 1)) if signed else values
    image = read_image(save(folder, dicom_bytes(data_set(stored, bits=bits))), specification())
    np.testing.assert_allclose(image.pixels, values / ((1 << bits) - 1), atol=1e-6)


def test_overlays_in_unused_bits_do_not_show(folder: Path) -> None:
    values = picture(bits=12)
    dirty = values | (np.random.default_rng(1).integers(0, 16, values.shape).astype(np.uint16) << 12)
    made = data_set(values, bits=12, PixelData=dirty.astype("<u2").tobytes())
    image = read_image(save(folder, dicom_bytes(made)), specification())
    np.testing.assert_allclose(image.pixels, values / 4095, atol=1e-6)


def test_run_length_encoding(folder: Path) -> None:
    values = picture(bits=12)
    made = data_set(values, bits=12)
    made.compress(RLELossless)
    image = read_image(save(folder, dicom_bytes(made)), specification())
    np.testing.assert_allclose(image.pixels, values / 4095, atol=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_windows_agree_with_pydicom(folder: Path, function: str, rescaled: bool) -> None:
    made = data_set(picture(bits=12), bits=12, WindowCenter=[900, 5], WindowWidth=[1500, 5], VOILUTFunction=function)
    if rescaled:
        made.RescaleSlope, made.RescaleIntercept = 0.5, -100
    shown = apply_windowing(apply_modality_lut(made.pixel_array, made), made).astype(np.float64)
    low, high = (-100.0, -100 + 0.5 * 4095) if rescaled else (0.0, 4095.0)
    image = read_image(save(folder, dicom_bytes(made)), specification())
    np.testing.assert_allclose(image.pixels, (shown - low) / (high - low), atol=1 / 4095)


def table(values: list[int], *, first: int, bits: int) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.LUTData = values
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
    return Sequence([item])


def test_voi_lookup_table_follows_the_modality_lookup_table(folder: Path) -> None:
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    made = data_set(stored)
    made.ModalityLUTSequence = table([1000 + 2 * value for value in range(256)], first=0, bits=16)
    made.ModalityLUTSequence[0].ModalityLUTType = "US"
    made.VOILUTSequence = table(list(range(0, 1024, 8)), first=1100, bits=10)  # 128 entries: 1100 to 1227
    image = read_image(save(folder, dicom_bytes(made)), specification())
    expected = np.clip(1000 + 2 * stored.astype(int) - 1100, 0, 127) * 8 / 1023
    np.testing.assert_allclose(image.pixels, expected, atol=1e-6)


def test_the_cards_window_serves_files_without_one(folder: Path) -> None:
    made = data_set(picture(bits=12), bits=12)
    image = read_image(save(folder, dicom_bytes(made)), specification(window=Window(center=1000, width=800)))
    np.testing.assert_allclose(image.pixels, np.clip((made.pixel_array - 600.0) / 800, 0, 1), atol=1e-6)


@pytest.mark.parametrize(("center", "width"), [(10, 0), (10, -5), ("nan", 10), (10, "inf"), (10, 0.5)])
def test_an_absurd_window_is_ignored_with_a_warning(folder: Path, center: object, width: object) -> None:
    values = picture()
    content = dicom_bytes(data_set(values, WindowCenter="1234", WindowWidth="7777"))
    for old, new in ((b"DS\x04\x001234", center), (b"DS\x04\x007777", width)):
        assert content.count(old) == 1
        content = content.replace(old, old[:4] + str(new).encode().ljust(4))
    image = read_image(save(folder, content), specification())
    assert [warning.code for warning in image.warnings] == ["bad-window"]
    np.testing.assert_allclose(image.pixels, values / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("tags", "code", "needs_confirmation"),
    [
        ({"Modality": "CT"}, "wrong-modality", True),
        ({"Modality": None}, "modality-unknown", True),
        ({"BodyPartExamined": "KNEE"}, "wrong-body-part", True),
        ({"BodyPartExamined": None}, "body-part-unknown", False),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for-processing", True),
        ({"PixelData": bytes(24 * 32)}, "blank", True),
    ],
)
def test_doubtful_files_read_with_a_warning(
    folder: Path, tags: dict[str, object], code: str, needs_confirmation: bool
) -> None:
    image = read_image(save(folder, dicom_bytes(data_set(picture(), changes=tags))), specification())
    assert [warning.code for warning in image.warnings] == [code]
    assert image.needs_confirmation is needs_confirmation
    assert all("\n" not in warning.text for warning in image.warnings)


def test_a_suitable_file_has_no_warnings_and_shows_nothing_private(folder: Path) -> None:
    result = read_model_input(save(folder, dicom_bytes(data_set(picture()))), specification())
    assert result.warnings == ()
    assert (result.format, result.modality, result.body_part) == ("DICOM", "DX", "CHEST")
    assert "Secret" not in repr(result)
    assert "array" not in repr(result)


def test_hostile_code_strings_are_not_repeated(folder: Path) -> None:
    content = dicom_bytes(data_set(picture(), BodyPartExamined="CHEST")).replace(b"CHEST ", b"\x1b[2J<>")
    assert read_image(save(folder, content), specification()).body_part == "UNREADABLE"


def test_a_window_may_lie_where_no_cards_does(tmp_path: Path) -> None:
    """As in nuclear medicine, whose values count decays."""
    stored = picture()
    tags: dict[str, object] = {"RescaleSlope": 100_000, "RescaleIntercept": 0}
    tags |= {"WindowCenter": 12_000_000, "WindowWidth": 24_000_000}
    path = tmp_path / "counts.dcm"
    path.write_bytes(dicom_bytes(data_set(stored, changes=tags)))
    shown = (stored * 1e5 - 11_999_999.5) / 23_999_999 + 0.5
    np.testing.assert_allclose(read_image(path, specification()).pixels, shown.clip(0, 1), atol=1e-6)
