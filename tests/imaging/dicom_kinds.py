"""A DICOM file of each odd kind that vendors write, drawn here, with the right picture. docs/images.md lists them."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.sequence import Sequence

from contract.model_card import InputSpecification, View
from tests.imaging.samples import compressed, data_set, dicom_bytes, specification, with_transfer_syntax

ROWS, COLUMNS = 24, 32
RAMP = np.linspace(0, 4095, ROWS * COLUMNS).round().astype(np.uint16).reshape(ROWS, COLUMNS)
"""12 bits, all of them used."""
EIGHT_BITS = (RAMP >> 4).astype(np.uint8)
FRONTAL = specification(views=(View.AP,))

JPEG, JPEG_12, JPEG_LS, JPEG_2000, HIGH_THROUGHPUT = (f"1.2.840.10008.1.2.4.{last}" for last in (50, 51, 80, 90, 201))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of file."""

    make: Callable[[], bytes]
    right: Callable[[], NDArray[np.float64]] | None = None
    """The picture in [0, 1], where it is known."""
    says: str = ""
    """Codes of the remarks, between blanks."""
    asks: str = ""
    """Codes of the questions."""
    refused: bool = False
    card: InputSpecification = field(default_factory=specification)
    tolerance: float = 1e-6


def ramp() -> NDArray[np.float64]:
    return RAMP / 4095


def windowed(center: float, width: float) -> NDArray[np.float64]:
    """By a linear window (PS3.3 C.11.2.1.2)."""
    return np.asarray(np.clip((RAMP - (center - 0.5)) / (width - 1) + 0.5, 0, 1))


def file(**tags: object) -> bytes:
    return dicom_bytes(data_set(RAMP, bits=12, changes=tags))


def marked(old: bytes, new: bytes, **tags: object) -> bytes:
    """A file in whose bytes something was replaced that pydicom would not write."""
    content = file(**tags)
    assert content.count(old) == 1
    assert len(old) == len(new)
    return content.replace(old, new)


def coded(value: str, meaning: str = "as coded") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return Sequence([item])


def table(entries: NDArray[np.integer], *, bits: int, first: int = 0, data: bytes | None = None) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = entries.astype("<u2").tobytes() if data is None else data
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    return Sequence([item])


CURVE = np.sqrt(np.linspace(0, 1, 4096)) * 4095


def curved() -> NDArray[np.float64]:
    return CURVE.round()[RAMP] / 4095


def shifted() -> bytes:
    return file(HighBit=15, PixelData=(RAMP << 4).astype("<u2").tobytes())


