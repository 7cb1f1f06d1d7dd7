"""Hospitals and coordinators that break the protocol: each is refused with the name of who did it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import ComputationFailed, ConfigurationError, PeerViolation
from federated_learning.secure_aggregation.history import RoundHistory
from federated_learning.secure_aggregation.hospital_aggregation import HospitalAggregation
from federated_learning.secure_aggregation.keys import RoundSecrets, commitment, write_advertisement
from federated_learning.secure_aggregation.messages import HEADER_BYTES, Kind, header
from tests.federated_learning.secure_aggregation.rounds import (
    ADVERTISE,
    CONFIRM,
    MASK,
    SHARE,
    UNMASK,
    Running,
    hospitals_for,
    make_terms,
    plain_sum,
    random_vector,
    signing_keys,
)

ROGUE = Ed25519PrivateKey.from_private_bytes(b"\x77" * 32)


# --- keys and signatures ---------------------------------------------------------------------------------------------


def test_a_rogue_hospital_is_not_heard() -> None:
    run = Running()
    with pytest.raises(PeerViolation, match="hospital-z takes no part"):
        run.coordinator.receive("hospital-z", run.first.advertise())
    with pytest.raises(ConfigurationError, match="hospital-z is not in the training's roster"):
        HospitalAggregation(run.terms, name="hospital-z", signing_key=ROGUE, history=RoundHistory())


def test_a_rogue_key_is_refused_on_both_sides() -> None:
    run = Running()
    rogue = write_advertisement(run.terms, "hospital-b", RoundSecrets(), ROGUE)
    with pytest.raises(PeerViolation, match=r"hospital hospital-b: the signature of its round keys .* is wrong"):
        run.coordinator.receive("hospital-b", rogue)
    with pytest.raises(ConfigurationError, match="hospital-b signs with another key than the roster's"):
        HospitalAggregation(run.terms, name="hospital-b", signing_key=ROGUE, history=RoundHistory())
    # A coordinator that puts a key of its own into the directory, to share a mask with hospital A.
    directory = run.before(SHARE)["hospital-a"]
    own = directory.replace(directory[HEADER_BYTES + 200 : HEADER_BYTES + 400], rogue)
    with pytest.raises(PeerViolation, match="hospital-b: the signature"):
        run.first.share_keys(own)


def test_refusing_one_hospital_keeps_the_others_work() -> None:
    run = Running()
    sound = run.hospitals["hospital-d"].advertise()
    spoilt = sound[:-1] + bytes([sound[-1] ^ 1])
    with pytest.raises(PeerViolation, match="hospital-d"):
        run.coordinator.receive("hospital-d", spoilt)
    assert run.coordinator.awaited == frozenset(run.keys)
    del run.hospitals["hospital-d"]
    total = run.finish(ADVERTISE, dict.fromkeys(run.hospitals, b""))
    expected = plain_sum(run.terms, run.vectors, frozenset(run.hospitals))
    assert total.update.tolist() == expected.update.tolist()


def test_two_hospitals_with_one_round_key_are_refused() -> None:
    run = Running()
    own = RoundSecrets()
    copied = RoundSecrets(sealing_key=X25519PrivateKey.generate(), mask_key=own.mask_key, self_seed=bytes(32))
    messages = [
        write_advertisement(run.terms, name, secret, run.keys[name])
        for name, secret in (("hospital-a", own), ("hospital-b", copied))
    ]
    run.coordinator.receive("hospital-a", messages[0])
    with pytest.raises(PeerViolation, match=r"hospital-b advertises a key .* hospital-a advertises already"):
        run.coordinator.receive("hospital-b", messages[1])
    listed = header(run.terms, Kind.DIRECTORY, None) + b"".join(
        [*messages, run.hospitals["hospital-c"].advertise(), run.hospitals["hospital-d"].advertise()]
    )
    with pytest.raises(PeerViolation, match="hospital-b advertises a key"):
        run.hospitals["hospital-d"].share_keys(listed)


def test_two_names_with_one_signing_key_are_refused() -> None:
    keys = signing_keys(4)
    keys["hospital-d"] = keys["hospital-b"]
    with pytest.raises(ConfigurationError, match="hospital-b and hospital-d have the same signing key"):
        make_terms(keys)


def test_a_degenerate_key_is_refused() -> None:
    """A point of small order makes every shared secret zero."""
    run = Running()
    content = header(run.terms, Kind.ADVERTISEMENT, "hospital-b") + bytes(32) + b"\x09" * 32
    content += commitment(run.terms, "hospital-b", bytes(32))
    domain = b"encrypted-medical-inference/secure-aggregation/1/signature"
    weak = content + run.keys["hospital-b"].sign(domain + content)
    for name in ("hospital-a", "hospital-c"):
        run.coordinator.receive(name, run.hospitals[name].advertise())
    run.coordinator.receive("hospital-b", weak)
    with pytest.raises(PeerViolation, match="hospital-b advertises a degenerate key"):
        run.first.share_keys(run.coordinator.directory())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("round_number", 4),
        ("attempt", 1),
        ("common", b"\x01" * 32),
        ("subject", b"\x01" * 32),
        ("purpose", "metrics"),
        ("update_length", 6),
        ("exact_length", 3),
        ("ring_bits", 32),
    ],
)
def test_messages_of_other_terms_are_refused(field: str, value: object) -> None:
    """A replayed round, or a coordinator that told one hospital of another model, setting or length."""
    run = Running()
    others = make_terms(run.keys, **{field: value})  # type: ignore[arg-type]  # one keyword of many types
    stranger = hospitals_for(others, run.keys)["hospital-b"]
    with pytest.raises(PeerViolation, match="hospital hospital-b sent the advertisement of another session"):
        run.coordinator.receive("hospital-b", stranger.advertise())
    with pytest.raises(PeerViolation, match="the coordinator sent the directory of another session"):
        stranger.share_keys(run.before(SHARE)["hospital-a"])


def test_another_roster_is_another_session() -> None:
    keys = signing_keys(4)
    swapped = {**keys, "hospital-d": ROGUE}
    assert make_terms(keys).session != make_terms(swapped).session


def test_a_replayed_advertisement_of_the_same_attempt_is_noticed() -> None:
    """The coordinator shows hospital A an older signed key of B than B uses now: B's shares do not open at A."""
    run = Running()
    old = hospitals_for(run.terms, run.keys)["hospital-b"].advertise()
    directory = run.before(SHARE)["hospital-a"]
    replayed = directory.replace(directory[HEADER_BYTES + 200 : HEADER_BYTES + 400], old)
    with pytest.raises(PeerViolation, match="other keys of hospital hospital-b"):
        run.hospitals["hospital-b"].share_keys(replayed)
    for name, hospital in run.hospitals.items():
        if name != "hospital-b":
            run.coordinator.receive(name, hospital.share_keys(replayed if name == "hospital-a" else directory))
    with pytest.raises(PeerViolation, match=r"hospital-[cd]: its shares .* do not open"):
        run.first.mask(run.vectors["hospital-a"], run.coordinator.deliveries()["hospital-a"])


