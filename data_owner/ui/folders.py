"""Where the page keeps files: in the data folder, for one page at a time."""

import fcntl
import os
import secrets
import shutil
from pathlib import Path

from contract.errors import ConfigurationError
from contract.files import open_lock, open_new, private_folder


def locate_history(data_folder: Path) -> Path:
    """Where the answers of this workstation are kept."""
    return data_folder / "page" / "history"


class Folders:
    """The page's folder while it runs. What was dropped lives in `uploads`, and goes when the page ends."""

    def __init__(self, data_folder: Path) -> None:
        """Make the folder (0700) and take it. Raises ConfigurationError if another page has it.

        What a page that crashed left of uploads is deleted.
        """
        self._data_folder = data_folder
        self._folder = data_folder / "page"
        try:
            private_folder(self._folder, check=False)
            descriptor = open_lock(self._folder / "lock")
        except OSError as error:
            raise ConfigurationError(
                f"{self._folder}: cannot be written ({error.strerror}); correct data_folder"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise ConfigurationError(
                f"a page with the data folder {data_folder} runs already: use that one, or end it first"
            ) from None
        self._lock: int | None = descriptor
        self._delete_uploads()
        self._uploads.mkdir(mode=0o700)

    @property
    def _uploads(self) -> Path:
        return self._folder / "uploads"

    @property
    def history(self) -> Path:
        """The answers of this workstation."""
        return locate_history(self._data_folder)

    @property
    def timings(self) -> Path:
        """How long runs took."""
        return self._folder / "timings.json"

    def new_entry(self) -> Path:
        """A new folder (0700) for one entry."""
        path = self._uploads / secrets.token_hex(12)
        path.mkdir(mode=0o700)
        return path

    def write_address_file(self, address: str) -> Path:
        """A file (0600) that leads a browser to the page: a command line would show its token to all users."""
        path = self._uploads / "open.html"
        with open_new(path) as file:
            file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">'.encode())
        return path

    def close(self) -> None:
        """Delete what was dropped, and let another page have the folder. May be called twice."""
        if self._lock is not None:
            self._delete_uploads()
            os.close(self._lock)
            self._lock = None

    def _delete_uploads(self) -> None:
        shutil.rmtree(self._uploads, ignore_errors=True)
