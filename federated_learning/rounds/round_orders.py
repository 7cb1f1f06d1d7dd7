"""What the coordinator orders in a round, and which sums the hospitals answer with.

Every hospital knows beforehand what the order must be (`course.py`); it is sent so that a difference is named. Both
sides derive the terms of secure aggregation from it, so hospitals that differ get messages that do not fit together.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from contract.base import Name, Sha256, Strict
from contract.errors import PeerViolation
from contract.model_card import InputSpecification
from federated_learning.data_statistics import PIXEL_SUMS
from federated_learning.privacy.settings import Privacy
from federated_learning.rounds.letters import Letter, Step
from federated_learning.rounds.participants import Participants
from federated_learning.secure_aggregation.encoding import ExactField, VectorLayout, largest_field
from federated_learning.secure_aggregation.terms import RoundTerms
from federated_learning.training_settings import RoundTask, TrainingSettings

ORDER, ATTEMPT = "order", "attempt"
WEIGHTS = "weights"
PRESENT = "present"
"""Name of the only sum of a survey with privacy: one for each hospital."""
LOSS_BITS = 20
"""Binary digits that are kept of a sum of losses."""


class RoundOrder(Strict):
    """Sent to every hospital in the same words. One order may take several attempts."""

    run: Name
    round: Annotated[int, Field(ge=0)]
    """0: the survey; otherwise the number of the round, also of the evaluation after it."""
    secure: bool
    threshold: Annotated[int, Field(ge=1)]
    ring_bits: Literal[16, 32]
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=1000)]
    input: InputSpecification
    training: TrainingSettings
    privacy: Privacy | None
    """None: updates are added up as they are, and counts exactly."""


class SurveyOrder(RoundOrder):
    """Count examples, classes and pixels, once in a run. The initial weights come along."""

    round: Literal[0]
    survivors: Annotated[int, Field(ge=1)]
    """Of how many hospitals the sums of the rounds are, at least."""
    exchange_statistics: bool


class TrainOrder(RoundOrder):
    """Train `task` from the global weights."""

    weights: Sha256
    task: RoundTask
    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]
    """With which pixels in [0, 1] are normalised, by channel."""
    class_weights: tuple[Annotated[float, Field(gt=0)], ...]
    weight_total: Annotated[int, Field(ge=1)]
    """Of all hospitals together: what an update's weight is a part of."""
    limits: Mapping[str, Annotated[float, Field(gt=0)]]
    """What an element of a tensor's update is clipped to."""
    last_sum: tuple[Name, ...] = ()
    """Whose updates were in the last sum: the others keep theirs for this one."""


class EvaluateOrder(RoundOrder):
    """Evaluate the average of the global weights on validation images."""

    weights: Sha256
    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]
    size: Annotated[int, Field(ge=8, le=4096)]


PURPOSES = {Step.SURVEY: "survey", Step.TRAIN: "train", Step.EVALUATE: "evaluate"}
FROM_ALL = frozenset({Step.SURVEY, Step.EVALUATE})
"""Steps whose sums are opened over all hospitals or not at all."""
O = TypeVar("O", bound=RoundOrder)


@dataclass(frozen=True, kw_only=True, repr=False)
class Question(Generic[O]):
    """An order, what is added up as the answer to it, and what the answers follow from."""

    step: Step
    order: O
    layout: VectorLayout
    subject: bytes
    """SHA-256 of what a hospital's vector follows from: sums of one subject are over the same hospitals, always."""
    parts: Mapping[str, bytes] = field(default_factory=dict)
    """What is sent beside the order."""


def write_order(order: RoundOrder, *, attempt: int, parts: Mapping[str, bytes]) -> Letter:
    """The order as it is sent."""
    return Letter(header={ORDER: order.model_dump(mode="json"), ATTEMPT: attempt}, parts=parts)


def read_order(letter: Letter, kind: type[O]) -> tuple[O, int]:
    """The order and the number of the attempt. Raises PeerViolation."""
    try:
        # JSON has no tuples: through JSON, pydantic reads lists where tuples are meant, and nothing else loosely.
        order = kind.model_validate_json(json.dumps(letter.header.get(ORDER)))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise PeerViolation(f"the coordinator's order is wrong at '{where}': run the same version everywhere") from None
    return order, read_attempt(letter)


def read_attempt(letter: Letter) -> int:
    """Raises PeerViolation if it is missing."""
    attempt = letter.header.get(ATTEMPT)
    if type(attempt) is not int or not 0 <= attempt < 1 << 31:
        raise PeerViolation("the coordinator's message has no number of the attempt: run the same version everywhere")
    return attempt


