"""One order, from the question to the sum: all attempts, with secure aggregation or in the clear."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import AggregationAborted, ComputationFailed, ConfigurationError, PeerViolation
from federated_learning.federation.exchange import Answers, Exchange
from federated_learning.federation.keys import Federation
from federated_learning.federation.messages import (
    ADVERTISEMENT,
    CONFIRMATION,
    CONFIRMATIONS,
    DELIVERY,
    DIRECTORY,
    EXACT,
    MASKED,
    SHARES,
    SURVIVORS,
    UNMASKING,
    UPDATE,
    Letter,
    Step,
)
from federated_learning.federation.orders import PURPOSES, Order, letter_of, terms_of
from federated_learning.federation.settings import Waiting
from federated_learning.secure_aggregation import CoordinatorAggregation
from federated_learning.secure_aggregation.encoding import VectorLayout, decode_exact

PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
LOOK_SECONDS = 0.2
GATHERING = "waiting for hospitals"
FAILED = "left out"
"""What an event says, beside a step's name."""


@dataclass(kw_only=True)
class Traffic:
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
class Sum:
    """What an aggregation opened: the sum of the survivors' vectors, and nothing else."""

    update: NDArray[Any]
    """Ring elements; in the clear float64. Each update counts by its weight in the whole federation."""
    exact: Mapping[str, NDArray[Any]]
    survivors: frozenset[str]
    traffic: Traffic
    restarts: int


