"""Only the stored bits of a pixel count (PS3.5 8.1.1), whatever lies around them and however they are compressed."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from contract.errors import ImageError
from imaging.dicom.bits import Samples, extract_values
from imaging.reading import read_image
from tests.imaging.dicom_kinds import jpeg_2000
from tests.imaging.samples import compressed, data_set, dicom_bytes, specification

pytestmark = pytest.mark.usefixtures("in_process")

ROWS, COLUMNS = 16, 24
BITS = [(8, 8, 7), (8, 6, 5), (8, 6, 7), (16, 12, 11), (16, 12, 15), (16, 12, 13), (16, 10, 12), (16, 16, 15)]
"""Bits allocated, bits stored, high bit."""

Cells = NDArray[np.unsignedinteger]


def ramp(stored: int, *, signed: bool) -> NDArray[np.int64]:
    least = -(1 << (stored - 1)) if signed else 0
    return np.linspace(least, least + (1 << stored) - 1, ROWS * COLUMNS).round().astype(np.int64).reshape(ROWS, COLUMNS)


def cells(values: NDArray[np.int64], allocated: int, stored: int, high_bit: int, *, garbage: bool) -> Cells:
    """The values as they lie in the file; around them nothing, or anything at all."""
    below = high_bit + 1 - stored
    mask = ((1 << stored) - 1) << below
    around = np.random.default_rng(3).integers(0, 1 << allocated, values.shape) if garbage else np.zeros_like(values)
    return np.asarray((values << below & mask) | (around & ~mask), f"<u{allocated // 8}")


def header(patterns: Cells, stored: int, high_bit: int, *, signed: bool) -> Dataset:
    made = data_set(np.zeros(patterns.shape, np.uint16), bits=8 * patterns.dtype.itemsize)
    made.PixelData = patterns.tobytes()
    made.BitsStored, made.HighBit, made.PixelRepresentation = stored, high_bit, int(signed)
    return made


def run_lengths(made: Dataset, _patterns: Cells) -> bytes:
    told = made.BitsStored, made.HighBit, made.PixelRepresentation
    made.BitsStored, made.HighBit, made.PixelRepresentation = made.BitsAllocated, made.BitsAllocated - 1, 0
    made.compress(RLELossless)
    made.BitsStored, made.HighBit, made.PixelRepresentation = told
    return dicom_bytes(made)


def big_endian(made: Dataset, patterns: Cells) -> bytes:
    made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    made.PixelData = (patterns.byteswap() if made.BitsAllocated == 16 else patterns).tobytes()
    made["PixelData"].VR = "OW" if made.BitsAllocated == 16 else "OB"
    return dicom_bytes(made)


def jpeg_lossless(patterns: Cells) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(patterns, lossless=True, bitspersample=8 * patterns.dtype.itemsize))


def signed(patterns: Cells) -> NDArray[np.integer]:
    return patterns.view(f"i{patterns.dtype.itemsize}")


WRITERS: dict[str, Callable[[Dataset, Cells], bytes]] = {
    "uncompressed": lambda made, _patterns: dicom_bytes(made),
    "big endian": big_endian,
    "run lengths": run_lengths,
    "JPEG-LS": lambda made, patterns: compressed(
        made, bytes(imagecodecs.jpegls_encode(patterns)), "1.2.840.10008.1.2.4.80"
    ),
    "JPEG 2000": lambda made, patterns: compressed(made, jpeg_2000(patterns), "1.2.840.10008.1.2.4.90"),
    "JPEG 2000, signed": lambda made, patterns: compressed(made, jpeg_2000(signed(patterns)), "1.2.840.10008.1.2.4.91"),
    "high-throughput JPEG 2000": lambda made, patterns: compressed(
        made, bytes(imagecodecs.htj2k_encode(patterns)), "1.2.840.10008.1.2.4.201"
    ),
}


def assert_reads(folder: Path, content: bytes, values: NDArray[np.int64]) -> None:
    path = folder / "image"
    path.write_bytes(content)
    image = read_image(path, specification())
    expected = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
    assert image.warnings == ()


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("bits", BITS)
def test_only_the_stored_bits_count(tmp_path: Path, writer: str, bits: tuple[int, int, int]) -> None:
    allocated, stored, high_bit = bits
    for is_signed, garbage in product((False, True), repeat=2):
        values = ramp(stored, signed=is_signed)
        patterns = cells(values, allocated, stored, high_bit, garbage=garbage)
        made = header(patterns, stored, high_bit, signed=is_signed)
        assert_reads(tmp_path, WRITERS[writer](made, patterns), values)


@pytest.mark.parametrize("bits", [(8, 8, 7), (16, 12, 15), (16, 12, 11)])
@pytest.mark.parametrize("is_signed", [False, True])
def test_and_in_jpeg_lossless_too(tmp_path: Path, bits: tuple[int, int, int], *, is_signed: bool) -> None:
    """Fewer of them: each is decoded in a process of its own."""
    allocated, stored, high_bit = bits
    values = ramp(stored, signed=is_signed)
    patterns = cells(values, allocated, stored, high_bit, garbage=True)
    made = header(patterns, stored, high_bit, signed=is_signed)
    assert_reads(tmp_path, compressed(made, jpeg_lossless(patterns), "1.2.840.10008.1.2.4.57"), values)


@pytest.mark.parametrize("stored", [12, 16])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("high_bit", [None, 15])
def test_a_codestream_of_12_bits_holds_the_whole_value(
    tmp_path: Path, stored: int, high_bit: int | None, *, is_signed: bool
) -> None:
    """Whether the header promises 12 bits or 16, and wherever it says that they lay before they were compressed."""
    values = ramp(12, signed=is_signed)
    patterns = cells(values, 16, 12, 11, garbage=False)
    frame = bytes(imagecodecs.jpeg2k_encode(patterns, level=0, reversible=True, codecformat="j2k", bitspersample=12))
    made = header(patterns, stored, stored - 1 if high_bit is None else high_bit, signed=is_signed)
    assert_reads(tmp_path, compressed(made, frame, "1.2.840.10008.1.2.4.90"), values)


@pytest.mark.parametrize("is_signed", [False, True])
def test_what_a_lossy_compression_makes_too_bright_does_not_become_black(*, is_signed: bool) -> None:
    least, most = (-2048, 2047) if is_signed else (0, 4095)
    values = np.array([[most - 5, most, most + 9, least]])
    samples = Samples(patterns=values.astype(np.uint16), precision=16, slack=256)
    found = extract_values(samples, stored=12, high_bit=11, signed=is_signed)
    assert found.tolist() == [[most - 5, most, most, least]]
    exact = Samples(patterns=values.astype(np.uint16), precision=16)
    assert extract_values(exact, stored=12, high_bit=11, signed=is_signed).tolist()[0][2] < most


def test_lossy_jpeg_2000_of_16_bits_stays_within_the_12_that_are_stored(tmp_path: Path) -> None:
    """Compressed so much that the decoded values leave their range by a quarter."""
    board = np.where(np.add.outer(np.arange(64) // 8, np.arange(64) // 8) % 2, 4095, 0).astype(np.uint16)
    frame = bytes(imagecodecs.jpeg2k_encode(board, level=40, reversible=False, codecformat="j2k"))
    decoded = imagecodecs.jpeg2k_decode(frame)
    assert decoded.max() > 5000
    path = tmp_path / "image"
    path.write_bytes(compressed(header(board, 12, 11, signed=False), frame, "1.2.840.10008.1.2.4.91"))
    np.testing.assert_allclose(read_image(path, specification()).pixels, np.minimum(decoded, 4095) / 4095, atol=0.001)


def test_an_overlay_in_a_lossy_codestream_is_left_out_all_the_same() -> None:
    values = np.array([[3, 4000, 700 | 0x8000]], np.uint16)
    samples = Samples(patterns=values, precision=16, slack=256)
    assert extract_values(samples, stored=12, high_bit=11, signed=False).tolist() == [[3, 4000, 700]]


def test_more_bits_than_the_header_allocates_are_refused(tmp_path: Path) -> None:
    values = ramp(12, signed=False).astype(np.uint16)
    made = header(values.astype(np.uint8), 8, 7, signed=False)
    path = tmp_path / "image"
    path.write_bytes(compressed(made, jpeg_2000(values), "1.2.840.10008.1.2.4.90"))
    with pytest.raises(ImageError, match="promises 8 bits, its compressed picture has 16"):
        read_image(path, specification())
