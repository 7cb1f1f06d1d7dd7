"""One order, from the question to the sum: all attempts, with secure aggregation or in the clear."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import AggregationAborted, ComputationFailed, ConfigurationError, PeerViolation
from contract.files import replace
from federated_learning import checkpoints
from federated_learning.rounds.course import OpenedSum
from federated_learning.rounds.letters import POSITION_BYTES, Answers, Exchange, Letter, Part, Step
from federated_learning.rounds.participants import Participants
from federated_learning.rounds.round_orders import ATTEMPT, PURPOSES, Question, RoundOrder, derive_terms, write_order
from federated_learning.rounds.settings import Waiting
from federated_learning.secure_aggregation.coordinator_aggregation import CoordinatorAggregation
from federated_learning.secure_aggregation.encoding import decode_exact

PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
LOOK_SECONDS = 0.2
GATHERING = "waiting for hospitals"
FAILED = "left out"
"""What an event says, beside a step's name."""


@dataclass(kw_only=True)
class RoundCosts:
    """Of one order, all its attempts together."""

    sent: dict[str, int] = field(default_factory=dict)
    """Bytes that each hospital sent."""
    received: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """By step, from the question to the last answer; and "opening", the coordinator's removing of masks."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something to show."""

    what: str
    """A step's name, GATHERING or FAILED."""
    round: int
    attempt: int
    hospital: str | None = None
    """Who answered or failed; None at the beginning of a step."""
    waiting_for: tuple[str, ...] = ()
    words: str = ""


@dataclass(frozen=True, kw_only=True, repr=False)
class Sum(OpenedSum):
    """What an aggregation opened, and how."""

    attempt: int
    opening: Mapping[str, bytes]
    """What it follows from, for the hospitals."""
    costs: RoundCosts
    restarts: int


class Followers:
    """Where each hospital stands, and the sums that some of them still lack.

    A sum is kept on the disk until every hospital has followed it. So a hospital that was away goes on where it was, by
    the same sums as everybody, and nobody has to vouch for what they led to.
    """

    def __init__(self, folder: Path, hospitals: tuple[str, ...]) -> None:
        """`folder` keeps the sums, one file for each position."""
        self._folder, self._hospitals = folder, hospitals
        self._positions: dict[str, int] = {}

    def keep(self, position: int, *, attempt: int, parts: Mapping[str, bytes]) -> None:
        """Write what moves a course on from `position`. Durable when this returns."""
        self._folder.mkdir(parents=True, exist_ok=True)
        facts = {"facts": np.array(json.dumps({ATTEMPT: attempt}))}
        arrays = {f"part/{name}": np.frombuffer(content, np.uint8) for name, content in parts.items()}
        checkpoints.save(facts | arrays, self._path(position))

    def bring(
        self, names: frozenset[str], position: int, *, ask: Callable[[Mapping[str, Letter]], Answers]
    ) -> tuple[frozenset[str], dict[str, str]]:
        """Send `names` the sums that they lack: who stands at `position` now, and why the others do not."""
        failures: dict[str, str] = {}
        while behind := [name for name in sorted(names - failures.keys()) if self._at(name, position) != position]:
            letters = {}
            for name in behind:
                letter = self._letter(self._at(name, position))
                if letter is None:
                    failures[name] = (
                        f"stands at sum {self._at(name, position)} of {position}, from which it cannot go on: its "
                        "state folder or the coordinator's is another one or an old copy"
                    )
                else:
                    letters[name] = letter
            if letters:
                failures |= self._sent(letters, ask(letters))
        self._forget()
        return names - failures.keys(), failures

    def doubt(self, name: str) -> None:
        """Ask a hospital again where it stands."""
        self._positions.pop(name, None)

    def _at(self, name: str, position: int) -> int:
        """Where a hospital stands; one that was not heard of is taken to lack the last sum, and says if it does not."""
        return self._positions.get(name, max(0, position - 1))

    def _sent(self, letters: Mapping[str, Letter], answers: Answers) -> dict[str, str]:
        failures = dict(answers.failures)
        for name, answer in answers.letters.items():
            try:
                content = answer.part(Part.POSITION)
                now = int.from_bytes(content[:POSITION_BYTES], "little")
            except PeerViolation as error:
                failures[name] = str(error)
                continue
            if name in self._positions and now <= self._positions[name]:
                failures[name] = "does not follow the last sum"
            self._positions[name] = now
        return failures

    def _letter(self, position: int) -> Letter | None:
        path = self._path(position)
        if not path.exists():
            return None
        arrays = checkpoints.read(path)
        parts = {name.removeprefix("part/"): arrays[name].tobytes() for name in arrays if name.startswith("part/")}
        return Letter(header={Part.POSITION: position} | json.loads(str(arrays["facts"])), parts=parts)

    def _forget(self) -> None:
        """Delete what every hospital has followed, except the last, by which a new process asks where they stand."""
        if len(self._positions) == len(self._hospitals):
            for path in self._folder.glob("*.npz"):
                if int(path.stem) < min(self._positions.values()) - 1:
                    path.unlink()

    def _path(self, position: int) -> Path:
        return self._folder / f"{position:06d}.npz"


