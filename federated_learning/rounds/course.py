"""The course of a run: what follows from its settings and the sums alone, at the coordinator and at every hospital.

Each hospital computes the global weights, and what the next order must say, by itself. The coordinator chooses neither:
it only passes on how the last sum was opened (`secure_aggregation/opening.py`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contract.base import Name, Sha256, Strict
from contract.errors import ComputationFailed, ConfigurationError, PeerViolation, Refused
from federated_learning.averaging import GlobalModel
from federated_learning.checkpoints import Arrays
from federated_learning.data_statistics import compute_statistics, weigh_classes
from federated_learning.local_training import learning_rate
from federated_learning.privacy.mechanism import Mechanism
from federated_learning.privacy.words import describe_privacy
from federated_learning.rounds.letters import Step
from federated_learning.rounds.participants import Participants
from federated_learning.rounds.round_orders import (
    FROM_ALL,
    PRESENT,
    WEIGHTS,
    EvaluateOrder,
    Question,
    SurveyOrder,
    TrainOrder,
    count_elements,
    lay_out_evaluation,
    lay_out_survey,
    lay_out_training,
    pack,
    unpack,
)
from federated_learning.rounds.settings import RunSettings
from federated_learning.secure_aggregation.encoding import (
    LARGEST,
    UpdateEncoding,
    VectorLayout,
    compute_norm,
    first_limits,
    next_limits,
)
from federated_learning.torch_networks import Weights
from federated_learning.training_settings import MAX_EXAMPLES, RoundTask, plan_rounds, plan_steps

FloatArray = NDArray[np.float32]
WIDE_LIMIT, STATISTICS_LIMIT = 64.0, 8.0
RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""How far the initial weights of two machines differ at most: their logarithms and cosines do in the last bits."""
CLASS_WEIGHT_DIGITS = 9
"""Powers differ between machines in the last bits; these do not."""
RATE_DIGITS = 9
"""Of a learning rate, which follows from a cosine."""


class Survey(Strict):
    """What all hospitals have together."""

    examples: int
    validation: int
    weight: int
    """Of all hospitals' updates."""
    class_counts: tuple[int, ...]
    """Empty in a run with privacy: nobody counts."""
    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]

    def count_by_class(self, classes: tuple[str, ...]) -> dict[str, int] | None:
        """Training images of all hospitals together, if they were counted."""
        return dict(zip(classes, self.class_counts, strict=True)) if self.class_counts else None


class Standing(Strict):
    """Where a run stands, beside its weights."""

    survey: Survey | None = None
    rounds: int = 0
    """Done."""
    limits: dict[str, float]
    """Of the next round's updates."""
    last_sum: tuple[Name, ...] = ()
    """Whose updates were in the last sum."""
    subject: Sha256
    """What the next updates follow from: the weights, as they were when they last changed."""


@dataclass(frozen=True, kw_only=True, repr=False)
class OpenedSum:
    """The sum of the survivors' vectors, and nothing else."""

    update: NDArray[Any]
    """Ring elements; in the clear float64. Each update counts by its weight among all hospitals."""
    exact: Mapping[str, NDArray[Any]]
    """Sums by name."""
    survivors: frozenset[str]
    """The hospitals in it."""


