"""An installation that cannot be written to: compiled loops are kept elsewhere, or NumPy takes over and says so."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import secure_computation

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