def hash_order(step: Step, order: RoundOrder, parts: Mapping[str, bytes]) -> bytes:
    """SHA-256 of all that an order says, the parts beside it included."""
    return hash_parts(step.value.encode() + b"\0" + order.model_dump_json().encode(), parts)


def hash_parts(start: bytes, parts: Mapping[str, bytes]) -> bytes:
    """SHA-256 of `start` and of named byte strings."""
    digest = hashlib.sha256(start)
    for name in sorted(parts):
        digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(parts[name]).digest())
    return digest.digest()


def derive_terms(participants: Participants, question: Question[Any], *, attempt: int) -> RoundTerms:
    """Terms of the aggregation that answers it. Raises ConfigurationError if they would not protect."""
    step, order, layout = question.step, question.order, question.layout
    return RoundTerms(
        training_id=identify_training(participants, order.run),
        purpose=PURPOSES[step],
        round_number=order.round,
        attempt=attempt,
        roster=participants.roster(),
        threshold=order.threshold,
        update_length=layout.update_length,
        ring_bits=layout.ring_bits,
        exact_length=layout.exact_length,
        subject=question.subject,
        common_hash=hash_order(step, order, question.parts),
    )


def identify_training(participants: Participants, run: str) -> str:
    """Hexadecimal hash of who takes part and of the run's name: a new run has a new one, and fresh masks."""
    return hashlib.sha256(f"{participants.fingerprint}/{run}".encode()).hexdigest()


def lay_out_survey(order: SurveyOrder) -> VectorLayout:
    """Counts, and sums of pixels if everybody's settings say so; with privacy only who is there."""
    if order.privacy is not None:
        return VectorLayout(update={}, exact={PRESENT: ExactField(())}, ring_bits=order.ring_bits)
    fields = {
        "validation": ExactField(()),
        "weight": ExactField(()),
        "classes": ExactField((len(order.classes),)),
    }
    if order.exchange_statistics:
        fields |= dict.fromkeys(PIXEL_SUMS, ExactField((order.input.channels,)))
    return VectorLayout(update={}, exact=fields, ring_bits=order.ring_bits)


def lay_out_training(order: RoundOrder, shapes: Mapping[str, tuple[int, ...]], *, hospitals: int) -> VectorLayout:
    """The update, and beside it exactly: who has trained enough for itself (0 or 1), how far each tensor moved.

    And the mean loss of each hospital, if none of the `hospitals` may be missing: of sums over different ones the
    difference would tell one hospital's.
    """
    if order.privacy is not None:  # nothing exact: the noise is on what there is
        return VectorLayout(update=shapes, exact={}, ring_bits=order.ring_bits)
    fields = {"stopped": ExactField(()), **largest_field(shapes)}
    if order.threshold == hospitals:
        fields["loss"] = ExactField((), LOSS_BITS)
    return VectorLayout(update=shapes, exact=fields, ring_bits=order.ring_bits)


def lay_out_evaluation(order: RoundOrder) -> VectorLayout:
    """How many validation images are judged rightly, and their summed loss. How many there are, the survey said."""
    fields = {"correct": ExactField(()), "loss": ExactField((), LOSS_BITS)}
    return VectorLayout(update={}, exact=fields, ring_bits=order.ring_bits)


def count_elements(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Elements of all tensors together."""
    return sum(prod(shape) for shape in shapes.values())


def pack(tensors: Mapping[str, NDArray[np.float32]], shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Tensors one after the other, float32, little-endian, in the order of `shapes`."""
    return b"".join(np.ascontiguousarray(tensors[name], dtype="<f4").tobytes() for name in shapes)


def unpack(content: bytes, shapes: Mapping[str, tuple[int, ...]], *, whose: str) -> dict[str, NDArray[np.float32]]:
    """What `pack` wrote, as copies. Raises PeerViolation for another length or for values that are not finite."""
    if len(content) != 4 * count_elements(shapes):
        raise PeerViolation(
            f"{whose} sent {len(content)} bytes of weights, not {4 * count_elements(shapes)}: use the same "
            "architecture, classes and channels everywhere"
        )
    flat = np.frombuffer(content, dtype="<f4").astype(np.float32)
    if not np.isfinite(flat).all():
        raise PeerViolation(f"{whose} sent weights that are not finite: its training diverged; lower the learning rate")
    return VectorLayout(update=shapes, exact={}).split(flat)
