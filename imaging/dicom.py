"""DICOM files: one frame -> decode -> modality LUT -> VOI LUT or window -> MONOCHROME1 inversion last -> [0, 1].

Pictures in colours are made grey after decoding (`colour`); they have neither LUT nor window.

Only the tags listed here are ever parsed: the patient's name and identifiers are skipped, not read; age and dates too,
unless the model's card names the ages that it was made for (`patient_age`).
"""

import io
import os
import re
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from contract.errors import ImageError
from contract.model_card import InputSpecification
from imaging.codestream import codestream_size
from imaging.colour import grey_of_colours
from imaging.formats import DecodedFile, ImageWarning, Limits, Values, chosen_frame, third_party_reader
from imaging.grey_scale import apply_modality, linear_window, to_display
from imaging.patient_age import AGE_TAGS, completed_years

_NATIVE = ""
_DECODERS = {
    "1.2.840.10008.1.2": _NATIVE,  # implicit VR little endian
    "1.2.840.10008.1.2.1": _NATIVE,  # explicit VR little endian
    "1.2.840.10008.1.2.2": _NATIVE,  # explicit VR big endian
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.4.51": "pillow",  # JPEG extended, of which 8 bits only
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "gdcm",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91": "pillow",  # JPEG 2000
}
"""Transfer syntax -> the pydicom plugin that decodes it; one each, so that a file never reads in two ways."""

_WORKER = Path(__file__).with_name("jpeg_lossless_worker.py")
_WORKER_SECONDS = 60
_WORKER_WORDS = 64 << 10

_CODESTREAMS = ("pillow", "gdcm", "pyjpegls")
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_CONVERT = "convert it to uncompressed or JPEG 2000"

_HEADER_TAGS: list[str] = [
    "Modality",
    "PresentationIntentType",
    "BodyPartExamined",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
]
_TRANSFORMATION_TAGS = (
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
)
_PALETTE_TAGS = tuple(
    f"{colour}PaletteColorLookupTable{what}" for colour in ("Red", "Green", "Blue") for what in ("Descriptor", "Data")
)
_FRAME_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
"""Functional groups (PS3.3 C.7.6.16) that say of a frame what older files say of the whole."""

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_PALETTE = "PALETTE COLOR"
_PIXEL_TAGS: list[str] = [
    *_HEADER_TAGS,
    *_TRANSFORMATION_TAGS,
    *_PALETTE_TAGS,
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelData",
]

_HEADER_PREFIX_BYTES = 8 << 20
_PLAIN_START = bytes(128) + b"DICM\x02\x00\x10\x00UI\x14\x00" + ExplicitVRLittleEndian.encode() + b"\0"
"""Preamble and the one meta element (transfer syntax) that a data set in explicit VR little endian needs."""


def read_dicom(source: BinaryIO, specification: InputSpecification, limits: Limits) -> DecodedFile:
    """Decode one frame, grey of 8 to 16 bits (signed or not) or in colours of 8, to grey float32 in [0, 1].

    Which frame, and whether colours are read, is for the card to say. Its window (in units after the modality LUT) is
    used where the file has neither VOI LUT nor window; without any, the frame's own smallest and largest value become
    0 and 1. Raises ImageError for everything else; size, colours and compression are judged from the header before
    memory is taken for pixels.
    """
    with third_party_reader("the DICOM file"):
        transfer_syntax, start = _transfer_syntax(source)
        deflated = transfer_syntax == DeflatedExplicitVRLittleEndian
        name = transfer_syntax.name
        if deflated:
            transfer_syntax = ExplicitVRLittleEndian
        _check_compression(transfer_syntax)
        prefix = _inflated(source, start, _HEADER_PREFIX_BYTES, whole=False) if deflated else source
        frames = _check_header(prefix, transfer_syntax, specification, limits)
        frame = chosen_frame(specification.frame, frames)
        whole = _inflated(source, start, limits.max_file_bytes, whole=True) if deflated else source
        whole.seek(0)
        data_set = dcmread(
            whole, specific_tags=_PIXEL_TAGS if specification.ages is None else [*_PIXEL_TAGS, *AGE_TAGS]
        )
        if "PixelData" not in data_set:
            raise ImageError("the DICOM file is cut short in its pixel data: export or copy it again")
        pixels, warnings, values = _pixels(data_set, transfer_syntax, specification, frame=frame, frames=frames)
        return DecodedFile(
            pixels=pixels,
            encoding=f"{name}, {data_set.PhotometricInterpretation}, {int(data_set.BitsStored)} bits",
            frames=frames,
            frame=frame + 1,
            modality=_code_string(data_set, "Modality"),
            body_part=_code_string(data_set, "BodyPartExamined"),
            years=completed_years(data_set),
            warnings=(*warnings, *_intent(data_set)),
            values=values,
        )


