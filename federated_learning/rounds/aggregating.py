"""One order, from the question to the sum: all attempts, with secure aggregation or in the clear."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
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
from federated_learning.rounds.round_orders import ATTEMPT, PURPOSES, Question, derive_terms, write_order
from federated_learning.rounds.settings import Waiting
from federated_learning.secure_aggregation.coordinator_aggregation import CoordinatorAggregation
from federated_learning.secure_aggregation.encoding import VectorLayout, decode_exact

PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
LOOK_SECONDS = 0.2
GATHERING = "waiting for hospitals"
FAILED = "left out"
"""What an event says, beside a step's name."""


@dataclass(kw_only=True)
class RoundCosts:
    """Of one order, all its attempts together."""

    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Bytes that each hospital sent."""
    received: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
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
        arrays = {name: np.frombuffer(content, np.uint8) for name, content in parts.items()}
        facts = {"facts": checkpoints.write_facts({ATTEMPT: attempt})}
        checkpoints.save(facts | checkpoints.add_prefix("part", arrays), self._path(position))

    def bring(
        self, names: frozenset[str], position: int, *, ask: Callable[[Mapping[str, Letter]], Answers]
    ) -> tuple[frozenset[str], dict[str, str]]:
        """Send `names` the sums that they lack: who stands at `position` now, and why the others do not."""
        failures: dict[str, str] = {}
        while late := {
            name: at for name in sorted(names - failures.keys()) if (at := self._locate(name, position)) != position
        }:
            letters = {name: letter for name, at in late.items() if (letter := self._read_letter(at)) is not None}
            for name in late.keys() - letters.keys():
                failures[name] = (
                    f"stands at sum {late[name]} of {position}, from which it cannot go on: its state folder or the "
                    "coordinator's is another one or an old copy"
                )
            if letters:
                failures |= self._note_answers(ask(letters))
        self._forget()
        return names - failures.keys(), failures

    def doubt(self, name: str) -> None:
        """Ask a hospital again where it stands."""
        self._positions.pop(name, None)

    def _locate(self, name: str, position: int) -> int:
        """Where a hospital stands; one that has not answered is taken to lack the last sum, and says if not."""
        return self._positions.get(name, max(0, position - 1))

    def _note_answers(self, answers: Answers) -> dict[str, str]:
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

    def _read_letter(self, position: int) -> Letter | None:
        path = self._path(position)
        if not path.exists():
            return None
        arrays = checkpoints.read(path)
        parts = {name: array.tobytes() for name, array in checkpoints.select_prefix(arrays, "part").items()}
        return Letter(header={Part.POSITION: position} | checkpoints.read_facts(arrays), parts=parts)

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
        self.participants, self.exchange, self.waiting = participants, exchange, waiting
        self._attempts, self.show = attempts, show
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
            attempt = _Attempt(self, question, number=self._next_attempt(question), restarts=restarts, costs=costs)
            names = self._gather(question, attempt)
            try:
                names = attempt.bring(names, position)
                return attempt.add_securely(names) if order.secure else attempt.add_plainly(names)
            except ComputationFailed as error:
                attempt.show(FAILED, words=str(error))
        raise AggregationAborted(
            f"round {order.round} ({PURPOSES[question.step]}) was given up {self._attempts} times: too few hospitals "
            "finish it. What was reached is kept; look at their logs, and start the coordinator again"
        )

    def _gather(self, question: Question[Any], attempt: "_Attempt") -> frozenset[str]:
        """Wait for all hospitals, or after `waiting.together` for as many as are needed."""
        started, shown = time.monotonic(), -1
        required = self.find_required(question)
        everyone = required or frozenset(self.participants.names)
        needed = len(required) if required else question.order.threshold
        # A run goes on without an evaluation, and not without updates.
        seconds = self.waiting.together if question.step is Step.EVALUATE else self.waiting.start
        while True:
            online, waited = self.exchange.online() & everyone, time.monotonic() - started
            if online == everyone or (len(online) >= needed and waited > self.waiting.together):
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
                attempt.show(GATHERING, waiting_for=missing)
            time.sleep(LOOK_SECONDS)

    def find_required(self, question: Question[Any]) -> frozenset[str] | None:
        """Over whom a sum must be opened because it may have been begun to be; None if it is still free."""
        return frozenset(self._find_record(question)[1]) or None

    def _next_attempt(self, question: Question[Any]) -> int:
        """A number that was not used before, also not by an earlier process: hospitals refuse one that was."""
        attempt, names = self._find_record(question)
        self.note(question, attempt + 1, names)
        return attempt + 1

    def _find_record(self, question: Question[Any]) -> tuple[int, list[str]]:
        """The last attempt at this round's question, and over whom it is opened."""
        number, attempt, names = self._read_records().get(PURPOSES[question.step], (0, -1, []))
        return (attempt, names) if number == question.order.round else (-1, [])

    def note(self, question: Question[Any], attempt: int, names: list[str]) -> None:
        """Write down this attempt, and over whom its sum is opened."""
        changed = self._read_records() | {PURPOSES[question.step]: (question.order.round, attempt, names)}
        replace(self._record, json.dumps(changed).encode(), mode=0o644)

    def _read_records(self) -> dict[str, tuple[int, int, list[str]]]:
        return json.loads(self._record.read_text(encoding="utf-8")) if self._record.exists() else {}


