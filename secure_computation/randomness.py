"""Every random value that hides a secret: AES-256-CTR streams from 256-bit seeds, one stream for each purpose.

`G(seed, item, step, label)` of the protocol documents is `Seed.stream(item=..., step=..., label=...)`. The three names
are bound into the key of the stream with HMAC-SHA-256, so that two purposes never share a stream, whatever their order:

    key    = HMAC-SHA-256(seed, domain || len(item) || item || step || len(label) || label)
    domain = "encrypted-medical-inference/stream/1"
    stream = AES-256-CTR(key, counter = 0, 1, 2, ...)

A key is used for one stream only, so the counter may start at zero. A stream is read once, front to back.
"""

import hmac
import secrets
from typing import Final, Self

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

SEED_BYTES: Final = 32
_DOMAIN: Final = b"encrypted-medical-inference/stream/1"
_BLOCK: Final = 16
_CHUNK: Final = 1 << 20
_ZEROS: Final = bytes(_CHUNK)


class Seed:
    """A 256-bit seed. Its value never shows in a repr, a log or an exception."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        """Take exactly 32 bytes, from `secrets` or from a peer's SEED frame."""
        if len(value) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(value)}")
        self._value = bytes(value)

    @classmethod
    def fresh(cls) -> Self:
        """Draw a new seed from the operating system."""
        return cls(secrets.token_bytes(SEED_BYTES))

    def __repr__(self) -> str:
        return "Seed(<secret>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a seed is not serialised; send it in a SEED frame")

    def reveal_to_channel(self) -> bytes:
        """Return the raw 32 bytes, for a SEED frame to the party that the seed is meant for and for nothing else."""
        return self._value

    def reveal_to_stock(self) -> bytes:
        """Return the raw 32 bytes, for the sealed file in which its holder keeps it, and for nothing else."""
        return self._value

    def stream(self, *, item: str, step: int, label: str) -> "RandomStream":
        """Open the stream for one purpose. Opening the same purpose twice repeats it: each is read once, by rule."""
        item_bytes, label_bytes = item.encode(), label.encode()
        message = b"".join(
            (
                _DOMAIN,
                len(item_bytes).to_bytes(4, "big"),
                item_bytes,
                step.to_bytes(8, "big"),
                len(label_bytes).to_bytes(4, "big"),
                label_bytes,
            )
        )
        return RandomStream(hmac.digest(self._value, message, "sha256"))


class RandomStream:
    """One AES-256-CTR key stream, read front to back."""

    __slots__ = ("_encryptor",)

    def __init__(self, key: bytes) -> None:
        """Start at counter zero under a key that belongs to this stream alone."""
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK))).encryptor()

    def __repr__(self) -> str:
        return "RandomStream(<secret>)"

    def uint8(self, count: int) -> NDArray[np.uint8]:
        """Return `count` uniform bytes, shape (count,)."""
        # update_into wants room for one block more than it writes.
        output = np.empty(count + _BLOCK, dtype=np.uint8)
        view = output.data
        done = 0
        while done < count:
            size = min(_CHUNK, count - done)
            self._encryptor.update_into(memoryview(_ZEROS)[:size], view[done : done + size + _BLOCK - 1])
            done += size
        return output[:count]

    def int64(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Return uniform elements of the ring of integers mod 2^64, as int64 of `shape`."""
        count = int(np.prod(shape, dtype=np.int64))
        return self.uint8(8 * count).view("<i8").astype(np.int64, copy=False).reshape(shape)

    def bits(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return uniform bits, one in each uint8 of `shape`."""
        count = int(np.prod(shape, dtype=np.int64))
        return np.unpackbits(self.uint8((count + 7) // 8), count=count).reshape(shape)
