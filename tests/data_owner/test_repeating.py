"""Images whose items were decoys are evaluated again until each has its answer; a model owner cannot go on for ever."""

from collections.abc import Sequence
from io import StringIO
from uuid import UUID, uuid4

import numpy as np
import pytest
from rich.console import Console

from contract.errors import PeerViolation
from contract.identity import Role
from data_owner.diagnosis import Bytes, LinkBytes, Seconds, Warned
from data_owner.presentation import print_diagnosis
from data_owner.repeating import MOST_SESSIONS, Image, SessionOutcome, evaluate_all
from data_owner.wording import say_repeats
from secure_computation.engines.interface import Audited, Reply
from tests.data_owner.answering import card, diagnosis_of

IMAGES: list[Image] = [np.full((1, 2, 2), index, np.float32) for index in range(4)]


def session(replies: Sequence[Reply], *, maps: bool = False, stocked: bool = True) -> SessionOutcome:
    answers = [reply for reply in replies if not isinstance(reply, Audited)]
    link = LinkBytes(sender=Role.DATA_OWNER, receiver=Role.MODEL_OWNER, offline=2, online=3)
    return SessionOutcome(
        session=uuid4(),
        replies=tuple(replies),
        heat_maps=tuple(np.asarray(answer) * 10.0 for answer in answers) if maps else (),
        seconds=Seconds(offline=1.0, online=0.5),
        bytes=Bytes(online=3, offline=2, data_owner_sent=5, model_owner_sent=0, crypto_provider_sent=0, links=(link,)),
        one_way_trips=7,
        stocked=stocked,
        warnings=(Warned(code="stock-dropped", text="one"),),
    )


class Server:
    """Audits the images of each session that stand in `audited`, in order."""

    def __init__(self, *audited: set[int], maps: bool = False) -> None:
        self.audited, self.maps = list(audited), maps
        self.seen: list[list[int]] = []
        self.sessions: list[UUID] = []

    def __call__(self, images: Sequence[Image]) -> SessionOutcome:
        numbers = [int(image[0, 0, 0]) for image in images]
        self.seen.append(numbers)
        audited = self.audited.pop(0) if self.audited else set()
        replies: list[Reply] = [
            Audited() if number in audited else np.array([float(number)], np.float64) for number in numbers
        ]
        brought = session(replies, maps=self.maps, stocked=len(self.seen) == 1)
        self.sessions.append(brought.session)
        return brought


def test_only_what_was_audited_is_evaluated_again_and_answers_stand_in_their_order() -> None:
    server = Server({0, 2}, {2}, maps=True)
    outcome = evaluate_all(IMAGES, server, "lab")
    assert server.seen == [[0, 1, 2, 3], [0, 2], [2]]
    assert [float(np.asarray(answer)[0]) for answer in outcome.answers] == [0, 1, 2, 3]
    assert [float(one[0]) for one in outcome.heat_maps] == [0, 10, 20, 30]
    assert outcome.repeats == 2
    first, second, third = server.sessions
    assert outcome.sessions == (second, first, third, first)  # by which what was wrong with one is looked up


def test_what_the_sessions_took_is_added_up() -> None:
    outcome = evaluate_all(IMAGES, Server({1}), "lab")
    assert outcome.seconds == Seconds(offline=2.0, online=1.0)
    assert (outcome.bytes.online, outcome.bytes.data_owner_sent, outcome.one_way_trips) == (6, 10, 14)
    assert outcome.bytes.links[0].online == 6
    assert not outcome.stocked
    assert len(outcome.warnings) == 1  # the same, said once


def test_a_session_without_decoys_is_as_it_was() -> None:
    outcome = evaluate_all(IMAGES, Server(), "lab")
    assert (outcome.repeats, outcome.stocked, outcome.seconds.offline) == (0, True, 1.0)
    assert outcome.heat_maps == ()


def test_a_model_owner_that_says_so_without_end_is_not_believed() -> None:
    server = Server(*[{0}] * (MOST_SESSIONS + 1))
    with pytest.raises(PeerViolation, match="said 40 times in a row that it only checked"):
        evaluate_all(IMAGES[:1], server, "lab")
    assert len(server.seen) == MOST_SESSIONS


@pytest.mark.parametrize(("repeats", "lines"), [(0, 0), (2, 1)])
def test_the_terminal_says_it_in_one_line_or_not_at_all(repeats: int, lines: int) -> None:
    output = StringIO()
    diagnosis = diagnosis_of(card(), (1.0, 0.0)).model_copy(update={"repeats": repeats})
    print_diagnosis(Console(file=output, width=100), diagnosis, card())
    assert output.getvalue().count("Checked and repeated") == lines
    assert ("All figures are those of 3 sessions" in output.getvalue()) == bool(lines)


def test_repeats_are_said_in_one_quiet_line() -> None:
    assert say_repeats(1).startswith("Checked and repeated: the model owner checked this program once")
    assert "3 times" in say_repeats(3)
