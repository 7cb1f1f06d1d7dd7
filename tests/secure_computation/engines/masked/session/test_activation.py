"""One smooth layer by itself: its error over the whole range of x, and what is far outside."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from secure_computation.channel.memory import DATA_OWNER, MODEL_OWNER, memory_pair
from secure_computation.crypten_bridge.activations import Function
from secure_computation.engines.masked.session.activation import (
    ActivationAsP0,
    ActivationAsP1,
    ActivationShape,
    deal_activation,
)
from secure_computation.float_reference import activation
from secure_computation.protocols.widening import WideningShape
from secure_computation.randomness import SEED_BYTES, Seed
from secure_computation.wire import Phase
from tests.secure_computation.protocols.one_page import Integers, over_the_wire

STEP = 5


def play(shape: ActivationShape, x: Integers, *, items: tuple[str, str] = ("item", "item")) -> Integers:
    """D, P0 and P1. `items`: the names by which D and the parties draw.

    The seeds are the same in each run: CrypTen divides each share by itself, and with odds of about |z| / 2^31 the
    shares of an element wrap (W3 in docs/threat-model.md), which some of these thousands met now and then.
    """
    seeds = (Seed(bytes([1] * SEED_BYTES)), Seed(bytes([2] * SEED_BYTES)))
    dealt = deal_activation(shape, p0=seeds[0], p1=seeds[1], item=items[0], step=STEP)
    p0 = ActivationAsP0(shape, seeds[0], item=items[1], step=STEP)
    x0 = np.random.default_rng(3).integers(0, 1 << 32, shape.count, dtype=np.uint32)
    _, corrections = over_the_wire(shape.corrections, dealt)
    _, prepared = over_the_wire(shape.prepared, p0.prepare(x0))
    p1 = ActivationAsP1(shape, seeds[1], corrections, prepared, item=items[1], step=STEP)
    left, right = memory_pair(DATA_OWNER, MODEL_OWNER)
    for channel in (left, right):
        channel.set_phase(Phase.ONLINE)
    _, opening = over_the_wire(shape.from_p1, p1.open(x.astype(np.uint32) - x0))
    with ThreadPoolExecutor(max_workers=1) as pool:
        other = pool.submit(p1.compute, right, step_name="layer")
        answer = p0.answer(opening, left, step_name="layer")
        other.result()
    _, received = over_the_wire(shape.from_p0, answer)
    total = (p0.output_mask + p1.finish(received)) << np.uint32(32 - shape.widening.output_bits)
    return (total.view(np.int32) >> np.int32(32 - shape.widening.output_bits)).astype(np.int64)


@pytest.mark.parametrize("function", get_args(Function))
@pytest.mark.parametrize(("multiplier", "divided_bits", "scale"), [(1, 0, 65536), (16, 0, 4096), (7282, 8, 2304)])
def test_error_over_the_whole_range(function: Function, multiplier: int, divided_bits: int, scale: int) -> None:
    x = np.rint(np.concatenate([np.linspace(-20, 20, 1001), [0, 0.001, -300, 300, 2000, -2000]]) * scale)
    widening = WideningShape(count=x.size, ring_bits=32, output_bits=30)
    shape = ActivationShape(function=function, widening=widening, multiplier=multiplier, divided_bits=divided_bits)
    y = play(shape, x.astype(np.int64)) / 65536
    wanted = activation(function, torch.from_numpy(x / scale)).numpy()
    assert np.all(np.abs(y - wanted) < 0.001 + np.abs(x) / scale / 2**13)


@pytest.mark.parametrize(
    ("function", "ring_bits", "multiplier", "divided_bits"),
    [
        *(("sigmoid", 24, 1, 0), ("sigmoid", 25, 1, 0), ("silu", 24, 1, 0), ("silu", 24, 25, 4), ("silu", 25, 1, 0)),
        *(("silu", 25, 25, 4), ("tanh", 23, 1, 0), ("gelu", 21, 1, 0)),
    ],
)
def test_up_to_a_known_bound_nothing_is_cut_off_at_half_the_cost(
    function: Function, ring_bits: int, multiplier: int, divided_bits: int
) -> None:
    bound = (1 << (ring_bits - 2)) - 1
    x = np.rint(np.concatenate([np.linspace(-bound, bound, 1001), np.linspace(-12, 12, 4001) * 65536])).astype(np.int64)
    x = x.clip(-bound, bound)
    widening = WideningShape(count=x.size, ring_bits=ring_bits, output_bits=30)
    shape = ActivationShape(function=function, widening=widening, multiplier=multiplier, divided_bits=divided_bits)
    assert shape.largest == (bound + 1) * multiplier / (65536 << divided_bits) <= 200
    real = x * multiplier / (65536 << divided_bits)
    wanted = activation(function, torch.from_numpy(real)).numpy()
    assert np.all(np.abs(play(shape, x) / 65536 - wanted) < 0.001 + np.abs(real) / 2**13)
    beyond = replace(shape, multiplier=multiplier << 5)
    assert beyond.largest > 200
    assert shape.dealing.opened_bytes < 0.5 * beyond.dealing.opened_bytes


@pytest.mark.parametrize("channels", [2, 3, 10])
def test_a_softmax_runs_over_the_channels_of_each_image(channels: int) -> None:
    x = np.random.default_rng(channels).normal(size=(2, channels, 30)) * np.geomspace(0.1, 300, 30) * 1024
    widening = WideningShape(count=x.size, ring_bits=24, output_bits=20)
    shape = ActivationShape(function="softmax", widening=widening, multiplier=64, divided_bits=0, image=(channels, 30))
    y = play(shape, np.rint(x).astype(np.int64).reshape(-1)).reshape(x.shape) / 65536
    assert np.abs(y - torch.softmax(torch.from_numpy(np.rint(x) / 1024), dim=1).numpy()).max() < 0.002


def test_tuples_of_another_item_give_noise() -> None:
    shape = ActivationShape(
        function="sigmoid",
        widening=WideningShape(count=50, ring_bits=24, output_bits=20),
        multiplier=1,
        divided_bits=0,
    )
    y = play(shape, np.zeros(50, np.int64), items=("one", "another"))
    assert np.unique(y).size > 40
