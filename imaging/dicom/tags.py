"""Tags as numbers and words, read from their bytes: one that is malformed is missing, and does not damage the file."""

import io
import math
import re
import struct
from typing import BinaryIO, cast

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import read_sequence
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from contract.errors import ImageError
from imaging.dicom.syntax import CountedReader

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "US or SS": "H"}
"""VRs of binary numbers -> their format for `struct`."""
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST_VALUES = 1024
"""No tag that is read here has more."""
_MOST_CHARACTERS = 1 << 16
_MOST_UNTYPED_BYTES = 1 << 20
"""Of a sequence whose VR is UN."""


def read_numbers(data_set: Dataset, keyword: str) -> tuple[float | None, ...]:
    """Every value of a tag of numbers; None for a value that is empty or no finite number; () if absent or empty.

    A decimal comma is read as a point. Values of the wrong VR are read as what they are.
    """
    element = _find_element(data_set, keyword)
    if element is None:
        return ()
    if isinstance(element, RawDataElement):
        form = _BINARY.get(_find_vr(element))
        if form is None:
            return tuple(_parse_number(text) for text in read_texts(data_set, keyword))
        content = bytes(element.value or b"")
        order = "<" if element.is_little_endian else ">"
        count = min(len(content) // struct.calcsize(form), _MOST_VALUES)
        found = struct.unpack_from(f"{order}{count}{form}", content)
        return tuple(float(value) if math.isfinite(value) else None for value in found)
    return tuple(_parse_number(str(value)) for value in _list_values(element.value))


def read_number(data_set: Dataset, keyword: str) -> float | None:
    """The first value of a tag of numbers; None if there is none."""
    return next(iter(read_numbers(data_set, keyword)), None)


def read_integer(data_set: Dataset, keyword: str) -> int | None:
    """The first value of a tag of whole numbers; None if it is absent or none."""
    value = read_number(data_set, keyword)
    return int(value) if value is not None and value == int(value) else None


def read_texts(data_set: Dataset, keyword: str) -> tuple[str, ...]:
    """Every value of a tag of words, without the blanks around it; () if absent or empty."""
    element = _find_element(data_set, keyword)
    if element is None:
        return ()
    if isinstance(element, RawDataElement):
        content = bytes(element.value or b"")[:_MOST_CHARACTERS].decode("latin-1")
        parts = content.split("\\")
    else:
        parts = [str(value) for value in _list_values(element.value)]
    stripped = tuple(part.strip(" \0\t\r\n") for part in parts[:_MOST_VALUES])
    return stripped if any(stripped) else ()


def read_code(data_set: Dataset, keyword: str) -> str | None:
    """The first value of a tag of code strings, see `read_codes`; None if it is absent or empty."""
    found = read_texts(data_set, keyword)
    return _normalise_code(found[0]) if found and found[0] else None


def read_codes(data_set: Dataset, keyword: str) -> tuple[str, ...]:
    """Code strings in capital letters; nothing but the characters that the standard allows."""
    return tuple(_normalise_code(one) for one in read_texts(data_set, keyword) if one)


def _normalise_code(text: str) -> str:
    return clean_code(" ".join(text.upper().split()))


def clean_code(text: str) -> str:
    """A code string that may be shown: what holds anything else is not repeated."""
    return text if re.fullmatch(r"[A-Z0-9_ ]{1,16}", text) else "UNREADABLE"


def read_items(data_set: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """The items of an optional sequence; none if it is absent or cannot be read.

    Raises ImageError for very many: a sequence with a known length was not looked into before.
    """
    element = _find_element(data_set, keyword)
    try:
        if isinstance(element, RawDataElement) and element.VR in (None, "SQ") and element.value:
            source = cast(BinaryIO, CountedReader(io.BytesIO(element.value)))
            length = len(element.value)
            value = read_sequence(source, element.is_implicit_VR, element.is_little_endian, length, "iso8859")
        elif isinstance(element, RawDataElement) and len(element.value or b"") > _MOST_UNTYPED_BYTES:
            return ()
        else:
            value = data_set.get(keyword)
    except ImageError:
        raise
    except Exception:  # noqa: BLE001 - pydicom raises anything at all on a malformed sequence
        return ()
    return tuple(value) if isinstance(value, Sequence) else ()


def read_content(data_set: Dataset, keyword: str) -> tuple[bytes, bool]:
    """The bytes of a tag of words or bytes, and whether they are little endian; nothing if it is absent."""
    element = _find_element(data_set, keyword)
    if element is None:
        return b"", True
    if isinstance(element, RawDataElement):
        return bytes(element.value or b""), element.is_little_endian
    if isinstance(element.value, bytes):
        return element.value, data_set.original_encoding[1] is not False
    values = [
        int(value) % (1 << 16)
        for value in map(_parse_number, map(str, _list_values(element.value)))
        if value is not None
    ]
    return struct.pack(f"<{len(values)}H", *values), True


def has_decimal_comma(data_set: Dataset, keywords: tuple[str, ...]) -> bool:
    """Whether any of these tags holds a number with a comma."""
    return any(
        "," in text for keyword in keywords if _is_text(data_set, keyword) for text in read_texts(data_set, keyword)
    )


def _is_text(data_set: Dataset, keyword: str) -> bool:
    element = _find_element(data_set, keyword)
    return isinstance(element, RawDataElement) and _find_vr(element) in {"DS", "IS", "LO", "SH", "CS", "UN"}


def _find_element(data_set: Dataset, keyword: str) -> DataElement | RawDataElement | None:
    return data_set.get_item(keyword) if keyword in data_set else None


def _find_vr(element: RawDataElement) -> str:
    """The VR by which to read a tag: the file's own, else the dictionary's."""
    if element.VR in (None, "UN"):
        try:
            return dictionary_VR(element.tag)
        except KeyError:
            return "UN"
    return element.VR


def _parse_number(text: str) -> float | None:
    plain = text.strip(" \0\t").replace(",", ".")
    value = float(plain) if _NUMBER.fullmatch(plain) else math.inf
    return value if math.isfinite(value) else None


def _list_values(value: object) -> list[object]:
    if isinstance(value, MultiValue | list | tuple):
        return list(value)
    return [] if value is None else [value]
