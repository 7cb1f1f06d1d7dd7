"""Files for the clinician alone."""

import os
from pathlib import Path


def write_new(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read, whole or not at all. Raises OSError, also where it exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError:
        path.unlink(missing_ok=True)  # half a file says nothing true
        raise
