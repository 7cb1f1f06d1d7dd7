"""Files for the clinician alone."""

import os
from pathlib import Path

from contract.errors import ConfigurationError
from contract.files import replace


def write_new(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read, whole or not at all. Raises OSError, also where it exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError:
        path.unlink(missing_ok=True)  # half a file says nothing true
        raise


def write_whole(path: Path, content: bytes) -> bool:
    """Replace a file (0600) by another, whole or not at all. False where the disk will not."""
    try:
        replace(path, content, mode=0o600)
    except ConfigurationError:
        return False
    return True