class Aggregator:
    """Gets orders answered."""

    def __init__(
        self,
        participants: Participants,
        exchange: Exchange,
        *,
        waiting: Waiting,
        attempts: int,
        folder: Path,
        show: Callable[[Event], None],
    ) -> None:
        """`folder` keeps the numbers of attempts, so that none is used twice, and sums that hospitals still lack."""
        self.participants, self._exchange, self._waiting = participants, exchange, waiting
        self._attempts, self._show = attempts, show
        self._record = folder / "attempts.json"
        self.followers = Followers(folder / "sums", participants.names)

    def aggregate(self, question: Question[Any], *, position: int) -> Sum:
        """The sum of the answers to `question`, of hospitals that have followed the `position` sums before it.

        Once hospitals may have given away shares, the sum is opened over exactly the same hospitals, however long that
        takes: they open no other. Raises AggregationAborted after too many attempts, or if hospitals stay away.
        """
        costs, pause, order = RoundCosts(), PAUSE_SECONDS, question.order
        for restarts in range(self._attempts):
            if restarts:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            run = _Attempt(self, question, self._next_attempt(question), restarts, costs)
            names = self._gather(question, run.number)
            try:
                names = self._brought(names, position, run, costs)
                return run.secure(names) if order.secure else run.plain(names)
            except ComputationFailed as error:
                self._show(Event(what=FAILED, round=order.round, attempt=run.number, words=str(error)))
        raise AggregationAborted(
            f"round {order.round} ({PURPOSES[question.step]}) was given up {self._attempts} times: too few hospitals "
            "finish it. What was reached is kept; look at their logs, and start the coordinator again"
        )

    def _gather(self, question: Question[Any], attempt: int) -> frozenset[str]:
        """Wait for all hospitals, or after `waiting.together` for as many as are needed."""
        started, order, shown = time.monotonic(), question.order, -1
        required = self.required(question)
        everyone = required or frozenset(self.participants.names)
        needed = len(required) if required else order.threshold
        # A run goes on without an evaluation, and not without updates.
        seconds = self._waiting.together if question.step is Step.EVALUATE else self._waiting.start
        while True:
            online, waited = self._exchange.online() & everyone, time.monotonic() - started
            if online == everyone or (len(online) >= needed and waited > self._waiting.together):
                return online
            missing = tuple(sorted(everyone - online))
            if waited > seconds:
                why = ", as they have begun to open this very sum" if required else ""
                raise AggregationAborted(
                    f"only {len(online)} of the {needed} hospitals that are needed{why} came within {seconds:.0f} s; "
                    f"missing: {', '.join(missing)}. Start the coordinator again when they are there"
                )
            if len(missing) != shown:
                shown = len(missing)
                self._show(Event(what=GATHERING, round=order.round, attempt=attempt, waiting_for=missing))
            time.sleep(LOOK_SECONDS)

    def _brought(self, names: frozenset[str], position: int, run: "_Attempt", costs: RoundCosts) -> frozenset[str]:
        """Those of `names` that stand where the question is asked, after they were sent the sums that they lacked."""
        order = run.question.order

        def ask(letters: Mapping[str, Letter]) -> Answers:
            return self.ask(Step.FOLLOW, letters, order, run.number, costs)

        there, failures = self.followers.bring(names, position, ask=ask)
        for name, words in failures.items():
            self.left_out(name, words, order, run.number)
        if len(there) < order.threshold:
            raise AggregationAborted(
                f"round {order.round}: {len(there)} hospitals have followed the sums before it, of {order.threshold} "
                "that are needed"
            )
        return there

    def ask(
        self, step: Step, letters: Mapping[str, Letter], order: RoundOrder, attempt: int, costs: RoundCosts
    ) -> Answers:
        """One step with some hospitals; who has no answer is shown, and drops out."""
        pending = set(letters)
        waiting = tuple(sorted(pending))
        self._show(Event(what=step.name, round=order.round, attempt=attempt, waiting_for=waiting))

        def answered(name: str) -> None:
            pending.discard(name)
            left = tuple(sorted(pending))
            self._show(Event(what=step.name, round=order.round, attempt=attempt, hospital=name, waiting_for=left))

        started = time.monotonic()
        seconds = self._waiting.work if step in {*PURPOSES, Step.FOLLOW} else self._waiting.step
        answers = self._exchange.ask(step, letters, seconds=seconds, answered=answered)
        costs.seconds[step.name] = costs.seconds.get(step.name, 0.0) + time.monotonic() - started
        for name, letter in letters.items():
            costs.received[name] = costs.received.get(name, 0) + letter.byte_count()
        for name, letter in answers.letters.items():
            costs.sent[name] = costs.sent.get(name, 0) + letter.byte_count()
        for name, words in answers.failures.items():
            self.left_out(name, words, order, attempt)
        for name in answers.refused:
            self.followers.doubt(name)
        return answers

    def left_out(self, name: str, words: str, order: RoundOrder, attempt: int) -> None:
        """Show that a hospital drops out of this attempt."""
        self._show(Event(what=FAILED, round=order.round, attempt=attempt, hospital=name, words=words))

    def required(self, question: Question[Any]) -> frozenset[str] | None:
        """Over whom a sum must be opened because it may have been begun to be; None if it is still free."""
        _, _, names = self._recorded(question)
        return frozenset(names) or None

    def note_opening(self, question: Question[Any], attempt: int, names: frozenset[str]) -> None:
        """Note, before the shares are asked for, over whom the sum is opened."""
        self._note(question, attempt, sorted(names))

    def _next_attempt(self, question: Question[Any]) -> int:
        """A number that was not used before, also not by an earlier process: hospitals refuse one that was."""
        _, attempt, names = self._recorded(question)
        self._note(question, attempt + 1, names)
        return attempt + 1

    def _recorded(self, question: Question[Any]) -> tuple[int, int, list[str]]:
        """This round's number, its last attempt, and over whom it is opened."""
        number, attempt, names = self._records().get(PURPOSES[question.step], (0, -1, []))
        return (number, attempt, names) if number == question.order.round else (question.order.round, -1, [])

    def _note(self, question: Question[Any], attempt: int, names: list[str]) -> None:
        changed = self._records() | {PURPOSES[question.step]: (question.order.round, attempt, names)}
        replace(self._record, json.dumps(changed).encode(), mode=0o644)

    def _records(self) -> dict[str, tuple[int, int, list[str]]]:
        return json.loads(self._record.read_text(encoding="utf-8")) if self._record.exists() else {}


