"""One grey frame out of its compression, as bare patterns of bits: `bits` says which of them are the pixel's.

JPEG that is lossless or has more than 8 bits goes through GDCM, which crashes the process on some damaged frames. On
others it decodes on, and only says so on standard error: `imaging.isolation.confined` looks there.
"""

import io
from typing import assert_never

import gdcm
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
from imaging.codestream import END_OF_PICTURE, Coder, Codestream, check_passes, has_end, read_codestream
from imaging.dicom.bits import Samples
from imaging.dicom.frames import read_compressed_frame, read_native_frame
from imaging.dicom.header import PixelLayout
from imaging.dicom.syntax import Codec, DicomFile
from imaging.formats import ImageWarning, ImageWarnings
from imaging.grey_scale import read_brightness

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
) -> tuple[Samples, ImageWarnings]:
    """One frame of integers. Raises ImageError for what is damaged or is not what the header says."""
    codec = file.codec
    if codec is Codec.NATIVE:
        data, remarks = read_native_frame(data_set, layout, frame)
        return Samples(patterns=_read_native(data, file, data_set, layout, frame), precision=layout.allocated), remarks
    data, remarks = read_compressed_frame(data_set, layout, file, frame)
    if codec is Codec.RUN_LENGTHS and read_codestream(data) is None:
        return Samples(patterns=_decode_run_lengths(data, layout), precision=layout.allocated), remarks
    stream = check_codestream(data, layout)
    remarks = (*remarks, *_check_coder(stream, codec))
    if stream.coder is Coder.JPEG and stream.components == 3 and stream.precision == 8 and not stream.lossless:
        values, of_colours = read_brightness(
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
    patterns = _unpack(data, stream, file)
    if patterns.shape != layout.shape:
        raise ImageError(_NOT_GREY)
    return Samples(patterns=patterns, precision=stream.precision, slack=_find_slack(stream, layout, file)), remarks


def check_codestream(data: bytes, layout: PixelLayout) -> Codestream:
    """The header of one compressed frame. Raises ImageError if it promises another size than the DICOM header."""
    stream = read_codestream(data)
    if stream is None:
        raise ImageError(DAMAGED_FRAME)
    if stream.shape != layout.shape:
        raise ImageError("the DICOM header and its compressed picture differ in size: export the file again")
    if data.startswith(b"\xff\xd8"):
        check_passes(data, rows=stream.rows, columns=stream.columns)
    return stream


def _check_coder(stream: Codestream, codec: Codec) -> ImageWarnings:
    if stream.coder.value == codec.value:
        return ()
    text = f"the file says that its picture is compressed by {codec}, and it is by {stream.coder}: it was read so"
    return (ImageWarning("other-compression", text),)


def _find_slack(stream: Codestream, layout: PixelLayout, file: DicomFile) -> int:
    """By how much decoded values may leave the range of those that were encoded.

    A transformation into frequencies leaves nothing of bits of their own above a value, so what is there is overshoot,
    but no more than the values' own range: a stream of more bits than are stored holds something else above them.
    """
    if stream.coder is Coder.JPEG_LS:
        return stream.error
    if not stream.lossless:
        return 1 << min(stream.precision, layout.stored)
    return (1 << layout.stored) // _SLACK if file.transfer_syntax in _LOSSY_JPEG_2000 else 0


def _unpack(data: bytes, stream: Codestream, file: DicomFile) -> NDArray[np.unsignedinteger]:
    ended = has_end(data)
    match stream.coder:
        case Coder.JPEG if stream.precision == 8 and not stream.lossless and ended:
            return _decode_by_pillow(data)
        case Coder.JPEG:
            return _decode_by_gdcm(data if ended else data + END_OF_PICTURE, stream, file)
        case Coder.JPEG_LS:
            return _decode_jpeg_ls(data, stream)
        case Coder.JPEG_2000:
            # If the end alone is missing, a byte of padding may stand there.
            return _decode_jpeg_2000((data,) if ended else (data + END_OF_PICTURE, data[:-1] + END_OF_PICTURE), stream)
        case _:
            assert_never(stream.coder)


def read_native_numbers(data: bytes, file: DicomFile, kind: str) -> NDArray[np.generic]:
    """Numbers of a NumPy kind such as `u2`, in the file's order of bytes, in this machine's."""
    found = np.frombuffer(data, f"{'>' if file.is_big_endian else '<'}{kind}")
    return found.astype(found.dtype.newbyteorder("="))


def _read_native(
    data: bytes, file: DicomFile, data_set: Dataset, layout: PixelLayout, frame: int
) -> NDArray[np.unsignedinteger]:
    if file.is_big_endian and layout.allocated == 8 and data_set[layout.keyword].VR == "OW":
        every = data_set[layout.keyword].value  # bytes lie in words, the second first
        turned = np.frombuffer(every[: len(every) // 2 * 2], "<u2").byteswap().tobytes() + every[len(every) // 2 * 2 :]
        data = turned[frame * layout.frame_bytes : (frame + 1) * layout.frame_bytes]
    values = read_native_numbers(data, file, f"u{layout.allocated // 8}")
    return np.asarray(values.reshape(layout.shape))


def _decode_run_lengths(data: bytes, layout: PixelLayout) -> NDArray[np.unsignedinteger]:
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


def _decode_by_pillow(data: bytes) -> NDArray[np.unsignedinteger]:
    values = np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]))
    if values.dtype != np.uint8:
        raise ImageError(_NOT_GREY)
    return values


