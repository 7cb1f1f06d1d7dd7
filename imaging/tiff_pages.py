"""The directory of a TIFF file: which pictures it holds, and what its tags say of each. Nothing is decoded here.

TIFF 6.0, and BigTIFF. Only the tags below are read, each within bounds: libraries also parse what makers of microscopes
put into their own tags, and follow the names of other files.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, assert_never

import numpy as np
from numpy.typing import NDArray

from contract.errors import ImageError

MAX_PAGES: Final = 10_000
MAX_ENTRIES: Final = 4096
MAX_VALUES: Final = 1 << 20
"""Values of one tag: as many as a picture of 100 million pixels has tiles."""
MAX_DESCRIPTION: Final = 4096

CUT = "the TIFF file is cut short: export or copy it again"
"""For messages."""
_DAMAGED = "the TIFF file is damaged in its list of pictures: export or copy it again"


class Tag(IntEnum):
    """Tags that are read."""

    NEW_SUBFILE_TYPE = 254
    SUBFILE_TYPE = 255
    WIDTH = 256
    LENGTH = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    DESCRIPTION = 270
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    LARGEST = 281
    PLANAR = 284
    T4_OPTIONS = 292
    PREDICTOR = 317
    COLOUR_MAP = 320
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    SAMPLE_FORMAT = 339
    S_SMALLEST = 340
    S_LARGEST = 341
    JPEG_TABLES = 347
    DEPTH = 32997


class SampleKind(IntEnum):
    """What the bits of a sample are: tag SampleFormat."""

    UNSIGNED = 1
    SIGNED = 2
    FLOAT = 3


_UNDEFINED = 4
"""SampleFormat: nobody said. To be read as unsigned."""
_COMPLEX = (5, 6)
_WHOLE_BITS, _FLOAT_BITS = (*range(1, 17), 32), (16, 32, 64)

_KINDS: dict[int, str] = {
    1: "u1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4",
    11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8",
}  # fmt: skip
"""Types of a tag's values; rationals are not needed."""


@dataclass(frozen=True, kw_only=True)
class TiffPage:
    """One picture of the file, as its tags describe it."""

    order: str
    """`<` or `>`: the byte order of samples, too."""
    rows: int
    columns: int
    samples: int
    """Values of a pixel: grey, or colours, and what is beside them."""
    bits: int
    kind: SampleKind
    compression: int
    photometric: int
    predictor: int
    reversed_bits: bool
    planar: bool
    """Whether samples lie in planes of their own."""
    orientation: int
    segment: tuple[int, int]
    """(rows, columns) of a strip or tile."""
    tiled: bool
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    t4_options: int
    colour_map: NDArray[np.integer]
    jpeg_tables: bytes
    told_range: tuple[float, float] | None
    """Smallest and largest value by SMinSampleValue and SMaxSampleValue."""
    told_largest: int
    """MaxSampleValue: by the standard what values reach, not how they are shown; 0 if the file does not say."""

    @property
    def sample_type(self) -> np.dtype[Any]:
        """NumPy's type of a sample after decoding, in the file's byte order."""
        width = next(width for width in (8, 16, 32, 64) if width >= self.bits) // 8
        match self.kind:
            case SampleKind.UNSIGNED:
                letter = "u"
            case SampleKind.SIGNED:
                letter = "i"
            case SampleKind.FLOAT:
                letter = "f"
            case _:
                assert_never(self.kind)
        return np.dtype(f"{self.order}{letter}{width}")


