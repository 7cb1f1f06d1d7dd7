"""More DICOM files, with what other readers forgive: something is missing, misspelt or contradicts itself."""

import io
import struct
from types import MappingProxyType
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.sequence import Sequence

from tests.imaging import dicom_kinds
from tests.imaging.dicom_kinds import JPEG, JPEG_2000, JPEG_LS, RAMP, Kind, file, ramp
from tests.imaging.samples import compressed, data_set

JPEG_BITS = np.add.outer(np.arange(24) * 4, np.arange(32) * 5).astype(np.uint8)


def data_set_alone(*, preamble: bytes = b"") -> bytes:
    content = file()
    return preamble + content[144 + int.from_bytes(content[140:144], "little") :]


def with_a_tag(vr: bytes) -> bytes:
    """With a tube voltage of this VR before all that is needed, which no writer at hand would write."""
    content = file()
    at = content.index(b"\x28\0\x02\0US")
    return content[:at] + b"\x18\0\x60\0" + vr + b"\x02\0" + b"80" + content[at:]


def jpeg_2000(values: NDArray[Any], *, end: int | None = None, syntax: str = JPEG_2000, **tags: object) -> bytes:
    content = bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k"))
    return compressed(data_set(RAMP, bits=12, changes=tags), content[:end], syntax)


def jpeg_2000_of_one_open_part() -> bytes:
    """Its length is written as 0, which means up to the end."""
    content = bytearray(imagecodecs.jpeg2k_encode(RAMP, level=0, codecformat="j2k"))
    at = content.index(b"\xff\x90\0\x0a")
    content[at + 6 : at + 10] = bytes(4)
    return compressed(data_set(RAMP, bits=12), bytes(content), JPEG_2000)


def jpeg(values: NDArray[Any]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(values).save(target, "JPEG", quality=100)
    return target.getvalue()


def jpeg_decoded() -> NDArray[Any]:
    decoded = np.asarray(Image.open(io.BytesIO(jpeg(JPEG_BITS)))).astype(np.float64)
    return np.asarray((decoded - decoded.min()) / (decoded.max() - decoded.min()))


def without_delimiter() -> bytes:
    content = compressed(data_set(RAMP, bits=12), bytes(imagecodecs.jpegls_encode(RAMP)), JPEG_LS)
    assert content.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    return content[:-8]


def padding_above_the_stored_bits() -> bytes:
    pixels = np.clip(RAMP, 400, None)
    pixels[:, :4] = 0x8000
    return file(PixelData=pixels.astype("<u2").tobytes(), PixelPaddingValue=0x8000)


def padding_apart() -> NDArray[Any]:
    shown = (np.clip(RAMP, 400, None) - 400.0) / 3695
    shown[:, :4] = 0
    return shown


def empty_modality_table() -> Sequence:
    item = Dataset()
    item.ModalityLUTType = ""
    for tag in (0x00283002, 0x00283006):  # descriptor and data
        item.add_new(tag, "US", None)
    return Sequence([item])


FORGIVEN = {
    "no meta information at all, explicit VR": Kind(
        says="no-preamble no-transfer-syntax", make=data_set_alone, right=ramp
    ),
    "no meta information behind the preamble": Kind(
        says="no-transfer-syntax",
        make=lambda: data_set_alone(preamble=bytes(128) + b"DICM"),
        right=ramp,
    ),
    "a tag with `??` for its VR": Kind(make=lambda: with_a_tag(b"??"), right=ramp),
    "a tag with blanks for its VR": Kind(make=lambda: with_a_tag(b"  "), right=ramp),
    "HighBit 15 with 12 bits stored, but values in the lower bits": Kind(
        asks="which-bits",
        make=lambda: file(HighBit=15),
        right=ramp,
    ),
    "padding that needs more bits than are stored": Kind(make=padding_above_the_stored_bits, right=padding_apart),
    "a padding value that no pixel can have": Kind(
        make=lambda: file(PixelPaddingValue=0x7000, PixelPaddingRangeLimit=0x7FFF),
        right=ramp,
    ),
    "an empty modality LUT": Kind(make=lambda: file(ModalityLUTSequence=empty_modality_table()), right=ramp),
    "a photometric interpretation that the standard does not know": Kind(
        refused=True, make=lambda: file(PhotometricInterpretation="GRAYSCALE")
    ),
    "a negative number of frames": Kind(
        says="bad-number-of-frames", make=lambda: file(NumberOfFrames="-1"), right=ramp
    ),
    "pixel data for two pictures, where the header promises one": Kind(
        asks="more-than-promised",
        make=lambda: file(PixelData=RAMP.astype("<u2").tobytes() * 2),
        right=ramp,
    ),
    "compressed pixels without their delimiter": Kind(make=without_delimiter, right=ramp),
    "a JPEG without its end": Kind(
        make=lambda: compressed(data_set(JPEG_BITS.astype(np.uint16)), jpeg(JPEG_BITS)[:-2], JPEG),
        right=jpeg_decoded,
    ),
    "a JPEG that is cut short": Kind(
        refused=True,
        make=lambda: compressed(data_set(JPEG_BITS.astype(np.uint16)), jpeg(JPEG_BITS)[:-60], JPEG),
    ),
    "JPEG 2000 without its end": Kind(make=lambda: jpeg_2000(RAMP, end=-2), right=ramp),
    "JPEG 2000 that is cut short": Kind(refused=True, make=lambda: jpeg_2000(RAMP, end=-60)),
    "JPEG 2000 whose one part does not tell its length": Kind(make=jpeg_2000_of_one_open_part, right=ramp),
    "JPEG 2000 that the header calls JPEG-LS": Kind(
        says="other-compression", make=lambda: jpeg_2000(RAMP, syntax=JPEG_LS), right=ramp
    ),
    "a transfer syntax of JPEG XL": Kind(
        refused=True,
        make=lambda: file().replace(
            b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI" + struct.pack("<H", 24) + b"1.2.840.10008.1.2.4.110\0"
        ),
    ),
}
KINDS = MappingProxyType(dicom_kinds.KINDS | FORGIVEN)
"""All odd kinds of DICOM files."""
