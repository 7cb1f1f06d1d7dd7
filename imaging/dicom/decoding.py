"""One grey frame out of its compression, as bare patterns of bits: `bits` says which of them are the pixel's."""

import io
from typing import assert_never

import jpeg_ls
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import RLELossless

from contract.errors import ImageError
from contract.model_card import ColourChoice
from imaging.codestream import END_OF_PICTURE, Coder, Codestream, has_end, read_codestream
from imaging.colour import brightness
from imaging.dicom.bits import Samples
from imaging.dicom.frames import compressed_frame, native_frame
from imaging.dicom.gdcm_frames import gdcm_pixels
from imaging.dicom.header import PixelLayout
from imaging.dicom.syntax import Codec, DicomFile
from imaging.formats import ImageWarning
from imaging.jpeg_header import check_passes

_JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_LOSSY_JPEG_2000 = ("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")
_MOST_STRAY_BYTES = 8
"""Before the end of a JPEG-LS picture."""
DAMAGED_FRAME = "the compressed picture in the DICOM file is damaged: export or copy the file again"
_NOT_GREY = "the DICOM file does not decode to one grey image: export it again"
_SLACK = 16
"""JPEG 2000's reversible wavelet, cut short, leaves the range of its values by less than this part of it."""


def decode_grey(
    file: DicomFile, data_set: Dataset, layout: PixelLayout, frame: int, choice: ColourChoice
) -> tuple[Samples, tuple[ImageWarning, ...]]:
    """One frame of integers. Raises ImageError for what is damaged or is not what the header says."""
    codec = file.codec
    if codec is Codec.NATIVE:
        data, remarks = native_frame(data_set, layout, frame)
        return Samples(patterns=_native(data, file, data_set, layout, frame), precision=layout.allocated), remarks
    data, remarks = compressed_frame(data_set, layout, file, frame)
    if codec is Codec.RUN_LENGTHS and read_codestream(data) is None:
        return Samples(patterns=_run_lengths(data, layout), precision=layout.allocated), remarks
    stream = checked_codestream(data, layout)
    remarks = (*remarks, *_of_coder(stream, codec))
    if stream.coder is Coder.JPEG and stream.components == 3 and stream.precision == 8 and not stream.lossless:
        values, of_colours = brightness(
            np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB")), choice
        )
        text = "the file says that it is grey, and its compressed picture has three colours; their brightness was read"
        return Samples(patterns=values, precision=8), (*remarks, *of_colours, ImageWarning("three-colours", text))
    if stream.components != 1:
        raise ImageError(
            f"the DICOM header says that the picture is grey, its compressed picture has {stream.components} colours: "
            "export the file again"
        )
    if stream.precision > layout.allocated:
        raise ImageError(
            f"the DICOM header promises {layout.allocated} bits, its compressed picture has {stream.precision}: "
            "export the file again"
        )
    patterns = _unpacked(data, stream, file)
    if patterns.shape != layout.shape:
        raise ImageError(_NOT_GREY)
    return Samples(patterns=patterns, precision=stream.precision, slack=_slack(stream, layout, file)), remarks


def checked_codestream(data: bytes, layout: PixelLayout) -> Codestream:
    """The header of one compressed frame. Raises ImageError where it promises another size than the DICOM header."""
    stream = read_codestream(data)
    if stream is None:
        raise ImageError(DAMAGED_FRAME)
    if stream.shape != layout.shape:
        raise ImageError("the DICOM header and its compressed picture differ in size: export the file again")
    if data.startswith(b"\xff\xd8"):
        check_passes(data, rows=stream.rows, columns=stream.columns)
    return stream


def _of_coder(stream: Codestream, codec: Codec) -> tuple[ImageWarning, ...]:
    if stream.coder.value == codec.value:
        return ()
    text = f"the file says that its picture is compressed by {codec}, and it is by {stream.coder}: it was read so"
    return (ImageWarning("other-compression", text),)


def _slack(stream: Codestream, layout: PixelLayout, file: DicomFile) -> int:
    """By how much decoded values may leave the range of those that were encoded.

    A transformation into frequencies leaves nothing of bits of their own above a value, so what is there is overshoot,
    but no more than the values' own range: a stream of more bits than are stored holds something else above them.
    """
    if stream.coder is Coder.JPEG_LS:
        return stream.error
    if not stream.lossless:
        return 1 << min(stream.precision, layout.stored)
    return (1 << layout.stored) // _SLACK if file.transfer_syntax in _LOSSY_JPEG_2000 else 0