def _pixels(
    data_set: Dataset, transfer_syntax: UID, specification: InputSpecification, *, frame: int, frames: int
) -> tuple[NDArray[np.float32], tuple[ImageWarning, ...], Values | None]:
    if data_set.PhotometricInterpretation not in _GREY:
        colours = _decode_colours(data_set, transfer_syntax, frame=frame, frames=frames)
        return *grey_of_colours(colours, specification.colour), None
    stored = _decode(data_set, transfer_syntax, frame=frame, frames=frames)
    told = _transformations(data_set, frame)
    values = apply_modality(stored, told)
    pixels, warnings = to_display(values, told, specification.window)
    inverted = data_set.PhotometricInterpretation == "MONOCHROME1"
    if inverted:
        np.subtract(np.float32(1), pixels, out=pixels)
    return pixels, warnings, Values(values=values, inverted=inverted, window=linear_window(told))


def _transformations(data_set: Dataset, frame: int) -> Dataset:
    """LUTs, rescale and window of one frame: its own, else those shared by all frames, else those of the file."""
    told = Dataset()
    groups = data_set.get("PerFrameFunctionalGroupsSequence") or []
    own = [groups[frame]] if frame < len(groups) else []
    places = [data_set]
    for group in (*(data_set.get("SharedFunctionalGroupsSequence") or [])[:1], *own):
        places += [item for name in _FRAME_GROUPS for item in (group.get(name) or [])[:1]]
    for place in places:
        for tag in _TRANSFORMATION_TAGS:
            if tag in place:
                told[tag] = place[tag]
    return told


def _transfer_syntax(source: BinaryIO) -> tuple[UID, int]:
    """The transfer syntax and the offset at which the data set begins (after the file meta information)."""
    source.seek(132)
    meta = read_dataset(
        source, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2
    )
    if "TransferSyntaxUID" not in meta:
        raise ImageError("the DICOM file names no transfer syntax: export it again as a complete DICOM file")
    return UID(str(meta.TransferSyntaxUID)), source.tell()


def _inflated(source: BinaryIO, start: int, most_bytes: int, *, whole: bool) -> io.BytesIO:
    """A deflated data set as a plain DICOM file of at most `most_bytes`; only its beginning unless `whole`."""
    source.seek(start)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(source.read(), most_bytes)
    if whole and not inflater.eof:
        if inflater.unconsumed_tail:
            raise ImageError(f"the DICOM file inflates to more than {most_bytes >> 20} MiB: {_CONVERT}")
        raise ImageError("the DICOM file is cut short: export or copy it again")
    return io.BytesIO(_PLAIN_START + plain)


def _check_compression(transfer_syntax: UID) -> None:
    if transfer_syntax in _DECODERS:
        return
    if transfer_syntax.is_valid and not transfer_syntax.is_private and transfer_syntax.name != transfer_syntax:
        raise ImageError(f"DICOM files compressed as '{transfer_syntax.name}' cannot be decoded here: {_CONVERT}")
    raise ImageError(f"the DICOM file is in an unknown transfer syntax: {_CONVERT}")


