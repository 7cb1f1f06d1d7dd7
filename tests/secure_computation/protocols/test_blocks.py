"""Working through a layer in blocks, drawing ahead, and the way without compiled loops: the same messages."""

from dataclasses import replace

import numpy as np
import pytest

from secure_computation.kernels import comparing
from secure_computation.protocols.bundle import Bundle
from secure_computation.protocols.compared_layer import ComparedShape, LayerAsP0, LayerAsP1, deal_layer
from secure_computation.protocols.draws import Draws
from secure_computation.ring import reduce_to_bits, reduce_to_ring
from tests.secure_computation.protocols import one_page
from tests.secure_computation.protocols.one_page import Seeds

COUNT = 1000
SHAPES = [
    one_page.relu_shape(24, 11, 26, COUNT),
    one_page.relu_shape(30, 16, 20, COUNT, chunks=4),
    one_page.relu_shape(17, 0, 32, COUNT),
    one_page.truncation_shape(26, 9, 17, COUNT, chunks=4),
    one_page.truncation_shape(20, 9, 28, COUNT),
    one_page.truncation_shape(20, 0, 28, COUNT),
    one_page.dithered_relu_shape(24, 11, 26, COUNT),
    one_page.dithered_relu_shape(30, 12, 16, COUNT, e=3, chunks=4),
    one_page.dithered_relu_shape(17, 0, 32, COUNT),
]


def draws() -> Draws:
    return one_page.draws(Seeds.fresh().p0)


def values(shape: ComparedShape) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    quarter = 1 << (shape.ring_bits - 2)
    return np.random.default_rng(1).integers(-quarter, quarter, shape.count)


def test_blocks_of_a_stream_make_up_the_whole() -> None:
    seed = Seeds.fresh().p0
    whole, parts = one_page.draws(seed), one_page.draws(seed).in_blocks()
    parts.expand("ahead", 500 * 2)
    sizes = (400, 96, 4)
    word = np.dtype("<u2")
    for label in ("ahead", "as it comes"):
        drawn = [parts.words(label, size, word) for size in sizes]
        np.testing.assert_array_equal(np.concatenate(drawn), whole.words(label, 500, word))
    np.testing.assert_array_equal(np.concatenate([parts.bits("bits", size) for size in sizes]), whole.bits("bits", 500))
    np.testing.assert_array_equal(
        np.concatenate([parts.ring("ring", size, bits=21) for size in sizes]), whole.ring("ring", 500, bits=21)
    )


def test_a_stream_drawn_in_blocks_is_not_drawn_again() -> None:
    whole = draws()
    whole.in_blocks().bits("label", 8)
    with pytest.raises(RuntimeError, match="used once"):
        whole.bits("label", 8)
    with pytest.raises(RuntimeError, match="used once"):
        whole.in_blocks().expand("label", 8)


def test_what_was_drawn_ahead_too_short_is_refused() -> None:
    parts = draws().in_blocks()
    parts.expand("label", 8)
    with pytest.raises(RuntimeError, match="too short"):
        parts.words("label", 9, np.dtype("<u1"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", ["small blocks", "not compiled"])
def test_the_messages_are_the_same(shape: ComparedShape, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, z = Seeds.fresh(), values(shape)
    z0 = one_page.random_ring(shape.count)
    usual = one_page.play(shape, z, z0=z0, seeds=seeds)
    if way == "small blocks":
        monkeypatch.setattr(comparing, "BLOCK", 64)
    else:
        monkeypatch.setattr(comparing, "compiled", lambda: None)
    again = one_page.play(shape, z, z0=z0, seeds=seeds)
    assert again.messages == usual.messages
    np.testing.assert_array_equal(again.y, usual.y)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [64, 400, COUNT, COUNT + 8])
def test_a_layer_that_crosses_in_parts_is_the_layer(shape: ComparedShape, size: int) -> None:
    seeds, z = Seeds.fresh(), values(shape)
    z0 = one_page.random_ring(shape.count)
    usual = one_page.play(shape, z, z0=z0, seeds=seeds)
    shape = replace(shape, part_count=size)
    assert [part.stop for part in shape.parts] == [*range(size, COUNT, size), COUNT]
    p0, p1 = LayerAsP0(shape, one_page.draws(seeds.p0)), one_page.draws(seeds.p1)
    prepared = p0.prepare(z0)
    dealt = deal_layer(shape, p0=one_page.draws(seeds.p0), p1=one_page.draws(seeds.p1))
    in_parts = LayerAsP1(shape, p1, dealt, prepared)
    z1 = z.astype(np.uint32) - z0
    openings = [in_parts.open(z1[part]) for part in shape.parts]
    in_parts.release()
    answers = [p0.answer(opening) for opening in openings]
    p0.release()
    halves = [in_parts.finish(answer) for answer in answers]
    y = (p0.output_mask + np.concatenate(halves)) & np.uint32((1 << shape.output_bits) - 1)
    np.testing.assert_array_equal(y, usual.y)
    with pytest.raises(RuntimeError, match="a stream is used once"):
        in_parts.open(z1[shape.parts[0]])
    with pytest.raises(RuntimeError, match="a stream is used once"):
        p0.answer(openings[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_drawing_ahead_changes_nothing(shape: ComparedShape) -> None:
    seed = Seeds.fresh().p0
    rng = np.random.default_rng(2)
    received = Bundle(
        bits=tuple(
            reduce_to_bits(rng.integers(0, 2, shape.count).astype(np.uint8)) for _ in range(shape.from_p1.bit_arrays)
        ),
        rings=(reduce_to_ring(one_page.random_ring(shape.count), shape.opened_bits),),
    )

    def part() -> LayerAsP0:
        layer = LayerAsP0(shape, one_page.draws(seed))
        layer.prepare(one_page.random_ring(shape.count))
        return layer

    at_once, ahead = part(), part()
    ahead.expand()
    answers = [shape.from_p0.pack(each.answer(received)) for each in (at_once, ahead)]
    assert answers[0].tobytes() == answers[1].tobytes()
    with pytest.raises(RuntimeError, match="used once"):
        ahead.answer(received)
