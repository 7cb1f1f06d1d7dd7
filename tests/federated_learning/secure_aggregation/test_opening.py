"""Every hospital opens a sum again from what the coordinator passes on, and believes nothing that was not signed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import PeerViolation
from federated_learning.secure_aggregation.keys import sign_masked
from federated_learning.secure_aggregation.messages import BITMAP_BYTES, HEADER_BYTES
from federated_learning.secure_aggregation.opening import Opening
from tests.federated_learning.secure_aggregation.rounds import (
    STEPS,
    Running,
    hospitals_for,
    make_terms,
    plain_sum,
    random_vector,
    run_messages,
    signing_keys,
)


def opened(drops: dict[str, str] | None = None, count: int = 5) -> tuple[Running, Opening]:
    run = Running(count)
    coordinator = run_messages(run.terms, run.hospitals, run.vectors, drops)
    return run, coordinator.opening()


@pytest.mark.parametrize("drops", [{}, *({"hospital-b": step} for step in STEPS)], ids=str)
def test_everybody_finds_the_same_sum(drops: dict[str, str]) -> None:
    run, opening = opened(drops)
    total, survivors = Opening.from_parts(opening.parts()).total(run.terms)
    assert survivors == frozenset(name for name in run.keys if drops.get(name) not in STEPS[:3])
    expected = plain_sum(run.terms, run.vectors, survivors)
    assert np.array_equal(total.update, expected.update)
    assert np.array_equal(total.exact, expected.exact)


@given(st.data())
@settings(max_examples=150)
def test_a_changed_byte_anywhere_is_not_believed(data: st.DataObject) -> None:
    run, opening = CASES[data.draw(st.integers(0, 1))]
    parts = opening.parts()
    name = data.draw(st.sampled_from(sorted(parts)))
    at, flip = data.draw(st.integers(0, len(parts[name]) - 1)), data.draw(st.integers(1, 255))
    changed = parts[name][:at] + bytes([parts[name][at] ^ flip]) + parts[name][at + 1 :]
    try:
        total, _ = Opening.from_parts(parts | {name: changed}).total(run.terms)
    except PeerViolation:
        return
    # X25519 ignores five bits of a private key: the same key, the same sum.
    assert name == "secret/hospital-b"
    assert np.array_equal(total.update, opening.total(run.terms)[0].update)


CASES = (opened(), opened({"hospital-b": "mask"}))


@given(st.data())
@settings(max_examples=60)
def test_a_part_that_is_missing_too_long_or_anothers_is_not_believed(data: st.DataObject) -> None:
    run, opening = CASES[data.draw(st.integers(0, 1))]
    parts = dict(opening.parts())
    name = data.draw(st.sampled_from(sorted(parts)))
    content = parts.pop(name)
    other = data.draw(st.sampled_from(["gone", "longer", "shorter", "swapped", "stranger"]))
    if other == "longer":
        parts[name] = content + b"\x00"
    elif other == "shorter":
        parts[name] = content[:-1]
    elif other == "swapped":
        parts[name] = parts[data.draw(st.sampled_from(sorted(parts)))]
    elif other == "stranger":
        parts["masked/hospital-z"] = content
    with pytest.raises(PeerViolation):
        Opening.from_parts(parts).total(run.terms)


def test_the_opening_of_another_round_attempt_or_model_is_not_believed() -> None:
    run, opening = CASES[0]
    for others in ({"round_number": 4}, {"attempt": 1}, {"subject": bytes(32)}, {"common": bytes(32)}):
        with pytest.raises(PeerViolation, match="another session"):
            opening.total(make_terms(run.keys, **others))


def test_a_survivor_cannot_be_left_out_afterwards() -> None:
    """The others' masks with it stay, and of its own secrets the coordinator has one only."""
    run, opening = CASES[0]
    for keep_secret in (False, True):
        masked = {name: message for name, message in opening.masked.items() if name != "hospital-e"}
        secrets = {name: secret for name, secret in opening.secrets.items() if keep_secret or name != "hospital-e"}
        with pytest.raises(PeerViolation):
            replace(opening, masked=masked, secrets=secrets).total(run.terms)


def test_a_hospital_that_helps_the_coordinator_cannot_choose_its_vector_once_the_sum_is_known() -> None:
    """It signs a second masked vector, by which the sum would be what the two like; the others confirmed the first."""
    run, opening = CASES[0]
    message = bytearray(opening.masked["hospital-e"])
    message[HEADER_BYTES] ^= 1
    sign_masked(message, run.keys["hospital-e"])
    changed = replace(opening, masked={**opening.masked, "hospital-e": bytes(message)})
    with pytest.raises(PeerViolation, match="another vector of hospital hospital-e"):
        changed.total(run.terms)


def test_a_hospital_does_not_confirm_another_vector_than_its_own() -> None:
    run = Running(4)
    told = run.before(3)["hospital-a"]
    at = HEADER_BYTES + BITMAP_BYTES
    with pytest.raises(PeerViolation, match="another masked vector of hospital hospital-a"):
        run.first.confirm(told[:at] + bytes(32) + told[at + 32 :])


def test_the_vector_of_a_hospital_that_vanished_cannot_be_replaced() -> None:
    """Nobody but its owner could have noticed, and it is gone: so its signature counts, at every hospital."""
    run = Running(4)
    vectors = {name: random_vector(run.terms, 50 + index) for index, name in enumerate(run.keys)}
    fresh = hospitals_for(run.terms, run.keys)
    opening = run_messages(run.terms, fresh, vectors, {"hospital-d": "confirm"}).opening()
    message = bytearray(opening.masked["hospital-d"])
    sign_masked(message, signing_keys(5)["hospital-e"])
    with pytest.raises(PeerViolation, match="hospital hospital-d: the signature of its masked vector"):
        replace(opening, masked={**opening.masked, "hospital-d": bytes(message)}).total(run.terms)


def test_an_opening_shows_nothing() -> None:
    assert all(secret.hex() not in repr(CASES[0][1]) for secret in CASES[0][1].secrets.values())
    assert "object at" in repr(CASES[0][1])
