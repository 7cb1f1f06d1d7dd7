"""Asking hospitals and collecting their answers, over Flower's Grid."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Protocol

import httpx

from contract.errors import PeerDisconnected, PeerViolation
from federated_learning.flower.uploading import UPLOADS, upload
from federated_learning.rounds.letters import Letter, Step, Trouble, from_records, to_records, trouble_of

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

    from federated_learning.rounds.settings import Waiting

SHORTEST_PAUSE, LONGEST_PAUSE, GROWTH = 0.02, 0.5, 1.2
LOOK_SECONDS = 1.0


class Exchange(Protocol):
    """One question to some hospitals, and the answers that come in time."""

    def ask(
        self, step: Step, letters: Mapping[str, Letter], *, seconds: float, answered: Callable[[str], None]
    ) -> "Answers":
        """Send each hospital its letter and wait for the answers; `answered` is told each name."""
        ...

    def online(self) -> frozenset[str]:
        """The hospitals that are connected now."""
        ...


@dataclass(kw_only=True)
class Answers:
    """What came back."""

    letters: dict[str, Letter] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Why a hospital has none, in this side's words: details stand on its own screen."""
    refused: set[str] = field(default_factory=set)
    """Hospitals that answered that they cannot, rather than not at all."""

    def add(self, name: str, letter: Letter, trouble: Trouble | None) -> None:
        """What a hospital answered."""
        if trouble is None:
            self.letters[name] = letter
        else:
            self.failures[name] = str(trouble)
            self.refused.add(name)


@dataclass(kw_only=True)
class _Pending:
    """One hospital that was asked."""

    asked_at: float
    away_since: float | None = None


@dataclass(kw_only=True)
class _Question:
    """One step's letters, and who still has to answer."""

    step: Step
    letters: Mapping[str, Letter]
    end: float
    """Deadline, on the monotonic clock."""
    sent: dict[str, str] = field(default_factory=dict)
    """Hospital by Flower's identity of the message."""
    pending: dict[str, _Pending] = field(default_factory=dict)
    answers: Answers = field(default_factory=Answers)


class GridExchange:
    """`Exchange` over a Grid. Hospitals are those whose keys the coordinator registered, and nobody else."""

    def __init__(self, grid: "Grid", nodes: Mapping[int, str], *, waiting: "Waiting", max_bytes: int) -> None:
        """`nodes`: hospital by node identity; `max_bytes`: of one answer."""
        self._grid = grid
        self._names = dict(nodes)
        self._nodes = {name: node for node, name in nodes.items()}
        self._waiting = waiting
        self._max_bytes = max_bytes

    def online(self) -> frozenset[str]:
        """By the heartbeats that Flower's SuperLink receives."""
        with _superlink_answers():
            return frozenset(self._names[node] for node in self._grid.get_node_ids() if node in self._names)

    def ask(
        self, step: Step, letters: Mapping[str, Letter], *, seconds: float, answered: Callable[[str], None]
    ) -> Answers:
        """See `Exchange`.

        A hospital that goes away and comes back is asked again, as it lost the question; one that stays away longer
        than `waiting.offline` is given up before the deadline.
        """
        question = _Question(step=step, letters=letters, end=time.monotonic() + seconds)
        self._send(question, frozenset(letters))
        pause, looked_at = SHORTEST_PAUSE, time.monotonic()
        while question.pending and time.monotonic() < question.end:
            came = self._collect(question)
            for name in came:
                answered(name)
            if came:
                pause = SHORTEST_PAUSE
                continue
            if time.monotonic() - looked_at > LOOK_SECONDS:
                looked_at = time.monotonic()
                self._send(question, self._look(question))
            time.sleep(pause)
            pause = min(pause * GROWTH, LONGEST_PAUSE)
        for name in question.pending:
            question.answers.failures[name] = f"no answer within {seconds:.0f} s"
        return question.answers

    def say_goodbye(self, *, seconds: float) -> None:
        """Tell all that are there that the run is finished, and wait until they have gone."""
        end, names = time.monotonic() + seconds, self.online()
        self._send(_Question(step=Step.FINISH, letters=dict.fromkeys(names, Letter()), end=end), names)
        while self.online() and time.monotonic() < end:
            time.sleep(LONGEST_PAUSE)

    def _send(self, question: _Question, names: frozenset[str]) -> None:
        from flwr.app import Message

        if not names:
            return
        ordered, now = sorted(names), time.monotonic()
        kind, seconds = question.step.value, max(1.0, question.end - now)

        def push() -> list[str]:
            messages = [
                Message(to_records(question.letters[name]), self._nodes[name], kind, ttl=seconds) for name in ordered
            ]
            return list(self._grid.push_messages(messages))

        identities = _pushed(push)
        for name, identity in zip_longest(ordered, identities):
            if identity is None:
                raise PeerDisconnected(f"Flower's SuperLink did not take the message for hospital {name}: read its log")
            question.sent[identity] = name
            question.pending[name] = _Pending(asked_at=now)

    def _collect(self, question: _Question) -> list[str]:
        """Take the answers that are there; the names of those who are done."""
        came = []
        with _superlink_answers():
            messages = list(self._grid.pull_messages(list(question.sent)))
        for message in messages:
            name = question.sent.pop(message.metadata.reply_to_message_id, None)
            if name is None or name not in question.pending:
                continue  # it was asked twice, and answered before
            if message.has_error():
                # Flower could not deliver, as the hospital is away; `_look` decides what follows.
                state = question.pending[name]
                state.away_since = state.away_since or time.monotonic()
                continue
            del question.pending[name]
            came.append(name)
            self._read(name, message, question.answers)
        return came

    def _read(self, name: str, message: "Message", answers: Answers) -> None:
        try:
            letter = from_records(message.content, max_bytes=self._max_bytes)
            trouble = trouble_of(letter)
        except PeerViolation as error:
            answers.failures[name] = str(error)
            return
        answers.add(name, letter, trouble)

    def _look(self, question: _Question) -> frozenset[str]:
        """Who is still there: gives up those who stayed away, and returns those who must be asked again."""
        now, online, again = time.monotonic(), self.online(), set()
        for name, state in list(question.pending.items()):
            if name not in online:
                state.away_since = state.away_since or now
                if now - state.away_since > self._waiting.offline:
                    question.answers.failures[name] = "went away"
                    del question.pending[name]
            elif state.away_since is not None or now - state.asked_at > self._waiting.repeat:
                again.add(name)
        return frozenset(again)


def _pushed(push: Callable[[], list[str]]) -> list[str]:
    """Upload questions; what `push` returns."""
    from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

    try:
        with _superlink_answers():
            return upload(push)
    except ObjectPushError:
        raise PeerDisconnected(
            f"Flower's SuperLink dropped {UPLOADS} uploads of the same messages: this machine may be overloaded. Start "
            "the same command again: it goes on after the last finished round"
        ) from None


@contextmanager
def _superlink_answers() -> Iterator[None]:
    """Flower's SuperLink forgets a run whose coordinator stood still for long: stopped, asleep, out of memory."""
    try:
        yield
    except httpx.HTTPError as error:
        raise PeerDisconnected(
            "Flower's SuperLink no longer takes this coordinator's calls: one of them stood still for too long or has "
            "ended. Start the same command again: it goes on after the last finished round"
        ) from error
