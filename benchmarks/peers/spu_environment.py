"""SPU's own virtual environment: made from the ordinary package index with hashes checked, never the project's.

SPU 0.9.5 wants an older jax and numpy than the project has, and runs under Python 3.11. Nothing here is imported by the
product, and nothing is installed before a benchmark of SPU is asked for.
"""

import fcntl
import hashlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.configuration import ROOT
from benchmarks.processes import run_watched
from contract.errors import ComputationFailed, ConfigurationError, DeadlineExceeded
from demonstration.commands import make_quiet_environment

REQUIREMENTS = Path(__file__).with_name("spu-requirements.txt")
FOLDER = ROOT / ".venv-spu"
PYTHON = (3, 11)
INSTALL_SECONDS = 900.0
_MARK = "installed-from"
_NOTABLE = ("spu", "jax", "jaxlib", "numpy")


def find(folder: Path = FOLDER) -> Path | None:
    """Its Python, if a whole environment of these requirements stands in `folder`."""
    python = folder / "bin" / "python"
    try:
        complete = (folder / _MARK).read_text() == _wanted(folder)
    except FileNotFoundError:
        return None
    return python if complete and python.exists() else None


def require(folder: Path = FOLDER, *, install: bool, timeout_seconds: float = INSTALL_SECONDS) -> Path:
    """Its Python; installs it first if that is allowed and needed.

    Raises ConfigurationError that says why SPU cannot be used here. The words of pip are not in it (they may name a
    private index); they are in the `.err` files of `folder`.
    """
    if (found := find(folder)) is not None:
        return found
    if not install:
        raise ConfigurationError("SPU is missing: leave --no-install out, or drop the peers named spu-")
    if sys.version_info[:2] != PYTHON:
        raise ConfigurationError("SPU 0.9.5 exists for Python 3.11, and .venv has another: remake .venv with it")
    with _alone(folder):
        return find(folder) or _install(folder, timeout_seconds)


def versions(folder: Path = FOLDER) -> dict[str, str]:
    """Versions of what does the work in it; empty if it is not installed."""
    places = [str(place) for place in folder.glob("lib/python*/site-packages")]
    found = {one.name.lower(): one.version for one in distributions(path=places)} if places else {}
    return {name: found[name] for name in _NOTABLE if name in found}


def environment() -> dict[str, str]:
    """Variables for its programs: one thread an operation, no accelerator looked for."""
    return make_quiet_environment() | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}


def _install(folder: Path, timeout_seconds: float) -> Path:
    shutil.rmtree(folder, ignore_errors=True)  # what an installation that was interrupted left
    folder.mkdir()
    python = folder / "bin" / "python"
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--only-binary", ":all:", "--require-hashes"]
    _step(folder, "venv", [sys.executable, "-m", "venv", str(folder)], timeout_seconds)
    _step(folder, "pip", [str(python), *pip, "-r", str(REQUIREMENTS)], timeout_seconds)
    # SPU refuses to be imported if the processor lacks what it was compiled for.
    _step(folder, "import", [str(python), "-I", "-c", "import spu"], timeout_seconds)
    (folder / _MARK).write_text(_wanted(folder))
    return python


def _step(folder: Path, name: str, command: list[str], timeout_seconds: float) -> None:
    try:
        run_watched(
            command, name=name, environment=make_quiet_environment(), folder=folder, timeout_seconds=timeout_seconds
        )
    except ComputationFailed as error:
        raise ConfigurationError(
            f"SPU: step '{name}' failed; is the package index reachable? Its words: {folder.name}/{name}.err"
        ) from error
    except DeadlineExceeded as error:
        raise ConfigurationError(
            f"SPU: step '{name}' took more than {timeout_seconds:.0f} s; try again on a faster link"
        ) from error


def _wanted(folder: Path) -> str:
    return f"{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()} {sys.version_info[:2]} {folder}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two benchmarks at once must not build the same environment together."""
    with (folder.parent / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