def _require_all(answers: Answers) -> None:
    """Nobody has trained yet: better to stop than to go on without a hospital whose data has a fault."""
    for name in sorted(answers.refused):
        raise ConfigurationError(
            f"hospital {name} {answers.failures[name]}. Mend it there, or make a federation.json without it, and start "
            "again"
        )


class _Attempt:
    """One attempt at one question."""

    def __init__(
        self, aggregator: Aggregator, question: Question[Any], number: int, restarts: int, costs: RoundCosts
    ) -> None:
        self._aggregator, self.question, self.number = aggregator, question, number
        self._order, self._layout = question.order, question.layout
        self._restarts, self._costs = restarts, costs

    def secure(self, names: frozenset[str]) -> Sum:
        """Five legs; whoever misses one drops out, and too few end the attempt before anything is unmasked."""
        terms = derive_terms(self._aggregator.participants, self.question, attempt=self.number)
        aggregation = CoordinatorAggregation(terms)
        order = write_order(self._order, attempt=self.number, parts=self.question.parts)
        self._leg(aggregation, self.question.step, dict.fromkeys(names, order), Part.ADVERTISEMENT)
        directory = Letter(parts={Part.DIRECTORY: aggregation.directory()})
        self._leg(aggregation, Step.SHARES, dict.fromkeys(aggregation.awaited, directory), Part.SHARES)
        deliveries = aggregation.deliveries()
        letters = {name: Letter(parts={Part.DELIVERY: delivery}) for name, delivery in deliveries.items()}
        self._leg(aggregation, Step.MASKED, letters, Part.MASKED)
        survivors = Letter(parts={Part.SURVIVORS: aggregation.survivors()})
        self._require_the_same(aggregation.in_sum)
        self._leg(aggregation, Step.CONFIRM, dict.fromkeys(aggregation.awaited, survivors), Part.CONFIRMATION)
        confirmations = Letter(parts={Part.CONFIRMATIONS: aggregation.confirmations()})
        self._aggregator.note_opening(self.question, self.number, aggregation.in_sum)
        self._leg(aggregation, Step.UNMASK, dict.fromkeys(aggregation.awaited, confirmations), Part.UNMASKING)
        started = time.monotonic()
        opening = aggregation.opening()
        # The coordinator learns the sum of the survivors' vectors here: it is what the round is for.
        total, in_sum = opening.total(terms)
        self._costs.seconds["opening"] = time.monotonic() - started
        return self._sum(total.update, total.exact, in_sum, opening.parts())

    def _require_the_same(self, survivors: frozenset[str]) -> None:
        required = self._aggregator.required(self.question)
        if required is not None and survivors != required:
            raise AggregationAborted(
                f"round {self._order.round}: without {', '.join(sorted(required - survivors))}, who began to open this "
                "very sum with the others. It is opened with exactly the same hospitals, or never"
            )

    def _sum(
        self, update: NDArray[Any], exact: NDArray[np.uint64], survivors: frozenset[str], opening: Mapping[str, bytes]
    ) -> Sum:
        return Sum(
            update=update,
            exact=decode_exact(self._layout, exact),
            survivors=survivors,
            attempt=self.number,
            opening=opening,
            costs=self._costs,
            restarts=self._restarts,
        )

    def _leg(
        self, aggregation: CoordinatorAggregation, step: Step, letters: Mapping[str, Letter], expected: str
    ) -> None:
        answers = self._aggregator.ask(step, letters, self._order, self.number, self._costs)
        if step is Step.SURVEY:
            _require_all(answers)
        for name, letter in sorted(answers.letters.items()):
            try:
                aggregation.receive(name, letter.part(expected))
            except PeerViolation as error:
                self._aggregator.left_out(name, str(error), self._order, self.number)

    def plain(self, names: frozenset[str]) -> Sum:
        """Each hospital's vector in the clear, added up: for comparison, where every hospital allows it."""
        step = self.question.step
        order = write_order(self._order, attempt=self.number, parts=self.question.parts)
        ready = self._aggregator.ask(step, dict.fromkeys(names, order), self._order, self.number, self._costs)
        if step is Step.SURVEY:
            _require_all(ready)
        answers = self._aggregator.ask(
            Step.PLAIN, dict.fromkeys(ready.letters, Letter()), self._order, self.number, self._costs
        )
        update = np.zeros(self._layout.update_length, np.float64)
        exact, survivors = np.zeros(self._layout.exact_length, np.uint64), set()
        for name, letter in sorted(answers.letters.items()):
            try:
                own, counts = self._read_plain(name, letter)
            except PeerViolation as error:
                self._aggregator.left_out(name, str(error), self._order, self.number)
                continue
            update += own
            exact += counts
            survivors.add(name)
        if len(survivors) < self._order.threshold:
            raise AggregationAborted(
                f"round {self._order.round}: {len(survivors)} hospitals answered, {self._order.threshold} are needed"
            )
        opening: dict[str, bytes] = {
            Part.UPDATE: update.tobytes(),
            Part.EXACT: exact.tobytes(),
            Part.IN_SUM: json.dumps(sorted(survivors)).encode(),
        }
        return self._sum(update, exact, frozenset(survivors), opening)

    def _read_plain(self, name: str, letter: Letter) -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
        content, counts = letter.part(Part.UPDATE), letter.part(Part.EXACT)
        if len(content) != 4 * self._layout.update_length or len(counts) != 8 * self._layout.exact_length:
            raise PeerViolation(f"hospital {name} sent an update of another network: use the training's settings")
        own = np.frombuffer(counts, dtype="<u8").astype(np.uint64)
        update = np.frombuffer(content, dtype="<f4").astype(np.float64)
        if not np.isfinite(update).all():
            raise PeerViolation(f"hospital {name} sent an update with values that are not finite: it diverged")
        return update, own
