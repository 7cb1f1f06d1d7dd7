"""Names for files that are not read, by their first bytes, so that a refusal can say what a file is."""

import re
from typing import Final

_ARCHIVES: Final = (
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive of something else than NIfTI"),
    (rb"BZh", "a bzip2 archive"),
    (rb"\xfd7zXZ", "an xz archive"),
    (rb"7z\xbc\xaf", "a 7-Zip archive"),
    (rb"Rar!", "a RAR archive"),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (rb".{257}ustar", "a tar archive"),
)
_OTHERS: Final = (
    (rb"GIF8", "a GIF picture"),
    (rb"BM.{4}\0\0\0\0", "a BMP picture"),
    (rb"RIFF.{4}WEBP", "a WebP picture"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL picture"),
    (rb"II\xbc", "a JPEG XR picture"),
    (rb".{4}ftypavi", "an AVIF picture"),
    (rb".{4}ftyp(?:he|mi)", "a HEIC picture"),
    (rb".{4}ftyp", "a video"),
    (rb"%PDF", "a PDF document"),
    (rb"%!PS", "a PostScript document"),
    (rb"8BPS", "a Photoshop file"),
    (rb"NRRD", "an NRRD volume"),
    (rb"ObjectType", "a MetaImage header"),
    (rb"\x89HDF", "an HDF5 or MINC file"),
    (rb"CDF", "a NetCDF or MINC file"),
    (rb"SIMPLE  =", "a FITS file"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\s*<", "a web page or XML file"),
)
_HALF: Final = rb"(?:\x5c\x01\0\0|\0\0\x01\x5c)"
"""A header's size of 348 bytes, in either order."""
_HALVES: Final = (
    (_HALF + rb".{340}ni1", "one half of a NIfTI volume (.hdr and .img)"),
    (_HALF + rb".{340}", "the header of an Analyze volume"),
)
_ADVICE: Final = (
    (_ARCHIVES, "unpack it, and give the image in it"),
    (_OTHERS, ""),
    (_HALVES, "export it as one .nii file"),
)


def described(head: bytes) -> tuple[str, str]:
    """What a file seems to be, and what to do other than exporting it in a format that is read; empty: nothing."""
    for kinds, advice in _ADVICE:
        for beginning, what in kinds:
            if re.match(beginning, head, re.DOTALL):
                return what, advice
    return "", ""
