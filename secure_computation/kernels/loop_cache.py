"""Where compiled loops are kept: whether they may be read from there, and how to read them without the compiler.

numba keeps them as pickles, so whoever writes there runs code here. It chooses the folder: NUMBA_CACHE_DIR, else
`__pycache__` beside the loops, else the user's cache folder. Nothing is read before the first call of a loop, which is
the time to look.
"""

import functools
import grp
import os
import pwd
import stat
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any, Final

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS: Final = 40
_RUN_WITHOUT_COMPILER: Final = {(0, 68)}
"""Versions of numba that `read_without_compiler` was tested with."""


def read_without_compiler(module: ModuleType) -> None:
    """Let the loops of a module that are kept be read at their first call, before numba gets ready to compile.

    That takes ten times as long: it loads numba's whole library, and scipy. Code that is kept needs the runtime alone.
    A loop that is not kept is compiled as always. Another version of numba is left as it is.
    """
    import numba

    if numba.version_info.short in _RUN_WITHOUT_COMPILER:
        for loop in _list_loops(module):
            cache = loop._cache  # noqa: SLF001 - numba has no public way
            cache.load_overload = functools.partial(_load_overload, cache)


def _load_overload(cache: Any, signature: Any, context: Any) -> Any:
    """`numba.core.caching.Cache.load_overload` without `context.refresh()`."""
    from numba.core.runtime.nrt import rtsys

    rtsys.initialize(context)
    with cache._guard_against_spurious_io_errors():  # noqa: SLF001 - as above
        return cache._load_overload(signature, context)  # noqa: SLF001


def _list_loops(module: ModuleType) -> list[Any]:
    return [loop for loop in vars(module).values() if hasattr(loop, "py_func")]


def reason_to_distrust(module: ModuleType) -> str | None:
    """Why what is kept of a module's compiled loops must not be read, or None where nobody else can write it.

    Trusted are this account, root, and whoever owns the module's own file: that account could change the loops anyway.
    """
    assert module.__file__ is not None
    owners = {0, os.geteuid(), Path(module.__file__).stat().st_uid}
    folders = {Path(loop.stats.cache_path) for loop in _list_loops(module)}
    return next((reason for folder in sorted(folders) if (reason := reason_to_distrust_folder(folder, owners))), None)


def reason_to_distrust_folder(folder: Path, owners: Collection[int]) -> str | None:
    """Why somebody but `owners` (user ids) could put a file into `folder`, or has done so; None where nobody could.

    Every folder on the way counts, and every link: who can rename one of them, can put another in its place.
    """
    reason = _reason_on_the_way(folder.absolute(), owners)
    if reason is not None:
        return reason
    entries = sorted(entry for entry in folder.iterdir() if entry.suffix in {".nbi", ".nbc"})
    return next((reason for entry in entries if (reason := _reason(entry, entry.lstat(), owners))), None)


def _reason_on_the_way(folder: Path, owners: Collection[int]) -> str | None:
    at, remaining, links = Path("/"), list(folder.parts[1:]), 0
    reason = _reason(at, at.lstat(), owners, sticky_will_do=True)
    while remaining and reason is None:
        part = remaining.pop(0)
        at = at.parent if part == ".." else at / part
        info = at.lstat()
        if not stat.S_ISLNK(info.st_mode):
            reason = _reason(at, info, owners, sticky_will_do=bool(remaining))
            continue
        links += 1
        if info.st_uid not in owners or links > _MOST_LINKS:
            return f"{at} is a link of another account"
        target = at.readlink()
        at = Path("/") if target.is_absolute() else at.parent
        remaining = [*target.parts[target.is_absolute() :], *remaining]
    return reason


def _reason(path: Path, info: os.stat_result, owners: Collection[int], *, sticky_will_do: bool = False) -> str | None:
    """`sticky_will_do`: in a folder such as /tmp nobody renames what is another's, and what lies in it is looked at."""
    if info.st_uid not in owners:
        return f"{path} belongs to another account"
    writable = info.st_mode & _WRITABLE_BY_OTHERS
    if not writable or (sticky_will_do and info.st_mode & stat.S_ISVTX):
        return None
    if writable == stat.S_IWGRP and _is_own_group(path, info):
        return None
    return f"other accounts may write to {path}"


def _is_own_group(path: Path, info: os.stat_result) -> bool:
    """Whether a file's group is this account's alone, as many systems give each account one of its own name."""
    if "system.posix_acl_access" in os.listxattr(path, follow_symlinks=False):
        return False  # then the group's bits speak of everybody who is listed there
    try:
        account, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(info.st_gid)
    except KeyError:
        return False
    return (
        group.gr_gid == account.pw_gid and group.gr_name == account.pw_name and set(group.gr_mem) <= {account.pw_name}
    )