class Aggregator:
    """Gets orders answered."""

    def __init__(
        self,
        federation: Federation,
        exchange: Exchange,
        *,
        waiting: Waiting,
        attempts: int,
        folder: Path,
        show: Callable[[Event], None],
    ) -> None:
        """`folder` keeps the numbers of the attempts, so that none is used twice."""
        self.federation, self._exchange, self._waiting = federation, exchange, waiting
        self._attempts, self._show = attempts, show
        self._counter = folder / "attempts.json"

    def aggregate(self, step: Step, order: Order, parts: Mapping[str, bytes], layout: VectorLayout) -> Sum | None:
        """The sum of the answers to `order`.

        None where an attempt failed after hospitals had given away shares: they will not open another sum of the same
        round, so this round is lost. Raises AggregationAborted after too many attempts, or where hospitals stay away.
        """
        traffic, pause = Traffic(), PAUSE_SECONDS
        for restarts in range(self._attempts):
            if restarts:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            attempt = self._next_attempt(step, order)
            run = _Attempt(self, step, order, attempt, parts, layout, traffic)
            names = self._gather(step, order, attempt)
            try:
                update, exact, survivors = run.secure(names) if order.secure else run.plain(names)
            except AggregationAborted as error:
                self._show(Event(what=FAILED, round=order.round, attempt=attempt, words=str(error)))
                if error.shares_released:
                    return None
            except ComputationFailed as error:
                self._show(Event(what=FAILED, round=order.round, attempt=attempt, words=str(error)))
                return None
            else:
                return Sum(update=update, exact=exact, survivors=survivors, traffic=traffic, restarts=restarts)
        raise AggregationAborted(
            f"round {order.round} ({PURPOSES[step]}) was given up {self._attempts} times: too few hospitals finish it. "
            "What was reached is kept; look at their logs, and start the coordinator again"
        )

    def _gather(self, step: Step, order: Order, attempt: int) -> frozenset[str]:
        """Wait for all hospitals, or after `waiting.together` for as many as are needed."""
        started, everyone, shown = time.monotonic(), frozenset(self.federation.names), -1
        # A run goes on without an evaluation, and not without updates.
        seconds = self._waiting.together if step is Step.EVALUATE else self._waiting.start
        while True:
            online, waited = self._exchange.online(), time.monotonic() - started
            if online == everyone or (len(online) >= order.threshold and waited > self._waiting.together):
                return online
            missing = tuple(sorted(everyone - online))
            if waited > seconds:
                raise AggregationAborted(
                    f"only {len(online)} of the {order.threshold} hospitals that are needed came within "
                    f"{seconds:.0f} s; missing: {', '.join(missing)}. Start the coordinator again when "
                    "they are there"
                )
            if len(missing) != shown:
                shown = len(missing)
                self._show(Event(what=GATHERING, round=order.round, attempt=attempt, waiting_for=missing))
            time.sleep(LOOK_SECONDS)

    def ask(self, step: Step, letters: Mapping[str, Letter], order: Order, attempt: int, traffic: Traffic) -> Answers:
        """One step with some hospitals; who has no answer is shown, and drops out."""
        pending = set(letters)
        waiting = tuple(sorted(pending))
        self._show(Event(what=step.name, round=order.round, attempt=attempt, waiting_for=waiting))

        def answered(name: str) -> None:
            pending.discard(name)
            left = tuple(sorted(pending))
            self._show(Event(what=step.name, round=order.round, attempt=attempt, hospital=name, waiting_for=left))

        started = time.monotonic()
        seconds = self._waiting.work if step in PURPOSES else self._waiting.step
        answers = self._exchange.ask(step, letters, seconds=seconds, answered=answered)
        traffic.seconds[step.name] = traffic.seconds.get(step.name, 0.0) + time.monotonic() - started
        for name, letter in letters.items():
            traffic.received[name] = traffic.received.get(name, 0) + letter.byte_count()
        for name, letter in answers.letters.items():
            traffic.sent[name] = traffic.sent.get(name, 0) + letter.byte_count()
        for name, words in answers.failures.items():
            self.left_out(name, words, order, attempt)
        return answers

    def left_out(self, name: str, words: str, order: Order, attempt: int) -> None:
        """Show that a hospital drops out of this attempt."""
        self._show(Event(what=FAILED, round=order.round, attempt=attempt, hospital=name, words=words))

    def _next_attempt(self, step: Step, order: Order) -> int:
        """A number that was not used before, also not by an earlier process: hospitals refuse one that was."""
        begun = self._begun()
        number, used = begun.get(PURPOSES[step], (0, -1))
        attempt = used + 1 if number == order.round else 0
        partial = self._counter.with_suffix(".partial")
        partial.write_text(json.dumps(begun | {PURPOSES[step]: (order.round, attempt)}), encoding="utf-8")
        os.replace(partial, self._counter)  # noqa: PTH105  (the atomic one, by name)
        return attempt

    def _begun(self) -> dict[str, tuple[int, int]]:
        """Round and attempt that were begun last, by purpose."""
        if not self._counter.exists():
            return {}
        return {
            purpose: (number, attempt) for purpose, (number, attempt) in json.loads(self._counter.read_text()).items()
        }


def _require_all(answers: Answers) -> None:
    """Nobody has trained yet: better to stop than to go on without a hospital whose data has a fault."""
    for name in sorted(answers.refused):
        raise ConfigurationError(
            f"hospital {name} {answers.failures[name]}. Mend it there, or make a federation.json without it, and start "
            "again"
        )


