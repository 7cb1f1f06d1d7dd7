"""What the coordinator learns: its whole view is examined, message by message."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from Crypto.Protocol import SecretSharing
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from contract.errors import AggregationAborted
from federated_learning.secure_aggregation import hospital_aggregation, opening
from federated_learning.secure_aggregation.coordinator_aggregation import CoordinatorAggregation
from federated_learning.secure_aggregation.history import RoundHistory
from federated_learning.secure_aggregation.hospital_aggregation import HospitalAggregation
from federated_learning.secure_aggregation.keys import PairwiseKeys, RoundSecrets, self_mask_seed
from federated_learning.secure_aggregation.masking import RingVector, apply_mask
from federated_learning.secure_aggregation.messages import BITMAP_BYTES, HEADER_BYTES, SIGNATURE_BYTES
from federated_learning.secure_aggregation.sharing import SECRET_BYTES, recover
from federated_learning.secure_aggregation.terms import RoundTerms
from tests.federated_learning.secure_aggregation.rounds import (
    STEPS,
    View,
    make_terms,
    plain_sum,
    random_vector,
    run_round,
    signing_keys,
)

PATTERNS: list[dict[str, str]] = [
    {},
    *({"hospital-b": step} for step in STEPS),
    {"hospital-a": "share", "hospital-e": "unmask"},
    {"hospital-d": "mask", "hospital-e": "mask"},
]
"""Four of five hospitals must survive, five of seven."""


def count_for(pattern: Mapping[str, str]) -> int:
    return 7 if len(pattern) > 1 else 5


def fixed_bytes(purpose: str) -> bytes:
    return hashlib.sha256(purpose.encode()).digest()


def fixed_secrets(name: str) -> RoundSecrets:
    return RoundSecrets(
        sealing_key=X25519PrivateKey.from_private_bytes(fixed_bytes(f"{name} sealing")),
        mask_key=X25519PrivateKey.from_private_bytes(fixed_bytes(f"{name} mask")),
        self_seed=fixed_bytes(f"{name} self"),
    )


@pytest.fixture
def repeatable_shares(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes the coefficients of Shamir's polynomials the same whenever the returned counter is set to 0."""
    counter = [0]

    def draw(size: int) -> bytes:
        counter[0] += 1
        return fixed_bytes(f"coefficient {counter[0]}")[:size]

    monkeypatch.setattr(SecretSharing, "rng", draw)
    return counter


def run_with_fixed_secrets(
    terms: RoundTerms, count: int, vectors: Mapping[str, RingVector], pattern: Mapping[str, str]
) -> View:
    view = View()
    hospitals = {
        name: HospitalAggregation(
            terms, name=name, signing_key=key, history=RoundHistory(), round_secrets=fixed_secrets(name)
        )
        for name, key in signing_keys(count).items()
    }
    run_round(terms, hospitals, vectors, dict(pattern), view)
    return view


@dataclass
class Pad:
    """A pairwise mask that is a table of random elements instead of a stream: what AES-CTR stands for."""

    vector: RingVector


@pytest.fixture
def pads(monkeypatch: pytest.MonkeyPatch) -> dict[frozenset[str], RingVector]:
    """Replaces pairwise masks, on both sides, by the tables that a test puts here."""
    table: dict[frozenset[str], RingVector] = {}

    def mask_seed(self: PairwiseKeys, own: object, *, name: str, peer: str, peer_key: bytes) -> Pad:
        return Pad(table[frozenset((name, peer))])

    def apply(vector: RingVector, seed: Any, *, add: bool) -> None:
        if not isinstance(seed, Pad):
            apply_mask(vector, seed, add=add)
        elif add:
            vector.add(seed.vector)
        else:
            np.subtract(vector.update, seed.vector.update, out=vector.update)
            np.subtract(vector.exact, seed.vector.exact, out=vector.exact)

    monkeypatch.setattr(PairwiseKeys, "mask_seed", mask_seed)
    monkeypatch.setattr(hospital_aggregation, "apply_mask", apply)
    monkeypatch.setattr(opening, "apply_mask", apply)
    return table


