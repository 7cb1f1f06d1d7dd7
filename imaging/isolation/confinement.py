"""What a process that reads hostile bytes may still do: compute, and use the pipes that it holds.

Three layers that need no privilege, because Linux lets every process do this to itself: limits of resources, Landlock
(Linux 5.13; left out if the kernel lacks it), and a filter of system calls (seccomp), without which nothing is read.
The filter keeps the calls that compute and use what is open. So the process opens no file, makes no connection, starts
no process, sends no signal and traces nobody, whatever runs in it. Numbers of calls are from the kernel's tables for
x86-64 and for ARM of 64 bits.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

_DIES_WITH_PARENT, _MAY_BE_DUMPED = 1, 4
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_ASK_FOR_VERSION = 1
_LANDLOCK_BITS: Final = (
    # version from which on: files, TCP ports, what lies outside (abstract sockets, signals)
    (1, 0x1FFF, 0, 0),
    (2, 0x3FFF, 0, 0),
    (3, 0x7FFF, 0, 0),
    (4, 0x7FFF, 3, 0),
    (5, 0xFFFF, 3, 0),
    (6, 0xFFFF, 3, 3),
)
"""All that each version can forbid (linux/landlock.h)."""


def close_all_but(kept: int) -> None:
    """Close every file that this process holds open above `kept`, which must be the last to keep."""
    os.closerange(kept + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def confine(*, cpu_seconds: int, address_space: int) -> None:
    """Limit this process for good, see `limit_resources`. Raises OSError if the kernel cannot."""
    call_prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    call_prctl(_MAY_BE_DUMPED, 0)  # a core would hold the picture, and no other process may look into this one
    give_up_privileges()
    forbid_files_and_ports()
    limit_resources(cpu_seconds=cpu_seconds, address_space=address_space)
    refuse_other_system_calls()


def limit_resources(*, cpu_seconds: int, address_space: int) -> None:
    """Let this process open nothing more, write no file and start no process.

    `cpu_seconds`: from now on, after which SIGXCPU ends it; if that is caught, SIGKILL does a second later.
    `address_space`: bytes.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    _limit(resource.RLIMIT_CPU, spent + cpu_seconds, spent + cpu_seconds + 1)
    _limit(resource.RLIMIT_AS, address_space, address_space)
    for none in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        _limit(none, 0, 0)


def _limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit, or leave the one that the system has already set if it is lower."""
    _, present = resource.getrlimit(kind)
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    resource.setrlimit(kind, (soft, hard))


def forbid_files_and_ports() -> None:
    """By Landlock, without any exception; nothing if the kernel lacks it."""
    c = ctypes.CDLL(None, use_errno=True)
    version = c.syscall(_LANDLOCK_CREATE, None, 0, _ASK_FOR_VERSION)
    known = [bits for since, *bits in _LANDLOCK_BITS if since <= version]
    if not known:
        return
    rules = struct.pack("3Q", *known[-1])[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = c.syscall(_LANDLOCK_CREATE, rules, len(rules), 0)
    if ruleset < 0 or c.syscall(_LANDLOCK_RESTRICT, ruleset, 0) != 0:
        raise OSError(ctypes.get_errno(), "Landlock failed")
    os.close(ruleset)


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
    """Leave this process, and whatever runs in it later, only `ALLOWED`. Raises OSError if Linux cannot do it."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {platform.machine()}")
    column, architecture = machine
    program = _build_program(architecture, [numbers[column] for numbers in ALLOWED.values()])
    code = ctypes.create_string_buffer(program)
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    give_up_privileges()
    call_prctl(_SECCOMP, _SECCOMP_FILTER, ctypes.c_char_p(described))


def give_up_privileges() -> None:
    """From now on no program that this process becomes may gain any."""
    call_prctl(_NO_NEW_PRIVILEGES, 1)


def call_prctl(option: int, first: object, second: object = 0) -> None:
    """Call prctl(2). Raises OSError."""
    c = ctypes.CDLL(None, use_errno=True)
    if c.prctl(option, first, second, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def _build_program(architecture: int, allowed: Sequence[int]) -> bytes:
    """The filter as code of the kernel's packet filter: one comparison for each number."""
    compared = [
        _pack_instruction(_JUMP_IF_EQUAL, number, if_true=len(allowed) - index) for index, number in enumerate(allowed)
    ]
    return b"".join(
        (
            _pack_instruction(_LOAD, _ARCHITECTURE_AT),
            _pack_instruction(_JUMP_IF_EQUAL, architecture, if_true=1),
            _pack_instruction(_RETURN, _KILL),
            _pack_instruction(_LOAD, _NUMBER_AT),
            *compared,
            _pack_instruction(_RETURN, _REFUSE),
            _pack_instruction(_RETURN, _ALLOW),
        )
    )


def _pack_instruction(code: int, value: int, *, if_true: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, 0, value)
