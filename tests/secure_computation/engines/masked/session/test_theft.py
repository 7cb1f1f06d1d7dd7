"""The attack that decoys are for: a data owner reads the last layer; and what decoys make of it.

The thief follows the protocol except for one thing: it adds errors to its answers to the last ReLU
(docs/threat-model.md, N1). An error of 1 in one feature and of 2^s in another stand side by side in each logit, so that
an answer tells the weights of two features for all classes.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.deviation import DeviationError
from contract.errors import EncryptedInferenceError, PeerDisconnected
from contract.identity import Role
from contract.model_card import Arithmetic
from model_owner.allowances import FEATURES_AN_ANSWER
from secure_computation.channel.channel import Deadlines
from secure_computation.engines.interface import Audited, Reply
from secure_computation.engines.masked.lowering.drafts import Precision
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.plan.steps import LinearStep
from secure_computation.engines.masked.session.decoys import toss_coin
from secure_computation.engines.masked.session.in_process import InProcessParties, MemoryStore, run_in_process
from secure_computation.engines.masked.session.sides import (
    DataOwnerItem,
    MaskedDataOwner,
    MaskedDealer,
    MaskedModelOwner,
)
from secure_computation.network import INPUT, Relu
from secure_computation.protocols.compared_layer import LayerAsP0
from secure_computation.randomness import Seed
from tests.secure_computation.engines.masked.parties import ITEM, VERSION, Model
from tests.secure_computation.engines.masked.sessions import Body, Session
from tests.secure_computation.networks import convolution, flattened, random_weights

FEATURES = 8
WEIGHT_BITS = 7
SHIFT = WEIGHT_BITS + 2
Coin = Callable[[float], bool]


def tiny() -> Model:
    """A convolution to 8 features of one element each, a ReLU, and the layer that is to be stolen."""
    first = convolution("conv", INPUT, (1, 4, 4), FEATURES, 4)
    network = flattened((1, 4, 4), [first, Relu(name="relu", inputs=("conv",), shape=first.shape)])
    weights = random_weights(network)
    images = np.random.default_rng(1).normal(size=(4, 1, 4, 4)).astype(np.float32)
    precision = Precision(activation_bits=7, weight_bits=WEIGHT_BITS)
    lowering = lower_masked(network, weights, images, precision=precision, arithmetic=Arithmetic.EXACT)
    return Model(network, lowering, round_weights(lowering, weights), images)


MODEL = tiny()


class Thief(MaskedDataOwner):
    """Adds `errors`, by feature, to its answers to the last ReLU."""

    errors: dict[int, int]

    def run(self, images: Sequence[Any], prepared: Sequence[DataOwnerItem], **named: Any) -> tuple[Reply, ...]:
        for item in prepared:
            _, part = item.prepared.layers[-1]
            assert isinstance(part, LayerAsP0)
            wrong = part.output_mask.copy()
            for feature, error in self.errors.items():
                wrong[feature] -= np.uint32(error)  # y0 - rho', with an error
            part.output_mask = wrong
        return super().run(images, prepared, **named)


class Service:
    """A model owner with a dealer, and the thief as its client."""

    def __init__(self, *, share: float, toss: Coin = toss_coin) -> None:
        self.thief = Thief(MODEL.lowering, store=MemoryStore())
        self.decoys = 0

        def watched(asked: float) -> bool:
            found = toss(asked)
            self.decoys += found
            return found

        self.parties = InProcessParties(
            dealer=MaskedDealer(MODEL.lowering, key=Seed.fresh(), toss=watched),
            data_owner=self.thief,
            model_owner=MaskedModelOwner(MODEL.lowering, MODEL.integers, version=VERSION, audit_share=share),
        )

    def ask(self, errors: dict[int, int]) -> NDArray[np.int64] | None:
        """The logits as integers; None if the session was an audit. Raises PeerDisconnected or DeviationError."""
        self.thief.errors = errors
        deadlines = Deadlines(step_seconds=20)
        (reply,) = run_in_process(self.parties, MODEL.images[0], item=ITEM, deadlines=deadlines).replies
        if isinstance(reply, Audited):
            return None
        assert isinstance(reply, np.ndarray)
        scale = MODEL.lowering.step(MODEL.lowering.output).value.scale
        return np.rint(reply * scale).astype(np.int64)

    def deviates_unseen(self) -> bool:
        """Play one session with an error in it."""
        try:
            return self.ask({0: 1}) is not None
        except EncryptedInferenceError:
            return False


def last_layer() -> NDArray[np.int64]:
    step = next(step for step in reversed(MODEL.lowering.steps) if isinstance(step, LinearStep))
    weights: NDArray[np.int64] = MODEL.integers[step.weight_name].astype(np.int64)
    return weights


def steal(service: Service) -> tuple[NDArray[np.int64], int]:
    """The last layer, and how many answers it took."""
    bits = MODEL.lowering.step(MODEL.lowering.output).value.ring_bits
    honest = service.ask({})
    assert honest is not None
    columns: list[NDArray[np.int64]] = []
    for feature in range(0, FEATURES, FEATURES_AN_ANSWER):
        answer = service.ask({feature: 1, feature + 1: 1 << SHIFT})
        assert answer is not None
        both = (answer - honest + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))
        low = (both + (1 << (SHIFT - 1))) % (1 << SHIFT) - (1 << (SHIFT - 1))
        columns += [low, (both - low) >> SHIFT]
    return np.stack(columns, axis=1), FEATURES // FEATURES_AN_ANSWER + 1


def test_without_decoys_a_last_layer_is_stolen_in_the_documented_number_of_answers() -> None:
    stolen, answers = steal(Service(share=0.0))
    np.testing.assert_array_equal(stolen, last_layer())
    assert answers == FEATURES // 2 + 1


def test_with_decoys_the_thief_is_found() -> None:
    """The third of its five sessions is a decoy."""
    falls = [False, False, True]
    left = iter(falls)
    with pytest.raises((DeviationError, PeerDisconnected)):
        steal(Service(share=0.3, toss=lambda _: next(left)))
    assert list(left) == []


def test_a_deviation_is_found_where_the_item_is_a_decoy_and_nowhere_else() -> None:
    coin = random.Random(7)
    falls = [coin.random() < 0.3 for _ in range(20)]
    assert 2 < sum(falls) < 18
    left = iter(falls)
    service = Service(share=0.3, toss=lambda _: next(left))
    assert [not service.deviates_unseen() for _ in falls] == falls


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_detection_over_a_thousand_sessions_is_as_computed(share: float) -> None:
    """With the dealer's own coin. n sessions in a row go unseen with (1 - share)^n: within six standard deviations for
    each n, which fails once in some hundred million runs.
    """
    service = Service(share=share)
    unseen = [service.deviates_unseen() for _ in range(1000)]
    assert unseen.count(False) == service.decoys
    for n in (1, 2, 7):
        groups = [all(unseen[at : at + n]) for at in range(0, 1000 - n + 1, n)]
        odds = (1 - share) ** n
        assert abs(sum(groups) - odds * len(groups)) <= 6 * (len(groups) * odds * (1 - odds)) ** 0.5 + 1


def play_with_a_fault(chance: random.Random) -> dict[Role, BaseException]:
    """An honest session of a decoy or a real item in which some party's link may break at some message."""
    fault, sent = chance.randrange(60), iter(range(1000))

    def change(_step: str, body: Body) -> Body:
        if next(sent) == fault:
            raise PeerDisconnected("the link broke")
        return body

    service = Service(share=0.5, toss=lambda share: chance.random() < share)
    service.thief.errors = {}
    return Session(service.parties, MODEL.images[chance.randrange(4)], change=change).run().errors


def check_that_nobody_is_accused(sessions: int, *, seed: int) -> None:
    chance = random.Random(seed)
    broken = 0
    for _ in range(sessions):
        errors = play_with_a_fault(chance)
        broken += bool(errors)
        assert not any(isinstance(error, DeviationError) for error in errors.values())
    assert 0 < broken < sessions


def test_an_honest_data_owner_is_never_accused_whatever_breaks() -> None:
    check_that_nobody_is_accused(30, seed=1)


@pytest.mark.slow
def test_an_honest_data_owner_is_not_accused_in_ten_thousand_sessions() -> None:
    check_that_nobody_is_accused(10_000, seed=2)
