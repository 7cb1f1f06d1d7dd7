"""A bound on what a command may take of memory, for work whose size somebody else's file decides."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.errors import ModelFileError

_STATM = Path("/proc/self/statm")
_DATA = 5
"""Which of its numbers counts pages of data."""
_SHORTAGE = ("allocate memory", "bad_alloc", "bad allocation")


@contextmanager
def bounded_memory(limit: int, *, remedy: str) -> Iterator[None]:
    """Let the block take `limit` bytes beyond what the process has; what asks for more fails by itself.

    Raises ModelFileError, which ends in `remedy`, in place of the failure. Counts what a process writes to, not what
    libraries merely reserve. The bound holds for all threads and goes with the block.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    held = int(_STATM.read_text().split()[_DATA]) * resource.getpagesize()
    allowed = [one for one in (held + limit, before, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = str(error).lower()  # torch tells of it by words alone
        if isinstance(error, RuntimeError) and not any(one in words for one in _SHORTAGE):
            raise
        raise ModelFileError(f"this model takes more than {limit >> 20:,} MiB of memory: {remedy}") from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))
