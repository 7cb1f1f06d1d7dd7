"""The wire rule: what is packed is reduced, what is unpacked is exactly as long and as small as it must be."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import PeerViolation
from secure_computation.ring import (
    Bits,
    Reduced,
    pack,
    pack_bits,
    packed_bytes,
    reduce_to_bits,
    reduce_to_ring,
    signed,
    unpack,
    unpack_bits,
)

words = st.lists(st.integers(0, 2**32 - 1), max_size=70)
ring_bits = st.integers(1, 32)


@given(words, ring_bits)
def test_packed_form_is_the_number_whose_digits_are_the_elements(values: list[int], bits: int) -> None:
    reduced = reduce_to_ring(np.array(values, np.uint32), bits)
    body = pack(reduced)
    number = sum((value % 2**bits) << (index * bits) for index, value in enumerate(values))
    assert body.tobytes() == number.to_bytes(packed_bytes((len(values),), bits), "little")
    again = unpack(body.tobytes(), (len(values),), bits)
    assert again.bits == bits
    np.testing.assert_array_equal(again.values, [value % 2**bits for value in values])


@given(words, ring_bits)
def test_signed_representative(values: list[int], bits: int) -> None:
    wanted = [(value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1) for value in values]
    assert signed(reduce_to_ring(np.array(values, np.uint32), bits)).tolist() == wanted


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint64", "uint32"])
def test_every_integer_type_is_cut_mod_two_to_the_k(dtype: str) -> None:
    reduced = reduce_to_ring(np.array([-1, -(2**31), 5]).astype(np.uint32).astype(dtype), 20)
    assert reduced.values.tolist() == [2**20 - 1, 0, 5]
    assert reduced.values.dtype == np.uint32


def test_reducing_copies_and_the_result_does_not_change() -> None:
    source = np.arange(12, dtype=np.uint32).reshape(3, 4)
    for bits in (8, 32):
        reduced = reduce_to_ring(source, bits)
        source += np.uint32(1)
        assert reduced.values[0, 0] == source[0, 0] - 1
        with pytest.raises(ValueError, match="read-only"):
            reduced.values[0, 0] = 1
        with pytest.raises(AttributeError):
            reduced.values = source


def test_packing_ignores_the_layout_in_memory() -> None:
    values = np.arange(24, dtype=np.uint32).reshape(2, 3, 4).transpose(2, 0, 1)
    reduced = reduce_to_ring(values, 24)
    assert pack(reduced).tobytes() == pack(reduce_to_ring(np.ascontiguousarray(values), 24)).tobytes()
    np.testing.assert_array_equal(unpack(pack(reduced), (4, 2, 3), 24).values, values)


@given(st.lists(st.integers(0, 255), max_size=40))
def test_bits(values: list[int]) -> None:
    bits = reduce_to_bits(np.array(values, np.uint8))
    body = pack_bits(bits)
    assert body.tobytes() == sum((v & 1) << i for i, v in enumerate(values)).to_bytes((len(values) + 7) // 8, "little")
    assert unpack_bits(memoryview(body.tobytes()), (len(values),)).values.tolist() == [value & 1 for value in values]


@pytest.mark.parametrize("length", [0, 7, 9])
def test_another_length_is_a_violation(length: int) -> None:
    with pytest.raises(PeerViolation, match=f"expected 8 packed bytes, got {length}.*"):
        unpack(bytes(length), (3,), 20, peer="model owner", step="relu 3")
    with pytest.raises(PeerViolation):
        unpack_bits(bytes(length), (8, 8))


def test_bits_behind_the_last_element_are_a_violation() -> None:
    body = bytearray(pack(reduce_to_ring(np.full(3, 2**20 - 1, np.uint32), 20)))
    unpack(body, (3,), 20)
    body[-1] |= 0x10
    with pytest.raises(PeerViolation, match="behind the last"):
        unpack(body, (3,), 20)
    with pytest.raises(PeerViolation, match="behind the last"):
        unpack_bits(bytes([0, 0b1000]), (11,))


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="integers"):
        reduce_to_ring(np.zeros(3, np.float32), 8)
    with pytest.raises(ValueError, match="uint8"):
        reduce_to_bits(np.zeros(3, np.uint32))
    with pytest.raises(PeerViolation):
        unpack(np.zeros(8, np.int8), (2,), 32)


@pytest.mark.parametrize("bits", [0, 33, -1])
def test_a_ring_has_one_to_thirty_two_bits(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 32"):
        reduce_to_ring(np.zeros(1, np.uint32), bits)
    with pytest.raises(ValueError, match="1 to 32"):
        unpack(b"", (0,), bits)


@pytest.mark.parametrize("kind", [Reduced, Bits])
def test_nobody_else_makes_one(kind: type[Reduced | Bits]) -> None:
    with pytest.raises(TypeError, match="is made by"):
        kind(np.full(3, 2**31, np.uint32), 20, object())


def test_nothing_shows_or_serialises_the_values() -> None:
    for secret in (reduce_to_ring(np.full(3, 123456, np.uint32), 20), reduce_to_bits(np.ones(3, np.uint8))):
        assert repr(secret) == f"{type(secret).__name__}(bits={secret.bits}, shape=(3,))"
        with pytest.raises(TypeError):
            pickle.dumps(secret)