def _unpacked(data: bytes, stream: Codestream, file: DicomFile) -> NDArray[np.unsignedinteger]:
    ended = has_end(data)
    match stream.coder:
        case Coder.JPEG if stream.precision == 8 and not stream.lossless and ended:
            return _by_pillow(data)
        case Coder.JPEG:
            return _by_gdcm(data if ended else data + END_OF_PICTURE, stream, file)
        case Coder.JPEG_LS:
            return _jpeg_ls(data, stream)
        case Coder.JPEG_2000:
            # Where the end alone is missing, a byte of padding may stand there.
            return _jpeg_2000((data,) if ended else (data + END_OF_PICTURE, data[:-1] + END_OF_PICTURE), stream)
        case _:
            assert_never(stream.coder)


def native_numbers(data: bytes, file: DicomFile, kind: str) -> NDArray[np.generic]:
    """Numbers of a NumPy kind such as `u2`, in the file's order of bytes, in this machine's."""
    found = np.frombuffer(data, f"{'>' if file.is_big_endian else '<'}{kind}")
    return found.astype(found.dtype.newbyteorder("="))


def _native(
    data: bytes, file: DicomFile, data_set: Dataset, layout: PixelLayout, frame: int
) -> NDArray[np.unsignedinteger]:
    if file.is_big_endian and layout.allocated == 8 and data_set[layout.keyword].VR == "OW":
        every = data_set[layout.keyword].value  # bytes lie in words, the second first
        turned = np.frombuffer(every[: len(every) // 2 * 2], "<u2").byteswap().tobytes() + every[len(every) // 2 * 2 :]
        data = turned[frame * layout.frame_bytes : (frame + 1) * layout.frame_bytes]
    values = native_numbers(data, file, f"u{layout.allocated // 8}")
    return np.asarray(values.reshape(layout.shape))


def _run_lengths(data: bytes, layout: PixelLayout) -> NDArray[np.unsignedinteger]:
    unpacked, _ = get_decoder(RLELossless).as_buffer(
        encapsulate([data]),
        index=0,
        decoding_plugin="pydicom",
        rows=layout.rows,
        columns=layout.columns,
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=layout.allocated,
        bits_stored=layout.allocated,
        pixel_representation=0,
        photometric_interpretation=layout.kind,
        pixel_keyword="PixelData",
    )
    return np.frombuffer(unpacked, f"<u{layout.allocated // 8}").reshape(layout.shape)


def _by_pillow(data: bytes) -> NDArray[np.unsignedinteger]:
    values = np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]))
    if values.dtype != np.uint8:
        raise ImageError(_NOT_GREY)
    return values


def _jpeg_2000(candidates: tuple[bytes, ...], stream: Codestream) -> NDArray[np.unsignedinteger]:
    """The first candidate that decodes: a picture of which more than its end is missing never does."""
    import imagecodecs  # with tens of decoders; Pillow's refuses some valid pictures of a single part

    for data in candidates:
        try:
            values = np.asarray(imagecodecs.jpeg2k_decode(data))
        except imagecodecs.Jpeg2kError:
            continue
        if values.dtype not in (np.uint8, np.uint16, np.int8, np.int16):
            raise ImageError(_NOT_GREY)
        return np.asarray(values.view(f"u{values.itemsize}") & ((1 << stream.precision) - 1))
    raise ImageError(DAMAGED_FRAME)


def _jpeg_ls(data: bytes, stream: Codestream) -> NDArray[np.unsignedinteger]:
    """Some encoders leave bytes between the picture and its end marker, which the decoder does not forgive."""
    try:
        buffer, _ = jpeg_ls.decode_pixel_data(data)
    except RuntimeError:
        buffer = _without_stray_bytes(data)
    return np.frombuffer(buffer, np.uint8 if stream.precision <= 8 else "<u2").reshape(stream.shape)


def _without_stray_bytes(data: bytes) -> bytes:
    body = data[: data.rfind(END_OF_PICTURE)]
    for stray in range(1, _MOST_STRAY_BYTES + 1):
        if body[-stray:].strip(b"\0\xff"):
            break
        try:
            return bytes(jpeg_ls.decode_pixel_data(body[:-stray] + END_OF_PICTURE)[0])
        except RuntimeError:
            continue
    raise ImageError(DAMAGED_FRAME)


def _by_gdcm(data: bytes, stream: Codestream, file: DicomFile) -> NDArray[np.unsignedinteger]:
    """JPEG that is lossless or has more than 8 bits. A damaged frame may end the process: `imaging.isolation`."""
    syntax = str(file.transfer_syntax)
    if stream.lossless != (syntax in _JPEG_LOSSLESS):
        syntax = _JPEG_LOSSLESS[0] if stream.lossless else _JPEG_EXTENDED
    pixels = gdcm_pixels(data, stream, syntax)
    container = 1 if stream.precision <= 8 else 2
    if len(pixels) != stream.rows * stream.columns * container:
        raise ImageError(DAMAGED_FRAME)
    return np.frombuffer(pixels, f"<u{container}").reshape(stream.shape)
