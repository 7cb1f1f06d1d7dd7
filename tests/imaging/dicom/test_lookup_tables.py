"""VOI and modality LUTs as vendors write them: depth, sign and packing."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from imaging.dicom.display import LookupTable
from imaging.reading import read_image
from tests.imaging.samples import data_set, dicom_bytes, specification

RAMP = np.linspace(0, 4095, 16 * 24).round().astype(np.uint16).reshape(16, 24)
CURVE = (np.linspace(0, 1, 4096) ** 2 * 4095).round().astype(np.uint16)


def item(
    entries: int, *, bits: int, data: object, first: int = 0, descriptor: str = "US", kind: str = "OW"
) -> Sequence:
    made = Dataset()
    made.LUTDescriptor = [entries % 65536, first, bits]
    made.LUTData = data
    made["LUTDescriptor"].VR, made["LUTData"].VR = descriptor, kind
    return Sequence([made])


def read(folder: Path, made: Dataset) -> tuple[NDArray[np.float32], list[str]]:
    path = folder / "image"
    path.write_bytes(dicom_bytes(made))
    image = read_image(path, specification())
    return image.pixels, [warning.code for warning in image.warnings]


@pytest.mark.parametrize("declared", [8, 10, 12, 14, 16, 0, 32])
def test_entries_are_scaled_by_the_bits_that_they_use(tmp_path: Path, declared: int) -> None:
    made = data_set(RAMP, bits=12, VOILUTSequence=item(4096, bits=declared, data=CURVE.tobytes()))
    pixels, codes = read(tmp_path, made)
    np.testing.assert_allclose(pixels, CURVE[RAMP] / 4095, atol=1e-6)
    assert codes == ([] if declared == 12 else ["lookup-table-depth"])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, None])
@pytest.mark.parametrize("kind", ["OW", "US"])
@pytest.mark.parametrize("packed", [False, True])
def test_entries_lie_in_the_files_own_order(tmp_path: Path, syntax: UID | None, kind: str, *, packed: bool) -> None:
    """Bytes packed two to a word have the first in its lower half (PS3.3 C.11.1.1.1)."""
    entries = (CURVE >> 4).astype(np.uint8) if packed else CURVE
    words = entries.view("<u2") if packed else entries
    big = syntax == ExplicitVRBigEndian
    data = words.astype(">u2" if big else "<u2").tobytes() if kind == "OW" else [int(word) for word in words]
    made = data_set(RAMP, bits=12, VOILUTSequence=item(4096, bits=8 if packed else 12, data=data, kind=kind))
    if syntax is not None:
        made.file_meta.TransferSyntaxUID = syntax
    if big:
        made.PixelData = RAMP.astype(">u2").tobytes()
    pixels, codes = read(tmp_path, made)
    np.testing.assert_allclose(pixels, entries[RAMP] / (255 if packed else 4095), atol=1e-6)
    assert codes == []


def test_no_entries_stands_for_65536(tmp_path: Path) -> None:
    entries = np.arange(65536, dtype=np.uint16)[::-1]
    values = RAMP << 4
    made = data_set(values.astype(np.uint16), bits=16, VOILUTSequence=item(65536, bits=16, data=entries.tobytes()))
    made.PixelData = values.astype("<u2").tobytes()
    np.testing.assert_allclose(read(tmp_path, made)[0], 1 - values / 65535, atol=1e-6)


def test_a_voi_table_follows_a_modality_table(tmp_path: Path) -> None:
    deep = (CURVE.astype(np.uint16) << 2).tobytes()
    made = data_set(RAMP, bits=12, ModalityLUTSequence=item(4096, bits=14, data=deep))
    made.VOILUTSequence = item(16384, bits=16, data=np.minimum(np.arange(16384), 4095).astype("<u2").tobytes())
    pixels, codes = read(tmp_path, made)
    np.testing.assert_allclose(pixels, np.minimum(CURVE[RAMP].astype(int) << 2, 4095) / 4095, atol=1e-6)
    assert codes == ["lookup-table-depth"]


def test_a_window_serves_where_the_table_is_none(tmp_path: Path) -> None:
    made = data_set(
        RAMP, bits=12, VOILUTSequence=item(4096, bits=12, data=bytes(10)), WindowCenter=2048, WindowWidth=4096
    )
    pixels, codes = read(tmp_path, made)
    np.testing.assert_allclose(pixels, RAMP / 4095, atol=1e-6)
    assert codes == ["bad-lookup-table"]


@settings(max_examples=60)
@given(
    first=st.integers(-32768, 65535),
    entries=st.integers(1, 4096),
    offset=st.integers(-4000, 4000),
)
def test_the_first_value_has_the_sign_by_which_the_table_meets_the_picture(
    first: int, entries: int, offset: int
) -> None:
    """Whichever sign the tag's own VR gave it: values are put where the table lies, more or less."""
    values = np.arange(first + offset, first + offset + 200)
    table = LookupTable(entries=np.arange(entries, dtype=np.float32), first=first % 65536, declared_bits=12)
    expected = np.clip(values - first, 0, entries - 1)
    np.testing.assert_array_equal(table.look_up(values), expected)
