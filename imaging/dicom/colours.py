"""Pictures in colours, by pydicom: red, green and blue of 8 bits."""

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import JPEG2000, UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from contract.errors import ImageError
from imaging.dicom.decoding import check_codestream
from imaging.dicom.frames import read_compressed_frame
from imaging.dicom.header import PALETTE, PixelLayout
from imaging.dicom.syntax import HIGH_THROUGHPUT, Codec, DicomFile
from imaging.formats import ImageWarnings

PALETTE_TAGS = tuple(
    f"{colour}PaletteColorLookupTable{what}" for colour in ("Red", "Green", "Blue") for what in ("Descriptor", "Data")
)
_PLUGINS = {
    Codec.NATIVE: "",
    Codec.RUN_LENGTHS: "pydicom",
    Codec.JPEG: "pillow",
    Codec.JPEG_LS: "pyjpegls",
    Codec.JPEG_2000: "pillow",
}
_DECODED_AS = {DeflatedExplicitVRLittleEndian: ExplicitVRLittleEndian} | dict.fromkeys(HIGH_THROUGHPUT, JPEG2000)
"""Transfer syntaxes that pydicom leaves to others, as those that pack the pixels the same way."""


def decode_colours(
    file: DicomFile, data_set: Dataset, layout: PixelLayout, frame: int
) -> tuple[NDArray[np.uint8], ImageWarnings]:
    """One frame in red, green and blue, (rows, columns, 3), 8 bits each."""
    data_set.PhotometricInterpretation, data_set.SamplesPerPixel = layout.kind, layout.samples
    data_set.BitsStored, data_set.HighBit = layout.stored, layout.high_bit
    data_set.PixelRepresentation, data_set.NumberOfFrames = int(layout.signed), layout.frames
    warnings: ImageWarnings = ()
    decoded_as = UID(_DECODED_AS.get(file.transfer_syntax, file.transfer_syntax))
    data_set.file_meta.TransferSyntaxUID = decoded_as
    if file.codec is not Codec.NATIVE:
        data, warnings = read_compressed_frame(data_set, layout, file, frame)
        if file.codec is not Codec.RUN_LENGTHS:
            check_codestream(data, layout)
        data_set.PixelData, data_set.NumberOfFrames, frame = encapsulate([data]), 1, 0
    values, _ = get_decoder(decoded_as).as_array(data_set, index=frame, decoding_plugin=_PLUGINS[file.codec])
    if layout.kind == PALETTE:
        if file.is_big_endian:
            _turn_palette_bytes(data_set)
        looked_up = apply_color_lut(values, data_set)
        values = looked_up if looked_up.dtype == np.uint8 else (looked_up >> 8).astype(np.uint8)
    if values.shape != (*layout.shape, 3) or values.dtype != np.uint8:
        raise ImageError("the DICOM file does not decode to one picture in colours of 8 bits: export it again")
    return values, warnings


def _turn_palette_bytes(data_set: Dataset) -> None:
    """Pydicom looks colours up in tables of little-endian words whatever the file's own order is."""
    for tag in PALETTE_TAGS:
        if tag.endswith("Data"):
            data_set[tag].value = np.frombuffer(data_set[tag].value, ">u2").astype("<u2").tobytes()
