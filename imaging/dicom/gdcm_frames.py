"""One JPEG frame, lossless or of more than 8 bits, through GDCM.

GDCM crashes the process on some damaged frames. On others it decodes on, and only says so on standard error: whoever
runs this looks there (`imaging.isolation.confined`).
"""

import gdcm

from imaging.codestream import Codestream

_PIXEL_DATA = gdcm.Tag(0x7FE0, 0x0010)


def gdcm_pixels(frame: bytes, stream: Codestream, transfer_syntax: str) -> bytes:
    """Its pixels, little endian, in 8 or 16 bits each; of another length where the frame is damaged."""
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
