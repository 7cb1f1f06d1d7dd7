"""Real radiographs and the DICOM files that readers are tried on."""

import ast
import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from contract.errors import ImageError
from contract.model_card import ColourChoice, FrameChoice
from imaging.formats import Polarity
from imaging.reading import read_image
from tests.imaging.samples import specification

pytestmark = pytest.mark.real_data


def rows_of(medical_data: Path, folder: str) -> list[dict[str, str]]:
    with (medical_data / "dicom_nifti_manifest.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["dir"] == folder]


def test_chest_radiographs_read_right(medical_data: Path) -> None:
    rows = rows_of(medical_data, "dicom_chest")
    assert len(rows) >= 3
    for row in rows:
        path = medical_data / "dicom_chest" / row["file"]
        image = read_image(path, specification())
        assert image.original_size == ast.literal_eval(row["shape"])
        assert image.warnings == ()
        values = dcmread(path).pixel_array.astype(np.float64)
        assert abs(values.min() - float(row["pmin"])) <= 1  # decoders of lossy JPEG round differently
        assert abs(values.max() - float(row["pmax"])) <= 1
        agreement = np.corrcoef(values.ravel(), image.pixels.ravel())[0, 1]
        assert agreement * (-1 if row["photometric"] == "MONOCHROME1" else 1) > 0.9
        assert image.pixels[:, image.pixels.shape[1] // 2].mean() > image.pixels.mean()  # the spine is bright


REFUSED = {
    "MR_truncated.dcm": "cut short",
    "no_meta.dcm": "not a PNG, JPEG, TIFF, DICOM or NIfTI file",
    "rtstruct.dcm": "no pixel data",
}
TWELVE_BIT_JPEG = {
    "CTImage.dcm_JPEGProcess10_12TransferSyntax_1.2.840.10008.1.2.4.55.dcm": "CTImage.dcm",
    "CTImage.dcm_JPEGProcess2_4TransferSyntax_1.2.840.10008.1.2.4.51.dcm": "CTImage.dcm",
    "CTImage.dcm_JPEGProcess6_8TransferSyntax_1.2.840.10008.1.2.4.53.dcm": "CTImage.dcm",
    "RG3_JPLY.dcm": "RG3_UNC.dcm",
}
"""Which pydicom does not decode -> the same picture uncompressed."""
ANY_PICTURE = specification(frame=FrameChoice.MIDDLE, colour=ColourChoice.LUMINANCE)


def as_pydicom_shows_it(path: Path) -> NDArray[np.float64]:
    """The middle frame through pydicom's own functions, MONOCHROME1 not inverted, in units of its own."""
    file = dcmread(path)
    values = file.pixel_array
    if int(file.get("NumberOfFrames") or 1) > 1:
        return np.asarray(values[len(values) // 2], np.float64)  # of the two, neither names a window
    if file.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, file)
    if values.ndim == 3:
        return np.asarray(values @ np.array([0.299, 0.587, 0.114]))
    return np.asarray(apply_voi_lut(apply_modality_lut(values, file), file, prefer_lut=True), np.float64)


def test_every_dicom_file_reads_as_pydicom_shows_it_or_is_refused(medical_data: Path) -> None:
    refused = {}
    for row in rows_of(medical_data, "dicom_other"):
        path = medical_data / "dicom_other" / row["file"]
        try:
            image = read_image(path, ANY_PICTURE)
        except ImageError as error:
            refused[row["file"]] = str(error)
            continue
        if row["file"] in TWELVE_BIT_JPEG:
            continue
        expected = as_pydicom_shows_it(path)
        assert image.original_size == expected.shape, path.name
        slope, offset = np.polyfit(expected.ravel()[::17], image.pixels.ravel()[::17], 1)
        assert (slope < 0) == (row["photometric"] == "MONOCHROME1"), path.name
        np.testing.assert_allclose(image.pixels, slope * expected + offset, atol=3e-3, err_msg=path.name)
    assert refused.keys() == REFUSED.keys()
    for name, words in REFUSED.items():
        assert words in refused[name]
        assert "\n" not in refused[name]


@pytest.mark.parametrize(("name", "plain"), TWELVE_BIT_JPEG.items())
def test_jpeg_of_12_bits_is_nearly_the_picture_that_was_compressed(medical_data: Path, name: str, plain: str) -> None:
    image, original = (
        read_image(medical_data / "dicom_other" / each, specification()).pixels for each in (name, plain)
    )
    assert np.abs(image - original).mean() < 0.01
    assert np.corrcoef(image.ravel(), original.ravel())[0, 1] > 0.999


def test_volumes_read_as_nibabel_lays_them(medical_data: Path) -> None:
    for row in rows_of(medical_data, "nifti"):
        path = medical_data / "nifti" / row["file"]
        image = read_image(path, ANY_PICTURE)
        canonical = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj, np.float64)
        first = canonical.reshape(*canonical.shape[:3], -1)[..., 0]
        expected = first[::-1, ::-1, first.shape[2] // 2].T
        expected = (expected - expected.min()) / max(expected.max() - expected.min(), 1)
        np.testing.assert_allclose(image.pixels, expected, atol=1e-6, err_msg=path.name)


def test_the_same_slice_in_every_lossless_compression_is_the_same_image(medical_data: Path) -> None:
    reference = read_image(medical_data / "dicom_other" / "CTImage.dcm", specification()).pixels
    names = ("Endian", "Lossless", "Deflated", "Process14")
    paths = [
        path
        for path in sorted((medical_data / "dicom_other").glob("CTImage.dcm_*"))
        if any(name in path.name for name in names)
    ]
    assert len(paths) >= 9
    for path in paths:
        np.testing.assert_array_equal(read_image(path, specification()).pixels, reference, err_msg=path.name)


def test_training_images_are_grey(medical_data: Path) -> None:
    for folder in ("kermany224", "kermany_native"):
        for path in sorted((medical_data / folder).rglob("*.jp*g"))[::400]:
            image = read_image(path, specification(), polarity=Polarity.AS_READ)
            assert image.pixels.max() > 0.5
            assert not image.needs_confirmation


@pytest.mark.parametrize(
    "name", ["JPEG-LL.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"]
)
def test_damaged_compressed_files_parse_or_are_refused(medical_data: Path, tmp_path: Path, name: str) -> None:
    original = (medical_data / "dicom_other" / name).read_bytes()
    random = np.random.default_rng(7)
    for _ in range(6):
        content = bytearray(original)
        for at in random.integers(0, len(content), 12):
            content[at] = random.integers(0, 256)
        cut = len(content) if random.random() < 0.5 else int(random.integers(1, len(content)))
        path = tmp_path / "damaged"
        path.write_bytes(content[:cut])
        try:
            assert np.isfinite(read_image(path, specification()).pixels).all()
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(("offset", "value"), [(6, 255), (15, 0), (16, 255)])
def test_a_frame_that_crashes_its_decoder_is_refused(
    medical_data: Path, tmp_path: Path, offset: int, value: int
) -> None:
    """Each of these bytes ends a process that calls GDCM with SIGSEGV or SIGABRT."""
    content = bytearray((medical_data / "dicom_other" / "JPEG-LL.dcm").read_bytes())
    content[content.index(b"\xff\xd8\xff\xc3") + offset] = value
    path = tmp_path / "crashing"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="damaged"):
        read_image(path, specification())
