"""A filter of system calls (seccomp): a process keeps those that compute and use what it holds open, and no other.

So it opens no file, makes no connection, starts no process, sends no signal and traces nobody, whatever runs in it.
Linux lets every process do this to itself. Numbers: the kernel's tables for x86-64 and for ARM of 64 bits.
"""

import ctypes
import errno
import platform
import struct
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

ALLOWED: Final = MappingProxyType(
    {
        # name: (x86-64, ARM of 64 bits)
        "read": (0, 63),
        "write": (1, 64),
        "close": (3, 57),
        "lseek": (8, 62),
        "mmap": (9, 222),
        "mprotect": (10, 226),
        "munmap": (11, 215),
        "brk": (12, 214),
        "rt_sigaction": (13, 134),
        "rt_sigprocmask": (14, 135),
        "rt_sigreturn": (15, 139),
        "sched_yield": (24, 124),
        "mremap": (25, 216),
        "madvise": (28, 233),
        "getpid": (39, 172),
        "exit": (60, 93),
        "gettimeofday": (96, 169),
        "getrusage": (98, 165),
        "gettid": (186, 178),
        "futex": (202, 98),
        "clock_gettime": (228, 113),
        "exit_group": (231, 94),
        "getrandom": (318, 278),
    }
)
"""What decoders need. Any other call fails as if it were not permitted (EPERM)."""

_MACHINES: Final = MappingProxyType({"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)})
"""Name of a processor -> its column of `ALLOWED`, and what the kernel calls it (AUDIT_ARCH)."""

_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_NO_NEW_PRIVILEGES, _SECCOMP, _SECCOMP_FILTER = 38, 22, 2


def refuse_other_system_calls() -> None:
    """Leave this process, and whatever runs in it later, only `ALLOWED`. Raises OSError where Linux cannot do it."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {platform.machine()}")
    column, architecture = machine
    program = _program(architecture, [numbers[column] for numbers in ALLOWED.values()])
    code = ctypes.create_string_buffer(program)
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    give_up_privileges()
    control(_SECCOMP, _SECCOMP_FILTER, ctypes.c_char_p(described))


def give_up_privileges() -> None:
    """From now on no program that this process becomes may gain any."""
    control(_NO_NEW_PRIVILEGES, 1)


def control(option: int, first: object, second: object = 0) -> None:
    """Call prctl(2). Raises OSError."""
    c = ctypes.CDLL(None, use_errno=True)
    if c.prctl(option, first, second, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def _program(architecture: int, allowed: Sequence[int]) -> bytes:
    """The filter as code of the kernel's packet filter: one comparison for each number."""
    compared = [
        _instruction(_JUMP_IF_EQUAL, number, if_true=len(allowed) - index) for index, number in enumerate(allowed)
    ]
    return b"".join(
        (
            _instruction(_LOAD, _ARCHITECTURE_AT),
            _instruction(_JUMP_IF_EQUAL, architecture, if_true=1),
            _instruction(_RETURN, _KILL),
            _instruction(_LOAD, _NUMBER_AT),
            *compared,
            _instruction(_RETURN, _REFUSE),
            _instruction(_RETURN, _ALLOW),
        )
    )


def _instruction(code: int, value: int, *, if_true: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, 0, value)
