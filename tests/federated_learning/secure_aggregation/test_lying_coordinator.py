"""A coordinator that lies to single out one hospital's vector: hospitals notice, and nothing is unmasked."""

from typing import Any

import pytest

from contract.errors import AggregationAborted, ConfigurationError, PeerViolation
from federated_learning.secure_aggregation.history import RoundHistory
from federated_learning.secure_aggregation.messages import HEADER_BYTES, SEALED_BYTES, Kind, header, write_survivors
from tests.federated_learning.secure_aggregation.rounds import (
    CONFIRM,
    SHARE,
    UNMASK,
    Running,
    View,
    hospitals_for,
    make_terms,
    random_vector,
    run_round,
    signing_keys,
)


def survivors_message(run: Running, *names: str) -> bytes:
    return write_survivors(run.terms, {name: run.coordinator._digests[name] for name in names})


# --- a coordinator that lies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (("hospital-a", "hospital-b"), "goes on with 2 survivors"),
        (("hospital-a",), "goes on with 1 survivors"),
        (("hospital-b", "hospital-c", "hospital-d"), "names survivors .* that cannot be"),
        ((), "names survivors .* that cannot be"),
    ],
)
def test_a_hospital_refuses_survivors_that_would_reveal_it(named: tuple[str, ...], words: str) -> None:
    run = Running()
    run.before(CONFIRM)
    with pytest.raises(PeerViolation, match=words):
        run.first.confirm(survivors_message(run, *named))
    with pytest.raises(PeerViolation, match="out of turn"):
        run.first.unmask(b"")


def test_a_survivor_that_is_not_in_the_federation_is_refused() -> None:
    run = Running()
    run.before(CONFIRM)
    message = header(run.terms, Kind.SURVIVORS, None) + (0b10111).to_bytes(8, "little")
    with pytest.raises(PeerViolation, match="lists a hospital that is not in the training"):
        run.first.confirm(message)


def test_telling_hospitals_of_different_survivors_unmasks_nothing() -> None:
    """For A and B, D dropped out; C and D hear that all are there. Both sums together would be D's vector."""
    run = Running()
    run.before(CONFIRM)
    names = list(run.keys)
    answers = {
        name: run.hospitals[name].confirm(survivors_message(run, *(names[:3] if name < "hospital-c" else names)))
        for name in names
    }
    joined = header(run.terms, Kind.CONFIRMATIONS, None)
    with pytest.raises(PeerViolation, match="hospital hospital-c received other survivors"):
        run.first.unmask(joined + b"".join(answers[name] for name in names[:3]))
    with pytest.raises(PeerViolation, match="goes on with 2 confirmations"):
        run.hospitals["hospital-b"].unmask(joined + answers["hospital-a"] + answers["hospital-b"])
    with pytest.raises(PeerViolation, match="hospital hospital-a received other survivors"):
        run.hospitals["hospital-c"].unmask(joined + b"".join(answers.values()))
    with pytest.raises(PeerViolation, match="goes on with 2 confirmations"):
        run.hospitals["hospital-d"].unmask(joined + answers["hospital-c"] + answers["hospital-d"])


def test_a_forged_or_repeated_confirmation_unmasks_nothing() -> None:
    run = Running()
    told = run.before(UNMASK)["hospital-a"]
    items = [told[at : at + 112] for at in range(HEADER_BYTES, len(told), 112)]
    forged = told[:HEADER_BYTES] + items[0] + items[1][:-64] + bytes(64) + items[2]
    with pytest.raises(PeerViolation, match="hospital-b: the signature of its survivors"):
        run.first.unmask(forged)
    with pytest.raises(PeerViolation, match="lists a hospital twice"):
        run.hospitals["hospital-b"].unmask(told[:HEADER_BYTES] + items[0] + items[1] + items[1])
    with pytest.raises(PeerViolation, match="are not the survivors'"):
        run.hospitals["hospital-c"].unmask(told[:HEADER_BYTES] + items[0] + items[1] + items[3])


def test_two_directories_do_not_agree() -> None:
    """A hospital that hears of other participants cannot open the others' shares."""
    run = Running()
    directory = run.before(SHARE)["hospital-a"]
    shorter = header(run.terms, Kind.DIRECTORY, None) + directory[HEADER_BYTES:-200]
    # `shorter` lacks D: A's shares are for B and C only, and sealed for another directory.
    shares = {"hospital-a": run.hospitals["hospital-a"].share_keys(shorter)}
    shares |= {name: run.hospitals[name].share_keys(directory) for name in list(run.keys)[1:]}
    with pytest.raises(PeerViolation, match="hospital hospital-a sent"):
        run.coordinator.receive("hospital-a", shares["hospital-a"])
    run.coordinator.receive("hospital-a", shares["hospital-a"] + bytes(SEALED_BYTES))
    for name in list(run.keys)[1:]:
        run.coordinator.receive(name, shares[name])
    with pytest.raises(PeerViolation, match=r"hospital-a: its shares .* do not open"):
        run.hospitals["hospital-b"].mask(run.vectors["hospital-b"], run.coordinator.deliveries()["hospital-b"])


# --- memory across attempts ------------------------------------------------------------------------------------------


