"""What the figures depend on besides our code: processor, memory, versions, and how busy the machine was."""

import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

from benchmarks.configuration import ROOT
from contract.base import Strict

NOTABLE_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
    *("aes", "vaes", "sha_ni", "asimd", "sve", "hypervisor"),
)
"""Processor features that change arithmetic or encryption by more than a little, as /proc/cpuinfo names them."""

LIBRARIES = ("torch", "crypten", "onnxruntime", "numpy", "cryptography")

PRODUCT = (
    *("contract", "authority", "plumbing", "bookkeeping"),
    *("imaging", "secure_computation", "inference_service"),
    *("data_owner", "model_owner", "crypto_provider"),
)
"""Rooms whose code runs in a diagnosis."""

FROM_RESULTS = ("model_owner/cost_prediction.py",)
"""Runs in no diagnosis, and its constants are taken from results: counted in, they would make those results old."""


class Machine(Strict):
    """Facts of one machine. Holds no name of it."""

    processor: str
    cores: int
    """Logical ones that this process may use."""
    flags: tuple[str, ...]
    memory_bytes: int
    kernel: str
    load_average: float
    """Over one minute, when the benchmark began. Well above 0: something else was running."""


def read_machine() -> Machine:
    """Read this machine's facts (Linux)."""
    processor, flags = _processor(Path("/proc/cpuinfo").read_text())
    return Machine(
        processor=processor or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        flags=flags,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=f"{platform.system()} {platform.release()}",
        load_average=os.getloadavg()[0],
    )


def read_versions() -> dict[str, str]:
    """Versions of Python, of the libraries that do the work, and of the product's own code."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"python": platform.python_version()} | libraries | {"product": product_version()}


def product_version(root: Path = ROOT) -> str:
    """First digits of a SHA-256 over the product's source: what runs when an image is diagnosed.

    Not a commit: results are committed after they were measured, and documents change without changing what runs.
    """
    digest = hashlib.sha256()
    for room in PRODUCT:
        for path in sorted((root / room).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if name not in FROM_RESULTS:
                digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _processor(description: str) -> tuple[str, tuple[str, ...]]:
    facts: dict[str, str] = {}
    for line in description.splitlines():
        name, separator, value = line.partition(":")
        if separator:
            facts.setdefault(name.strip(), value.strip())
    present = (facts.get("flags") or facts.get("Features") or "").split()
    return facts.get("model name", ""), tuple(flag for flag in NOTABLE_FLAGS if flag in present)
