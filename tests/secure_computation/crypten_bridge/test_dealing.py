"""What the dealer deals: shares recombine to the correlation, P0 needs its seed alone, known answers hold."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from secure_computation.crypten_bridge.dealing import (
    BinaryTripleRequest,
    BitRequest,
    ConvolutionOptions,
    PartyRandomness,
    Product,
    Request,
    Share,
    SquareRequest,
    TripleRequest,
    WrapRequest,
    correction_bytes,
    count_wraps,
    deal,
    expand,
)
from secure_computation.crypten_bridge.provider import triple_request
from secure_computation.randomness import Seed
from tests.secure_computation import make_vectors

VECTORS = Path(__file__).parent.parent / "vectors" / "corrections.json"
REQUEST: TypeAdapter[Request] = TypeAdapter(Request)
SIZES = st.integers(1, 4)
SHAPES = st.lists(SIZES, min_size=1, max_size=4).map(tuple)


def both_expand(request: Request, p0: Seed, p1: Seed, step: int = 0) -> tuple[tuple[Share, ...], tuple[Share, ...]]:
    """P0 from its seed alone, P1 from its seed and D's correction."""
    left, right = (PartyRandomness(seed, item="item", step=step) for seed in (p0, p1))
    correction = deal(request, left, right)
    assert correction_bytes(request) == correction.numel() * 8
    assert tuple(correction.shape) == request.output

    p0_only = PartyRandomness(Seed(p0.reveal_to_channel()), item="item", step=step)
    return expand(request, p0_only, None), expand(request, right, correction)


def fresh_expand(request: Request) -> tuple[tuple[Share, ...], tuple[Share, ...]]:
    return both_expand(request, Seed.fresh(), Seed.fresh())


@st.composite
def convolutions(draw: st.DrawFn) -> TripleRequest:
    groups = draw(st.integers(1, 2))
    stride, dilation = draw(st.tuples(SIZES, SIZES)), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding, kernel = draw(st.tuples(st.integers(0, 2), st.integers(0, 2))), draw(st.tuples(SIZES, SIZES))
    size = [dilation[i] * (kernel[i] - 1) + 1 + draw(st.integers(0, 3)) for i in range(2)]
    inside, outside = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    return triple_request(
        torch.Size((1, groups * inside, *size)),
        torch.Size((groups * outside, inside, *kernel)),
        "conv2d",
        {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
    )


TRIPLES = st.one_of(
    SHAPES.map(lambda shape: triple_request(torch.Size(shape), torch.Size(shape), "mul", {})),
    st.tuples(SIZES, SIZES, SIZES).map(
        lambda size: triple_request(torch.Size(size[:2]), torch.Size(size[1:]), "matmul", {})
    ),
    convolutions(),
)


@given(TRIPLES)
@settings(max_examples=40)
def test_triples_recombine(request: TripleRequest) -> None:
    (a0, b0, c0), (a1, b1, c1) = fresh_expand(request)
    assert torch.equal(c0 + c1, request.multiply(a0 + a1, b0 + b1))
    assert (tuple(a0.shape), tuple(b0.shape), tuple(c0.shape)) == (request.left, request.right, request.output)


@given(SHAPES)
@settings(max_examples=40)
def test_element_wise_correlations_recombine(shape: tuple[int, ...]) -> None:
    (r0, s0), (r1, s1) = fresh_expand(SquareRequest(output=shape))
    assert torch.equal(s0 + s1, (r0 + r1) * (r0 + r1))
    (a0, b0, c0), (a1, b1, c1) = fresh_expand(BinaryTripleRequest(output=shape))
    assert torch.equal(c0 ^ c1, (a0 ^ a1) & (b0 ^ b1))
    (additive0, binary0), (additive1, binary1) = fresh_expand(BitRequest(output=shape))
    assert torch.equal(additive0 + additive1, binary0 ^ binary1)
    assert set((additive0 + additive1).flatten().tolist()) <= {0, 1}
    (r0, theta0), (r1, theta1) = fresh_expand(WrapRequest(output=shape))
    assert torch.equal(theta0 + theta1, count_wraps(r0, r1))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_count_wraps(left: int, right: int) -> None:
    total = left + right
    expected = (total >= 2**63) - (total < -(2**63))
    assert count_wraps(torch.tensor([left]), torch.tensor([right])).item() == expected


def test_bits_take_both_values() -> None:
    (additive0, _), (additive1, _) = fresh_expand(BitRequest(output=(256,)))
    assert 64 < int((additive0 + additive1).sum()) < 192


@pytest.mark.parametrize("known", json.loads(VECTORS.read_text()), ids=lambda known: known["request"]["kind"])
def test_known_corrections(known: dict[str, Any]) -> None:
    step = [entry["request"] for entry in json.loads(VECTORS.read_text())].index(known["request"])
    parties = [
        PartyRandomness(Seed(make_vectors.SEEDS[name]), item=make_vectors.ITEM, step=step) for name in ("p0", "p1")
    ]
    correction = deal(REQUEST.validate_python(known["request"]), *parties)
    assert correction.flatten().tolist() == known["correction"]


def test_vectors_are_what_their_script_writes() -> None:
    assert json.loads(VECTORS.read_text()) == make_vectors.dealt()


@pytest.mark.parametrize(
    "request_",
    [
        TripleRequest(product=Product.MUL, left=(64,), right=(64,), output=(64,)),
        SquareRequest(output=(64,)),
        BinaryTripleRequest(output=(64,)),
        BitRequest(output=(64,)),
        WrapRequest(output=(64,)),
    ],
    ids=lambda request: request.kind,
)
def test_corrections_hide_what_they_correct(request_: Request) -> None:
    """Each correction is masked by a draw of P0's: another seed of P0 changes every element."""
    p1 = Seed.fresh()
    first, second = (
        deal(request_, PartyRandomness(seed, item="i", step=0), PartyRandomness(p1, item="i", step=0))
        for seed in (Seed.fresh(), Seed.fresh())
    )
    assert not torch.any(first == second)
    assert len(set(torch.cat([first, second]).tolist())) == 128


def test_steps_and_items_have_their_own_tuples() -> None:
    seed = Seed.fresh()
    draws = {
        tuple(PartyRandomness(seed, item=item, step=step).ring(label, (2,)).tolist())
        for item in ("i", "j")
        for step in (0, 1)
        for label in ("a", "b")
    }
    assert len(draws) == 8


def test_request_options_are_named() -> None:
    request = triple_request(torch.Size((1, 2, 5, 5)), torch.Size((4, 1, 3, 3)), "conv2d", {"padding": 1, "groups": 2})
    assert request.convolution == ConvolutionOptions(padding=(1, 1), groups=2)
    assert request.output == (1, 4, 5, 5)
    with pytest.raises(ValueError, match="conv_transpose3d"):
        triple_request(torch.Size((1,)), torch.Size((1,)), "conv_transpose3d", {})
