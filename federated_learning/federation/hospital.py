"""A hospital's side of every round: its data, its trainer, and its part in secure aggregation. No network here.

Kept on disk, so that a crash costs nothing that was finished: the trainer's state, the update of the last round and
what rounding cut off of it, and which rounds were signed. The secrets of an aggregation are in memory only; after a
crash the round is made again with fresh ones.
"""

import hashlib
import json
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from contract.errors import (
    ConfigurationError,
    EncryptedInferenceError,
    PeerViolation,
    Refused,
)
from contract.files import replace
from federated_learning.data_statistics import pixel_sums
from federated_learning.federation.keys import Federation
from federated_learning.federation.local_work import LocalWork
from federated_learning.federation.messages import (
    ADVERTISEMENT,
    CONFIRMATION,
    CONFIRMATIONS,
    DELIVERY,
    DIRECTORY,
    ERROR,
    EXACT,
    MASKED,
    SHARES,
    SURVIVORS,
    UNMASKING,
    UPDATE,
    Letter,
    Step,
    Trouble,
)
from federated_learning.federation.orders import (
    FROM_ALL,
    PURPOSES,
    WEIGHTS,
    EvaluateOrder,
    O,
    Order,
    SurveyOrder,
    TrainOrder,
    evaluate_layout,
    order_of,
    survey_layout,
    terms_of,
    train_layout,
    unpack,
)
from federated_learning.federation.settings import HospitalSettings
from federated_learning.networks import new_network, shared_weights
from federated_learning.secure_aggregation import HospitalAggregation, RingVector, RoundHistory
from federated_learning.secure_aggregation.encoding import LARGEST, VectorLayout, encode_exact, weight_of
from federated_learning.settings import TrainingSettings

HISTORY = "answered.json"
LARGEST_LOSS = 1000.0
"""Of one image, as it is counted."""


@dataclass(frozen=True, kw_only=True, repr=False)
class _Asked(Generic[O]):
    """An order that this hospital accepts."""

    step: Step
    order: O
    attempt: int
    letter: Letter


@dataclass(kw_only=True, repr=False)
class _Attempt:
    """One answer on its way: the vector, and the aggregation that will hide it (None: in the clear)."""

    vector: RingVector
    aggregation: HospitalAggregation | None