# --- lengths, order and changed bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda m: m[:-1], lambda m: m + b"\x00", lambda m: m[:39], lambda m: b""])
@pytest.mark.parametrize("step", range(5))
def test_wrong_lengths_are_refused(step: int, change: Callable[[bytes], bytes]) -> None:
    """By the coordinator, with the hospital's name; by hospitals, naming the coordinator."""
    run = Running()
    told = run.before(step)
    message = run.answer(step, "hospital-a", told["hospital-a"])
    with pytest.raises(PeerViolation, match=r"hospital hospital-a sent \d+ bytes as"):
        run.coordinator.receive("hospital-a", change(message))
    if step:
        with pytest.raises(PeerViolation, match="the coordinator"):
            run.answer(step, "hospital-b", change(told["hospital-b"]))


@given(st.data())
@settings(max_examples=60)
def test_a_changed_byte_never_changes_the_sum_unnoticed(data: st.DataObject) -> None:
    """Any byte of any message but a masked vector's body, which TLS protects: an error, or the right sum."""
    run = Running(3)
    step = data.draw(st.sampled_from((ADVERTISE, SHARE, CONFIRM, UNMASK)))
    told = run.before(step)
    messages = {name: run.answer(step, name, told[name]) for name in run.hospitals}
    victim = messages["hospital-b"]
    at, flip = data.draw(st.integers(0, len(victim) - 1)), data.draw(st.integers(1, 255))
    messages["hospital-b"] = victim[:at] + bytes([victim[at] ^ flip]) + victim[at + 1 :]
    try:
        for name, message in messages.items():
            run.coordinator.receive(name, message)
        total = run.finish(step + 1, run.end(step)) if step < UNMASK else run.total()
    except (PeerViolation, ComputationFailed) as error:
        words = str(error)
    else:
        words = "no error, and the sum is right: hospital-b"
        assert total.update.tolist() == plain_sum(run.terms, run.vectors, frozenset(run.keys)).update.tolist()
    assert "hospital-b" in words


