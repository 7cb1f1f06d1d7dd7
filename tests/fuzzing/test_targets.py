"""Hostile bytes at every reader: read or refused, never anything else. `scripts/fuzz` goes on for millions."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzzing.targets import TARGETS

EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4), st.integers(0, 4)), max_size=6)


@cache
def sample(name: str) -> bytes:
    return TARGETS[name].sample()


@pytest.mark.parametrize("name", TARGETS)
def test_something_well_formed_is_read(name: str) -> None:
    TARGETS[name].read(sample(name))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40)
@given(data=st.binary(max_size=300))
def test_noise(name: str, data: bytes) -> None:
    TARGETS[name].call(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40)
@given(edits=EDITS, keep=st.floats(0, 1))
def test_something_damaged(name: str, edits: list[tuple[float, bytes, int]], keep: float) -> None:
    content = bytearray(sample(name))
    for where, new, cut in edits:
        at = int(where * len(content))
        content[at : at + cut] = new
    TARGETS[name].call(bytes(content[: max(1, int(keep * len(content)))] if keep < 0.5 else content))
