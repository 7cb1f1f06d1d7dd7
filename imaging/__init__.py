"""One reading of images for training and serving: a file -> grey pixels in [0, 1] -> the tensor of a model card."""

from imaging.formats import Limits, Polarity
from imaging.preprocessing import to_model_input
from imaging.reading import (
    ImageFacts,
    ImageWarning,
    ModelInput,
    Radiograph,
    Viewing,
    read_for_viewing,
    read_image,
    read_model_input,
)

__all__ = [
    "ImageFacts",
    "ImageWarning",
    "Limits",
    "ModelInput",
    "Polarity",
    "Radiograph",
    "Viewing",
    "read_for_viewing",
    "read_image",
    "read_model_input",
    "to_model_input",
]
