"""The samples of one TIFF picture: its strips or tiles, decompressed and put together. What they mean is not asked.

No decoder may make more than a segment's size, and each segment must be whole: nothing that is missing becomes black.
"""

import lzma
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import ImageError
from imaging.codestream import check_passes, has_end, read_codestream
from imaging.formats import Limits
from imaging.tiff_pages import CUT, SampleKind, TiffFile, TiffPage

MAX_SAMPLES: Final = 4
_PLAIN, _RLE, _GROUP_3, _GROUP_4, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE = 1, 2, 3, 4, 5, 7, 8, 32946
_PACK_BITS, _LZMA, _ZSTD = 32773, 34925, 50000
_FAX = (_RLE, _GROUP_3, _GROUP_4)
_READ = (_PLAIN, *_FAX, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE, _PACK_BITS, _LZMA, _ZSTD)
_NAMES = {
    6: "the old kind of JPEG", 9: "JBIG", 10: "JBIG", 32809: "ThunderScan", 33003: "JPEG 2000", 33004: "JPEG 2000",
    33005: "JPEG 2000", 33007: "JPEG", 34661: "JBIG", 34676: "LogLuv", 34677: "LogLuv", 34712: "JPEG 2000",
    34887: "LERC", 34892: "lossy JPEG", 34933: "PNG", 34934: "JPEG XR", 22610: "JPEG XR", 50001: "WebP",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_YBR, _RGB = 6, 2
_EXPORT = "export it without compression or with LZW"
_NOWHERE = "the TIFF file does not say where all parts of its picture are: export it again"
_DAMAGED = "the compressed picture in the TIFF file is damaged: export or copy the file again"
_MOST_LARGER = 4
"""A segment's compressed bytes, at most so many times what it holds: no encoder does worse."""
_LEAST_BYTES = 1 << 16


def check_storage(page: TiffPage, limits: Limits) -> None:
    """Raise ImageError for a picture whose size or compression is not read, before memory is taken."""
    limits.check_size(rows=page.rows, columns=page.columns)
    if page.compression not in _READ:
        name = _NAMES.get(page.compression, f"method {page.compression}")
        raise ImageError(f"TIFF files compressed as {name} cannot be decoded here: {_EXPORT}")
    if not 1 <= page.samples <= MAX_SAMPLES:
        raise ImageError(f"TIFF pictures with {page.samples} values a pixel are not read: export a grey picture")
    if min(page.segment) < 1 or not page.offsets:
        raise ImageError(_NOWHERE)
    down, across = _count_segments(page)
    limits.check_size(rows=down * page.segment[0], columns=across * page.segment[1])
    width = page.sample_type.itemsize * page.samples
    if page.rows * page.columns * width > 4 * limits.max_pixels:
        raise ImageError("the picture is too large for its many bits: export it with 8 or 16 bits")
    if page.compression in _FAX and (page.bits, page.samples) != (1, 1):
        raise ImageError("the TIFF file is compressed as a fax but is not black and white: export it again")
    if page.compression == _JPEG and (page.bits not in (8, 12) or page.kind is not SampleKind.UNSIGNED):
        raise ImageError(f"TIFF files with JPEG of {page.bits} bits cannot be decoded here: {_EXPORT}")
    if page.predictor not in (1, 2, 3) or (page.predictor == 3) > (page.kind is SampleKind.FLOAT):
        raise ImageError(f"TIFF files with this kind of prediction cannot be decoded here: {_EXPORT}")


def read_samples(file: TiffFile, page: TiffPage) -> NDArray[Any]:
    """(rows, columns, samples) in the machine's byte order; JPEG's colours as red, green and blue.

    `check_storage` comes before. Raises ImageError if anything is missing or damaged.
    """
    kind = page.sample_type.newbyteorder("=")
    whole = np.empty((page.rows, page.columns, page.samples), kind)
    for number, data in enumerate(_read_segments(file, page)):
        plane, row, column = _locate(page, number)
        rows = page.segment[0] if page.tiled else min(page.segment[0], page.rows - row)
        part = _decode(data, page, rows)
        target = whole[row : row + rows, column : column + page.segment[1], plane]
        target[...] = part[: target.shape[0], : target.shape[1]]
    return whole


def _count_segments(page: TiffPage) -> tuple[int, int]:
    return -(-page.rows // page.segment[0]), -(-page.columns // page.segment[1])


def _locate(page: TiffPage, number: int) -> tuple[slice, int, int]:
    """Which samples, and the row and column where a segment begins."""
    down, across = _count_segments(page)
    plane, inside = divmod(number, down * across)
    samples = slice(plane, plane + 1) if page.planar else slice(None)
    return samples, inside // across * page.segment[0], inside % across * page.segment[1]


def _read_segments(file: TiffFile, page: TiffPage) -> Iterator[bytes]:
    """The compressed bytes of each segment."""
    down, across = _count_segments(page)
    count = down * across * (page.samples if page.planar else 1)
    most = max(_MOST_LARGER * _count_bytes(page, page.segment[0]), _LEAST_BYTES)
    byte_counts = page.byte_counts
    if not byte_counts and (page.compression == _PLAIN or count == 1):  # old writers leave them out
        byte_counts = (most,) * count
    if len(page.offsets) < count or len(byte_counts) < count:
        raise ImageError(_NOWHERE)
    left = _MOST_LARGER * file.byte_count + count * _LEAST_BYTES // 16
    for offset, byte_count in zip(page.offsets[:count], byte_counts[:count], strict=True):
        if not offset or not byte_count:
            raise ImageError("parts of the picture are missing in the TIFF file: export it again")
        data = file.read(offset, min(byte_count, most))
        if page.compression in _FAX and len(data) < byte_count:  # a fax has no length of its own
            raise ImageError(CUT)
        left -= len(data)
        if left < 0:  # the same bytes again and again, to keep a reader busy
            raise ImageError(_DAMAGED)
        yield data


def _count_bytes(page: TiffPage, rows: int) -> int:
    """Bytes of a segment of so many rows after decompression."""
    samples = 1 if page.planar else page.samples
    return rows * -(-page.segment[1] * samples * page.bits // 8)


def _decode(data: bytes, page: TiffPage, rows: int) -> NDArray[Any]:
    """One segment, (rows, columns, samples)."""
    samples = 1 if page.planar else page.samples
    shape = (rows, page.segment[1], samples)
    if page.compression == _JPEG:
        return _decode_jpeg(data, page, shape)
    if page.reversed_bits:
        data = data.translate(_REVERSED)
    if page.compression in _FAX:
        return _decode_fax(data, page, shape)
    size = _count_bytes(page, rows)
    plain = _decompress(data, page.compression, size)
    if len(plain) < size:
        raise ImageError(CUT if page.compression == _PLAIN else _DAMAGED)
    return _undo_prediction(plain[:size], page, shape)


def _decompress(data: bytes, compression: int, size: int) -> bytes:
    """At least `size` bytes, if the data holds them, and never many more."""
    import imagecodecs  # with tens of decoders; few files need any

    match compression:
        case 1:
            return data
        case 5:
            return bytes(imagecodecs.lzw_decode(data, out=size))
        case 8 | 32946:
            return _inflate(data, size)
        case 32773:
            return bytes(imagecodecs.packbits_decode(data, out=size + _LEAST_BYTES))
        case 34925:
            return lzma.LZMADecompressor(memlimit=256 << 20).decompress(data, size)
        case _:
            return bytes(imagecodecs.zstd_decode(data, out=size))


def _inflate(data: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(data, size)
    inflater.decompress(inflater.unconsumed_tail, _LEAST_BYTES)  # to the checksum behind
    return plain


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Bytes with their bits from right to left: FillOrder 2."""


def _undo_prediction(plain: bytes, page: TiffPage, shape: tuple[int, int, int]) -> NDArray[Any]:
    if page.predictor == 3:
        return _undo_float_prediction(plain, page, shape)
    values = _unpack(plain, page, shape)
    if page.predictor == 2:
        whole = values.view(f"u{values.itemsize}")
        summed = np.cumsum(whole, axis=1, dtype=whole.dtype)
        values = (summed & ((1 << page.bits) - 1)).astype(whole.dtype).view(values.dtype)
    return values


def _unpack(plain: bytes, page: TiffPage, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Samples from bytes; each row begins with a byte of its own."""
    if page.bits in (8, 16, 32, 64):
        return np.frombuffer(plain, page.sample_type).reshape(shape).astype(page.sample_type.newbyteorder("="))
    import imagecodecs

    across = shape[1] * shape[2]
    unsigned = np.dtype(np.uint8 if page.bits <= 8 else np.uint16)
    values: NDArray[Any] = imagecodecs.packints_decode(plain, unsigned, page.bits, runlen=across)
    if page.kind is SampleKind.SIGNED:
        unused = 8 * unsigned.itemsize - page.bits
        values = (values << unused).view(f"i{unsigned.itemsize}") >> unused
    return values.astype(page.sample_type.newbyteorder("=")).reshape(shape)


def _undo_float_prediction(plain: bytes, page: TiffPage, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Adobe's floating-point predictor (Photoshop TIFF Technical Note 3): bytes by significance, highest first."""
    rows, across, width = shape[0], shape[1] * shape[2], page.bits // 8
    steps = np.frombuffer(plain, np.uint8).reshape(rows, -1, shape[2])
    planes = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(rows, width, across)
    values = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{width}")
    return values.astype(f"=f{width}").reshape(shape)


def _decode_fax(data: bytes, page: TiffPage, shape: tuple[int, int, int]) -> NDArray[Any]:
    import imagecodecs

    match page.compression:
        case 2:
            values = imagecodecs.ccittrle_decode(data, *shape[:2])
        case 3:
            values = imagecodecs.ccittfax3_decode(data, *shape[:2], t4options=page.t4_options)
        case _:
            values = imagecodecs.ccittfax4_decode(data, *shape[:2])
    return np.asarray(values, np.uint8).reshape(shape)


def _decode_jpeg(data: bytes, page: TiffPage, shape: tuple[int, int, int]) -> NDArray[Any]:
    """A JPEG of its own, except the tables that all segments share."""
    import imagecodecs

    stream = read_codestream(data)
    if stream is None or stream.columns != shape[1] or not shape[0] <= stream.rows <= page.segment[0]:
        raise ImageError(_DAMAGED)
    if (stream.precision, stream.components) != (page.bits, shape[2]):
        raise ImageError("the TIFF file and the JPEG in it differ in bits or colours: export the file again")
    if not has_end(data):
        raise ImageError(CUT)
    check_passes(data, rows=stream.rows, columns=stream.columns)
    marked = b"JFIF\0" in data[:32]
    stored_as = _RGB if page.photometric == _RGB and not marked else None
    wanted = _RGB if page.photometric in (_RGB, _YBR) and not page.planar else None
    values = imagecodecs.jpeg8_decode(data, tables=page.jpeg_tables or None, colorspace=stored_as, outcolorspace=wanted)
    return np.asarray(values).reshape(*stream.shape, shape[2])[: shape[0]]
