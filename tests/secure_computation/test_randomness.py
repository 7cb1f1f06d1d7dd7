"""The streams that hide every secret: known answers, separation of purposes, and why CrypTen's own are replaced."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secure_computation.randomness import SEED_BYTES, Seed
from tests.secure_computation import make_vectors

VECTORS = Path(__file__).parent / "vectors" / "streams.json"
VALUE = bytes(range(SEED_BYTES))


def first_bytes(seed: bytes, *, item: str = "item", step: int = 3, label: str = "a", count: int = 16) -> bytes:
    return Seed(seed).stream(item=item, step=step, label=label).uint8(count).tobytes()


@pytest.mark.parametrize("known", json.loads(VECTORS.read_text()), ids=lambda known: repr(known["label"]))
def test_known_answers(known: dict[str, str | int]) -> None:
    stream = Seed(bytes.fromhex(str(known["seed"]))).stream(
        item=str(known["item"]), step=int(known["step"]), label=str(known["label"])
    )
    assert stream.uint8(48).tobytes().hex() == known["first_48_bytes"]


@given(
    seed=st.binary(min_size=32, max_size=32),
    item=st.text(max_size=8),
    step=st.integers(0, 2**64 - 1),
    label=st.text(max_size=8),
    count=st.integers(0, 100),
)
def test_stream_is_aes_of_counters_under_the_purpose_key(
    seed: bytes, item: str, step: int, label: str, count: int
) -> None:
    expected = make_vectors.stream(seed, item, step, label, count)
    assert first_bytes(seed, item=item, step=step, label=label, count=count) == expected


def test_stream_is_the_same_in_large_and_in_small_reads() -> None:
    whole = Seed(VALUE).stream(item="i", step=0, label="l").uint8((1 << 20) + 333)
    stream = Seed(VALUE).stream(item="i", step=0, label="l")
    parts = [stream.uint8(count) for count in (1, 15, 16, 17, 100_000, (1 << 20) + 333 - 100_049)]
    assert np.array_equal(np.concatenate(parts), whole)


@given(
    left=st.tuples(st.text(max_size=6), st.integers(0, 2**64 - 1), st.text(max_size=6)),
    right=st.tuples(st.text(max_size=6), st.integers(0, 2**64 - 1), st.text(max_size=6)),
)
def test_different_purposes_have_different_streams(left: tuple[str, int, str], right: tuple[str, int, str]) -> None:
    streams = [first_bytes(VALUE, item=item, step=step, label=label) for item, step, label in (left, right)]
    assert (streams[0] == streams[1]) == (left == right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("ab", "c"), ("a", "bc")),
        (("", "ab"), ("ab", "")),
        (("a\0", "b"), ("a", "\0b")),
    ],
)
def test_names_cannot_run_into_each_other(left: tuple[str, str], right: tuple[str, str]) -> None:
    assert first_bytes(VALUE, item=left[0], label=left[1]) != first_bytes(VALUE, item=right[0], label=right[1])


def test_step_cannot_be_moved_into_a_name() -> None:
    step = int.from_bytes(b"\0\0\0\0\0\0\0x", "big")
    assert first_bytes(VALUE, item="", step=step) != first_bytes(VALUE, item="x", step=0)


def test_every_bit_of_a_seed_matters() -> None:
    seen = {first_bytes(VALUE)}
    for bit in range(8 * SEED_BYTES):
        flipped = bytearray(VALUE)
        flipped[bit // 8] ^= 1 << (bit % 8)
        seen.add(first_bytes(bytes(flipped)))
    assert len(seen) == 8 * SEED_BYTES + 1


@pytest.mark.parametrize("multiple", [1, 2, 0x7FFF_FFFF])
def test_stock_generator_ignores_half_of_its_seed_and_ours_does_not(multiple: int) -> None:
    """Why CrypTen's generators are replaced: whoever tries 2^32 seeds knows all of a party's masks."""
    seed, other = 0x1234_5678, 0x1234_5678 + (multiple << 32)
    draws = [
        torch.empty(64, dtype=torch.int64).random_(generator=torch.Generator("cpu").manual_seed(value))
        for value in (seed, other)
    ]
    assert torch.equal(*draws)
    assert first_bytes(seed.to_bytes(32, "little")) != first_bytes(other.to_bytes(32, "little"))


def test_fresh_seeds_differ() -> None:
    assert len({Seed.fresh().reveal_to_channel() for _ in range(100)}) == 100


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_has_256_bits(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Seed(bytes(length))


def test_nothing_shows_or_pickles_a_seed() -> None:
    seed = Seed(VALUE)
    stream = seed.stream(item="item", step=0, label="a")
    for text in (repr(seed), str(seed), repr(stream), f"{seed}{stream}"):
        assert "secret" in text
        assert VALUE.hex() not in text
        assert str(VALUE) not in text
    with pytest.raises(TypeError, match="not serialised"):
        copy.copy(seed)


def test_shapes_and_types() -> None:
    stream = Seed(VALUE).stream(item="item", step=0, label="a")
    assert stream.int64((2, 0, 3)).shape == (2, 0, 3)
    ring = stream.int64((2, 3))
    assert (ring.shape, ring.dtype) == ((2, 3), np.dtype(np.int64))
    bits = stream.bits((5, 3))
    assert (bits.shape, bits.dtype) == ((5, 3), np.dtype(np.uint8))
    assert set(np.unique(bits)) <= {0, 1}


def test_streams_look_uniform() -> None:
    """Chi-square over bytes, and each of the 64 bits; fixed seed, bounds at about one in a million."""
    ring = Seed(VALUE).stream(item="uniform", step=0, label="a").int64((1 << 17,))
    counts = np.bincount(ring.view(np.uint8), minlength=256)
    expected = ring.nbytes / 256
    assert 150 < float(((counts - expected) ** 2 / expected).sum()) < 380
    ones = np.unpackbits(ring.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert np.all(np.abs(ones - 0.5) < 5 * 0.5 / np.sqrt(ring.size))
    bits = Seed(VALUE).stream(item="uniform", step=0, label="b").bits((1 << 17,))
    assert abs(float(bits.mean()) - 0.5) < 5 * 0.5 / np.sqrt(bits.size)
