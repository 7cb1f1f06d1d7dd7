"""What a process that reads hostile bytes may still do: compute, and use the pipes that it holds.

Three layers that need no privilege: limits of resources, Landlock (Linux 5.13; left out where the kernel lacks it), and
the filter of system calls, without which nothing is read.
"""

import ctypes
import os
import resource
import signal
import struct
from typing import Final

from imaging.isolation.system_calls import control, give_up_privileges, refuse_other_system_calls

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
    """Limit this process for good, see `limit_resources`. Raises OSError where the kernel cannot."""
    control(_DIES_WITH_PARENT, signal.SIGKILL)
    control(_MAY_BE_DUMPED, 0)  # a core would hold the picture, and no other process may look into this one
    give_up_privileges()
    forbid_files_and_ports()
    limit_resources(cpu_seconds=cpu_seconds, address_space=address_space)
    refuse_other_system_calls()


def limit_resources(*, cpu_seconds: int, address_space: int) -> None:
    """Let this process open nothing more, write no file and start no process.

    `cpu_seconds`: from now on, after which SIGXCPU ends it; where that is caught, SIGKILL does a second later.
    `address_space`: bytes.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    _limit(resource.RLIMIT_CPU, spent + cpu_seconds, spent + cpu_seconds + 1)
    _limit(resource.RLIMIT_AS, address_space, address_space)
    for none in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        _limit(none, 0, 0)


def _limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit, or leave the one that the system has already set where it is lower."""
    _, present = resource.getrlimit(kind)
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    resource.setrlimit(kind, (soft, hard))


def forbid_files_and_ports() -> None:
    """By Landlock, without any exception; nothing where the kernel lacks it."""
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
