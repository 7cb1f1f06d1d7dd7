"""Messages and streams of the masked protocols: malformed ones name peer and step; nothing is used twice."""

import numpy as np
import pytest

from contract.errors import PeerViolation
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.draws import Draws
from secure_computation.randomness import Seed
from secure_computation.ring import reduce_to_bits, reduce_to_ring
from tests.secure_computation.protocols.one_page import play, random_ring, relu_shape

COUNT = 5
WORDS = (np.dtype("<u1"), np.dtype("<u8"), np.dtype("<u2"))
LAYOUT = BundleLayout(count=COUNT, word_types=WORDS, bit_arrays=3, ring_bits=(20, 7, 32))


def bundle() -> Bundle:
    return Bundle(
        words=tuple(Draws(Seed.fresh(), item="i", step=0).words("w", COUNT, word) for word in WORDS),
        bits=tuple(reduce_to_bits(random_ring(COUNT).astype(np.uint8)) for _ in range(3)),
        rings=tuple(reduce_to_ring(random_ring(COUNT), bits) for bits in LAYOUT.ring_bits),
    )


def test_round_trip_and_declared_length() -> None:
    sent = bundle()
    body = LAYOUT.pack(sent)
    assert body.size == LAYOUT.body_bytes == 8 + 40 + 16 + 2 + 13 + 5 + 20
    received = LAYOUT.unpack(body, peer="p", step="s")
    for ours, theirs in zip(sent.words, received.words, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for bits, received_bits in zip(sent.bits, received.bits, strict=True):
        np.testing.assert_array_equal(bits.values, received_bits.values)
    for ring, received_ring in zip(sent.rings, received.rings, strict=True):
        assert ring.bits == received_ring.bits
        np.testing.assert_array_equal(ring.values, received_ring.values)


def test_any_bytes_without_filling_are_a_message() -> None:
    layout = BundleLayout(count=COUNT, bit_arrays=3, ring_bits=(20, 7, 32))
    body = np.full(layout.body_bytes, 0xFF, np.uint8)
    layout.clear_filling(body)
    received = layout.unpack(body, peer="p", step="s")
    assert all(bits.values.all() for bits in received.bits)
    assert [set(ring.values.tolist()) for ring in received.rings] == [{(1 << bits) - 1} for bits in layout.ring_bits]
    with pytest.raises(ValueError, match="with words"):
        LAYOUT.clear_filling(LAYOUT.pack(bundle()))


@pytest.mark.parametrize("change", [-104, -1, 1, 1000])
def test_another_length_names_peer_and_step(change: int) -> None:
    body = np.resize(LAYOUT.pack(bundle()), LAYOUT.body_bytes + change)
    with pytest.raises(PeerViolation, match=f"'laboratory'.*'opening, r1'.*expected 104 bytes, got {104 + change}"):
        LAYOUT.unpack(body, peer="'laboratory'", step="opening, r1")


@pytest.mark.parametrize("last_byte_of", [64 + 2, 64 + 2 + 13, 64 + 2 + 13 + 5])
def test_bits_behind_the_last_element_are_refused(last_byte_of: int) -> None:
    """An element that is not reduced has nowhere to go: the only room is the padding of a part's last byte."""
    body = LAYOUT.pack(bundle())
    body[last_byte_of - 1] |= 0x80
    with pytest.raises(PeerViolation, match=r"'laboratory'.*step 's'.*bits are set behind"):
        LAYOUT.unpack(body, peer="'laboratory'", step="s")


def test_any_other_garbage_is_read_as_reduced_elements() -> None:
    generator = np.random.default_rng(0)
    layout = BundleLayout(count=8, word_types=WORDS, bit_arrays=3, ring_bits=(20, 7, 32))
    received = layout.unpack(generator.integers(0, 256, layout.body_bytes, dtype=np.uint8), peer="p", step="s")
    for ring in received.rings:
        assert int(ring.values.max()) < 1 << ring.bits
    assert all(int(bits.values.max()) <= 1 for bits in received.bits)


def test_a_bundle_of_another_layout_is_not_packed() -> None:
    other = bundle()
    for wrong in (
        Bundle(words=other.words[:2], bits=other.bits, rings=other.rings),
        Bundle(words=other.words, bits=other.bits[:2], rings=other.rings),
        Bundle(words=other.words, bits=other.bits, rings=tuple(reversed(other.rings))),
    ):
        with pytest.raises(ValueError, match="does not have the declared layout"):
            LAYOUT.pack(wrong)


def test_nothing_shows_values() -> None:
    text = repr(bundle()) + repr(Draws(Seed(b"\x37" * 32), item="secret item", step=4))
    assert text == "Bundle(3 words, 3 bits, 3 rings)Draws(step 4)"


def test_every_message_of_a_layer_refuses_a_byte_less_and_a_byte_more() -> None:
    shape = relu_shape(20, 9, 20, 7)
    layer = play(shape, np.arange(7))
    layouts = {
        "corrections": shape.corrections,
        "prepared": shape.prepared,
        "from_p1": shape.from_p1,
        "from_p0": shape.from_p0,
    }
    for name, body in layer.messages.items():
        for length in (0, len(body) - 1, len(body) + 1):
            with pytest.raises(PeerViolation, match="'laboratory'"):
                layouts[name].unpack(np.resize(np.frombuffer(body, np.uint8), length), peer="'laboratory'", step=name)


# Streams


def test_a_stream_is_drawn_once() -> None:
    draws = Draws(Seed.fresh(), item="i", step=2)
    draws.ring("mask", 4, bits=12)
    draws.bits("other", 4)
    with pytest.raises(RuntimeError, match="the stream 'mask' of step 2 was drawn before; a stream is used once"):
        draws.ring("mask", 4, bits=12)
    with pytest.raises(RuntimeError, match="the stream 'other'"):
        draws.words("other", 4, np.dtype("<u4"))
    draws.ring("mask 2", 4, bits=12)


def test_draws_are_reduced_and_repeatable_by_the_dealer() -> None:
    seed = Seed.fresh()
    for bits in (1, 7, 31, 32):
        first, second = (Draws(seed, item="i", step=1).ring("x", (50, 40), bits=bits) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert int(first.max()).bit_length() == bits
    bits_drawn = Draws(seed, item="i", step=1).bits("x", 2001)
    assert set(bits_drawn.tolist()) == {0, 1}


@pytest.mark.parametrize("other", [("j", 1, "x"), ("i", 2, "x"), ("i", 1, "y"), ("i", 1, "x ")])
def test_streams_of_different_purposes_share_nothing(other: tuple[str, int, str]) -> None:
    seed = Seed.fresh()
    item, step, label = other
    word = np.dtype("<u8")
    first = Draws(seed, item="i", step=1).words("x", 1000, word)
    second = Draws(seed, item=item, step=step).words(label, 1000, word)
    assert np.intersect1d(first, second).size == 0
