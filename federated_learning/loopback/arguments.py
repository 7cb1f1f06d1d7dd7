"""What `federate` asks of its arguments before it starts anything.

Standard library only: `scripts/federate` asks before anything is installed.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from contract.errors import ConfigurationError


@dataclass(frozen=True)
class ImageFolder:
    """What to train on."""

    folder: Path
    manifest: Path
    training_roles: tuple[str, ...] | None = None
    """None: `train`, divided among the hospitals by patient."""
    validation_role: str | None = None
    """None: `validation`."""
    description: str | None = None
    """None: it has to be given."""


def images_to_train_on(
    data: Path | None, manifest: Path | None, *, output: Path | None, smoke: bool, described: bool
) -> ImageFolder | None:
    """The images given, else those in MEDICAL_DATA; None for a smoke run, which draws pictures.

    `described`: whether somebody says what the model is. Raises ConfigurationError if something is left out that the
    run needs.
    """
    images: ImageFolder | None = None
    if data is not None and manifest is not None:
        images = ImageFolder(data, manifest)
    elif data is not None or manifest is not None:
        raise ConfigurationError("--data and --manifest belong together: give both")
    elif medical := os.environ.get("MEDICAL_DATA"):
        # The radiographs of Kermany et al. 2018.
        folder, manifest = Path(medical) / "kermany224", Path(medical) / "kermany_manifest.csv"
        roles = ("dev_train_A", "dev_train_B", "dev_train_C")
        if manifest.exists():
            images = ImageFolder(folder, manifest, roles, "dev_val", "pediatric-pneumonia")
    if smoke:
        return images
    if images is None:
        raise ConfigurationError("give images with --data and --manifest, or set MEDICAL_DATA; --smoke can do without")
    if output is None:
        raise ConfigurationError("give a folder with --output: the same one again goes on after a stop")
    if not described and images.description is None:
        raise ConfigurationError(
            "say what the model is with --description, a JSON file such as docs/samples/description.json, or in the "
            "file of --config"
        )
    return images