def _require_all(answers: Answers) -> None:
    """Nobody has trained yet: better to stop than to go on without a hospital whose data has a fault."""
    for name in sorted(answers.refused):
        raise ConfigurationError(
            f"hospital {name} {answers.failures[name]}. Correct it there, or make a federation.json without it, and "
            "start again"
        )


@dataclass(frozen=True)
class _Attempt:
    """One attempt at one question."""

    aggregator: Aggregator
    question: Question[Any]
    _: KW_ONLY
    number: int
    restarts: int
    """Attempts before it in this process."""
    costs: RoundCosts

    def show(self, what: str, **more: Any) -> None:
        """Show what happens in it."""
        self.aggregator.show(Event(what=what, round=self.question.order.round, attempt=self.number, **more))

    def _leave_out(self, name: str, words: str) -> None:
        """Show that a hospital drops out."""
        self.show(FAILED, hospital=name, words=words)

    def _ask(self, step: Step, letters: Mapping[str, Letter]) -> Answers:
        """One step with some hospitals; who has no answer is shown, and drops out."""
        pending, waiting, costs = set(letters), self.aggregator.waiting, self.costs
        self.show(step.name, waiting_for=tuple(sorted(pending)))

        def answered(name: str) -> None:
            pending.discard(name)
            self.show(step.name, hospital=name, waiting_for=tuple(sorted(pending)))

        started = time.monotonic()
        seconds = waiting.work if step in {*PURPOSES, Step.FOLLOW} else waiting.step
        answers = self.aggregator.exchange.ask(step, letters, seconds=seconds, answered=answered)
        costs.seconds[step.name] += time.monotonic() - started
        for name, letter in letters.items():
            costs.received[name] += letter.byte_count()
        for name, letter in answers.letters.items():
            costs.sent[name] += letter.byte_count()
        for name, words in answers.failures.items():
            self._leave_out(name, words)
        for name in answers.refused:
            self.aggregator.followers.doubt(name)
        return answers

    def bring(self, names: frozenset[str], position: int) -> frozenset[str]:
        """Those of `names` that stand where the question is asked, after they were sent the sums that they lacked."""
        order = self.question.order
        there, failures = self.aggregator.followers.bring(names, position, ask=partial(self._ask, Step.FOLLOW))
        for name, words in failures.items():
            self._leave_out(name, words)
        if len(there) < order.threshold:
            raise AggregationAborted(
                f"round {order.round}: {len(there)} hospitals have followed the sums before it, of {order.threshold} "
                "that are needed"
            )
        return there

    def add_securely(self, names: frozenset[str]) -> Sum:
        """Five legs; whoever misses one drops out, and too few end the attempt before anything is unmasked."""
        terms = derive_terms(self.aggregator.participants, self.question, attempt=self.number)
        aggregation = CoordinatorAggregation(terms)
        order = write_order(self.question.order, attempt=self.number, parts=self.question.parts)
        self._run_leg(aggregation, self.question.step, dict.fromkeys(names, order), Part.ADVERTISEMENT)
        directory = Letter(parts={Part.DIRECTORY: aggregation.directory()})
        self._run_leg(aggregation, Step.SHARES, dict.fromkeys(aggregation.awaited, directory), Part.SHARES)
        deliveries = aggregation.deliveries()
        letters = {name: Letter(parts={Part.DELIVERY: delivery}) for name, delivery in deliveries.items()}
        self._run_leg(aggregation, Step.MASKED, letters, Part.MASKED)
        survivors = Letter(parts={Part.SURVIVORS: aggregation.survivors()})
        self._require_the_same(aggregation.in_sum)
        self._run_leg(aggregation, Step.CONFIRM, dict.fromkeys(aggregation.awaited, survivors), Part.CONFIRMATION)
        confirmations = Letter(parts={Part.CONFIRMATIONS: aggregation.confirmations()})
        # Before the shares are asked for: over whom the sum is opened.
        self.aggregator.note(self.question, self.number, sorted(aggregation.in_sum))
        self._run_leg(aggregation, Step.UNMASK, dict.fromkeys(aggregation.awaited, confirmations), Part.UNMASKING)
        started = time.monotonic()
        opening = aggregation.opening()
        # The coordinator learns the sum of the survivors' vectors here: it is what the round is for.
        total, in_sum = opening.total(terms)
        self.costs.seconds["opening"] = time.monotonic() - started
        return self._make_sum(total.update, total.exact, in_sum, opening.parts())

    def _require_the_same(self, survivors: frozenset[str]) -> None:
        required = self.aggregator.find_required(self.question)
        if required is not None and survivors != required:
            raise AggregationAborted(
                f"round {self.question.order.round}: without {', '.join(sorted(required - survivors))}, who began to "
                "open this very sum with the others. It is opened with exactly the same hospitals, or never"
            )

    def _make_sum(
        self, update: NDArray[Any], exact: NDArray[np.uint64], survivors: frozenset[str], opening: Mapping[str, bytes]
    ) -> Sum:
        return Sum(
            update=update,
            exact=decode_exact(self.question.layout, exact),
            survivors=survivors,
            attempt=self.number,
            opening=opening,
            costs=self.costs,
            restarts=self.restarts,
        )

    def _run_leg(
        self, aggregation: CoordinatorAggregation, step: Step, letters: Mapping[str, Letter], expected: str
    ) -> None:
        answers = self._ask(step, letters)
        if step is Step.SURVEY:
            _require_all(answers)
        for name, letter in sorted(answers.letters.items()):
            try:
                aggregation.receive(name, letter.part(expected))
            except PeerViolation as error:
                self._leave_out(name, str(error))

    def add_plainly(self, names: frozenset[str]) -> Sum:
        """Each hospital's vector in the clear, added up: for comparison, where every hospital allows it."""
        step, order, layout = self.question.step, self.question.order, self.question.layout
        letter = write_order(order, attempt=self.number, parts=self.question.parts)
        ready = self._ask(step, dict.fromkeys(names, letter))
        if step is Step.SURVEY:
            _require_all(ready)
        answers = self._ask(Step.PLAIN, dict.fromkeys(ready.letters, Letter()))
        update = np.zeros(layout.update_length, np.float64)
        exact, survivors = np.zeros(layout.exact_length, np.uint64), set()
        for name, letter in sorted(answers.letters.items()):
            try:
                own, counts = _read_plain(layout, name, letter)
            except PeerViolation as error:
                self._leave_out(name, str(error))
                continue
            update += own
            exact += counts
            survivors.add(name)
        if len(survivors) < order.threshold:
            raise AggregationAborted(
                f"round {order.round}: {len(survivors)} hospitals answered, {order.threshold} are needed"
            )
        opening: dict[str, bytes] = {
            Part.UPDATE: update.tobytes(),
            Part.EXACT: exact.tobytes(),
            Part.IN_SUM: json.dumps(sorted(survivors)).encode(),
        }
        return self._make_sum(update, exact, frozenset(survivors), opening)


def _read_plain(layout: VectorLayout, name: str, letter: Letter) -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
    content, counts = letter.part(Part.UPDATE), letter.part(Part.EXACT)
    if len(content) != 4 * layout.update_length or len(counts) != 8 * layout.exact_length:
        raise PeerViolation(f"hospital {name} sent an update of another network: use the training's settings")
    own = np.frombuffer(counts, dtype="<u8").astype(np.uint64)
    update = np.frombuffer(content, dtype="<f4").astype(np.float64)
    if not np.isfinite(update).all():
        raise PeerViolation(f"hospital {name} sent an update with values that are not finite: it diverged")
    return update, own
