"""One frame's bytes, where the file keeps them."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType

from pydicom import Dataset

from contract.errors import ImageError
from imaging.dicom.header import PixelLayout
from imaging.dicom.syntax import Codec, DicomFile
from imaging.formats import ImageWarning, ImageWarnings

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
MOST_FRAGMENTS = 1 << 20
"""Pieces of compressed pixel data in one file."""
_CUT_SHORT = "the DICOM file is damaged or cut short in its pixel data: export or copy it again"


def _begins_run_lengths(fragment: bytes) -> bool:
    """A header of 1 to 15 segments; the first follows it (PS3.5 G.5)."""
    return fragment[4:8] == b"\x40\0\0\0" and fragment[1:4] == b"\0\0\0" and 1 <= fragment[0] <= 15


_BEGINS: MappingProxyType[Codec, Callable[[bytes], bool]] = MappingProxyType(
    {
        Codec.RUN_LENGTHS: _begins_run_lengths,
        Codec.JPEG: lambda fragment: fragment.startswith(b"\xff\xd8"),
        Codec.JPEG_LS: lambda fragment: fragment.startswith(b"\xff\xd8"),
        Codec.JPEG_2000: lambda fragment: fragment.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")),
    }
)
"""Whether a fragment is the first of a frame."""


def read_native_frame(data_set: Dataset, layout: PixelLayout, frame: int) -> tuple[bytes, ImageWarnings]:
    """The bytes of a frame that is not compressed, and a remark if the file holds more than it promises.

    Raises ImageError if there are fewer.
    """
    data = _read_pixel_data(data_set, layout.keyword)
    end = (frame + 1) * layout.frame_bytes
    if data.startswith(_ITEM) and len(data) not in (expected := layout.frames * layout.frame_bytes, expected + 1):
        raise ImageError(
            "the DICOM file holds a compressed picture, while its header does not say that it is compressed: "
            "export the file again"
        )
    if len(data) < end:
        one = layout.frames > 1 and len(data) < 2 * layout.frame_bytes and len(data) >= layout.frame_bytes
        if one:
            raise ImageError("the DICOM header promises several pictures, the file holds one: export the file again")
        raise ImageError(_CUT_SHORT)
    beyond = len(data) - layout.frames * layout.frame_bytes
    remarks = _report_excess(pictures=beyond >= layout.frame_bytes) if beyond > 1 else ()  # one byte is padding
    return data[end - layout.frame_bytes : end], remarks


def read_compressed_frame(
    data_set: Dataset, layout: PixelLayout, file: DicomFile, frame: int
) -> tuple[bytes, ImageWarnings]:
    """The bytes of one compressed frame, and a remark if the file holds more frames than it promises.

    Frames are found by how they begin, for tables of offsets are often wrong; by the table if nothing else helps.
    """
    begins = _BEGINS[file.codec]
    data = _read_pixel_data(data_set, layout.keyword)
    if not data.startswith(_ITEM):
        raise ImageError(
            f"the DICOM file is damaged, its picture is not compressed as it says ({file.transfer_syntax.name}): "
            "export or copy it again"
        )
    table, fragments = _split_fragments(data, begins)
    starts = [index for index, fragment in enumerate(fragments) if begins(fragment.content)]
    if starts and starts[0] == 0 and len(starts) >= layout.frames:
        ends = [*starts[1:], len(fragments)]
        chosen = fragments[starts[frame] : ends[frame]]
        return _join(chosen), _report_excess(pictures=True) if len(starts) > layout.frames else ()
    if len(fragments) == layout.frames:
        return fragments[frame].content, ()
    if layout.frames == 1:
        return _join(fragments), ()
    offsets = struct.unpack(f"<{layout.frames}I", table) if len(table) == 4 * layout.frames else ()
    if offsets and set(offsets) <= {fragment.offset for fragment in fragments}:
        limits = [*offsets, 1 << 63]
        return _join([one for one in fragments if limits[frame] <= one.offset < limits[frame + 1]]), ()
    raise ImageError("the DICOM file does not hold the pictures that its header promises: export the file again")


@dataclass(frozen=True)
class _Fragment:
    """One item of compressed pixel data."""

    offset: int
    """Of its item, from the end of the table of offsets."""
    content: bytes = field(repr=False)


def _join(fragments: list[_Fragment]) -> bytes:
    return b"".join(fragment.content for fragment in fragments)


def _read_pixel_data(data_set: Dataset, keyword: str) -> bytes:
    element = data_set.get_item(keyword) if keyword in data_set else None
    if element is None:
        raise ImageError(_CUT_SHORT)
    return bytes(element.value or b"")


def _split_fragments(data: bytes, begins: Callable[[bytes], bool]) -> tuple[bytes, list[_Fragment]]:
    """The table of offsets, and the fragments that follow it. Raises ImageError for what holds none."""
    contents: list[tuple[int, bytes]] = []
    position = 0
    while data[position : position + 4] == _ITEM and position + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, position + 4)
        if position + 8 + length > len(data):
            raise ImageError(_CUT_SHORT)
        if len(contents) == MOST_FRAGMENTS:
            raise ImageError("the DICOM file holds its picture in too many parts: export the file again")
        contents.append((position, data[position + 8 : position + 8 + length]))
        position += 8 + length
    if position < len(data) and data[position : position + 4] != _END:
        raise ImageError(_CUT_SHORT)
    table = b""
    if contents and not begins(contents[0][1]):  # some files leave the table out
        table = contents.pop(0)[1]
    if not contents:
        raise ImageError(_CUT_SHORT)
    start = contents[0][0]
    return table, [_Fragment(position - start, content) for position, content in contents]


def _report_excess(*, pictures: bool) -> ImageWarnings:
    """A question if the rest is as large as a picture: then the header may be wrong about size or depth too."""
    text = "the file holds more pixel data than its header promises; the rest was not read"
    if pictures:
        text += ": look at the picture"
    return (ImageWarning("more-than-promised", text, needs_confirmation=pictures),)