def shifted(vector: RingVector, by: RingVector, sign: int) -> RingVector:
    if sign > 0:
        return RingVector(vector.update + by.update, vector.exact + by.exact)
    return RingVector(vector.update - by.update, vector.exact - by.exact)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_view_is_the_same_for_all_inputs_with_the_same_sum(
    pattern: dict[str, str], pads: dict[frozenset[str], RingVector], repeatable_shares: list[int]
) -> None:
    """For every other choice of inputs with the same sum there are masks that give exactly the bytes that it saw.

    The masks are uniform, so both choices are equally likely: the view says nothing but the sum. Dropped hospitals'
    inputs are changed freely.
    """
    count = count_for(pattern)
    terms = make_terms(signing_keys(count), update_length=6, exact_length=3)
    names = list(terms.members)
    pads |= {frozenset(pair): random_vector(terms, 100 + i) for i, pair in enumerate(combinations(names, 2))}
    vectors = {name: random_vector(terms, index) for index, name in enumerate(names)}
    view = run_with_fixed_secrets(terms, count, vectors, pattern)

    in_sum = [name for name in names if pattern.get(name) not in STEPS[:3]]
    first, others = in_sum[0], in_sum[1:]
    changed = {name: random_vector(terms, 900 + index) for index, name in enumerate(names)}
    for index, name in enumerate(others):
        # `name` sends `delta` more, `first` sends it less; the mask between the two hides it.
        delta = random_vector(terms, 500 + index)
        changed[name] = shifted(vectors[name], delta, +1)
        vectors_first = changed[first] if index else vectors[first]
        changed[first] = shifted(vectors_first, delta, -1)
        pair = frozenset((first, name))
        pads[pair] = shifted(pads[pair], delta, +1)  # `first` comes first in the roster, so it adds this mask
    repeatable_shares[0] = 0
    again = run_with_fixed_secrets(terms, count, changed, pattern)

    assert again.received == view.received
    assert view.received["unmask"]
    assert not any(np.array_equal(changed[name].update, vectors[name].update) for name in names)
    assert again.total is not None
    assert np.array_equal(again.total.update, plain_sum(terms, vectors, frozenset(in_sum)).update)
    assert np.array_equal(again.total.exact, plain_sum(terms, vectors, frozenset(in_sum)).exact)


def test_another_sum_gives_another_view(pads: dict[frozenset[str], RingVector], repeatable_shares: list[int]) -> None:
    """The test above can fail: with one element of one input changed, no masks between survivors hide it."""
    terms = make_terms(signing_keys(5))
    pads |= {frozenset(pair): random_vector(terms, 7) for pair in combinations(terms.members, 2)}
    vectors = {name: random_vector(terms, index) for index, name in enumerate(terms.members)}
    view = run_with_fixed_secrets(terms, 5, vectors, {})
    vectors["hospital-c"].update[0] += 1
    repeatable_shares[0] = 0
    assert run_with_fixed_secrets(terms, 5, vectors, {}).received != view.received


def revealed_shares(terms: RoundTerms, view: View) -> dict[str, dict[int, bytes]]:
    """Owner -> holder's index -> the one share of that owner which the holder gave away."""
    shared = terms.ordered(frozenset(view.of("share")))
    found: dict[str, dict[int, bytes]] = {name: {} for name in shared}
    for holder, message in view.received["unmask"]:
        body = message[HEADER_BYTES + BITMAP_BYTES :]
        assert len(body) == SECRET_BYTES * len(shared)
        for index, owner in enumerate(shared):
            found[owner][terms.indices[holder]] = body[index * SECRET_BYTES : (index + 1) * SECRET_BYTES]
    return found


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_it_never_gets_the_self_seed_and_the_mask_key_of_one_hospital(pattern: dict[str, str]) -> None:
    count = count_for(pattern)
    terms = make_terms(signing_keys(count))
    vectors = {name: random_vector(terms, index) for index, name in enumerate(terms.members)}
    view = run_with_fixed_secrets(terms, count, vectors, pattern)
    for owner, shares in revealed_shares(terms, view).items():
        seed, key = fixed_bytes(f"{owner} self"), fixed_bytes(f"{owner} mask")
        is_in_sum = owner in view.of("mask")
        assert recover(shares, threshold=terms.threshold, accept=seed.__eq__) == (seed if is_in_sum else None)
        assert recover(shares, threshold=terms.threshold, accept=key.__eq__) == (None if is_in_sum else key)