def with_overlay(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Something else in the bits above the twelfth."""
    return np.asarray(
        values | (np.random.default_rng(1).integers(0, 16, values.shape).astype(np.uint16) << 12), np.uint16
    )


def packed(encode: Callable[[NDArray[np.uint16]], bytes], syntax: str) -> Callable[[], bytes]:
    return lambda: compressed(data_set(RAMP, bits=12), encode(with_overlay(RAMP)), syntax)


def jpeg_2000(values: NDArray[np.generic]) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat="j2k"))


def jpeg_ls_with_a_stray_byte() -> bytes:
    frame = bytes(imagecodecs.jpegls_encode(RAMP))
    return compressed(data_set(RAMP, bits=12), frame[:-2] + b"\0\xff\xd9", JPEG_LS)


def jpeg(mode: str) -> bytes:
    target = io.BytesIO()
    Image.fromarray(EIGHT_BITS).convert(mode).save(target, "JPEG", quality=95)
    return target.getvalue()


def eight_bits() -> Dataset:
    return data_set(EIGHT_BITS.astype(np.uint16), WindowCenter=128, WindowWidth=256)


def jpeg_of_12_bits() -> bytes:
    frame = bytes(imagecodecs.jpeg8_encode(RAMP, level=98, bitspersample=12))
    return compressed(data_set(RAMP, bits=12), frame, JPEG_12)


def padded() -> bytes:
    values = RAMP.copy()
    values[:4] = 0
    values[4:] = np.maximum(values[4:], 700)
    return dicom_bytes(data_set(values, bits=12, PixelPaddingValue=0))


def without_padding() -> NDArray[np.float64]:
    values = np.maximum(RAMP[4:], 700)
    shown = (values - 700.0) / (4095 - 700)
    return np.vstack([np.zeros((4, COLUMNS)), shown])


def floats() -> bytes:
    made = data_set(RAMP, bits=12, changes=dict.fromkeys(("BitsStored", "HighBit", "PixelRepresentation", "PixelData")))
    made.BitsAllocated, made.FloatPixelData = 32, (RAMP * 0.5 - 7).astype("<f4").tobytes()
    return dicom_bytes(made)


def without_preamble() -> bytes:
    return file()[132:]


BITS = {
    "HighBit 15 with 12 bits stored: values lie in the upper bits": Kind(make=shifted, right=ramp),
    "an overlay in the bits above, uncompressed": Kind(
        make=lambda: file(PixelData=with_overlay(RAMP).astype("<u2").tobytes()),
        right=ramp,
    ),
    "the same inside JPEG-LS": Kind(
        make=packed(lambda values: bytes(imagecodecs.jpegls_encode(values)), JPEG_LS),
        right=ramp,
    ),
    "the same inside JPEG 2000": Kind(make=packed(jpeg_2000, JPEG_2000), right=ramp),
    "a JPEG 2000 picture that is signed, in a file whose header says unsigned": Kind(
        make=packed(lambda values: jpeg_2000(values.view(np.int16)), JPEG_2000),
        right=ramp,
    ),
    "HighBit missing": Kind(says="header-incomplete", make=lambda: file(HighBit=None), right=ramp),
    "HighBit below the bits stored": Kind(refused=True, make=lambda: file(HighBit=3)),
    "pixels of 32 bits": Kind(refused=True, make=lambda: file(BitsAllocated=32, BitsStored=32, HighBit=31)),
    "floating-point pixels (FloatPixelData)": Kind(make=floats, right=ramp),
}
TABLES = {
    "a VOI LUT that promises 16 bits and uses 12": Kind(
        says="lookup-table-depth",
        make=lambda: file(VOILUTSequence=table(CURVE.round().astype(int), bits=16)),
        right=curved,
    ),
    "its first value negative, written without a sign": Kind(
        make=lambda: file(
            VOILUTSequence=table(CURVE.round().astype(int), bits=12, first=65536 - 100),
            RescaleSlope=1,
            RescaleIntercept=0,
        ),
        right=lambda: CURVE.round()[np.clip(RAMP.astype(int) + 100, 0, 4095)] / 4095,
    ),
    "its entries of 8 bits packed, two to a word": Kind(
        make=lambda: file(
            VOILUTSequence=table(np.arange(4096), bits=8, data=(CURVE / 4095 * 255).round().astype(np.uint8).tobytes())
        ),
        right=lambda: (CURVE / 4095 * 255).round()[RAMP] / 255,
    ),
    "a VOI LUT shorter than it promises": Kind(
        says="bad-lookup-table",
        make=lambda: file(VOILUTSequence=table(np.arange(4096), bits=12, data=bytes(100))),
        right=ramp,
    ),
    "a modality LUT shorter than it promises": Kind(
        refused=True,
        make=lambda: file(ModalityLUTSequence=table(np.arange(4096), bits=12, data=bytes(100))),
    ),
    "the first window empty, the second usable": Kind(
        says="bad-window",
        make=lambda: marked(b"77\\600", b"  \\600", WindowCenter=["77", "600"], WindowWidth=["10", "900"]),
        right=lambda: windowed(600, 900),
    ),
    "no window usable": Kind(
        says="bad-window",
        make=lambda: marked(b"DS\x04\x001234", b"DS\x04\x00 n/a", WindowCenter="1234", WindowWidth="900"),
        right=ramp,
    ),
    "a window with a decimal comma": Kind(
        says="decimal-comma",
        make=lambda: marked(b"1906.5", b"1906,5", WindowCenter="1906.5", WindowWidth="2500.5"),
        right=lambda: windowed(1906.5, 2500.5),
    ),
    "a window function that the standard does not know": Kind(
        says="bad-window-function",
        make=lambda: file(WindowCenter=2000, WindowWidth=2800, VOILUTFunction="CUBIC"),
        right=lambda: windowed(2000, 2800),
    ),
    "a rescale slope that is no number": Kind(
        refused=True,
        make=lambda: marked(b"DS\x04\x001234", b"DS\x04\x00 n/a", RescaleSlope="1234", RescaleIntercept="0"),
    ),
    "a rescale intercept without its slope": Kind(
        says="rescale-incomplete",
        make=lambda: file(RescaleIntercept=-1000, WindowCenter=1000, WindowWidth=2800),
        right=lambda: windowed(2000, 2800),
    ),
    "pixel padding far from the picture, and no window": Kind(make=padded, right=without_padding),
}
POLARITY = {
    "MONOCHROME2 with PresentationLUTShape INVERSE": Kind(
        asks="polarity-contradicts",
        make=lambda: file(PresentationLUTShape="INVERSE"),
    ),
    "MONOCHROME1 with PresentationLUTShape IDENTITY": Kind(
        asks="polarity-contradicts",
        make=lambda: file(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="IDENTITY"),
    ),
    "MONOCHROME2 with values that grow with the X-rays (PixelIntensityRelationshipSign 1)": Kind(
        asks="polarity-contradicts",
        make=lambda: file(PixelIntensityRelationshipSign=1),
    ),
    "no PhotometricInterpretation": Kind(
        asks="polarity-unknown",
        make=lambda: file(PhotometricInterpretation=None),
    ),
}
POSITION = {
    "a lateral view, for a model of frontal ones": Kind(
        asks="wrong-view",
        make=lambda: file(ViewPosition="LL", PatientOrientation=["A", "F"]),
        card=FRONTAL,
    ),
    "a lateral view by its code (ViewCodeSequence) alone": Kind(
        asks="wrong-view",
        make=lambda: file(ViewCodeSequence=coded("399173006")),
        card=FRONTAL,
    ),
    "a lateral view by PatientOrientation alone": Kind(
        asks="wrong-view",
        make=lambda: file(PatientOrientation=["P", "F"]),
        card=FRONTAL,
    ),
    "a lateral view, for a model whose card names no views": Kind(
        says="view-not-judged",
        make=lambda: file(ViewPosition="LL"),
    ),
    "no view named": Kind(says="view-unknown", make=file, card=FRONTAL),
    "a view that contradicts the orientation": Kind(
        asks="view-contradicts",
        make=lambda: file(ViewPosition="AP", PatientOrientation=["A", "F"]),
    ),
    "a mirrored picture (PatientOrientation R\\F)": Kind(
        asks="orientation",
        make=lambda: file(ViewPosition="PA", PatientOrientation=["R", "F"]),
    ),
    "a picture that is turned (F\\R)": Kind(
        asks="orientation",
        make=lambda: file(PatientOrientation=["F", "R"]),
    ),
    "a picture that is upside down (R\\H)": Kind(
        asks="orientation",
        make=lambda: file(PatientOrientation=["R", "H"]),
    ),
    "another region of the body by its code (AnatomicRegionSequence) alone": Kind(
        asks="wrong-body-part",
        make=lambda: file(BodyPartExamined=None, AnatomicRegionSequence=coded("818983003")),
    ),
    "a region that contradicts BodyPartExamined": Kind(
        asks="body-part-contradicts",
        make=lambda: file(AnatomicRegionSequence=coded("818983003")),
    ),
    "raw detector values, by the SOP class alone": Kind(
        asks="for-processing",
        make=lambda: file(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"),
    ),
    "a display shutter": Kind(
        says="display-shutter",
        make=lambda: file(ShutterShape="RECTANGULAR"),
        right=ramp,
    ),
    "words burnt into the picture": Kind(
        says="burnt-in-words",
        make=lambda: file(BurnedInAnnotation="YES"),
        right=ramp,
    ),
}
FILES = {
    "no preamble": Kind(says="no-preamble", make=without_preamble, right=ramp),
    "MONOCHROME2 in lower case": Kind(
        make=lambda: marked(b"MONOCHROME2", b"monochrome2"),
        right=ramp,
    ),
    "a number of frames that is none": Kind(
        says="bad-number-of-frames",
        make=lambda: marked(b"IS\x02\x0017", b"IS\x02\x00x ", NumberOfFrames=17),
        right=ramp,
    ),
    "more pixel data than the header promises": Kind(
        says="more-than-promised",
        make=lambda: file(PixelData=RAMP.astype("<u2").tobytes() + bytes(100)),
        right=ramp,
    ),
    "less pixel data than the header promises": Kind(
        refused=True,
        make=lambda: file(PixelData=RAMP.astype("<u2").tobytes()[:-100]),
    ),
    "a wrong table of offsets": Kind(
        make=lambda: compressed(eight_bits(), jpeg("L"), JPEG, table=struct.pack("<I", 99999)),
        right=lambda: EIGHT_BITS / 255,
        tolerance=0.02,
    ),
    "a byte between a JPEG-LS picture and its end": Kind(make=jpeg_ls_with_a_stray_byte, right=ramp),
    "JPEG of 12 bits": Kind(make=jpeg_of_12_bits, right=ramp, tolerance=0.01),
    "high-throughput JPEG 2000": Kind(
        make=lambda: compressed(data_set(RAMP, bits=12), bytes(imagecodecs.htj2k_encode(RAMP)), HIGH_THROUGHPUT),
        right=ramp,
    ),
    "a JPEG of three colours, all grey, under MONOCHROME2": Kind(
        says="three-colours",
        make=lambda: compressed(eight_bits(), jpeg("RGB"), JPEG),
        right=lambda: EIGHT_BITS / 255,
        tolerance=0.02,
    ),
    "JPEG 2000 of more bits than the header allocates": Kind(
        refused=True,
        make=lambda: compressed(eight_bits(), jpeg_2000(RAMP), JPEG_2000),
    ),
    "an uncompressed picture that the header calls compressed": Kind(
        refused=True,
        make=lambda: with_transfer_syntax(file(), JPEG_2000),
    ),
    "a compressed picture that the header calls uncompressed": Kind(
        refused=True,
        make=lambda: compressed(data_set(RAMP, bits=12), jpeg_2000(RAMP), "1.2.840.10008.1.2.1"),
    ),
}
KINDS = MappingProxyType(BITS | TABLES | POLARITY | POSITION | FILES)
