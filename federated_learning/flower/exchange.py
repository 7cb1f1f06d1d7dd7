"""Asking hospitals and collecting their answers, over Flower's Grid."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest

import httpx
from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from contract.errors import PeerDisconnected, PeerViolation
from federated_learning.flower.records import from_records, to_records
from federated_learning.flower.tasks import UPLOADS, upload
from federated_learning.rounds.letters import Answers, Letter, Step, read_trouble
from federated_learning.rounds.settings import Waiting

SHORTEST_PAUSE, LONGEST_PAUSE, GROWTH = 0.02, 0.5, 1.2
FEW = 8
"""Hospitals; more are asked for less often, so that asking takes as much of the processor."""
LOOK_SECONDS = 1.0


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

    def __init__(self, grid: Grid, nodes: Mapping[int, str], *, waiting: Waiting, max_bytes: int) -> None:
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
            pause = min(pause * GROWTH, LONGEST_PAUSE * max(1.0, len(question.pending) / FEW))
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
        if not names:
            return
        ordered, now = sorted(names), time.monotonic()
        kind, seconds = question.step.value, max(1.0, question.end - now)

        def push() -> list[str]:
            messages = [
                Message(to_records(question.letters[name]), self._nodes[name], kind, ttl=seconds) for name in ordered
            ]
            return list(self._grid.push_messages(messages))

        with _superlink_answers():
            identities = upload(push)
        for name, identity in zip_longest(ordered, identities):
            if identity is None:
                raise PeerDisconnected(f"Flower's SuperLink did not take the message for hospital {name}: read its log")
            question.sent[identity] = name
            question.pending[name] = _Pending(asked_at=now)

    def _collect(self, question: _Question) -> list[str]:
        """Take the answers that are there; the names of those who are done.

        One by one: Flower gives up all that it was asked for at once if one of them cannot be read.
        """
        came = []
        for identity, name in list(question.sent.items()):
            message = self._pull(identity)
            if message is None:
                continue
            del question.sent[identity]
            if name not in question.pending:
                continue  # it was asked twice, and answered before
            if not isinstance(message, str) and message.has_error():
                # Flower could not deliver, as the hospital is away; `_look` decides what follows.
                state = question.pending[name]
                state.away_since = state.away_since or time.monotonic()
                continue
            del question.pending[name]
            came.append(name)
            if isinstance(message, str):
                question.answers.failures[name] = message
            else:
                self._read(name, message, question.answers)
        return came

    def _pull(self, identity: str) -> Message | str | None:
        """The answer to a message, or why it cannot be read; None if there is none yet."""
        with _superlink_answers():
            try:
                return next(iter(self._grid.pull_messages([identity])), None)
            except httpx.HTTPError:
                raise
            except Exception:  # noqa: BLE001  (what a hospital sent ends here, whatever Flower raises over it)
                return "sent what is no message: run the same version on both sides"

    def _read(self, name: str, message: Message, answers: Answers) -> None:
        try:
            letter = from_records(message.content, max_bytes=self._max_bytes)
            trouble = read_trouble(letter)
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


@contextmanager
def _superlink_answers() -> Iterator[None]:
    """Flower's SuperLink forgets a run whose coordinator stood still for long: stopped, asleep, out of memory."""
    try:
        yield
    except ObjectPushError:
        raise PeerDisconnected(
            f"Flower's SuperLink dropped {UPLOADS} uploads of the same messages: this machine may be overloaded. Start "
            "the same command again: it goes on after the last finished round"
        ) from None
    except httpx.HTTPError as error:
        raise PeerDisconnected(
            "Flower's SuperLink no longer takes this coordinator's calls: one of them stood still for too long or has "
            "ended. Start the same command again: it goes on after the last finished round"
        ) from error
