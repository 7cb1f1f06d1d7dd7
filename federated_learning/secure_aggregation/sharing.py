"""Shamir shares of 32-byte secrets, by PyCryptodome.

PyCryptodome shares 16 bytes over GF(2^128). A 32-byte secret is shared as two halves with independent polynomials:
fewer than `threshold` shares of both halves are uniform whatever the secret is, so nothing is lost against a larger
field. It draws coefficients from the operating system. It does not notice a wrong share or too few of them: it returns
another secret. So `recover` takes a test of the secret (a public key or commitment that its owner signed) and accepts
no secret that fails it.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from math import comb
from typing import Final

from Crypto.Protocol.SecretSharing import Shamir

SECRET_BYTES: Final = 32
_HALF: Final = 16
_MAX_TRIALS: Final = 256


def split(secret: bytes, *, threshold: int, count: int) -> list[bytes]:
    """Shares of a 32-byte secret for the holders 0 to count - 1, 32 bytes each; any `threshold` of them recover it."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"secrets of {SECRET_BYTES} bytes are shared, not of {len(secret)}")
    low = Shamir.split(threshold, count, secret[:_HALF], ssss=False)
    high = Shamir.split(threshold, count, secret[_HALF:], ssss=False)
    return [first + second for (_, first), (_, second) in zip(low, high, strict=True)]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret that exactly these shares (by holder) determine. Wrong shares give another secret, not an error."""
    low = Shamir.combine([(holder + 1, share[:_HALF]) for holder, share in shares.items()], ssss=False)
    high = Shamir.combine([(holder + 1, share[_HALF:]) for holder, share in shares.items()], ssss=False)
    return low + high


def recover(shares: Mapping[int, bytes], *, threshold: int, accept: Callable[[bytes], bool]) -> bytes | None:
    """The secret that `accept` knows, from any `threshold` of the shares. None when no choice that is tried fits.

    More shares than the threshold outvote wrong ones.
    """
    for holders in _choices(sorted(shares), threshold):
        secret = combine({holder: shares[holder] for holder in holders})
        if accept(secret):
            return secret
    return None


def _choices(holders: list[int], threshold: int) -> Iterator[tuple[int, ...]]:
    """All choices if they are few; else the runs of neighbours in a circle, which leave out any single holder."""
    if len(holders) < threshold or comb(len(holders), threshold) <= _MAX_TRIALS:
        yield from combinations(holders, threshold)
        return
    for start in range(len(holders)):
        yield tuple((holders * 2)[start : start + threshold])
