"""All kinds of TIFF, PNG, JPEG and NIfTI file that are drawn."""

from types import MappingProxyType

from tests.imaging.nifti_kinds import NIFTIS
from tests.imaging.png_and_jpeg_kinds import JPEGS, PNGS
from tests.imaging.tiff_kinds import TIFFS

KINDS = MappingProxyType({"TIFF": TIFFS, "PNG": PNGS, "JPEG": JPEGS, "NIfTI": NIFTIS})
"""By format."""
