"""Everything that reading a file may need is loaded before the file is: a confined process cannot open a library."""

import codecs
import contextlib
from typing import Final

_OF_IMAGECODECS: Final = (
    *("jpeg8", "png", "jpeg2k", "lzw", "packbits", "zstd", "packints"),
    *("ccittrle", "ccittfax3", "ccittfax4"),
)
"""Its decoders that are used here; it loads each when it is first asked for."""


def load_decoders() -> None:
    """Import what readers import when they need it, and what their libraries do."""
    import imagecodecs
    import nibabel
    from PIL import Image
    from pydicom.charset import python_encoding
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import RLELossless

    from imaging import decoding

    del nibabel, decoding
    Image.init()
    get_decoder(RLELossless)
    for name in _OF_IMAGECODECS:
        getattr(imagecodecs, f"{name}_decode")
    for encoding in {*python_encoding.values(), "utf-8", "latin-1", "ascii"}:
        with contextlib.suppress(LookupError):  # some of DICOM's are none of Python's
            codecs.lookup(encoding)
