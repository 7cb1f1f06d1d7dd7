"""One reading of images for training and serving: a file -> grey pixels in [0, 1] -> the tensor of a model card."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def __getattr__(name: str) -> object:
    """What is listed above, loaded when it is first asked for: the decoders' process is started before."""
    if name not in __all__:
        raise AttributeError(name)
    home = {"Limits": "formats", "Polarity": "formats", "to_model_input": "preprocessing"}.get(name, "reading")
    return getattr(import_module(f"imaging.{home}"), name)
