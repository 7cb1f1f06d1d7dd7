"""Several images in one session: each answer is the reference's, in the one-way trips of a single image."""

from collections.abc import Callable

import numpy as np
import pytest

from contract.errors import MaterialSpent
from contract.ticket import MAX_IMAGES
from secure_computation.channel.bridge import INBOUND_BYTES
from secure_computation.engines.interface import Label
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.session import costs
from secure_computation.engines.masked.session.costs import largest_answer_bytes, total_cost
from secure_computation.engines.masked.session.in_process import InProcessResult, run_batch_in_process
from secure_computation.engines.masked.session.turns import Pause, in_turns
from secure_computation.material import ItemName
from secure_computation.wire import HEADER_BYTES
from tests.secure_computation.engines.masked.parties import Image, Model, lowered, network_of, parties_of
from tests.secure_computation.engines.masked.sessions import Session
from tests.secure_computation.networks import random_weights, small_network


def items(count: int) -> list[ItemName]:
    return [ItemName(f"{index:064x}") for index in range(count)]


def run_batch(model: Model, count: int) -> InProcessResult:
    return run_batch_in_process(parties_of(model), list(model.images[:count]), items=items(count))


@pytest.fixture(scope="module")
def model() -> Model:
    """Every kind of move: maps, residuals, truncations, max, clip."""
    return lowered(network_of("conv", "relu", "max", "residual", "shortcut", "clip", "branches", "average", seed=3))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_answer_is_the_references_in_the_trips_of_one(model: Model, count: int) -> None:
    result = run_batch(model, count)
    assert len(result.answers) == count
    for image, item, logits in zip(model.images, items(count), result.answers, strict=False):
        np.testing.assert_array_equal(logits, model.expected_logits(image, result.seeds[item], item))
    cost = total_cost(model.lowering)
    assert result.online.one_way_trips == cost.trips
    bodies = result.online.bytes_sent + result.online.bytes_received
    frames = result.online.frames_sent + result.online.frames_received
    assert bodies - frames * HEADER_BYTES == count * cost.online_bytes


def test_labels_of_a_batch() -> None:
    network = small_network(16)
    images: Image = np.random.default_rng(6).normal(size=(12, *network.input_shape)).astype(np.float32)
    lowering = lower_masked(network, random_weights(network), images, label_only=True)
    integers = round_weights(lowering, random_weights(network))
    model = Model(network, lowering, integers, images)
    result = run_batch(model, len(images))
    before_label = lowering.steps[-1].inputs[0]
    expected = [
        Label(reference.find_label(model.expected(image, result.seeds[item], item)[before_label]))
        for image, item in zip(images, items(len(images)), strict=True)
    ]
    assert list(result.answers) == expected
    assert len(set(expected)) > 1
    assert result.online.one_way_trips == total_cost(lowering).trips


def test_one_item_masks_one_image_of_a_batch(model: Model) -> None:
    """Material given for two images of a batch is refused before the first leaves."""

    parties = parties_of(model)
    run = parties.data_owner.run

    def twice(images: list[Image], prepared: list[object], **more: object) -> object:
        return run(images, [prepared[0], prepared[0]], **more)  # type: ignore[arg-type]

    parties.data_owner.run = twice  # type: ignore[method-assign, assignment]
    with pytest.raises(MaterialSpent, match="start a new session"):
        run_batch_in_process(parties, list(model.images[:2]), items=items(2))


def test_images_and_material_are_equally_many(model: Model) -> None:
    with pytest.raises(ValueError, match="zip"):
        run_batch_in_process(parties_of(model), list(model.images[:3]), items=items(2))


# How many


def test_what_both_sides_may_send_at_once_fits_what_a_transport_takes_in() -> None:
    assert costs.ANSWERS_BYTES < INBOUND_BYTES


@pytest.mark.parametrize("limit", ["ANSWERS_BYTES", "MATERIAL_BYTES"])
def test_a_plan_limits_the_images_of_a_session(model: Model, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    assert costs.most_images(model.lowering) == MAX_IMAGES
    size = {
        "ANSWERS_BYTES": largest_answer_bytes(model.lowering),
        "MATERIAL_BYTES": total_cost(model.lowering).offline_bytes,
    }[limit]
    assert size > 0
    for bytes_, expected in ((3 * size, 3), (3 * size - 1, 2), (size - 1, 1)):
        monkeypatch.setattr(costs, limit, bytes_)
        assert costs.most_images(model.lowering) == expected


def test_the_largest_answer_is_what_is_sent(model: Model) -> None:
    session = Session(parties_of(model), model.images[0]).run()
    session.honest()
    frames = session.frames["model_owner_from_data_owner"]
    assert largest_answer_bytes(model.lowering) == max(
        len(frame.body) for frame in frames if frame.step.startswith("answer")
    )


# Turns


def test_turns_go_round_in_order() -> None:
    seen: list[tuple[int, int]] = []

    def walk(index: int) -> Callable[[Pause], int]:
        def go(pause: Pause) -> int:
            for step in range(4):
                seen.append((step, index))
                pause()
            return index * 10

        return go

    assert in_turns([walk(index) for index in range(5)]) == [0, 10, 20, 30, 40]
    assert seen == [(step, index) for step in range(4) for index in range(5)]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_walk_that_fails_ends_all(failing: int) -> None:
    ended: list[int] = []

    def walk(index: int) -> Callable[[Pause], None]:
        def go(pause: Pause) -> None:
            try:
                pause()
                if index == failing:
                    raise MaterialSpent("spent")
                pause()
                pause()
            finally:
                ended.append(index)

        return go

    with pytest.raises(MaterialSpent, match="spent"):
        in_turns([walk(index) for index in range(3)])
    assert sorted(ended) == [0, 1, 2]