@given(st.data())
@settings(max_examples=60)
def test_hospitals_notice_a_changed_byte_of_the_coordinator(data: st.DataObject) -> None:
    run = Running()
    step = data.draw(st.sampled_from((SHARE, MASK, CONFIRM, UNMASK)))
    told = run.before(step)["hospital-a"]
    at, flip = data.draw(st.integers(0, len(told) - 1)), data.draw(st.integers(1, 255))
    changed = told[:at] + bytes([told[at] ^ flip]) + told[at + 1 :]
    try:
        message = run.answer(step, "hospital-a", changed)
    except PeerViolation:
        return
    # Only the list of survivors is not signed by anybody: the others' confirmations then differ.
    assert step == CONFIRM
    with pytest.raises(PeerViolation, match=r"hospital-a(: the signature of its survivors| received other survivors)"):
        run.coordinator.receive("hospital-a", message)


def test_steps_run_once_and_in_order() -> None:
    run = Running()
    told = run.before(SHARE)["hospital-a"]
    with pytest.raises(PeerViolation, match="hospital-a was asked to unmask out of turn"):
        run.first.unmask(told)
    with pytest.raises(PeerViolation, match="asked to share keys out of turn"):
        run.first.share_keys(told)  # after an error nothing goes on
    run.hospitals["hospital-b"].share_keys(told)
    with pytest.raises(PeerViolation, match="asked to share keys out of turn"):
        run.hospitals["hospital-b"].share_keys(told)
    with pytest.raises(ValueError, match="is at shares, not at masked"):
        run.coordinator.survivors()


def test_a_message_counts_once() -> None:
    run = Running()
    message = run.first.advertise()
    run.coordinator.receive("hospital-a", message)
    with pytest.raises(PeerViolation, match=r"hospital-a sent its round keys .* twice"):
        run.coordinator.receive("hospital-a", message)


def test_a_message_in_another_hospitals_name_is_refused() -> None:
    run = Running()
    with pytest.raises(PeerViolation, match="hospital-b sent a message in the name of somebody else"):
        run.coordinator.receive("hospital-b", run.first.advertise())


def test_a_message_of_another_kind_is_refused() -> None:
    run = Running()
    told = run.before(CONFIRM)["hospital-a"]
    wrong = told[:5] + bytes([0]) + told[6:]
    assert wrong == told
    with pytest.raises(PeerViolation, match="something else than the survivors"):
        run.first.confirm(told[:4] + bytes([Kind.MASKED]) + told[5:])


# --- wrong shares ----------------------------------------------------------------------------------------------------


def spoil_share(message: bytes, index: int) -> bytes:
    at = HEADER_BYTES + 8 + 32 * index
    return message[:at] + bytes(32) + message[at + 32 :]


def test_one_wrong_share_is_outvoted_where_there_are_more_than_needed() -> None:
    run = Running(4)
    told = run.before(UNMASK)
    for name in run.hospitals:
        message = run.answer(UNMASK, name, told[name])
        run.coordinator.receive(name, spoil_share(message, 2) if name == "hospital-a" else message)
    expected = plain_sum(run.terms, run.vectors, frozenset(run.keys))
    assert run.total().update.tolist() == expected.update.tolist()


def test_a_wrong_share_is_an_error_where_all_are_needed() -> None:
    run = Running(3)
    told = run.before(UNMASK)
    for name in run.hospitals:
        message = run.answer(UNMASK, name, told[name])
        run.coordinator.receive(name, spoil_share(message, 2) if name == "hospital-a" else message)
    with pytest.raises(ComputationFailed, match=r"the shares of hospital hospital-c .* do not fit its signed keys"):
        run.total()


# --- terms and vectors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": 2}, "3 to 4 must survive"),
        ({"threshold": 5}, "3 to 4 must survive"),
        ({"round_number": -1}, "counted from 0"),
        ({"ring_bits": 8}, "2\\^16 or 2\\^32"),
        ({"update_length": 1 << 40}, "at most"),
        ({"exact_length": -1}, "at most"),
        ({"common_hash": b"short"}, "32 bytes"),
        ({"subject": b"short"}, "32 bytes"),
        ({"training_id": "../etc"}, "training id"),
        ({"purpose": ""}, "purpose"),
    ],
)
def test_terms_that_protect_nothing_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(make_terms(signing_keys(4)), **change)  # type: ignore[arg-type]  # one keyword of many types


@pytest.mark.parametrize("count", [1, 2])
def test_two_hospitals_are_too_few(count: int) -> None:
    with pytest.raises(ConfigurationError, match=f"3 to 64 hospitals, not {count}"):
        make_terms(signing_keys(count))


def test_a_vector_of_another_model_is_not_masked() -> None:
    run = Running()
    told = run.before(MASK)["hospital-a"]
    other = random_vector(make_terms(run.keys, update_length=6), 0)
    with pytest.raises(ConfigurationError, match="hospital hospital-a has a vector of 6 elements of uint16"):
        run.first.mask(other, told)
