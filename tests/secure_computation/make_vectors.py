"""Writes the known answers in `vectors/`: python -m tests.secure_computation.make_vectors

They are computed here from the definitions (HMAC-SHA-256 for the key, AES-256 of each counter block for the stream),
with AES in ECB mode and Python's integers: neither our stream, nor CTR mode, nor torch takes part. Written once; a
change of these files breaks every item of material that is in stock.
"""

import hashlib
import hmac
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

FOLDER = Path(__file__).parent / "vectors"
RING = 1 << 64

PURPOSES = [
    ("00" * 32, "", 0, ""),
    ("ff" * 32, "item", 1, "a"),
    (hashlib.sha256(b"first").hexdigest(), "0123456789abcdef", 2**40, "arithmetic"),
    (hashlib.sha256(b"second").hexdigest(), "Übung", 7, "label with spaces"),
]
SEEDS = {"p0": hashlib.sha256(b"seed of P0").digest(), "p1": hashlib.sha256(b"seed of P1").digest()}
ITEM = "vectors"


def stream(seed: bytes, item: str, step: int, label: str, length: int) -> bytes:
    """The first `length` bytes of a stream, by definition."""
    parts = [item.encode(), label.encode()]
    message = b"encrypted-medical-inference/stream/1"
    message += len(parts[0]).to_bytes(4, "big") + parts[0] + step.to_bytes(8, "big")
    message += len(parts[1]).to_bytes(4, "big") + parts[1]
    key = hmac.new(seed, message, hashlib.sha256).digest()
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    blocks = (block.update(counter.to_bytes(16, "big")) for counter in range((length + 15) // 16))
    return b"".join(blocks)[:length]


def ring(seed: bytes, step: int, label: str, count: int) -> list[int]:
    """Ring elements as integers in [0, 2^64)."""
    data = stream(seed, ITEM, step, label, 8 * count)
    return [int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(count)]


def bits(seed: bytes, step: int, label: str, count: int) -> list[int]:
    """Bits, the highest of each byte first."""
    data = stream(seed, ITEM, step, label, (count + 7) // 8)
    return [data[i // 8] >> (7 - i % 8) & 1 for i in range(count)]


def signed(value: int) -> int:
    """A ring element as int64 shows it."""
    value %= RING
    return value - RING if value >= RING // 2 else value


def both(step: int, label: str, count: int, draw: Callable[..., list[int]] = ring) -> tuple[list[int], list[int]]:
    return draw(SEEDS["p0"], step, label, count), draw(SEEDS["p1"], step, label, count)


def added(shares: tuple[Sequence[int], Sequence[int]]) -> list[int]:
    return [x + y for x, y in zip(*shares, strict=True)]


def xored(shares: tuple[Sequence[int], Sequence[int]]) -> list[int]:
    return [x ^ y for x, y in zip(*shares, strict=True)]


def less(values: Sequence[int], subtract: Sequence[int]) -> list[int]:
    return [signed(value - other) for value, other in zip(values, subtract, strict=True)]


def convolution(x: list[int], w: list[int]) -> list[int]:
    """Image (1, 2, 3, 3) by weights (2, 1, 2, 2), two groups, padding 1, stride 2, dilation 1: (1, 2, 2, 2)."""

    def pixel(channel: int, row: int, column: int) -> int:
        return x[9 * channel + 3 * row + column] if 0 <= row < 3 and 0 <= column < 3 else 0

    return [
        sum(
            pixel(channel, 2 * row + i - 1, 2 * column + j - 1) * w[4 * channel + 2 * i + j]
            for i, j in itertools.product(range(2), repeat=2)
        )
        for channel, row, column in itertools.product(range(2), repeat=3)
    ]


def wrap(x: int, y: int) -> int:
    total = signed(x) + signed(y)
    return (total >= RING // 2) - (total < -RING // 2)


def dealt() -> list[dict[str, Any]]:
    """One request of each kind, at its own step, with the correction that D sends P1."""
    left, right = added(both(0, "a", 4)), added(both(0, "b", 4))
    cases: list[tuple[dict[str, Any], list[int], str]] = [
        (
            {"kind": "triple", "product": "mul", "left": [4], "right": [4], "output": [4]},
            [x * y for x, y in zip(left, right, strict=True)],
            "c",
        )
    ]
    left, right = added(both(1, "a", 6)), added(both(1, "b", 3))
    product = [sum(left[3 * row + k] * right[k] for k in range(3)) for row in range(2)]
    cases.append(
        ({"kind": "triple", "product": "matmul", "left": [2, 3], "right": [3, 1], "output": [2, 1]}, product, "c")
    )
    image, weights = added(both(2, "a", 18)), added(both(2, "b", 8))
    options = {"stride": [2, 2], "padding": [1, 1], "dilation": [1, 1], "groups": 2}
    request = {"kind": "triple", "product": "conv2d", "left": [1, 2, 3, 3], "right": [2, 1, 2, 2]}
    cases.append((request | {"output": [1, 2, 2, 2], "convolution": options}, convolution(image, weights), "c"))
    cases.append(({"kind": "square", "output": [3]}, [r * r for r in added(both(3, "r", 3))], "r2"))
    conjunction = [x & y for x, y in zip(xored(both(4, "a", 2)), xored(both(4, "b", 2)), strict=True)]
    cases.append(({"kind": "binary-triple", "output": [2]}, conjunction, "c"))
    cases.append(({"kind": "bit", "output": [9]}, xored(both(5, "binary", 9, bits)), "arithmetic"))
    wraps = [wrap(x, y) for x, y in zip(*both(6, "r", 8), strict=True)]
    cases.append(({"kind": "wrap", "output": [8]}, wraps, "theta"))
    entries = []
    for step, (request, value, last) in enumerate(cases):
        own = ring(SEEDS["p0"], step, last, len(value))
        binary = request["kind"] == "binary-triple"
        correction = [signed(x ^ y) for x, y in zip(value, own, strict=True)] if binary else less(value, own)
        entries.append({"request": request, "correction": correction})
    return entries


def streams() -> list[dict[str, Any]]:
    return [
        {"seed": seed, "item": item, "step": step, "label": label, "first_48_bytes": text}
        for seed, item, step, label in PURPOSES
        for text in [stream(bytes.fromhex(seed), item, step, label, 48).hex()]
    ]


def main() -> None:
    """Write both files."""
    for name, content in (("streams.json", streams()), ("corrections.json", dealt())):
        (FOLDER / name).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