class Course:
    """One run's state, moved on by sums only. `position` counts them: the survey's, then each round's."""

    def __init__(self, settings: RunSettings, participants: Participants) -> None:
        """Begin with the weights that the settings' seed gives on this machine. Raises ConfigurationError."""
        self._settings, self._participants, self._hospitals = settings, participants, len(participants.hospitals)
        self.threshold = settings.aggregation.survivors(self._hospitals)
        self._model = GlobalModel(settings.training)
        self.shapes = {name: tuple(value.shape) for name, value in self._model.weights.items()}
        self.mechanism = self._plan_mechanism()
        """How noise is added and sums are read with differential privacy; None: without."""
        self._drawn = {name: value.copy() for name, value in self.weights.items()}
        self.standing = Standing(limits=self._first_limits(), subject=self._first_subject())

    def _plan_mechanism(self) -> Mechanism | None:
        privacy = self._settings.privacy
        if privacy is None:
            return None
        elements = count_elements(self.shapes)
        return Mechanism.plan(privacy, hospitals=self._hospitals, threshold=self.threshold, elements=elements)

    @property
    def position(self) -> int:
        """How many sums were followed."""
        return 0 if self.standing.survey is None else 1 + self.standing.rounds

    @property
    def next_step(self) -> Step:
        """The step whose sum moves the run on."""
        return Step.SURVEY if self.standing.survey is None else Step.TRAIN

    @property
    def average(self) -> dict[str, FloatArray]:
        """The averaged global weights, which are evaluated."""
        return _arrays(self._model.average)

    @property
    def weights(self) -> dict[str, FloatArray]:
        """The global weights, from which hospitals train."""
        return _arrays(self._model.weights)

    def plan(self) -> tuple[RoundTask, ...]:
        """All rounds of the run. Raises PeerViolation before the survey, unless it has privacy."""
        training = self._settings.training
        if self._settings.privacy is not None:
            return plan_steps(training, rate=self._settings.privacy.sampling_rate)
        return plan_rounds(training, examples=self._require_survey().examples, hospitals=self._hospitals)

    def begin_with(self, content: bytes) -> None:
        """Take over the initial weights as another machine drew them. Raises Refused if they are not this run's.

        They are compared with what this machine drew, and not with what it was given before: many small steps would
        lead anywhere.
        """
        given = unpack(content, self.shapes, whose="the coordinator")
        pairs = ((given[name], drawn) for name, drawn in self._drawn.items())
        close = (np.allclose(one, drawn, rtol=RELATIVE, atol=ABSOLUTE) for one, drawn in pairs)
        if self.position or not all(close):
            raise Refused(
                "the coordinator's initial weights are not those that the settings' seed gives here: run the same "
                "version everywhere"
            )
        self._model.begin_with({name: torch.from_numpy(value) for name, value in given.items()})
        self.standing = Standing(limits=self._first_limits(), subject=self.standing.subject)

    def ask(self, step: Step) -> Question[Any]:
        """What may be asked now, word for word. Raises PeerViolation if it is not the time for it."""
        if step is Step.SURVEY and self.position == 0:
            survey = self._order_survey()
            parts = {WEIGHTS: pack(self.weights, self.shapes)}
            # Whatever is counted, it is counted with the same hospitals; with privacy nothing is.
            subject = bytes(32) if self.mechanism is None else hashlib.sha256(PRESENT.encode()).digest()
            return Question(step=step, order=survey, layout=lay_out_survey(survey), subject=subject, parts=parts)
        tasks, rounds = self.plan(), self.standing.rounds
        if step is Step.TRAIN and rounds < len(tasks):
            train = self._order_training(tasks[rounds])
            layout = lay_out_training(train, self.shapes, hospitals=self._hospitals)
            return Question(step=step, order=train, layout=layout, subject=bytes.fromhex(self.standing.subject))
        if step is Step.EVALUATE and rounds and self.mechanism is None:
            evaluate = self._order_evaluation(tasks[rounds - 1])
            subject = bytes.fromhex(evaluate.weights)
            return Question(step=step, order=evaluate, layout=lay_out_evaluation(evaluate), subject=subject)
        raise PeerViolation(f"the coordinator asks for '{step.name.lower()}' after {rounds} rounds: it is not the time")

    def follow(self, total: OpenedSum, *, max_norm: float = inf) -> None:
        """Move on by the sum that answers the question of `next_step`.

        Raises ComputationFailed for a mean update of a larger norm, ConfigurationError for data that make no model; the
        course then stays where it was.
        """
        if self.next_step is Step.SURVEY:
            self.standing = self.standing.model_copy(update={"survey": self._read_survey(total)})
            return
        question = self.ask(Step.TRAIN)
        order, layout = question.order, question.layout
        changes = {"rounds": self.standing.rounds + 1, "last_sum": tuple(sorted(total.survivors))}
        mean = self._decode(order, layout, total)
        if not (norm := compute_norm(mean)) <= max_norm:
            raise ComputationFailed(
                f"the mean update has norm {norm:.3g}, above {max_norm:.3g}: a hospital sent what it should not. The "
                "state before it is kept; look for the hospital, or raise aggregation.max_norm"
            )
        self._model.apply({name: torch.from_numpy(value) for name, value in mean.items()}, batches=order.task.batches)
        if order.secure and self.mechanism is None:
            changes["limits"] = next_limits(order.limits, total.exact[LARGEST], hospitals=len(total.survivors))
        after = self._digest(self.weights)
        if after != order.weights:  # the same weights stay the same subject, whatever they were called
            changes["subject"] = after
        self.standing = self.standing.model_copy(update=changes)

    def _decode(self, order: TrainOrder, layout: VectorLayout, total: OpenedSum) -> dict[str, FloatArray]:
        """The change of the weights that a round's sum says: with privacy a step along the noised gradient."""
        if self.mechanism is not None:
            middle = (order.task.begin + order.task.end) / 2
            rate = round(learning_rate(order.training, middle), RATE_DIGITS)
            return layout.split(self.mechanism.decode(total.update, rate=rate))
        if not order.secure:
            return layout.split(total.update.astype(np.float32))
        return UpdateEncoding(layout=layout, limits=order.limits, weight_total=order.weight_total).decode(total.update)

    def state(self) -> Arrays:
        """All that `restore` needs, as arrays by name."""
        return {"course": np.array(self.standing.model_dump_json())} | self._model.state()

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue where `state` was taken."""
        self.standing = Standing.model_validate_json(str(state["course"]))
        self._model.restore(state)

    def describe(self) -> tuple[str, ...]:
        """What this site's settings say about the run, for its people to read."""
        settings, training, asked = self._settings, self._settings.training, self._settings.description.input
        some = f"at least {self.threshold} of them in each sum, which can tell a missing one's update"
        survivors = some if self.threshold < self._hospitals else "all of them in each sum"
        clear = "" if settings.aggregation.secure else ", IN THE CLEAR"
        classes = ", ".join(settings.description.classes)
        stages = "; ".join(f"{one.size} px: {one.epochs} epochs in batches of {one.batch}" for one in training.stages)
        who = self._participants
        return (
            f"federation.json {who.fingerprint}: {', '.join(who.names)}; coordinator {who.coordinator}",
            f"run '{settings.run}' of {self._hospitals} hospitals, {survivors}{clear}",
            f"classes {classes}; images {asked.channels} x {asked.height} x {asked.width}",
            f"{training.architecture}, seed {training.seed}; {stages}",
            *self._describe_privacy(),
            f"settings {self.hash_agreement()}: everybody's screen must show the same",
        )

    def _describe_privacy(self) -> tuple[str, ...]:
        if self.mechanism is None:
            return ()
        return describe_privacy(self.mechanism, rounds=len(self.plan()), hospitals=self._hospitals)

    def hash_agreement(self) -> str:
        """A hash of what everybody's settings must say alike, hexadecimal: to be compared by telephone."""
        return hashlib.sha256(self._order_survey().model_dump_json().encode()).hexdigest()

    def _require_survey(self) -> Survey:
        if self.standing.survey is None:
            raise PeerViolation("the coordinator asks for a round before the survey: run the same version everywhere")
        return self.standing.survey

    def _common_fields(self, step: Step, round_number: int) -> dict[str, Any]:
        settings, description = self._settings, self._settings.description
        return {
            "run": settings.run,
            "round": round_number,
            "secure": settings.aggregation.secure,
            "threshold": self._hospitals if step in FROM_ALL else self.threshold,
            "ring_bits": settings.aggregation.ring_bits,
            "classes": description.classes,
            "input": description.input,
            "training": settings.training,
            "privacy": settings.privacy,
        }

    def _order_survey(self) -> SurveyOrder:
        statistics = self._settings.exchange_statistics
        common = self._common_fields(Step.SURVEY, 0)
        return SurveyOrder(**common, survivors=self.threshold, exchange_statistics=statistics)

    def _order_training(self, task: RoundTask) -> TrainOrder:
        survey = self._require_survey()
        weights = self._weigh_classes(survey)
        return TrainOrder(
            **self._common_fields(Step.TRAIN, task.number + 1),
            weights=self._digest(self.weights),
            task=task,
            mean=survey.mean,
            standard_deviation=survey.standard_deviation,
            class_weights=tuple(round(weight, CLASS_WEIGHT_DIGITS) for weight in weights),
            weight_total=survey.weight,
            limits=self.standing.limits,
            last_sum=self.standing.last_sum,
        )

    def _weigh_classes(self, survey: Survey) -> tuple[float, ...]:
        if self.mechanism is not None:
            return (1.0,) * self._settings.training.classes
        return tuple(weigh_classes(survey.class_counts, power=self._settings.training.class_balance))

    def _order_evaluation(self, task: RoundTask) -> EvaluateOrder:
        survey = self._require_survey()
        return EvaluateOrder(
            **self._common_fields(Step.EVALUATE, task.number + 1),
            weights=self._digest(self.average),
            mean=survey.mean,
            standard_deviation=survey.standard_deviation,
            size=task.size,
        )

    def _read_survey(self, total: OpenedSum) -> Survey:
        exact, description = total.exact, self._settings.description
        if self._settings.privacy is not None:
            asked, agreed = description.input, self._settings.privacy.patients
            statistics = {"mean": asked.mean, "standard_deviation": asked.standard_deviation}
            return Survey(examples=agreed, validation=0, weight=1, class_counts=(), **statistics)
        counts = tuple(int(count) for count in exact["classes"])
        weigh_classes(counts, power=self._settings.training.class_balance)  # refuses a class that nobody has
        examples, validation, weight = sum(counts), int(exact["validation"]), int(exact["weight"])
        if max(examples, validation, weight) > MAX_EXAMPLES or validation < 0 or weight < 1:
            raise ConfigurationError(
                "the hospitals' counts cannot be what they say together: a hospital sent what it should not"
            )
        mean, deviation = description.input.mean, description.input.standard_deviation
        if self._settings.exchange_statistics:
            mean, deviation = compute_statistics(exact)
        return Survey(
            examples=examples,
            validation=validation,
            weight=weight,
            class_counts=counts,
            mean=mean,
            standard_deviation=deviation,
        )

    def _first_limits(self) -> dict[str, float]:
        """What the first round's updates are clipped to.

        A ring of 32 bits has room for anything; one of 16 has not, but statistics of batch normalisation, which begin
        at 0 and 1, jump to what the data has.
        """
        if self.mechanism is not None:
            return {}
        if self._settings.aggregation.ring_bits == 32:
            return first_limits(self.weights, floor=WIDE_LIMIT)
        limits = first_limits(self.weights)
        return {name: max(limit, STATISTICS_LIMIT if "running_" in name else 0.0) for name, limit in limits.items()}

    def _first_subject(self) -> str:
        """Of the initial weights: the seed alone, as their last bits differ between machines.

        From one seed, a network with a class more begins with the same weights in all other places.
        """
        return hashlib.sha256(str(self._settings.training.seed).encode()).hexdigest()

    def _digest(self, weights: Mapping[str, FloatArray]) -> str:
        """SHA-256 of weights as numbers, so that -0 is 0."""
        same = {name: value + np.float32(0) for name, value in weights.items()}
        return hashlib.sha256(pack(same, self.shapes)).hexdigest()


def find_difference(asked: Any, own: Any, where: str = "") -> tuple[str, object, object] | None:
    """Where two orders, as JSON, first differ, what stands there in `asked`, and what in `own`; None if nowhere."""
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(asked, dict) and isinstance(own, dict):
        pairs = [(str(key), asked.get(key), own.get(key)) for key in dict.fromkeys([*own, *asked])]
    elif isinstance(asked, list) and isinstance(own, list) and len(asked) == len(own):
        pairs = [(str(index), one, other) for index, (one, other) in enumerate(zip(asked, own, strict=True))]
    elif asked != own:
        return where, asked, own
    found = (find_difference(one, other, f"{where}.{key}" if where else key) for key, one, other in pairs)
    return next((one for one in found if one is not None), None)


def _arrays(weights: Weights) -> dict[str, FloatArray]:
    return {name: value.numpy() for name, value in weights.items()}
