"""Secrets that a test knows, and every form in which they could stand in a file."""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from numpy.typing import NDArray

RECORDER = r'''"""Loaded by every process of the test: notes each seed and each key of a stream in a file of its own."""

import os

from secure_computation import randomness

folder = os.environ["CANARY_RECORD"]


def noted(kind):
    make = kind.__init__

    def init(self, value):
        with open(os.path.join(folder, f"{os.getpid()}.hex"), "a") as file:
            file.write(bytes(value).hex() + "\n")
        make(self, value)

    kind.__init__ = init


noted(randomness.Seed)
noted(randomness.RandomStream)
'''


@dataclass(frozen=True)
class Secret:
    """One secret, and where it may lie."""

    name: str
    forms: frozenset[bytes]
    home: Path | None = None

    def __repr__(self) -> str:
        return f"Secret({self.name})"


def encoded(value: bytes) -> Iterator[bytes]:
    """Bytes as they are, in hexadecimal, in base64 wherever they begin, and as decimal numbers."""
    yield value
    yield from (value.hex().encode(), value.hex().upper().encode(), value.hex(" ").encode(), value.hex(":").encode())
    for shift in range(3):
        # The characters that depend on this value alone, whatever stands before and after it.
        whole = base64.b64encode(bytes(shift) + value)[4 if shift else 0 :]
        inner = whole[: (len(value) - (3 - shift if shift else 0)) // 3 * 4]
        yield from (inner, inner.replace(b"+", b"-").replace(b"/", b"_"))
    yield from decimal(value[:12])
    for order in ("big", "little"):
        yield str(int.from_bytes(value, order)).encode()


def decimal(values: Iterable[int]) -> Iterator[bytes]:
    """Integers as Python, JSON and NumPy write them."""
    words = [str(int(value)) for value in values]
    yield from (separator.join(words).encode() for separator in (", ", ",", " ", "\n"))


def of_bytes(name: str, value: bytes, home: Path | None = None) -> Secret:
    assert len(value) >= 16
    return Secret(name, frozenset(encoded(value)), home)


def of_text(name: str, text: str, home: Path | None = None) -> Secret:
    return Secret(name, frozenset({text.encode(), *encoded(text.encode())}), home)


def of_tensor(name: str, values: NDArray[np.float32] | NDArray[np.uint16]) -> list[Secret]:
    """Pieces of a tensor: as stored, as floats of three widths, in fixed point, and as decimal text."""
    flat = values.reshape(-1)
    places = np.linspace(0, max(0, flat.size - 6), min(12, max(1, flat.size - 5))).astype(int)
    return [Secret(f"{name} at {place}", frozenset(forms_of(flat[place : place + 6]))) for place in places]


def forms_of(piece: NDArray[np.float32] | NDArray[np.uint16]) -> Iterator[bytes]:
    wide = piece.astype(np.float64)
    arrays: list[NDArray[Any]] = [wide, piece.astype(np.float32)]
    if piece.dtype == np.uint16:
        arrays += [piece, piece.byteswap(), piece.astype(np.int32), piece.astype(np.int64)]
        yield from decimal(piece)
    else:
        arrays += [np.rint(wide * scale).astype(kind) for scale in (1 << 12, 1 << 16) for kind in (np.int32, np.int64)]
        yield from (" ".join(f"{value:.8f}" for value in wide[:3]).encode(), str(piece[:3]).strip("[]").encode())
        yield from (", ".join(repr(float(value)) for value in of[:3]).encode() for of in (wide, piece))
    for array in arrays:
        if np.count_nonzero(array) >= 4:  # zeros are everywhere
            yield from encoded(array.tobytes()[:24])


def of_private_key(path: Path) -> Secret:
    """The number itself, as which a key could be printed; the file holds it within other bytes."""
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        value = key.private_numbers().private_value.to_bytes(32, "big")
    else:
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        value = key.private_bytes_raw()
    lines = path.read_bytes().splitlines()[1:-1]
    return Secret(path.name, frozenset({*encoded(value), *(line for line in lines if len(line) >= 40)}), path)


def found(secrets: Iterable[Secret], left: dict[Path, bytes]) -> list[str]:
    """Each secret that stands where it may not: its name and where, never itself."""
    everything = b"\0".join(left.values())
    seen = []
    for secret in secrets:
        for form in secret.forms:
            if form in everything:
                places = [path for path, content in left.items() if form in content and path != secret.home]
                seen += [f"{secret.name} in {path}" for path in places]
    return sorted(set(seen))
