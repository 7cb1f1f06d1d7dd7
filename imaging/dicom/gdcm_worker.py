"""Run as a script: one JPEG frame, lossless or of more than 8 bits, on standard input -> its pixels, little endian.

They go to standard output.

GDCM crashes the process on some damaged frames, so it is only ever loaded here, in a process of its own. Nothing of
ours is imported, nor anything else that takes long to load: Python runs this file in isolated mode (-I), and the
clinician waits for it.
"""

import argparse
import resource
import sys

import gdcm

MOST_ADDRESS_SPACE = 4 << 30
MOST_SECONDS = 60
_PIXEL_DATA = gdcm.Tag(0x7FE0, 0x0010)


def main() -> None:
    """Decode within limits of memory, output and time; any failure ends the process with a non-zero status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("syntax")
    for name in ("rows", "columns", "allocated", "precision"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    length = options.rows * options.columns * options.allocated // 8
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESS_SPACE, MOST_ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (length + 4096, length + 4096))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the image
    # GDCM hands bytes out as text; they become bytes again as pydicom's own plugin does it.
    pixels = _image(options, sys.stdin.buffer.read()).GetBuffer().encode("utf-8", "surrogateescape")
    if len(pixels) != length:
        sys.exit(1)
    sys.stdout.buffer.write(pixels)


def _image(options: argparse.Namespace, frame: bytes) -> "gdcm.Image":
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(_PIXEL_DATA)
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((options.columns, options.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(options.syntax)))
    stored = (options.allocated, options.precision, options.precision - 1, 0)
    image.SetPixelFormat(gdcm.PixelFormat(1, *stored))
    return image


if __name__ == "__main__":
    main()
