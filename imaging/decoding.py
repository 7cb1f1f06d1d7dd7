"""A file's bytes -> one decoded picture, by whatever decoder its content asks for.

Hostile bytes run through libraries in C here, so this runs in a confined process: `imaging.isolation` says how.
"""

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

from contract.model_card import InputSpecification
from imaging.dicom import read_dicom
from imaging.formats import DecodedFile, FileFormat, Limits, sniff
from imaging.nifti import read_nifti
from imaging.raster import read_jpeg, read_png
from imaging.tiff import read_tiff

_READERS: Mapping[FileFormat, Callable[[io.BytesIO, InputSpecification, Limits], DecodedFile]] = MappingProxyType(
    {
        FileFormat.DICOM: read_dicom,
        FileFormat.NIFTI: read_nifti,
        FileFormat.PNG: read_png,
        FileFormat.JPEG: read_jpeg,
        FileFormat.TIFF: read_tiff,
    }
)


def decode(
    source: io.BytesIO, specification: InputSpecification, limits: Limits | None = None
) -> tuple[FileFormat, DecodedFile]:
    """Decode the content of a PNG, JPEG, TIFF, DICOM or NIfTI file, told by its content, for a model with this input.

    Raises ImageError, in one line that says what happened and what to do, for every other file, and for any beyond
    `limits`.
    """
    file_format = sniff(source)
    return file_format, _READERS[file_format](source, specification, limits or Limits())
