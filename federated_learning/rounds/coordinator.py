"""The coordinator's side of a run: orders, sums, the global model, and what is kept of them. No network here.

The coordinator holds no image and judges nothing itself: validation is the hospitals' too, and only sums over all of
them reach it. Nor does it decide anything: what it asks next follows from the settings and the sums (`course.py`).
After every round the global state is written in one piece, so the same command goes on after a crash.
"""

import json
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from contract.base import Strict
from contract.errors import AggregationAborted, ConfigurationError
from federated_learning import checkpoints
from federated_learning.privacy.words import record_privacy
from federated_learning.rounds.aggregating import FAILED, Aggregator, Event, Sum
from federated_learning.rounds.course import Course
from federated_learning.rounds.letters import Exchange, Step
from federated_learning.rounds.participants import Participants
from federated_learning.rounds.settings import CoordinatorSettings
from federated_learning.run_records import (
    RoundRecord,
    RoundTraffic,
    RunKind,
    RunRecord,
    describe_training,
    write_run,
)
from federated_learning.training_settings import RoundTask

STATE, BEST = "checkpoint.npz", "best.npz"
AGGREGATION = (Step.SHARES.name, Step.MASKED.name, Step.CONFIRM.name, Step.UNMASK.name, "opening", Step.PLAIN.name)
"""What comes after training: the sending of updates, which averaging in the clear needs too, among it."""
PACKAGES = ("flwr", "torch", "cryptography", "numpy")


class Evaluation(Strict):
    """Of the averaged global weights after a round, on all hospitals' validation images."""

    round: int
    examples: int
    accuracy: float
    loss: float
    final_size: bool


class RunProgress(Strict):
    """What the coordinator keeps beside the course of the run, in one file with it."""

    restarts: int = 0
    """Attempts at rounds that were given up, in all."""
    evaluations: tuple[Evaluation, ...] = ()


Finished = Callable[[RoundRecord, RoundTraffic], None]
"""Gets what is recorded of a round."""