class TiffFile:
    """The chain of directories of one file, walked within bounds."""

    def __init__(self, source: io.BytesIO) -> None:
        """Find every picture of the file. Raises ImageError for what is damaged or holds no picture."""
        self._source, self.byte_count = source, source.seek(0, io.SEEK_END)
        head = self.read(0, 16)
        self._order = "<" if head.startswith(b"II") else ">"
        self._big = head[2:4] in (b"+\0", b"\0+")
        if len(head) < 16 or (self._big and head[4:8] not in (b"\x08\0\0\0", b"\0\x08\0\0")):
            raise ImageError(_DAMAGED)
        self._address = np.dtype(f"{self._order}u{8 if self._big else 4}")
        self._entry = np.dtype(
            [
                ("tag", f"{self._order}u2"),
                ("type", f"{self._order}u2"),
                ("count", self._address),
                ("value", self._address),
            ]
        )
        directories = list(self._directories(int(np.frombuffer(head[8 if self._big else 4 :], self._address, 1)[0])))
        self._pictures = [entries for entries in directories if self._is_picture(entries)]
        if not self._pictures:
            what = "only small previews" if directories else "no picture"
            raise ImageError(f"the TIFF file holds {what}: export the picture itself")
        self._in_a_row = self._images_in_a_row() if len(directories) == 1 else 1

    def __len__(self) -> int:
        """How many pictures the file holds; previews and masks are none."""
        return len(self._pictures) * self._in_a_row

    def read(self, at: int, size: int) -> bytes:
        """At most `size` bytes; fewer if the file ends."""
        if at >= self.byte_count:  # no offset of 64 bits is given to the reader, which counts in fewer
            return b""
        self._source.seek(at)
        return self._source.read(size)

    def page(self, index: int) -> TiffPage:
        """What the tags say of a picture. Raises ImageError if they make none."""
        page = _read_page(_Tags(self, self._pictures[0 if self._in_a_row > 1 else index], self._order))
        if self._in_a_row == 1 or index == 0:
            return page
        further = index * page.rows * page.columns * page.samples * page.bits // 8
        return replace(page, offsets=tuple(offset + further for offset in page.offsets))

    def _directories(self, at: int) -> Iterator[NDArray[Any]]:
        """Entries of each directory of the chain; a pointer that leads nowhere ends it, as for other readers."""
        counter = np.dtype(f"{self._order}u{8 if self._big else 2}")
        seen: set[int] = set()
        left = self.byte_count
        while 0 < at < self.byte_count and at not in seen:
            if len(seen) == MAX_PAGES:
                raise ImageError(f"the TIFF file holds more than {MAX_PAGES} pictures: export the one to diagnose")
            seen.add(at)
            start = self.read(at, counter.itemsize)
            entries = int(np.frombuffer(start, counter)[0]) if len(start) == counter.itemsize else 0
            if entries > MAX_ENTRIES:
                raise ImageError(_DAMAGED)
            size = entries * self._entry.itemsize
            content = self.read(at + counter.itemsize, size + self._address.itemsize)
            if len(content) < size:
                raise ImageError(CUT)
            left -= size
            if left < 0:  # they lie in each other, to take more memory than the file has
                raise ImageError(_DAMAGED)
            yield np.frombuffer(content[:size], self._entry)
            pointer = content[size:]
            at = int(np.frombuffer(pointer, self._address)[0]) if len(pointer) == self._address.itemsize else 0

    def _is_picture(self, entries: NDArray[Any]) -> bool:
        tags = _Tags(self, entries, self._order)
        reduced_or_mask = tags.number(Tag.NEW_SUBFILE_TYPE, 0) & 0b101
        return not reduced_or_mask and tags.number(Tag.SUBFILE_TYPE, 1) != 2

    def _images_in_a_row(self) -> int:
        """ImageJ writes one directory for a large stack; the other pictures follow the first without any."""
        tags = _Tags(self, self._pictures[0], self._order)
        if tags.number(Tag.COMPRESSION, 1) != 1 or len(tags.values(Tag.STRIP_OFFSETS)) != 1:
            return 1
        found = re.match(rb"ImageJ=[^\n]*\n(?:[^\n]*\n)*?images=([0-9]{1,6})\s", tags.text(Tag.DESCRIPTION))
        return max(int(found[1]), 1) if found else 1


