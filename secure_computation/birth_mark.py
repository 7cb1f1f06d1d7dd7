"""Which file a file is: its number and the moment of its birth, which no copy shares and nobody sets but root.

The kernel gives every file a number (inode) and a time of birth (statx(2), `btime`). A file that is renamed, or moved
within its file system, keeps both, also across restarts. What comes back from a backup, an archive or a copy is another
file with marks of its own, whatever its content, its name and the times that the copy was given.

Not seen: a file system, or a subvolume or container's layer of one, that is set back by a snapshot, or by the image of
a disk or virtual machine. Where a file system does not record births, only the number is left, which a later file may
be given again.
"""

import ctypes
import os
import struct
from typing import Final

from contract.base import Strict

_EMPTY_PATH: Final = 0x1000
_WANTED: Final = 0x900
"""STATX_INO and STATX_BTIME of linux/stat.h."""
_BORN: Final = 0x800
_STATX_BYTES: Final = 256
_MASK_AT, _NUMBER_AT, _BORN_AT = 0, 32, 80
"""Places of `stx_mask`, `stx_ino` and `stx_btime` in `struct statx`."""


class BirthMark(Strict):
    """One file's; public."""

    number: int
    born: int | None
    """In nanoseconds since 1970, by the kernel's clock; None if the file system does not record it."""


def birth_mark(descriptor: int) -> BirthMark:
    """The mark of an open file. Raises OSError."""
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    statx = ctypes.CDLL(None, use_errno=True).statx
    if statx(descriptor, b"", _EMPTY_PATH, _WANTED, answer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    (mask,) = struct.unpack_from("=I", answer, _MASK_AT)
    (number,) = struct.unpack_from("=Q", answer, _NUMBER_AT)
    seconds, nanoseconds = struct.unpack_from("=qI", answer, _BORN_AT)
    return BirthMark(number=number, born=seconds * 10**9 + nanoseconds if mask & _BORN else None)