def _check_header(source: BinaryIO, transfer_syntax: UID, specification: InputSpecification, limits: Limits) -> int:
    """Refuse by header alone what holds no frame to read within `limits`; return how many frames it holds."""
    source.seek(0)
    header = dcmread(source, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
    if source.read(4) not in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"):
        raise ImageError("the DICOM file holds no picture (no pixel data), or is cut short: export the image itself")
    frames = int(header.get("NumberOfFrames") or 1)
    chosen_frame(specification.frame, frames)
    limits.check_size(rows=int(header.Rows), columns=int(header.Columns))
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    if allocated not in (8, 16) or not 0 < stored <= allocated or header.PixelRepresentation not in (0, 1):
        raise ImageError(f"DICOM pixels of {stored} bits in {allocated} are not read: export 8 to 16 bits")
    if transfer_syntax == _JPEG_EXTENDED and stored != 8:
        raise ImageError(
            f"DICOM files compressed as JPEG Extended with {stored} bits cannot be decoded here: {_CONVERT}"
        )
    _check_colours(header, transfer_syntax)
    return frames


def _check_colours(header: Dataset, transfer_syntax: UID) -> None:
    kind, samples = str(header.PhotometricInterpretation), int(header.SamplesPerPixel)
    if samples != (3 if kind in _COLOURS else 1) or kind not in (*_GREY, *_COLOURS, _PALETTE):
        raise ImageError(f"DICOM pictures of {samples} sample(s) as '{_printable(kind)}' are not read: {_CONVERT}")
    if kind in _GREY:
        return
    if kind != _PALETTE and (int(header.BitsAllocated), int(header.BitsStored)) != (8, 8):
        raise ImageError("DICOM pictures in colours are read with 8 bits a colour only: export it with 8")
    if _DECODERS[transfer_syntax] == "gdcm":
        raise ImageError(f"DICOM pictures in colours are not read from JPEG Lossless: {_CONVERT}")
    if transfer_syntax in (_JPEG_BASELINE, _JPEG_EXTENDED) and kind == "RGB":
        # Some such files hold what they say, more hold YBR: nobody can tell.
        raise ImageError(f"DICOM pictures marked RGB are not read from JPEG, which seldom holds RGB: {_CONVERT}")


def _decode(data_set: Dataset, transfer_syntax: UID, *, frame: int, frames: int) -> NDArray[np.integer]:
    """Stored values of one frame, integers of shape (rows, columns)."""
    plugin = _DECODERS[transfer_syntax]
    shape = (int(data_set.Rows), int(data_set.Columns))
    if plugin in _CODESTREAMS:
        codestream = _codestream(data_set, shape, frame=frame, frames=frames)
        if plugin == "gdcm":
            return _decode_apart(codestream, data_set, transfer_syntax)
    values, _ = get_decoder(transfer_syntax).as_array(data_set, raw=True, index=frame, decoding_plugin=plugin)
    if values.shape != shape or not np.issubdtype(values.dtype, np.integer):
        raise ImageError("the DICOM file does not decode to one grey image: export it again")
    return values if plugin in _CODESTREAMS else _used_bits(values, data_set)


def _decode_colours(data_set: Dataset, transfer_syntax: UID, *, frame: int, frames: int) -> NDArray[np.uint8]:
    """One frame in red, green and blue, (rows, columns, 3), 8 bits each."""
    plugin = _DECODERS[transfer_syntax]
    shape = (int(data_set.Rows), int(data_set.Columns))
    if plugin in _CODESTREAMS:
        _codestream(data_set, shape, frame=frame, frames=frames)
    values, _ = get_decoder(transfer_syntax).as_array(data_set, index=frame, decoding_plugin=plugin)
    if data_set.PhotometricInterpretation == _PALETTE:
        if transfer_syntax == ExplicitVRBigEndian:
            _turn_palette_bytes(data_set)
        looked_up = apply_color_lut(values, data_set)
        values = looked_up if looked_up.dtype == np.uint8 else (looked_up >> 8).astype(np.uint8)
    if values.shape != (*shape, 3) or values.dtype != np.uint8:
        raise ImageError("the DICOM file does not decode to one picture in colours of 8 bits: export it again")
    return values


def _turn_palette_bytes(data_set: Dataset) -> None:
    """Pydicom looks colours up in tables of little-endian words whatever the file's own order is."""
    for tag in _PALETTE_TAGS:
        if tag.endswith("Data"):
            data_set[tag].value = np.frombuffer(data_set[tag].value, ">u2").astype("<u2").tobytes()


def _codestream(data_set: Dataset, shape: tuple[int, int], *, frame: int, frames: int) -> bytes:
    """One frame's compressed bytes. Raises ImageError where they promise another size than the header."""
    compressed = get_frame(data_set.PixelData, frame, number_of_frames=frames)
    if codestream_size(compressed) != shape:
        raise ImageError("the DICOM header and its compressed picture differ in size: export the file again")
    return compressed


def _decode_apart(frame: bytes, data_set: Dataset, transfer_syntax: UID) -> NDArray[np.integer]:
    """Decode JPEG Lossless in a process of its own, which a damaged frame may crash."""
    allocated, signed = int(data_set.BitsAllocated), int(data_set.PixelRepresentation)
    rows, columns = int(data_set.Rows), int(data_set.Columns)
    numbers = (rows, columns, allocated, int(data_set.BitsStored), signed)
    command = [sys.executable, "-I", str(_WORKER), str(transfer_syntax), *(str(number) for number in numbers)]
    with _in_memory(frame) as source, _in_memory() as target, _in_memory() as words:
        worker = subprocess.Popen(command, stdin=source, stdout=target, stderr=words)  # noqa: S603 - own script, checked numbers
        limit = threading.Timer(_WORKER_SECONDS, worker.kill)  # a wait with a timeout looks twenty times a second
        limit.start()
        status = worker.wait()
        limit.cancel()
        length = rows * columns * allocated // 8
        target.seek(0)
        pixels = target.read(length + 1)
        words.seek(0)
        damaged = status != 0 or len(pixels) != length or b"Corrupt JPEG data" in words.read(_WORKER_WORDS)
    if damaged:
        raise ImageError("the compressed picture in the DICOM file is damaged: export or copy the file again")
    kind = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    return np.frombuffer(pixels, dtype=kind).reshape(rows, columns)


def _in_memory(content: bytes = b"") -> BinaryIO:
    """A file that lies in memory alone. A process takes it over faster than a pipe, and a picture touches no disk."""
    file = os.fdopen(os.memfd_create("frame"), "w+b")
    file.write(content)
    file.seek(0)
    return file


def _used_bits(values: NDArray[np.integer], data_set: Dataset) -> NDArray[np.integer]:
    """Drop what old files keep in the unused bits (overlays), and extend the sign of what is left."""
    allocated, stored = int(data_set.BitsAllocated), int(data_set.BitsStored)
    above = allocated - 1 - int(data_set.get("HighBit", stored - 1))
    if not 0 <= above <= allocated - stored:
        raise ImageError("the DICOM header contradicts itself about the bits of a pixel: export the file again")
    if stored == allocated:
        return values
    native = values.astype(values.dtype.newbyteorder("="))
    return np.right_shift(np.left_shift(native, above), allocated - stored)


def _code_string(data_set: Dataset, keyword: str) -> str | None:
    """A DICOM code string; None where absent; never anything but the characters that the standard allows."""
    value = str(data_set.get(keyword) or "").strip().upper()
    return _printable(value) if value else None


def _printable(value: str) -> str:
    return value if re.fullmatch(r"[A-Z0-9_ ]{1,16}", value) else "UNREADABLE"


def _intent(data_set: Dataset) -> tuple[ImageWarning, ...]:
    if data_set.get("PresentationIntentType") != "FOR PROCESSING":
        return ()
    text = "these are raw detector values (FOR PROCESSING), not the picture that radiologists read"
    return (ImageWarning("for-processing", text, needs_confirmation=True),)