class _Attempt:
    """One attempt at one order."""

    def __init__(  # noqa: PLR0917  (made in one place only)
        self,
        aggregator: Aggregator,
        step: Step,
        order: Order,
        attempt: int,
        parts: Mapping[str, bytes],
        layout: VectorLayout,
        traffic: Traffic,
    ) -> None:
        self._aggregator, self._step, self._order, self._attempt = aggregator, step, order, attempt
        self._parts, self._layout, self._traffic = parts, layout, traffic

    def secure(self, names: frozenset[str]) -> tuple[NDArray[Any], Mapping[str, NDArray[Any]], frozenset[str]]:
        """Five legs; whoever misses one drops out, and too few end the attempt before anything is unmasked."""
        terms = terms_of(
            self._aggregator.federation,
            self._step,
            self._order,
            attempt=self._attempt,
            parts=self._parts,
            layout=self._layout,
        )
        aggregation = CoordinatorAggregation(terms)
        order = letter_of(self._order, attempt=self._attempt, parts=self._parts)
        self._leg(aggregation, self._step, dict.fromkeys(names, order), ADVERTISEMENT)
        directory = Letter(parts={DIRECTORY: aggregation.directory()})
        self._leg(aggregation, Step.SHARES, dict.fromkeys(aggregation.awaited, directory), SHARES)
        deliveries = aggregation.deliveries()
        letters = {name: Letter(parts={DELIVERY: delivery}) for name, delivery in deliveries.items()}
        self._leg(aggregation, Step.MASKED, letters, MASKED)
        survivors = Letter(parts={SURVIVORS: aggregation.survivors()})
        self._leg(aggregation, Step.CONFIRM, dict.fromkeys(aggregation.awaited, survivors), CONFIRMATION)
        confirmations = Letter(parts={CONFIRMATIONS: aggregation.confirmations()})
        self._leg(aggregation, Step.UNMASK, dict.fromkeys(aggregation.awaited, confirmations), UNMASKING)
        started = time.monotonic()
        # The coordinator learns the sum of the survivors' vectors here: it is what the round is for.
        total = aggregation.total()
        self._traffic.seconds["opening"] = time.monotonic() - started
        return total.update, decode_exact(self._layout, total.exact), aggregation.in_sum

    def _leg(
        self, aggregation: CoordinatorAggregation, step: Step, letters: Mapping[str, Letter], expected: str
    ) -> None:
        answers = self._aggregator.ask(step, letters, self._order, self._attempt, self._traffic)
        if step is Step.SURVEY:
            _require_all(answers)
        for name, letter in sorted(answers.letters.items()):
            try:
                aggregation.receive(name, letter.part(expected))
            except PeerViolation as error:
                self._aggregator.left_out(name, str(error), self._order, self._attempt)

    def plain(self, names: frozenset[str]) -> tuple[NDArray[Any], Mapping[str, NDArray[Any]], frozenset[str]]:
        """Each hospital's vector in the clear, added up: for comparison, where every hospital allows it."""
        order = letter_of(self._order, attempt=self._attempt, parts=self._parts)
        ready = self._aggregator.ask(self._step, dict.fromkeys(names, order), self._order, self._attempt, self._traffic)
        if self._step is Step.SURVEY:
            _require_all(ready)
        answers = self._aggregator.ask(
            Step.PLAIN, dict.fromkeys(ready.letters, Letter()), self._order, self._attempt, self._traffic
        )
        update = np.zeros(self._layout.update_length, np.float64)
        exact, survivors = np.zeros(self._layout.exact_length, np.uint64), set()
        for name, letter in sorted(answers.letters.items()):
            try:
                own, counts = self._read_plain(name, letter)
            except PeerViolation as error:
                self._aggregator.left_out(name, str(error), self._order, self._attempt)
                continue
            update += own
            exact += counts
            survivors.add(name)
        if len(survivors) < self._order.threshold:
            raise AggregationAborted(
                f"round {self._order.round}: {len(survivors)} hospitals answered, {self._order.threshold} are needed"
            )
        return update, decode_exact(self._layout, exact), frozenset(survivors)

    def _read_plain(self, name: str, letter: Letter) -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
        content, counts = letter.part(UPDATE), letter.part(EXACT)
        if len(content) != 4 * self._layout.update_length or len(counts) != 8 * self._layout.exact_length:
            raise PeerViolation(f"hospital {name} sent an update of another network: use the federation's settings")
        own = np.frombuffer(counts, dtype="<u8").astype(np.uint64)
        update = np.frombuffer(content, dtype="<f4").astype(np.float64)
        if not np.isfinite(update).all():
            raise PeerViolation(f"hospital {name} sent an update with values that are not finite: it diverged")
        return update, own
