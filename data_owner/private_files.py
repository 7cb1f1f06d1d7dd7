"""Files for the clinician alone."""

from pathlib import Path

from contract.errors import ConfigurationError
from contract.files import new_file, replace


def write_new(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read, whole or not at all. Raises OSError, also where it exists."""
    with new_file(path, mode=0o600) as file:
        file.write(content)


def write_whole(path: Path, content: bytes) -> bool:
    """Replace a file (0600) by another, whole or not at all. False where the disk will not."""
    try:
        replace(path, content, mode=0o600)
    except ConfigurationError:
        return False
    return True
