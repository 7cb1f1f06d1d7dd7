"""What `federate` asks of its arguments before it starts anything.

Standard library only: `scripts/federate` asks before anything is installed.
"""

import os
from pathlib import Path

from contract.errors import ConfigurationError

MANIFEST, FOLDER = "kermany_manifest.csv", "kermany224"
"""What the folder that MEDICAL_DATA names holds."""


def images_to_train_on(
    data: Path | None, manifest: Path | None, *, output: Path | None, smoke: bool
) -> tuple[Path | None, Path | None]:
    """Folder and manifest: those given, else those in MEDICAL_DATA; None for a smoke run, which draws pictures.

    Raises ConfigurationError where something is left out that the run needs.
    """
    if (data is None) != (manifest is None):
        raise ConfigurationError("--data and --manifest belong together: give both")
    medical = os.environ.get("MEDICAL_DATA")
    if data is None and medical and (Path(medical) / MANIFEST).exists():
        data, manifest = Path(medical) / FOLDER, Path(medical) / MANIFEST
    if data is None and not smoke:
        raise ConfigurationError("give images with --data and --manifest, or set MEDICAL_DATA; --smoke can do without")
    if output is None and not smoke:
        raise ConfigurationError("give a folder with --output: the same one again goes on after a stop")
    return data, manifest
