"""What the tags say of the picture besides its view: processing, shutter, words burnt in, which values are bright."""

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from imaging.dicom.header import PixelLayout
from imaging.dicom.tags import read_code, read_integer, read_texts
from imaging.formats import ImageWarning, ImageWarnings, PolaritySource

REMARK_TAGS = (
    *("SOPClassUID", "PresentationIntentType", "ShutterShape", "BurnedInAnnotation"),
    *("PresentationLUTShape", "PixelIntensityRelationshipSign"),
)

_FOR_PROCESSING = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1.1.1",  # digital X-ray
        "1.2.840.10008.5.1.4.1.1.1.2.1",  # mammography
        "1.2.840.10008.5.1.4.1.1.1.3.1",  # intra-oral
        "1.2.840.10008.5.1.4.1.1.13.1.5",  # projections of a tomosynthesis
        "1.2.840.10008.5.1.4.1.1.14.2",  # intravascular optical tomography
    }
)
"""SOP classes of raw values."""
_RADIOGRAPHS = frozenset({"CR", "DX", "MG"})
"""Modalities that show bone bright."""
_SAMPLES = 256
"""Along each side, to see which way the grey values go."""


def check_picture(tags: Dataset) -> ImageWarnings:
    """What the user should know of the picture before the model sees it."""
    found: list[ImageWarning] = []
    raw = read_texts(tags, "SOPClassUID")[:1]
    if read_code(tags, "PresentationIntentType") == "FOR PROCESSING" or (raw and raw[0] in _FOR_PROCESSING):
        text = "these are raw detector values (FOR PROCESSING), not the picture that radiologists read"
        found.append(ImageWarning("for-processing", text, needs_confirmation=True))
    if read_code(tags, "ShutterShape") is not None:
        text = "the file asks to cover the edges of the picture (display shutter); the model sees them uncovered"
        found.append(ImageWarning("display-shutter", text))
    if read_code(tags, "BurnedInAnnotation") == "YES":
        text = "words are burnt into the picture, perhaps the patient's name; they are part of what the model sees"
        found.append(ImageWarning("burnt-in-words", text))
    return tuple(found)


def check_polarity(
    tags: Dataset, layout: PixelLayout, stored: NDArray[np.generic], pixels: NDArray[np.float32]
) -> PolaritySource:
    """Whether the tags agree on which values are bright. `pixels`: what is shown, MONOCHROME1 inverted already.

    MONOCHROME1 goes with the presentation LUT INVERSE and MONOCHROME2 with IDENTITY (PS3.3 C.8.11.3.1.2). The sign of
    the relation of values to the X-rays that came through (C.8.11.3.1.2) says which values are bone; bone is bright.
    """
    shape = read_code(tags, "PresentationLUTShape")
    if shape == ("IDENTITY" if layout.kind == "MONOCHROME1" else "INVERSE"):
        return PolaritySource.CONTRADICTION
    sign = read_integer(tags, "PixelIntensityRelationshipSign")
    if sign in (-1, 1) and read_code(tags, "Modality") in _RADIOGRAPHS and _brightens(stored, pixels) == sign:
        return PolaritySource.CONTRADICTION
    return PolaritySource.FILE if layout.kind_is_told else PolaritySource.NOBODY


def _brightens(stored: NDArray[np.generic], pixels: NDArray[np.float32]) -> int:
    """1 if larger stored values are brighter, -1 if they are darker, 0 if nothing tells."""
    step = tuple(slice(None, None, max(1, side // _SAMPLES)) for side in pixels.shape)
    values, shown = (np.asarray(array[step], np.float64) for array in (stored, pixels))
    return int(np.sign(np.sum((values - values.mean()) * (shown - shown.mean()))))
