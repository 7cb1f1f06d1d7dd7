"""Run as a script: one JPEG Lossless frame on standard input -> its pixels, little endian, on standard output.

GDCM crashes the process on some damaged frames, so it is only ever loaded here, in a process of its own. Nothing of
ours is imported: Python runs this file in isolated mode (-I).
"""

import argparse
import resource
import sys

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

MOST_ADDRESS_SPACE = 4 << 30
MOST_SECONDS = 60


def main() -> None:
    """Decode within limits of memory and time; any failure ends the process with a non-zero status."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESS_SPACE, MOST_ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the image
    parser = argparse.ArgumentParser()
    parser.add_argument("syntax", type=UID)
    for name in ("rows", "columns", "allocated", "stored", "representation"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    frame = Dataset()
    frame.file_meta = FileMetaDataset()
    frame.file_meta.TransferSyntaxUID = options.syntax
    frame.SamplesPerPixel, frame.PhotometricInterpretation = 1, "MONOCHROME2"
    frame.Rows, frame.Columns = options.rows, options.columns
    frame.BitsAllocated, frame.BitsStored, frame.HighBit = options.allocated, options.stored, options.stored - 1
    frame.PixelRepresentation = options.representation
    frame.PixelData = encapsulate([sys.stdin.buffer.read()])
    frame["PixelData"].is_undefined_length = True
    values, _ = get_decoder(options.syntax).as_array(frame, raw=True, decoding_plugin="gdcm")
    sys.stdout.buffer.write(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes())


if __name__ == "__main__":
    main()