@pytest.mark.parametrize("pattern", [{}, {"hospital-b": "mask"}], ids=str)
def test_masked_vectors_are_uniform_after_all_that_it_can_remove(pattern: dict[str, str]) -> None:
    """Zero vectors and fixed secrets: what is left of each masked vector is flat, and no two hospitals' are alike."""
    terms = make_terms(signing_keys(4), update_length=1 << 16, exact_length=8)
    vectors = {name: RingVector.zeros(terms) for name in terms.members}
    view = run_with_fixed_secrets(terms, 4, vectors, pattern)
    left = {}
    for name, message in view.received["mask"]:
        vector = RingVector.over(terms, bytearray(message[HEADER_BYTES:-SIGNATURE_BYTES]))
        apply_mask(vector, self_mask_seed(terms, name, fixed_bytes(f"{name} self")), add=False)
        left[name] = vector
        counts = np.bincount(vector.update.view(np.uint8), minlength=256)
        expected = 2 * terms.update_length / 256
        chi_squared = float(((counts - expected) ** 2 / expected).sum())
        assert 180 < chi_squared < 345  # 255 degrees of freedom: all but one in a thousand; the secrets are fixed
        assert np.unique(vector.exact).size == 8
    for one, other in combinations(left.values(), 2):
        assert np.mean(one.update == other.update) < 0.001
    assert view.total is not None
    assert not view.total.update.any()


def test_no_message_holds_a_secret_or_a_vector() -> None:
    terms = make_terms(signing_keys(5), update_length=64)
    vectors = {name: random_vector(terms, index) for index, name in enumerate(terms.members)}
    view = run_with_fixed_secrets(terms, 5, vectors, {"hospital-b": "mask"})
    everything = b"".join(message for messages in view.received.values() for _, message in messages)
    for name in terms.members:
        for purpose in ("sealing", "mask", "self"):
            assert fixed_bytes(f"{name} {purpose}") not in everything
        assert vectors[name].update.tobytes()[:16] not in everything


def test_nothing_is_unmasked_when_too_few_are_left() -> None:
    """In an aborted round no hospital has given away a share, for every step before the last."""
    for step in STEPS[:4]:
        view = View()
        terms = make_terms(signing_keys(3))
        vectors = {name: random_vector(terms, index) for index, name in enumerate(terms.members)}
        hospitals = {
            name: HospitalAggregation(terms, name=name, signing_key=key, history=RoundHistory())
            for name, key in signing_keys(3).items()
        }
        with pytest.raises(AggregationAborted):
            run_round(terms, hospitals, vectors, {"hospital-a": step}, view)
        assert view.received["unmask"] == []
        assert view.total is None


def test_nothing_secret_is_shown() -> None:
    terms = make_terms(signing_keys(3))
    key = signing_keys(3)["hospital-a"]
    own = fixed_secrets("hospital-a")
    one = HospitalAggregation(terms, name="hospital-a", signing_key=key, history=RoundHistory(), round_secrets=own)
    assert repr(own) == "RoundSecrets(<secret>)"
    assert repr(one) == "HospitalAggregation(hospital-a, round 3 (update, attempt 0), advertise)"
    assert "update, attempt 0" in repr(CoordinatorAggregation(terms))
    assert repr(random_vector(terms, 1)) == "RingVector(<5 and 2 elements>)"
    with pytest.raises(TypeError, match="not serialised"):
        own.__reduce__()
