"""Where compiled loops are kept: where an account may write and nobody else can, or NumPy takes over and says so."""

import grp
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import secure_computation
from secure_computation.kernels.loop_cache import reason_to_distrust_folder

_RUN = """
import logging
logging.basicConfig(format="%(message)s")
import numpy as np
from secure_computation.kernels import comparing, elementwise
print(elementwise.__file__)
values = np.arange(40, dtype=np.uint32)
assert (elementwise.unpack(elementwise.pack(values, 17), 40, 17) == values).all()
table = np.full(40, 0b0100, np.uint8)
equal, less = comparing.look_up(table, values, comparing.Chunk(0, 2))
assert (equal == (values % 4 == 2)).all() and (less == (values % 4 < 2)).all()
print(elementwise.compiled() is not None, comparing.compiled() is not None)
"""


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """A copy of the package whose folder for caches cannot be made, even by root: a file stands in its place."""
    package = tmp_path / "installation" / "secure_computation"
    shutil.copytree(Path(secure_computation.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "kernels" / "__pycache__").touch()
    return package.parent


@pytest.mark.parametrize("user_can_write", [True, False])
def test_loops_work_without_a_writable_installation(
    installation: Path, tmp_path: Path, *, user_can_write: bool
) -> None:
    user_cache = tmp_path / "cache"
    if not user_can_write:
        user_cache.touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        env=environment | {"PYTHONPATH": str(installation), "XDG_CACHE_HOME": str(user_cache), "HOME": str(user_cache)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        str(installation / "secure_computation" / "kernels" / "elementwise.py"),
        f"{user_can_write} {user_can_write}",
    ]
    assert done.stderr.count("NumPy is used") == (0 if user_can_write else 1)
    assert any(user_cache.rglob("*.nbi")) is user_can_write


_PACK = """
import sys
import numpy as np
from secure_computation.kernels import elementwise
values = np.arange(40, dtype=np.uint32)
packed = elementwise.pack(values, 17)
print("numba.np.arraymath" in sys.modules)
"""
_AND_UNPACK = """
assert (elementwise.unpack(packed, 40, 17) == values).all()
print("numba.np.arraymath" in sys.modules)
"""


def test_a_loop_that_is_kept_is_read_without_the_compiler_which_is_there_for_another(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    printed = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for program in (_PACK, _PACK + _AND_UNPACK)
    ]
    assert printed == [["True"], ["False", "True"]]


_WHERE = """
from secure_computation.kernels import compiled, compiled_comparing
for module in (compiled, compiled_comparing):
    for loop in vars(module).values():
        if hasattr(loop, "py_func"):
            print(loop._cache._cache_file._index_path)
"""


_WITHOUT_LOOKING = """
import numpy as np
from secure_computation.kernels import compiled
compiled.pack(np.zeros(1, np.uint32), 17, np.zeros(1, np.uint32))
"""


def test_no_code_of_others_runs_from_a_folder_of_compiled_loops(tmp_path: Path) -> None:
    """Whoever may write there leaves a pickle under the name that numba will read."""
    cache, trace = tmp_path / "cache", tmp_path / "trace"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}

    def run(program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )

    planted = b"cbuiltins\nopen\n(V" + str(trace).encode() + b"\nVw\ntR."  # pickle for: open(trace, "w")
    for path in run(_WHERE).stdout.split():
        Path(path).write_bytes(planted)
    run(_WITHOUT_LOOKING)
    assert trace.exists(), "this is an attack"
    trace.unlink()
    cache.chmod(0o777)
    done = run(_RUN)
    assert not trace.exists()
    assert done.stdout.splitlines()[1:] == ["False False"]
    assert done.stderr.count(f"other accounts may write to {cache}, and whoever writes there could run code") == 1


OTHER = 54321
"""Id of some other account."""


def folder_with_loops(at: Path) -> Path:
    at.mkdir(parents=True)
    (at / "loops.nbi").touch(0o644)
    return at


def reason(folder: Path) -> str | None:
    return reason_to_distrust_folder(folder, {0, os.geteuid()})


def test_a_folder_of_ones_own_is_trusted_also_below_tmp_and_behind_a_link(tmp_path: Path) -> None:
    folder = folder_with_loops(tmp_path / "own" / "cache")
    (tmp_path / "own").chmod(0o1777)  # as /tmp
    assert reason(folder) is None
    (tmp_path / "link").symlink_to("own")
    assert reason(tmp_path / "link" / "cache") is None
    assert reason(tmp_path / "own" / "cache" / ".." / "cache") is None


@pytest.mark.parametrize("mode", [0o777, 0o702, 0o1777])
def test_a_folder_that_others_may_write_to_is_not_trusted(tmp_path: Path, mode: int) -> None:
    folder = folder_with_loops(tmp_path / "cache")
    folder.chmod(mode)
    assert reason(folder) == f"other accounts may write to {folder}"


def test_nor_is_one_below_a_folder_that_others_may_write_to(tmp_path: Path) -> None:
    above = tmp_path / "above"
    folder = folder_with_loops(above / "cache")
    above.chmod(0o777)
    assert reason(folder) == f"other accounts may write to {above}"
    (tmp_path / "link").symlink_to(folder)
    assert reason(tmp_path / "link") == f"other accounts may write to {above}"
    (above / "link").symlink_to(folder_with_loops(tmp_path / "safe"))
    assert reason(above / "link") == f"other accounts may write to {above}"


def test_nor_one_that_holds_a_file_which_others_may_write(tmp_path: Path) -> None:
    folder = folder_with_loops(tmp_path / "cache")
    (folder / "loops.1.nbc").touch()
    (folder / "loops.1.nbc").chmod(0o666)
    assert reason(folder) == f"other accounts may write to {folder / 'loops.1.nbc'}"


def test_nor_a_link_that_leads_to_itself(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    assert reason(tmp_path / "link") is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_nor_what_belongs_to_another_account(tmp_path: Path) -> None:
    for part in ("cache/loops.nbi", "cache", ""):
        folder = folder_with_loops(tmp_path / (part.replace("/", "-") or "above") / "cache")
        given_away = folder.parent / part
        os.chown(given_away, OTHER, OTHER)
        assert reason(folder) == f"{given_away} belongs to another account"
        assert reason_to_distrust_folder(folder, {0, os.geteuid(), OTHER}) is None
    own, others = folder_with_loops(tmp_path / "own"), tmp_path / "others"
    others.symlink_to(own)
    os.chown(others, OTHER, OTHER, follow_symlinks=False)
    assert reason(others) == f"{others} is a link of another account"


def test_a_group_counts_as_others_unless_it_is_the_accounts_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with_loops(tmp_path / "cache")
    folder.chmod(0o770)
    account = pwd.getpwuid(os.geteuid())
    for name, members, trusted in (
        (account.pw_name, [], True),
        ("staff", [], False),
        (account.pw_name, ["eve"], False),
    ):
        found = grp.struct_group((name, "x", account.pw_gid, members))
        monkeypatch.setattr(grp, "getgrgid", lambda gid, found=found: found)
        assert (reason(folder) is None) is trusted
