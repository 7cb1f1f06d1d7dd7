"""Layers that cross in parts: the same answers, in the same one-way trips, whatever the size of a part."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_computation.engines.masked.session import step_shapes
from secure_computation.engines.masked.session.costs import declared_costs, largest_answer_bytes, total_cost
from secure_computation.engines.masked.session.in_process import run_batch_in_process
from secure_computation.engines.masked.session.step_shapes import parts_of
from secure_computation.material import ItemName
from secure_computation.wire import HEADER_BYTES
from tests.secure_computation.engines.masked.parties import Model, lowered, network_of, parties_of


@pytest.fixture(scope="module")
def model() -> Model:
    return lowered(network_of("conv", "relu", "max", "residual", "shortcut", "clip", "branches", "average", seed=3))


def small_parts(patch: pytest.MonkeyPatch, size: int) -> None:
    patch.setattr(step_shapes, "PART_ELEMENTS", size)
    patch.setattr(step_shapes, "_ALIGNED", 8)


@given(count=st.integers(1, 1 << 22), size=st.sampled_from([64, 1 << 16]))
def test_parts_cover_a_layer(count: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_shapes, "PART_ELEMENTS", size)
        parts = parts_of(count) if count // size < 1000 else (slice(0, count),)
    assert (parts[0].start, parts[-1].stop) == (0, count)
    assert all(before.stop == after.start and before.stop % 64 == 0 for before, after in pairwise(parts))
    lengths = [part.stop - part.start for part in parts]
    assert min(lengths) > 0
    assert max(lengths) < 2 * size + 64 or len(parts) == 1


@pytest.mark.parametrize("size", [8, 16])
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


def test_every_layer_still_takes_two_trips(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: cost.trips for name, cost in declared_costs(model.lowering).items()}
    small_parts(monkeypatch, 16)
    assert {name: cost.trips for name, cost in declared_costs(model.lowering).items()} == before