class Coordinator:
    """Runs a training to its end."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        participants: Participants,
        exchange: Exchange,
        *,
        show: Callable[[Event], None] = lambda _event: None,
        finished: Finished = lambda _line, _traffic: None,
    ) -> None:
        """Continue what the output folder holds. Raises ConfigurationError."""
        self._settings, self._participants, self._exchange = settings, participants, exchange
        self._show, self._finished = show, finished
        self.course, self.progress = Course(settings, participants), RunProgress()
        self._aggregator = Aggregator(
            participants,
            exchange,
            waiting=settings.waiting,
            attempts=settings.aggregation.attempts,
            folder=settings.output,
            show=show,
        )
        self._restore()

    def run(self) -> None:
        """Survey, all rounds, and the evaluations between them. Raises AggregationAborted if hospitals stay away."""
        if self.course.standing.survey is None:
            # What all hospitals have together, made once: two sums of the same data that differ by a hospital would
            # give that hospital's counts away.
            self._follow(self._aggregate(Step.SURVEY))
        tasks, done = self.plan(), self.course.standing.rounds
        evaluated = any(one.round == done for one in self.progress.evaluations)
        if done and tasks[done - 1].last_of_epoch and not evaluated:
            self._evaluate(tasks[done - 1])  # the coordinator stopped between a round and its evaluation
        for task in tasks[done:]:
            if not self._round(task):
                break  # every hospital has trained enough
        if self.chosen() is None:
            self.keep_best()  # nothing was judged: the last average, also if an earlier stop has left one

    def plan(self) -> tuple[RoundTask, ...]:
        """The rounds of this run, once the survey is made."""
        return self.course.plan()[: self._settings.rounds]

    def chosen(self) -> Evaluation | None:
        """The evaluation whose weights are in best.npz; None if there is none at the model's size."""
        final = [one for one in self.progress.evaluations if one.final_size]
        return max(final, key=lambda one: (one.accuracy, -one.loss), default=None)

    def _aggregate(self, step: Step) -> Sum:
        return self._aggregator.aggregate(self.course.ask(step), position=self.course.position)

    def _follow(self, total: Sum) -> None:
        """Move on by a sum, and keep for the hospitals what it follows from."""
        position, question = self.course.position, self.course.ask(self.course.next_step)
        self.course.follow(total, max_norm=self._settings.aggregation.max_norm)
        self._aggregator.followers.keep(position, attempt=total.attempt, parts={**total.opening, **question.parts})
        self._save(restarts=self.progress.restarts + total.restarts)

    def _round(self, task: RoundTask) -> bool:
        """One round; False when all hospitals say that they have trained enough."""
        started, number = time.monotonic(), task.number + 1
        total = self._aggregate(Step.TRAIN)
        clear_bytes = 4 * total.update.size
        self._follow(total)
        goes_on = "stopped" not in total.exact or int(total.exact["stopped"]) < len(total.survivors)
        evaluation = self._evaluate(task) if task.last_of_epoch or not goes_on else None
        seconds, sent = time.monotonic() - started, list(total.costs.sent.values())
        line = RoundRecord(
            round=number,
            # Mean over the hospitals; None if one may be missing, as two such sums would tell one's loss.
            training_loss=float(total.exact["loss"]) / len(total.survivors) if "loss" in total.exact else None,
            validation_loss=None if evaluation is None else evaluation.loss,
            validation_accuracy=None if evaluation is None else evaluation.accuracy,
            seconds=seconds,
            aggregation_seconds=sum(total.costs.seconds.get(step, 0.0) for step in AGGREGATION),
            bytes_sent_per_hospital=sum(sent) // len(sent) if sent else None,
            bytes_in_the_clear=clear_bytes,
            survivors=len(total.survivors),
            restarts=total.restarts,
        )
        traffic = RoundTraffic(
            round=number,
            survivors=self.course.standing.last_sum,
            restarts=total.restarts,
            seconds=seconds,
            seconds_by_step=total.costs.seconds,
            bytes_sent=total.costs.sent,
            bytes_received=total.costs.received,
        )
        self._finished(line, traffic)
        return goes_on

    def _evaluate(self, task: RoundTask) -> Evaluation | None:
        """The averaged weights on all hospitals' validation images, as sums; kept if they are the best so far.

        None, and the run goes on, if a hospital is missing: sums without it would tell its images' part in others.
        """
        survey, number = self.course.standing.survey, task.number + 1
        if survey is None or not survey.validation:
            return None
        try:
            total = self._aggregate(Step.EVALUATE)
        except AggregationAborted as error:
            words = f"not evaluated, as that needs all hospitals: {error}"
            self._show(Event(what=FAILED, round=number, attempt=0, words=words))
            return None
        evaluation = Evaluation(
            round=number,
            examples=survey.validation,
            accuracy=int(total.exact["correct"]) / survey.validation,
            loss=float(total.exact["loss"]) / survey.validation,
            final_size=task.final_size,
        )
        kept = self.chosen()
        self._save(evaluations=(*self.progress.evaluations, evaluation))
        if self.chosen() != kept:
            self.keep_best()
        return evaluation

    def write_record(self) -> None:
        """Write run.json, from which `federated-learning publish` makes the model's card."""
        settings, standing, survey = self._settings, self.course.standing, self.course.standing.survey
        if survey is None or not standing.rounds:
            return
        chosen, training, aggregation = self.chosen(), settings.training, settings.aggregation
        parameters: dict[str, str | int | float] | None = None
        if aggregation.secure:
            parameters = {
                "threshold": self.course.threshold,
                "ring bits": aggregation.ring_bits,
                "masks": "AES-CTR, 256-bit seeds from X25519",
            }
            if self.course.mechanism is not None:
                parameters |= record_privacy(self.course.mechanism, rounds=standing.rounds)
        trained = describe_training(
            training,
            hospitals=self._participants.names,
            class_counts=survey.count_by_class(settings.description.classes),
            rounds=standing.rounds,
            chosen_round=standing.rounds if chosen is None else chosen.round,
            how=None if self.course.mechanism else "each hospital's rounded to a power of two",
            restarted_rounds=self.progress.restarts,
            secure_aggregation=parameters,
            software={name: version(name) for name in PACKAGES},
        )
        run = RunRecord(
            settings=training,
            description=settings.description.with_statistics(survey.mean, survey.standard_deviation),
            training_roles=settings.training_roles,
            validation_role=settings.validation_role,
            kind=RunKind.FEDERATED_SECURE if aggregation.secure else RunKind.FEDERATED,
            federation=trained,
        )
        write_run(settings.output, run)

    def keep_best(self) -> None:
        """Write the present average as the weights of the run."""
        state = self._state()
        best = {name: value for name, value in state.items() if name == "facts" or name.startswith("average/")}
        checkpoints.save(best, self._settings.output / BEST)

    def _save(self, **changes: Any) -> None:
        """Note changes, and write everything so that a crash leaves the old file or the new one."""
        self.progress = self.progress.model_copy(update=changes)
        checkpoints.save(self._state(), self._settings.output / STATE)

    def _state(self) -> checkpoints.Arrays:
        training, rounds = self._settings.training, self.course.standing.rounds
        facts = {
            "epoch": self.plan()[rounds - 1].epoch + 1 if rounds else 0,
            "plans": [(0, [stage.model_dump() for stage in training.stages])],
            "progress": self.progress.model_dump(),
            "agreed": self.course.hash_agreement(),
        }
        return {"facts": checkpoints.write_facts(facts)} | self.course.state()

    def _restore(self) -> None:
        path = self._settings.output / STATE
        if not path.exists():
            return
        state = checkpoints.read(path)
        facts = checkpoints.read_facts(state)
        if facts.get("agreed") != self.course.hash_agreement():
            raise ConfigurationError(
                f"{path}: was written with another run's name, other settings or another version: give the same ones "
                "again, or another output folder and run"
            )
        self.progress = RunProgress.model_validate_json(json.dumps(facts["progress"]))
        self.course.restore(state)