class HospitalSession:
    """Answers the coordinator's messages. One for the life of the process."""

    def __init__(
        self,
        settings: HospitalSettings,
        federation: Federation,
        signing_key: Ed25519PrivateKey,
        *,
        say: Callable[[str], None],
        progress: Callable[[str, int, int], None] = lambda _what, _done, _all: None,
    ) -> None:
        """`say` prints a line at the hospital; `progress(what, done, all)` moves its bar."""
        if settings.name not in federation.names:
            raise ConfigurationError(
                f"hospital {settings.name} is not in {settings.federation}: its hospitals are "
                f"{', '.join(federation.names)}"
            )
        self._settings, self._federation, self._signing_key = settings, federation, signing_key
        self._say = say
        self._folder = settings.state / settings.run
        self._folder.mkdir(parents=True, exist_ok=True)
        self._history = _history(settings.state / HISTORY)  # of all runs: the same images are in each
        self._work = LocalWork(settings, self._folder, say=say, progress=progress)
        self._attempt: _Attempt | None = None
        self._shapes: tuple[TrainingSettings, dict[str, tuple[int, ...]]] | None = None
        self._last: tuple[bytes, Letter] | None = None
        self.finished = False
        """Whether the coordinator said that the run is over."""

    def answer(self, step: Step, letter: Letter) -> Letter:
        """What goes back to the coordinator for a message of this step."""
        return self.respond(lambda: (step, letter))

    def respond(self, read: Callable[[], tuple[Step, Letter]]) -> Letter:
        """What goes back to the coordinator for the message that `read` takes apart: an answer, or why there is none.

        Everything that a message can cause ends here: whatever the coordinator sends, the hospital is there for the
        next message. Words stay on this hospital's own screen.
        """
        try:
            return self._answer(*read())
        except EncryptedInferenceError as error:
            self._attempt = None
            self._say(str(error) if self._settings.name in str(error) else f"hospital {self._settings.name}: {error}")
            return Letter(header={ERROR: _trouble(error).value})
        except Exception as error:  # noqa: BLE001  (the one boundary between the coordinator's messages and this process)
            self._attempt = None
            last = traceback.extract_tb(error.__traceback__)[-1]
            self._say(
                f"hospital {self._settings.name}: the coordinator's message could not be answered, by a fault in "
                f"{Path(last.filename).name}, line {last.lineno}. Nothing was sent; report that line to the maintainers"
            )
            return Letter(header={ERROR: Trouble.FAILED.value})

    def _answer(self, step: Step, letter: Letter) -> Letter:
        question = _digest(step, letter)
        if self._attempt is not None and self._last is not None and self._last[0] == question:
            return self._last[1]  # it was asked twice: the coordinator was not sure that the first one came
        if step in PURPOSES:
            self._attempt = None
        answer = Letter(parts=self._steps()[step](letter))
        self._last = (question, answer)
        return answer

    def _steps(self) -> Mapping[Step, Callable[[Letter], Mapping[str, bytes]]]:
        return {
            Step.SURVEY: self._survey,
            Step.TRAIN: self._train,
            Step.EVALUATE: self._evaluate,
            Step.SHARES: lambda letter: {SHARES: self._aggregation().share_keys(letter.part(DIRECTORY))},
            Step.MASKED: lambda letter: {MASKED: self._mask(letter.part(DELIVERY))},
            Step.CONFIRM: lambda letter: {CONFIRMATION: self._aggregation().confirm(letter.part(SURVIVORS))},
            Step.UNMASK: lambda letter: {UNMASKING: self._aggregation().unmask(letter.part(CONFIRMATIONS))},
            Step.PLAIN: lambda _letter: self._plain(),
            Step.FINISH: lambda _letter: self._finish(),
        }

    def _survey(self, letter: Letter) -> Mapping[str, bytes]:
        asked = self._accept(Step.SURVEY, letter, SurveyOrder)
        data = self._work.prepared(asked.order)
        pixels = pixel_sums(data.training.images.in_unit_range())
        values = {
            "validation": np.array(0 if data.validation is None else len(data.validation.labels)),
            "weight": np.array(weight_of(len(data.training.labels))),
            "classes": np.array(list(data.training.class_counts.values())),
            "pixels": np.array(pixels.count),
            "pixel_total": np.array(pixels.total),
            "pixel_squares": np.array(pixels.squares),
        }
        return self._begin(asked, survey_layout(asked.order), values)

    def _train(self, letter: Letter) -> Mapping[str, bytes]:
        asked = self._accept(Step.TRAIN, letter, TrainOrder)
        letter.part(WEIGHTS)
        layout = train_layout(asked.order, self._shapes_of(asked.order), hospitals=len(self._federation.hospitals))
        trained = self._work.trained(asked.order, letter.parts, layout)
        sums = {
            "stopped": np.array(int(trained.stopped)),
            "loss": np.array(_bounded(trained.loss, 1)),
            LARGEST: trained.largest,
        }
        values = {name: sums[name] for name in layout.exact}
        return self._begin(asked, layout, values, update=trained.encoded)

    def _evaluate(self, letter: Letter) -> Mapping[str, bytes]:
        asked = self._accept(Step.EVALUATE, letter, EvaluateOrder)
        weights = unpack(letter.part(WEIGHTS), self._shapes_of(asked.order), whose="the coordinator")
        sums = self._work.evaluated(asked.order, weights)
        loss = _bounded(sums.loss, sums.examples)
        values = {"correct": np.array(sums.correct), "loss": np.array(loss)}
        return self._begin(asked, evaluate_layout(asked.order), values)

    def _finish(self) -> Mapping[str, bytes]:
        self.finished = True
        self._say("the run is finished")
        return {}

    def _accept(self, step: Step, letter: Letter, kind: type[O]) -> "_Asked[O]":
        """Read an order, and refuse one that this hospital did not agree to."""
        order, attempt = order_of(letter, kind)
        if order.run != self._settings.run:
            raise Refused(
                f"hospital {self._settings.name} takes part in run '{self._settings.run}', not in '{order.run}': "
                "change 'run' in its settings if its people agree to this run"
            )
        if not order.secure and not self._settings.allow_plain:
            raise Refused(
                f"hospital {self._settings.name} sends nothing in the clear: aggregate securely, or set allow_plain "
                "there"
            )
        if step in FROM_ALL and order.threshold != len(self._federation.hospitals):
            raise Refused(
                f"hospital {self._settings.name} adds its counts only to sums over all hospitals, not over "
                f"{order.threshold}: the difference to another sum would tell one hospital's"
            )
        return _Asked(step=step, order=order, attempt=attempt, letter=letter)

    def _begin(
        self,
        asked: _Asked[Any],
        layout: VectorLayout,
        values: Mapping[str, NDArray[Any]],
        *,
        update: NDArray[Any] | None = None,
    ) -> Mapping[str, bytes]:
        """Hold the vector ready, and advertise fresh keys for hiding it."""
        none: NDArray[Any] = np.zeros(0, np.uint16 if layout.ring_bits == 16 else np.uint32)
        exact = encode_exact(layout, values, hospital=self._settings.name)
        vector = RingVector(none if update is None else update, exact)
        order = asked.order
        if not order.secure:
            self._attempt = _Attempt(vector=vector, aggregation=None)
            return {}
        terms = terms_of(
            self._federation, asked.step, order, attempt=asked.attempt, parts=asked.letter.parts, layout=layout
        )
        aggregation = HospitalAggregation(
            terms, name=self._settings.name, signing_key=self._signing_key, history=self._history
        )
        self._attempt = _Attempt(vector=vector, aggregation=aggregation)
        return {ADVERTISEMENT: aggregation.advertise()}

    def _shapes_of(self, order: Order) -> dict[str, tuple[int, ...]]:
        if self._shapes is None or self._shapes[0] != order.training:
            self._shapes = (order.training, shapes_of(order.training))
        return self._shapes[1]

    def _aggregation(self) -> HospitalAggregation:
        if self._attempt is None or self._attempt.aggregation is None:
            raise PeerViolation(
                f"hospital {self._settings.name} has no aggregation open: it started anew in the middle of the round"
            )
        return self._attempt.aggregation

    def _mask(self, delivery: bytes) -> bytes:
        aggregation = self._aggregation()
        assert self._attempt is not None
        return aggregation.mask(self._attempt.vector, delivery)

    def _plain(self) -> Mapping[str, bytes]:
        """The vector in the clear: the order said so, and this hospital's own settings allow it."""
        if self._attempt is None or self._attempt.aggregation is not None:
            raise PeerViolation(f"hospital {self._settings.name} was asked for an update in the clear, out of turn")
        vector = self._attempt.vector
        return {UPDATE: vector.update.tobytes(), EXACT: vector.exact.astype("<u8").tobytes()}


def shapes_of(training: TrainingSettings) -> dict[str, tuple[int, ...]]:
    """Of every tensor that is averaged, from the settings' architecture."""
    return {name: tuple(value.shape) for name, value in shared_weights(new_network(training)).items()}


def _trouble(error: EncryptedInferenceError) -> Trouble:
    match error:
        case Refused():
            return Trouble.REFUSED
        case PeerViolation():
            return Trouble.OUT_OF_TURN
        case _:
            return Trouble.FAILED


def _bounded(loss: float, examples: int) -> float:
    """A sum of losses that can be added up: that of a model which diverged may be beyond every number."""
    most = LARGEST_LOSS * examples
    return min(loss, most) if math.isfinite(loss) else most


def _digest(step: Step, letter: Letter) -> bytes:
    digest = hashlib.sha256(step.value.encode() + json.dumps(letter.header, sort_keys=True).encode())
    for name, content in sorted(letter.parts.items()):
        digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(content).digest())
    return digest.digest()


def _history(path: Path) -> RoundHistory:
    def store(state: str) -> None:
        replace(path, state.encode(), mode=0o600)

    return RoundHistory(path.read_text(encoding="utf-8") if path.exists() else None, save=store)
