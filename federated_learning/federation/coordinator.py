"""The coordinator's side of a run: orders, sums, the global model, and what is kept of them. No network here.

The coordinator holds no image and judges nothing itself: validation is the hospitals' too, and only sums over all of
them reach it. After every round the global state is written in one piece, so the same command goes on after a crash.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contract.errors import AggregationAborted, ComputationFailed, ConfigurationError
from contract.model_card import Strict
from federated_learning import checkpoints
from federated_learning.averaging import GlobalModel
from federated_learning.data_statistics import PixelSums, class_weights, mean_and_deviation
from federated_learning.federation.aggregating import FAILED, Aggregator, Event, Sum, Traffic
from federated_learning.federation.exchange import Exchange
from federated_learning.federation.keys import Federation
from federated_learning.federation.messages import Step
from federated_learning.federation.orders import (
    WEIGHTS,
    EvaluateOrder,
    SurveyOrder,
    TrainOrder,
    evaluate_layout,
    pack,
    survey_layout,
    train_layout,
)
from federated_learning.federation.settings import CoordinatorSettings
from federated_learning.networks import Weights
from federated_learning.secure_aggregation import least_threshold
from federated_learning.secure_aggregation.encoding import (
    LARGEST,
    UpdateEncoding,
    VectorLayout,
    first_limits,
    next_limits,
    norm_of,
)
from federated_learning.settings import RoundTask, plan_rounds

FloatArray = NDArray[np.float32]
STATE, BEST = "checkpoint.npz", "best.npz"
WIDE_LIMIT, STATISTICS_LIMIT = 64.0, 8.0


class Survey(Strict):
    """What all hospitals have together."""

    examples: int
    validation: int
    weight: int
    """Of all hospitals' updates."""
    class_counts: tuple[int, ...]
    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]


class Evaluation(Strict):
    """Of the averaged global weights after a round, on all hospitals' validation images."""

    round: int
    examples: int
    accuracy: float
    loss: float
    final_size: bool


