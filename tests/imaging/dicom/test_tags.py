"""One malformed tag does not damage a file: it is read without it, or refused in words that are true."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword

from contract.errors import ImageError
from contract.model_card import AgeRange
from imaging.dicom.bits import PADDING_TAGS
from imaging.dicom.geometry import GEOMETRY_TAGS
from imaging.dicom.patient import AGE_TAGS
from imaging.dicom.reading import PARSED_TAGS
from imaging.dicom.remarks import REMARK_TAGS
from imaging.dicom.tags import read_numbers, read_texts
from imaging.reading import read_image
from tests.imaging.samples import data_set, dicom_bytes, picture, specification

pytestmark = pytest.mark.usefixtures("in_process")

OPTIONAL = [
    *("Modality", "NumberOfFrames", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *GEOMETRY_TAGS,
    *REMARK_TAGS,
    *PADDING_TAGS,
    *AGE_TAGS,
]
LONG = ("OB", "OW", "SQ", "UN", "UT", "OF", "OD")
VALUES = picture(bits=12)
CARD = specification(ages=AgeRange(youngest=1, oldest=5))


def element(keyword: str, representation: str, value: bytes) -> bytes:
    tag = int(tag_for_keyword(keyword) or 0)
    padded = value + b" " * (len(value) % 2)
    kind = representation.encode()
    length = b"\0\0" + struct.pack("<I", len(padded)) if representation in LONG else struct.pack("<H", len(padded))
    return struct.pack("<2H", tag >> 16, tag & 0xFFFF) + kind + length + padded


def with_element(keyword: str, representation: str, value: bytes) -> bytes:
    """A file whose one element of this keyword is these bytes."""
    content, new = dicom_bytes(data_set(VALUES, bits=12)), element(keyword, representation, value)
    tag = struct.unpack("<2H", new[:4])
    position = 144 + int.from_bytes(content[140:144], "little")
    while struct.unpack_from("<2H", content, position) < tag:
        position = end_of_element(content, position)
    there = struct.unpack_from("<2H", content, position) == tag
    return content[:position] + new + content[end_of_element(content, position) if there else position :]


def end_of_element(content: bytes, position: int) -> int:
    is_long = content[position + 4 : position + 6].decode() in LONG
    (length,) = struct.unpack_from("<I" if is_long else "<H", content, position + (8 if is_long else 6))
    return int(position + (12 if is_long else 8) + length)


@settings(max_examples=150)
@given(
    keyword=st.sampled_from(OPTIONAL),
    representation=st.sampled_from(["own", "UN", "LO", "DS", "US"]),
    value=st.one_of(
        st.sampled_from([b"", b"garbage", b"1,5", b"a\\b\\c", b"1e999", b"nan", b"-", b"\\", b"\xe9"]),
        st.binary(max_size=8),
    ),
)
def test_a_malformed_optional_tag_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, keyword: str, representation: str, value: bytes
) -> None:
    own = dictionary_VR(keyword).split(" ")[0] if representation == "own" else representation
    path = tmp_path_factory.getbasetemp() / "malformed"
    path.write_bytes(with_element(keyword, own, value))
    try:
        image = read_image(path, CARD)
    except ImageError as error:
        assert keyword == "NumberOfFrames"
        assert "picture" in str(error)  # noqa: PT017
    else:
        assert image.pixels.shape == VALUES.shape


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("Rows", b"", "Rows is missing"),
        ("BitsAllocated", b"", "BitsAllocated is missing"),
        ("PixelRepresentation", b"\7\0", "whether pixels have a sign"),
        ("RescaleSlope", b"n/a", "rescale slope or intercept is no number"),
        ("ModalityLUTSequence", b"garbage!", "modality lookup table"),
    ],
)
def test_a_tag_that_decides_the_picture_is_named(tmp_path: Path, keyword: str, value: bytes, words: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(with_element(keyword, dictionary_VR(keyword).split(" ")[0], value))
    with pytest.raises(ImageError, match=words):
        read_image(path, specification())


@pytest.mark.parametrize("missing", ["BitsStored", "HighBit", "PixelRepresentation"])
def test_what_is_missing_is_what_the_rest_of_the_header_says(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(dicom_bytes(data_set(VALUES, bits=12, changes={missing: None})))
    image = read_image(path, specification())
    np.testing.assert_allclose(image.pixels, VALUES / 4095, atol=1e-6)
    assert [(warning.code, missing in warning.text) for warning in image.warnings] == [("header-incomplete", True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,5", (1.5,)),
        (" 40 \\400", (40.0, 400.0)),
        ("\\600", (None, 600.0)),
        ("+1.5E+2", (150.0,)),
        ("1_000", (None,)),
        ("nan", (None,)),
        ("1e999", (None,)),
        ("", ()),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, expected: tuple[float | None, ...]) -> None:
    made = dcmread(BytesIO(with_element("WindowCenter", "DS", text.encode())))
    assert read_numbers(made, "WindowCenter") == expected
    assert read_texts(made, "Modality") == ("DX",)


def test_nothing_of_the_patient_is_parsed() -> None:
    """The age only where the card asks; names, numbers and free text never."""
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientAge",
        "SeriesDescription",
        "StudyDescription",
    ):
        assert keyword not in PARSED_TAGS
