"""Files for the clinician alone."""

import os
from pathlib import Path


def write_new(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read. Raises OSError, also where the file exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