class _Tags:
    """The values of one directory's tags."""

    def __init__(self, file: TiffFile, entries: NDArray[Any], order: str) -> None:
        self.file, self.order, self._entries = file, order, entries

    def values(self, tag: Tag, *, most: int = MAX_VALUES) -> NDArray[Any]:
        """All values of a tag; none if it is absent. Raises ImageError for more than `most`."""
        return self._values(tag, most, MAX_VALUES)

    def number(self, tag: Tag, default: int) -> int:
        """The first value of a tag as an integer; the others, if any, are not read."""
        values = self._values(tag, MAX_VALUES, 1)
        return int(values[0]) if len(values) else default

    def _values(self, tag: Tag, most: int, wanted: int) -> NDArray[Any]:
        found = self._entries[self._entries["tag"] == tag]
        letter = _KINDS.get(int(found["type"][0])) if len(found) else None
        if letter is None:
            return np.zeros(0, np.uint8)
        kind, count = np.dtype(f"{self.order}{letter}"), int(found["count"][0])
        if count > most:
            raise ImageError(_DAMAGED)
        inside, size = found["value"][:1].tobytes(), min(count, wanted) * kind.itemsize
        lies_inside = count * kind.itemsize <= len(inside)
        content = inside[:size] if lies_inside else self.file.read(int(found["value"][0]), size)
        if len(content) < size:
            raise ImageError(CUT)
        return np.frombuffer(content, kind)

    def same_number(self, tag: Tag, default: int, what: str) -> int:
        """The value that a tag gives for each sample of a pixel. Raises ImageError if they differ."""
        values = self.values(tag, most=64)
        if len(values) and (values != values[0]).any():
            raise ImageError(f"the TIFF file's colours differ in their {what}: export a grey picture of 8 or 16 bits")
        return int(values[0]) if len(values) else default

    def text(self, tag: Tag) -> bytes:
        """The beginning of a text."""
        found = self._entries[self._entries["tag"] == tag]
        if not len(found) or int(found["type"][0]) != 2:
            return b""
        return self.file.read(int(found["value"][0]), min(int(found["count"][0]), MAX_DESCRIPTION))


def _read_page(tags: _Tags) -> TiffPage:
    rows, columns = tags.number(Tag.LENGTH, 0), tags.number(Tag.WIDTH, 0)
    if tags.number(Tag.DEPTH, 1) > 1:
        raise ImageError("the TIFF file holds a volume as one picture: export the slice to diagnose")
    placed = len(tags.values(Tag.TILE_OFFSETS)) > 0
    tiled = placed or tags.number(Tag.TILE_WIDTH, 0) > 0  # old writers name tiles' places as strips'
    segment = (
        (tags.number(Tag.TILE_LENGTH, 0), tags.number(Tag.TILE_WIDTH, 0))
        if tiled
        else (min(tags.number(Tag.ROWS_PER_STRIP, rows) or rows, rows), columns)
    )
    bits, kind = _read_sample_kind(tags)
    return TiffPage(
        order=tags.order,
        rows=rows,
        columns=columns,
        samples=tags.number(Tag.SAMPLES, 1),
        bits=bits,
        kind=kind,
        compression=tags.number(Tag.COMPRESSION, 1),
        photometric=tags.number(Tag.PHOTOMETRIC, -1),
        predictor=tags.number(Tag.PREDICTOR, 1),
        reversed_bits=tags.number(Tag.FILL_ORDER, 1) == 2,
        planar=tags.number(Tag.PLANAR, 1) == 2,
        orientation=tags.number(Tag.ORIENTATION, 1),
        segment=segment,
        tiled=tiled,
        offsets=_list_integers(tags.values(Tag.TILE_OFFSETS if placed else Tag.STRIP_OFFSETS)),
        byte_counts=_list_integers(tags.values(Tag.TILE_BYTE_COUNTS if placed else Tag.STRIP_BYTE_COUNTS)),
        t4_options=tags.number(Tag.T4_OPTIONS, 0),
        colour_map=tags.values(Tag.COLOUR_MAP),
        jpeg_tables=tags.values(Tag.JPEG_TABLES).tobytes(),
        told_range=_read_range(tags),
        told_largest=tags.number(Tag.LARGEST, 0),
    )


def _read_sample_kind(tags: _Tags) -> tuple[int, SampleKind]:
    bits, code = tags.same_number(Tag.BITS, 1, "bits"), tags.same_number(Tag.SAMPLE_FORMAT, 1, "kind")
    code = SampleKind.UNSIGNED if code == _UNDEFINED else code
    what = "decimal numbers" if code == SampleKind.FLOAT else "whole numbers"
    if code not in tuple(SampleKind):
        what = "complex numbers" if code in _COMPLEX else "an unknown kind of numbers"
    if code not in tuple(SampleKind) or bits not in (_FLOAT_BITS if code == SampleKind.FLOAT else _WHOLE_BITS):
        raise ImageError(f"TIFF pictures of {what} of {bits} bits are not read: export whole numbers of 8 or 16 bits")
    return bits, SampleKind(code)


def _read_range(tags: _Tags) -> tuple[float, float] | None:
    smallest, largest = tags.values(Tag.S_SMALLEST, most=64), tags.values(Tag.S_LARGEST, most=64)
    if not len(smallest) or not len(largest):
        return None
    low, high = float(smallest[0]), float(largest[0])
    return (low, high) if np.isfinite([low, high]).all() and low < high else None


def _list_integers(values: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