class Progress(Strict):
    """Where everything but the weights stands. Kept with them in one file."""

    survey: Survey | None = None
    rounds: int = 0
    """Done."""
    restarts: int = 0
    """Attempts at rounds that were given up, in all."""
    limits: dict[str, float]
    """Of the next round's updates."""
    last_sum: tuple[str, ...] = ()
    """Whose updates were in the last sum."""
    evaluations: tuple[Evaluation, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """A finished round."""

    round: int
    rounds: int
    survivors: tuple[str, ...]
    restarts: int
    training_loss: float | None
    """Mean over the hospitals; None where one may be missing, as two such sums would tell one's loss."""
    seconds: float
    traffic: Traffic
    evaluation: Evaluation | None
    clear_bytes: int
    """What each hospital would have sent without secure aggregation: its update as float32."""


class Coordinator:
    """Runs a federation to its end."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        federation: Federation,
        exchange: Exchange,
        *,
        show: Callable[[Event], None] = lambda _event: None,
        finished: Callable[[RoundReport], None] = lambda _report: None,
    ) -> None:
        """Continue what the output folder holds. Raises ConfigurationError."""
        self._settings, self._federation, self._exchange = settings, federation, exchange
        self._show, self._finished = show, finished
        aggregation, hospitals = settings.aggregation, len(federation.hospitals)
        self.threshold = aggregation.threshold or (least_threshold(hospitals) if aggregation.secure else 1)
        if aggregation.secure and hospitals < self.threshold:
            raise ConfigurationError(
                f"secure aggregation needs at least {self.threshold} hospitals, federation.json names {hospitals}: "
                "with two, each would learn the other's update"
            )
        self._aggregator = Aggregator(
            federation,
            exchange,
            waiting=settings.waiting,
            attempts=aggregation.attempts,
            folder=settings.output,
            show=show,
        )
        self._model = GlobalModel(settings.training)
        self._shapes = {name: tuple(value.shape) for name, value in self._model.weights.items()}
        self.progress = Progress(limits=_first_limits(_arrays(self._model.weights), aggregation.ring_bits))
        self._restore()

    def run(self) -> None:
        """Survey, all rounds, and the evaluations between them. Raises AggregationAborted where hospitals stay away."""
        survey = self.progress.survey or self._survey()
        tasks = self.tasks(survey)
        done = self.progress.rounds
        if done and tasks[done - 1].last_of_epoch and not self._evaluated(done):
            self._evaluate(tasks[done - 1], survey)  # the coordinator stopped between a round and its evaluation
        for task in tasks[done:]:
            if not self._round(task, survey, len(tasks)):
                break  # every hospital has trained enough
        if not (self._settings.output / BEST).exists():
            self.keep_best()

    def tasks(self, survey: Survey) -> tuple[RoundTask, ...]:
        """The rounds of this run."""
        hospitals = len(self._federation.hospitals)
        tasks = plan_rounds(self._settings.training, examples=survey.examples, hospitals=hospitals)
        return tasks[: self._settings.rounds]

    def chosen(self) -> Evaluation | None:
        """The evaluation whose weights are in best.npz; None where there is none at the model's size."""
        final = [one for one in self.progress.evaluations if one.final_size]
        return max(final, key=lambda one: (one.accuracy, -one.loss), default=None)

    def _evaluated(self, number: int) -> bool:
        return any(one.round == number for one in self.progress.evaluations)

    def _survey(self) -> Survey:
        """Ask what all hospitals have together. Only the sums become known.

        Every hospital must be in it, and it is made once: two sums of the same data that differ by a hospital would
        give that hospital's counts away.
        """
        order = SurveyOrder(**self._common(round_number=0) | self._from_all())
        total = self._aggregator.aggregate(Step.SURVEY, order, {}, survey_layout(order))
        while total is None:  # shares were given away: hospitals open the same sum again, and no other one
            total = self._aggregator.aggregate(Step.SURVEY, order, {}, survey_layout(order))
        counts = tuple(int(count) for count in total.exact["classes"])
        sums = PixelSums(
            count=tuple(map(int, total.exact["pixels"])),
            total=tuple(map(int, total.exact["pixel_total"])),
            squares=tuple(map(int, total.exact["pixel_squares"])),
        )
        mean, deviation = order.input.mean, order.input.standard_deviation
        if self._settings.exchange_statistics:
            mean, deviation = mean_and_deviation(sums)
        survey = Survey(
            examples=sum(counts),
            validation=int(total.exact["validation"]),
            weight=int(total.exact["weight"]),
            class_counts=counts,
            mean=mean,
            standard_deviation=deviation,
        )
        class_weights(counts, power=self._settings.training.class_balance)  # refuses a class that nobody has
        self._save(survey=survey)
        return survey

    def _round(self, task: RoundTask, survey: Survey, rounds: int) -> bool:
        """One round; False when all hospitals say that they have trained enough."""
        started, number = time.monotonic(), task.number + 1
        order = self._train_order(task, survey)
        layout = train_layout(order, self._shapes, hospitals=len(self._federation.hospitals))
        parts = {WEIGHTS: pack(_arrays(self._model.weights), self._shapes)}
        total = self._aggregator.aggregate(Step.TRAIN, order, parts, layout)
        loss, limits = None, dict(order.limits)
        if total is not None:
            limits = self._apply(order, layout, total, task)
            loss = float(total.exact["loss"]) / len(total.survivors) if "loss" in total.exact else None
        goes_on = total is None or int(total.exact["stopped"]) < len(total.survivors)
        restarts = 1 if total is None else total.restarts
        self._save(
            rounds=number,
            last_sum=() if total is None else tuple(sorted(total.survivors)),
            limits=limits,
            restarts=self.progress.restarts + restarts,
        )
        evaluation = self._evaluate(task, survey) if task.last_of_epoch or not goes_on else None
        self._finished(
            RoundReport(
                round=number,
                rounds=rounds,
                survivors=self.progress.last_sum,
                restarts=restarts,
                training_loss=loss,
                seconds=time.monotonic() - started,
                traffic=Traffic() if total is None else total.traffic,
                evaluation=evaluation,
                clear_bytes=4 * layout.update_length,
            )
        )
        return goes_on

    def _train_order(self, task: RoundTask, survey: Survey) -> TrainOrder:
        training = self._settings.training
        return TrainOrder(
            **self._common(round_number=task.number + 1),
            task=task,
            mean=survey.mean,
            standard_deviation=survey.standard_deviation,
            class_weights=class_weights(survey.class_counts, power=training.class_balance),
            weight_total=survey.weight,
            limits=self.progress.limits,
            last_sum=self.progress.last_sum,
        )

    def _apply(self, order: TrainOrder, layout: VectorLayout, total: Sum, task: RoundTask) -> dict[str, float]:
        """Add the mean update to the global model, and return the next limits."""
        if order.secure:
            encoding = UpdateEncoding(layout=layout, limits=order.limits, weight_total=order.weight_total)
            mean = encoding.decode(total.update)
        else:
            flat = total.update.astype(np.float32)
            mean = {name: flat[where].reshape(layout.update[name]) for name, where in layout.slices().items()}
        _check_norm(norm_of(mean), self._settings.aggregation.max_norm)
        self._model.apply({name: torch.from_numpy(value) for name, value in mean.items()}, batches=task.batches)
        if not order.secure:
            return dict(order.limits)
        return next_limits(order.limits, total.exact[LARGEST], hospitals=len(total.survivors))

    def _evaluate(self, task: RoundTask, survey: Survey) -> Evaluation | None:
        """The averaged weights on all hospitals' validation images, as sums; kept if they are the best so far.

        None, and the run goes on, where a hospital is missing: sums without it would tell its images' part in others.
        """
        if not survey.validation:
            return None
        order = EvaluateOrder(
            **self._common(round_number=task.number + 1) | self._from_all(),
            mean=survey.mean,
            standard_deviation=survey.standard_deviation,
            size=task.size,
        )
        parts = {WEIGHTS: pack(_arrays(self._model.average), self._shapes)}
        try:
            total = self._aggregator.aggregate(Step.EVALUATE, order, parts, evaluate_layout(order))
        except AggregationAborted as error:
            words = f"not evaluated, as that needs all hospitals: {error}"
            self._show(Event(what=FAILED, round=order.round, attempt=0, words=words))
            return None
        if total is None:
            return None
        evaluation = Evaluation(
            round=task.number + 1,
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

    def keep_best(self) -> None:
        """Write the present average as the weights of the run."""
        state = self._state()
        best = {name: value for name, value in state.items() if name == "facts" or name.startswith("average/")}
        checkpoints.save(best, self._settings.output / BEST)

    def _from_all(self) -> dict[str, int]:
        """What makes an order one whose sum is opened over all hospitals or not at all."""
        return {"threshold": len(self._federation.hospitals)}

    def _common(self, *, round_number: int) -> dict[str, Any]:
        settings, description = self._settings, self._settings.description
        return {
            "run": settings.run,
            "round": round_number,
            "secure": settings.aggregation.secure,
            "threshold": self.threshold,
            "ring_bits": settings.aggregation.ring_bits,
            "classes": description.classes,
            "input": description.input,
            "training": settings.training,
        }

    def _save(self, **changes: Any) -> None:
        """Note changes, and write everything so that a crash leaves the old file or the new one."""
        self.progress = self.progress.model_copy(update=changes)
        checkpoints.save(self._state(), self._settings.output / STATE)

    def _state(self) -> checkpoints.Arrays:
        survey, training = self.progress.survey, self._settings.training
        rounds = self.progress.rounds
        facts = {
            "epoch": self.tasks(survey)[rounds - 1].epoch + 1 if survey and rounds else 0,
            "plans": [(0, [stage.model_dump() for stage in training.stages])],
            "progress": self.progress.model_dump(),
            "run": self._settings.run,
            "training": training.model_dump_json(),
        }
        return {"facts": np.array(json.dumps(facts))} | self._model.state()

    def _restore(self) -> None:
        path = self._settings.output / STATE
        if not path.exists():
            return
        state = checkpoints.read(path)
        facts = json.loads(str(state["facts"]))
        if (facts["run"], facts["training"]) != (self._settings.run, self._settings.training.model_dump_json()):
            raise ConfigurationError(
                f"{path}: was written with another run's name or training settings: give the same ones again, or "
                "another output folder and run"
            )
        self.progress = Progress.model_validate_json(json.dumps(facts["progress"]))
        self._model.restore(state)


def _arrays(weights: Weights) -> dict[str, FloatArray]:
    return {name: value.numpy() for name, value in weights.items()}


def _first_limits(weights: dict[str, FloatArray], ring_bits: int) -> dict[str, float]:
    """What the first round's updates are clipped to.

    A ring of 32 bits has room for anything; one of 16 has not, but statistics of batch normalisation, which begin at 0
    and 1, jump to what the data has.
    """
    if ring_bits == 32:
        return first_limits(weights, floor=WIDE_LIMIT)
    limits = first_limits(weights)
    return {name: max(limit, STATISTICS_LIMIT if "running_" in name else 0.0) for name, limit in limits.items()}


def _check_norm(norm: float, max_norm: float) -> None:
    if not norm <= max_norm:
        raise ComputationFailed(
            f"the mean update has norm {norm:.3g}, above {max_norm:.3g}: a hospital sent what it should not. The state "
            "before it is kept; look for the hospital, or raise aggregation.max_norm"
        )