def _decode_jpeg_2000(candidates: tuple[bytes, ...], stream: Codestream) -> NDArray[np.unsignedinteger]:
    """The first candidate that decodes: a picture that lacks more than its end never does."""
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


def _decode_jpeg_ls(data: bytes, stream: Codestream) -> NDArray[np.unsignedinteger]:
    """Some encoders leave bytes between the picture and its end marker, which the decoder does not forgive."""
    try:
        buffer, _ = jpeg_ls.decode_pixel_data(data)
    except RuntimeError:
        buffer = _decode_without_stray_bytes(data)
    return np.frombuffer(buffer, np.uint8 if stream.precision <= 8 else "<u2").reshape(stream.shape)


def _decode_without_stray_bytes(data: bytes) -> bytes:
    body = data[: data.rfind(END_OF_PICTURE)]
    for stray in range(1, _MOST_STRAY_BYTES + 1):
        if body[-stray:].strip(b"\0\xff"):
            break
        try:
            return bytes(jpeg_ls.decode_pixel_data(body[:-stray] + END_OF_PICTURE)[0])
        except RuntimeError:
            continue
    raise ImageError(DAMAGED_FRAME)


def _decode_by_gdcm(data: bytes, stream: Codestream, file: DicomFile) -> NDArray[np.unsignedinteger]:
    """JPEG that is lossless or has more than 8 bits. A damaged frame may end the process: `imaging.isolation`."""
    syntax = str(file.transfer_syntax)
    if stream.lossless != (syntax in _JPEG_LOSSLESS):
        syntax = _JPEG_LOSSLESS[0] if stream.lossless else _JPEG_EXTENDED
    pixels = _run_gdcm(data, stream, syntax)
    container = 1 if stream.precision <= 8 else 2
    if len(pixels) != stream.rows * stream.columns * container:
        raise ImageError(DAMAGED_FRAME)
    return np.frombuffer(pixels, f"<u{container}").reshape(stream.shape)


_PIXEL_DATA = gdcm.Tag(0x7FE0, 0x0010)


def _run_gdcm(frame: bytes, stream: Codestream, transfer_syntax: str) -> bytes:
    """Its pixels, little endian, in 8 or 16 bits each; of another length if the frame is damaged."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(_PIXEL_DATA)
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((stream.columns, stream.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(transfer_syntax)))
    allocated = 8 if stream.precision <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(1, allocated, stream.precision, stream.precision - 1, 0))
    # GDCM hands bytes out as text; they become bytes again as pydicom's own plugin does it.
    return bytes(image.GetBuffer().encode("utf-8", "surrogateescape"))
