"""A full disk, without one: the system takes no byte of any file beyond a length, in the middle of a write too."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_file_beyond(length: int) -> Iterator[None]:
    """Files of this process end at `length` bytes; what is written across it is taken as far as it fits.

    The kernel's own RLIMIT_FSIZE, so nothing of ours is replaced: a write fails (EFBIG) as it does on a full disk
    (ENOSPC). Nothing may be printed in the block: it could be a file as well.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def is_limited(length: int, path: str) -> bool:
    """Whether the limit works here: a test that could not fail is none."""
    with no_file_beyond(length), open(path, "wb", buffering=0) as file:  # noqa: PTH123
        written = os.write(file.fileno(), bytes(length + 1))
    return written == length