def attempt(
    number: int,
    attempt_number: int,
    histories: dict[str, RoundHistory],
    drops: dict[str, str] | None = None,
    seed: int = 0,
    **others: Any,
) -> View:
    keys = signing_keys(4)
    terms = make_terms(keys, round_number=number, attempt=attempt_number, **others)
    view = View()
    vectors = {name: random_vector(terms, index + seed) for index, name in enumerate(keys)}
    run_round(terms, hospitals_for(terms, keys, histories), vectors, drops, view)
    return view


def test_a_hospital_is_not_singled_out_by_running_a_round_twice() -> None:
    """The difference of the sums of {A, B, C, D} and {A, B, C} would be D's update, so nobody unmasks the second."""
    histories = {name: RoundHistory() for name in signing_keys(4)}
    attempt(3, 0, histories)
    with pytest.raises(PeerViolation, match=r"unmask round 3 .* for other hospitals than those"):
        attempt(3, 1, histories, {"hospital-d": "mask"})
    attempt(3, 2, histories)  # the same survivors: the same sum again, say after the coordinator lost it


@pytest.mark.parametrize(
    "others",
    [{}, {"training_id": "another"}, {"common": b"\x01" * 32}, {"ring_bits": 32}],
    ids=["round", "federation", "order", "ring"],
)
def test_the_same_question_is_not_answered_with_other_hospitals_in_any_disguise(others: dict[str, Any]) -> None:
    """What counts is the subject, the weights for example: not the round, the run or what else was ordered."""
    histories = {name: RoundHistory() for name in signing_keys(4)}
    attempt(3, 0, histories)
    with pytest.raises(PeerViolation, match="for other hospitals than those"):
        attempt(4, 0, histories, {"hospital-d": "mask"}, **others)
    attempt(5, 0, histories, **others)
    attempt(6, 0, histories, {"hospital-d": "mask"}, subject=bytes(32))
    attempt(6, 0, histories, {"hospital-d": "mask"}, purpose="metrics")


def test_no_hospital_sends_another_vector_for_the_same_question() -> None:
    """Its images changed, or the run is repeated: the difference would be the change. Another round is another one."""
    histories = {name: RoundHistory() for name in signing_keys(4)}
    attempt(3, 0, histories)
    with pytest.raises(PeerViolation, match="had another answer to the same question before"):
        attempt(3, 1, histories, seed=1)
    with pytest.raises(PeerViolation, match="had another answer to the same question before"):
        attempt(3, 0, histories, seed=1, training_id="another")
    attempt(3, 2, histories)
    attempt(4, 0, histories, seed=1)


def test_a_hospital_that_was_left_out_does_not_come_into_a_second_sum() -> None:
    """Hospital D gave nothing away in the first sum, but those that did will not have it in a second one."""
    histories = {name: RoundHistory() for name in signing_keys(4)}
    attempt(3, 0, histories, {"hospital-d": "mask"})
    with pytest.raises(PeerViolation, match="for other hospitals than those"):
        attempt(3, 1, histories)
    attempt(3, 2, histories, {"hospital-d": "mask"})


def test_shares_given_away_count_even_when_the_round_was_given_up() -> None:
    histories = {name: RoundHistory() for name in signing_keys(4)}
    with pytest.raises(AggregationAborted, match="over exactly the same survivors"):
        attempt(3, 0, histories, {"hospital-a": "unmask", "hospital-b": "unmask"})
    with pytest.raises(PeerViolation, match="for other hospitals than those"):
        attempt(3, 1, histories, {"hospital-a": "mask"})


@pytest.mark.parametrize(("number", "attempt_number"), [(3, 1), (3, 0), (2, 7)])
def test_an_attempt_is_begun_once_even_after_a_restart(number: int, attempt_number: int) -> None:
    saved: list[str] = []
    history = RoundHistory(save=saved.append)
    keys = signing_keys(3)
    history.begin(make_terms(keys, round_number=3, attempt=1))
    for kept in (history, RoundHistory(saved[-1])):
        with pytest.raises(PeerViolation, match="after round 3, attempt 1"):
            kept.begin(make_terms(keys, round_number=number, attempt=attempt_number))
        kept.begin(make_terms(keys, round_number=number, attempt=attempt_number, purpose="metrics"))
    RoundHistory(saved[-1]).begin(make_terms(keys, round_number=3, attempt=2))


def test_the_release_is_kept_across_a_restart() -> None:
    saved: list[str] = []
    terms = make_terms(signing_keys(4))
    names = frozenset(terms.members)
    RoundHistory(save=saved.append).release(terms, names)
    RoundHistory(saved[-1]).release(terms, names)
    with pytest.raises(PeerViolation, match="for other hospitals"):
        RoundHistory(saved[-1]).release(terms, names - {"hospital-d"})


@pytest.mark.parametrize("state", ["", "{", "[" * 9999, "{}", '{"begun": {}, "opened": {}}', '{"begun": {"a": [1]}}'])
def test_a_history_that_cannot_be_read_stops_the_hospital(state: str) -> None:
    with pytest.raises(ConfigurationError, match="history of secure aggregation cannot be read"):
        RoundHistory(state)
