"""Our passes over CrypTen's protocols give CrypTen's own shares, tuples and openings, bit by bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from secure_computation.channel.channel import Channel
from secure_computation.crypten_bridge import comparison
from secure_computation.crypten_bridge.communicator import TwoPartyCommunicator
from secure_computation.crypten_bridge.dealing import PartyRandomness, Request, deal
from secure_computation.crypten_bridge.dry_run import META, recording_session
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.provider import Corrections, PartyProvider
from secure_computation.crypten_bridge.session import Session, activate
from secure_computation.randomness import Seed
from tests.secure_computation.networks import ITEM

Both = Callable[[Callable[[], Any], Callable[[], Any]], tuple[Any, Any]]
Program = Callable[..., Any]
EXTREMES = [0, 1, -1, 2**62, -(2**62), 2**63 - 1, -(2**63), 65536, -65536]
SEEDS = Seed(bytes(32)), Seed(bytes([1]) * 32)
ZERO_SHARING = Seed(bytes([2]) * 32), Seed(bytes([3]) * 32)


def tensor(share: torch.Tensor, precision: int = 16) -> Any:
    return load_crypten().mpc.MPCTensor.from_shares(share, precision=precision)


def record(program: Program, *shapes: tuple[int, ...]) -> tuple[tuple[Request, ...], list[int]]:
    """The dealing list of a program, and the size of each opening."""
    session, provider, communicator = recording_session(weights_are_opened=False)
    with activate(session), torch.inference_mode():
        program(*(tensor(torch.empty(shape, dtype=torch.int64, device=META)) for shape in shapes))
    return tuple(provider.requests), [int(np.prod(shape)) for shape in communicator.openings]


def execute(
    both: Both, parties: tuple[Channel, Channel], program: Program, *values: torch.Tensor
) -> list[torch.Tensor]:
    """Both parties' shares of the program's result, on fixed seeds and sharings."""
    requests, _ = record(program, *(tuple(value.shape) for value in values))
    corrections = Corrections(
        [
            deal(request, *(PartyRandomness(seed, item=ITEM, step=step) for seed in SEEDS))
            for step, request in enumerate(requests)
        ]
    )
    masks = [
        torch.from_numpy(Seed(bytes([9]) * 32).stream(item="m", step=step, label="m").int64(tuple(value.shape)))
        for step, value in enumerate(values)
    ]

    def party(rank: int) -> torch.Tensor:
        forward, backward = (
            seed.stream(item=ITEM, step=0, label="zero sharing")
            for seed in (ZERO_SHARING[rank], ZERO_SHARING[1 - rank])
        )
        provider = PartyProvider(requests, seed=SEEDS[rank], item=ITEM, corrections=corrections if rank else None)
        session = Session(
            communicator=TwoPartyCommunicator(rank=rank, channel=parties[rank]),
            provider=provider,
            streams={"next": forward, "prev": backward, "local": forward},
        )
        with activate(session), torch.inference_mode():
            shares = [mask.clone() if rank else value - mask for value, mask in zip(values, masks, strict=True)]
            result: torch.Tensor = program(*map(tensor, shares)).share
            provider.check_finished()
            return result

    return list(both(lambda: party(0), lambda: party(1)))


def our_relu(x: Any) -> Any:
    return tensor(comparison.relu(x.share))


def their_relu(x: Any) -> Any:
    return x.relu()


@pytest.fixture
def original_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """CrypTen's own Beaver protocol back in its place."""
    beaver = load_crypten().mpc.primitives.beaver
    original = vars(beaver)["__beaver_protocol"]
    for name in ("mul", "matmul", "conv2d"):
        monkeypatch.setattr(beaver, name, lambda x, y, _name=name, **options: original(_name, x, y, **options))


@pytest.mark.usefixtures("original_products")
@pytest.mark.parametrize("shape", [(9,), (1, 2, 3, 4), (3, comparison.PIECE // 2), (1, 1)])
def test_relu_gives_the_shares_of_crypten(both: Both, parties: tuple[Channel, Channel], shape: tuple[int, ...]) -> None:
    values = torch.from_numpy(SEEDS[0].stream(item="values", step=0, label="v").int64(shape)) >> 3
    values.view(-1)[: len(EXTREMES)] = torch.tensor(EXTREMES)[: values.numel()]
    ours = execute(both, parties, our_relu, values)
    theirs = execute(both, parties, their_relu, values)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert torch.equal(ours[0] + ours[1], values.clamp(min=0))


@pytest.mark.usefixtures("original_products")
def test_relu_asks_and_opens_as_crypten_does() -> None:
    assert record(our_relu, (1, 2, 3, 4)) == record(their_relu, (1, 2, 3, 4))


def test_relu_costs_what_it_declares() -> None:
    _, openings = record(our_relu, (1000,))
    assert len(openings) == 9
    assert sum(openings) * 8 == 232 * 1000


PRODUCTS: dict[str, tuple[Program, tuple[int, ...], tuple[int, ...]]] = {
    "mul": (lambda x, y: x * y, (2, 3), (2, 3)),
    "matmul": (lambda x, y: x.matmul(y), (1, 5), (5, 4)),
    "conv2d": (
        lambda x, y: x.conv2d(y, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
        (1, 4, 6, 7),
        (2, 2, 3, 3),
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_give_the_shares_of_crypten(
    both: Both, parties: tuple[Channel, Channel], name: str, request: pytest.FixtureRequest
) -> None:
    program, left, right = PRODUCTS[name]
    values = [
        torch.from_numpy(SEEDS[0].stream(item="values", step=step, label="v").int64(shape))
        for step, shape in enumerate((left, right))
    ]
    ours, recorded = execute(both, parties, program, *values), record(program, left, right)
    request.getfixturevalue("original_products")
    theirs = execute(both, parties, program, *values)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert recorded == record(program, left, right)
