"""Layers that cross in parts: the same answers, in the same one-way trips, whatever the size of a part."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_computation.channel.channel import Deadlines
from secure_computation.engines.masked.session import answering, step_shapes
from secure_computation.engines.masked.session.costs import declared_costs, largest_answer_bytes, total_cost
from secure_computation.engines.masked.session.in_process import run_batch_in_process, run_in_process
from secure_computation.engines.masked.session.lines import Line
from secure_computation.engines.masked.session.step_shapes import rows_of_part
from secure_computation.engines.masked.session.walk import Move
from secure_computation.material import ItemName
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.compared_layer import LayerAsP0
from secure_computation.wire import HEADER_BYTES
from tests.secure_computation.engines.masked.parties import (
    ITEM,
    Model,
    check_every_value,
    lowered,
    narrow_resnet18,
    network_of,
    parties_of,
    random_network,
    recorded_halves,
    run,
)


@pytest.fixture(scope="module")
def model() -> Model:
    return lowered(network_of("conv", "relu", "max", "residual", "shortcut", "clip", "branches", "average", seed=3))


def small_parts(patch: pytest.MonkeyPatch, size: int) -> None:
    patch.setattr(step_shapes, "PART_ELEMENTS", size)
    patch.setattr(step_shapes, "_ALIGNED", 8)


@given(row_elements=st.integers(1, 1 << 14), size=st.sampled_from([64, 1 << 16]))
def test_parts_are_whole_rows_that_end_where_a_byte_ends(row_elements: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_shapes, "PART_ELEMENTS", size)
        part = rows_of_part(row_elements)
    assert part >= 1
    assert part * row_elements % 64 == 0
    assert part * row_elements <= size + 64 * row_elements


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("images", [1, 2])
def test_a_layer_in_parts_is_the_layer(model: Model, monkeypatch: pytest.MonkeyPatch, size: int, images: int) -> None:
    whole, answers = total_cost(model.lowering), largest_answer_bytes(model.lowering)
    small_parts(monkeypatch, size)
    items = [ItemName(f"{index:064x}") for index in range(images)]
    result = run_batch_in_process(parties_of(model), list(model.images[:images]), items=items)
    for image, item, logits in zip(model.images, items, result.answers, strict=False):
        np.testing.assert_array_equal(logits, model.expected_logits(image, result.seeds[item], item))
    cost = total_cost(model.lowering)
    assert result.online.one_way_trips == cost.trips == whole.trips
    frames = result.online.frames_sent + result.online.frames_received
    assert frames > images * (whole.trips + 10), "no layer was divided"
    bodies = result.online.bytes_sent + result.online.bytes_received
    assert bodies - frames * HEADER_BYTES == images * cost.online_bytes
    dealt = result.dealt.bytes_received - result.dealt.frames_received * HEADER_BYTES
    assert dealt > cost.dealer_to_model_owner * images  # and seeds and names
    assert abs(largest_answer_bytes(model.lowering) - answers) < 64


@pytest.mark.parametrize("seed", range(13))
def test_every_value_of_any_network_in_parts_is_the_references(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Each block of `BLOCKS` at least once; trips and bytes are those declared."""
    model = lowered(random_network(seed))
    small_parts(monkeypatch, 8)
    with recorded_halves(monkeypatch) as halves:
        result = run(model, model.images[0])
    check_every_value(model, model.images[0], halves, result)
    assert result.online.one_way_trips == total_cost(model.lowering).trips


def test_the_next_layer_is_opened_before_the_answer_to_the_last_part_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """P0 holds back the answer to the last part of each layer until the next layer's first part has come."""
    model = lowered(narrow_resnet18(64))
    small_parts(monkeypatch, 16)
    held: list[Callable[[], None]] = []
    overtaken: list[str] = []

    def receive(line: Line, layout: BundleLayout, *, step: str) -> Bundle:
        bundle = line.receive(layout, step=step)
        if held:
            overtaken.append(step)
        while held:
            held.pop()()
        return bundle

    def answer(line: Line, move: Move, part: LayerAsP0) -> None:
        many = len(part.shape.parts) >= 8
        for number, shape in enumerate(part.shape.shapes_of_parts, start=1):
            opening = receive(line, shape.from_p1, step=f"opening, {move}")
            reply = partial(line.send, shape.from_p0, part.answer(opening), step=f"answer, {move}")
            if many and number == len(part.shape.parts):
                held.append(reply)
            else:
                reply()

    monkeypatch.setattr(answering, "_answer", answer)
    image, deadlines = model.images[0], Deadlines(step_seconds=20.0)
    result = run_in_process(parties_of(model), image, item=ITEM, deadlines=deadlines)
    np.testing.assert_array_equal(result.logits, model.expected_logits(image, result.seeds[ITEM], ITEM))
    assert len(overtaken) >= 8, "no layer was large enough"


def test_every_layer_still_takes_two_trips(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: cost.trips for name, cost in declared_costs(model.lowering).items()}
    small_parts(monkeypatch, 16)
    assert {name: cost.trips for name, cost in declared_costs(model.lowering).items()} == before
