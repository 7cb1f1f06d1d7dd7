"""What crosses to another party says what it means for that party, and nothing of the machine that it comes from."""

import re

import pytest

from contract import errors
from contract.deviation import Deviation, DeviationError, StatedDecoy
from contract.errors import (
    AuditLogBroken,
    ConfigurationError,
    DeadlineExceeded,
    EncryptedInferenceError,
    MaterialSpent,
    PeerDisconnected,
    PeerUnreachable,
    TransportError,
)
from contract.violation import Found
from plumbing.words_for_others import MAX_CHARACTERS, without_places, words_for_others

OWN = "model-owner of north-lab"
PLACES = (
    "/var/lib/lab/data/budgets.sqlite",
    "~/lab/at-rest.key",
    "/srv/x",
    "ws://dealer.internal:8082/v2/dealing",
    "https://front.internal",
    "postgresql://writer:secret@db.internal/inference",
    "writer@db.internal",
    "10.3.0.7",
    "10.3.0.7:8082",
    "[fd00::7]:8082",
    "dealer.internal:8082",
    "localhost:8082",
)
SECRET = re.compile(r"lab/|srv|internal|10\.3|fd00|localhost|8082|writer|budgets")


def every_class(root: type[EncryptedInferenceError] = EncryptedInferenceError) -> list[type[EncryptedInferenceError]]:
    below = [one for kind in root.__subclasses__() for one in every_class(kind)]
    return [root, *below]


def make_error(kind: type[EncryptedInferenceError], words: str, place: str) -> EncryptedInferenceError:
    if kind is DeadlineExceeded:
        peer = f"the dealer at {place}, through the proxy {place},"
        return DeadlineExceeded(peer=peer, step="seed", waited_seconds=3)
    if kind is DeviationError:
        stated = StatedDecoy(messages=(), at=0, voucher=None)
        found = {"item": "0" * 64, "found": Found.ANSWER, "position": 0, "expected": "", "uploads": (), "messages": ()}
        return DeviationError(words, deviation=Deviation(**found, stated=stated))  # type: ignore[arg-type]
    return kind(words)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", every_class())
def test_no_error_of_any_class_tells_of_a_place(kind: type[EncryptedInferenceError], place: str) -> None:
    made = make_error(kind, f"the book {place} cannot be read (disk full); see '{place}', ({place}): {place}.", place)
    assert SECRET.search(str(made))
    words = words_for_others(made, own=OWN)
    assert not SECRET.search(words)
    assert len(words) > 20


@pytest.mark.parametrize("kind", [ConfigurationError, AuditLogBroken])
def test_of_ones_own_machine_it_is_said_that_something_is_wrong(kind: type[EncryptedInferenceError]) -> None:
    assert words_for_others(kind("the disk is full"), own=OWN) == (
        "something is wrong on the machine of the model-owner of north-lab, where more is in the log: tell its "
        "operator, and try again later"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            PeerUnreachable("x", peer="crypto-provider of trust-centre at dealer:1"),
            (
                "crypto-provider of trust-centre cannot be reached by the model-owner of north-lab: try again later, "
                "or tell its operator"
            ),
        ),
        (
            PeerDisconnected("the d at h:1 disconnected in step 's' (gone): start anew", peer="the d at h:1"),
            "the d disconnected in step 's' (gone): start anew",
        ),
        (
            DeadlineExceeded(peer="the d at h:1", step="seed", waited_seconds=3.04),
            (
                "the d did not answer within 3.0 s in step 'seed': check that it runs and is reachable, then start a "
                "new session"
            ),
        ),
        (TransportError("it broke"), "it broke"),
        (MaterialSpent("material abc was consumed before"), "material abc was consumed before"),
    ],
)
def test_of_a_link_it_is_said_who_is_at_its_other_end(error: EncryptedInferenceError, words: str) -> None:
    assert words_for_others(error, own=OWN) == words


@pytest.mark.parametrize(
    "words",
    [
        "certificate names 'party://data-owner/st-mary', which is not a party",
        "ended at 2026-11-30 12:00:00 UTC, and the clock says 13:00:00",
        "the inference service answered GET /v2/models/resnet with something else; 5 MB/s, and/or 1/2",
        "the budget of st-mary for resnet-18 1.0.0, 1,000 images a day, has 0 left: it renews on 2026-12-01 00:00 UTC",
    ],
)
def test_what_is_no_place_stays(words: str) -> None:
    assert without_places(words) == words


def test_words_are_one_bounded_line() -> None:
    words = words_for_others(errors.PeerViolation("a\nb " + "x." * 10_000), own=OWN)
    assert words.startswith("a b ")
    assert len(words) == MAX_CHARACTERS
