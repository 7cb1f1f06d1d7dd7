"""The model card: what a model is for, what image it asks for, and what its outputs mean. Public."""

import hashlib
import math
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self, assert_never

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from contract.base import Name, Strict, Version, canonical_json
from contract.card_faults import find_card_faults, list_faults
from contract.errors import ModelFileError
from contract.references import References

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Positive = Annotated[float, Field(allow_inf_nan=False, ge=1e-6, le=1e6)]
"""Of a usual size, so that what is computed with it stays finite."""

MAX_CARD_BYTES = 1 << 20
MAX_SIDE = 4096
MAX_CLASSES = 10_000
MAX_NAME = 200
"""Characters of a class's name, and of the model's title."""
MAX_WORDS = 20_000
"""Characters of a card's longer texts."""
_MAX_LIST = 1000

_INVISIBLE: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS: Final = "\u200c\u200d"
"""Cannot be seen, but belong to words of Persian and of Indian languages."""
_TURNS: Final = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Bidirectional classes of characters that make what follows read the other way round."""


def _require_visible(text: str) -> str:
    hidden = any(
        one not in _JOINERS and (unicodedata.category(one) in _INVISIBLE or unicodedata.bidirectional(one) in _TURNS)
        for one in text
    )
    if hidden or not text.strip():
        raise ValueError("holds a line break or characters that cannot be seen, or nothing at all: write it again")
    return text


ShownName = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_require_visible)]
"""One line that people read beside an answer: nothing in it hides, or moves what stands beside it."""
Words = Annotated[str, Field(max_length=MAX_WORDS)]


class Modality(StrEnum):
    """DICOM modalities that a model may accept (PS3.3 C.7.3.1.1.1)."""

    CR = "CR"
    DX = "DX"
    MG = "MG"
    CT = "CT"
    MR = "MR"
    US = "US"
    OTHER = "OT"


class Window(Strict):
    """Linear window in stored units after the modality LUT: a card's, for files that carry none, or a file's own."""

    model_config = ConfigDict(allow_inf_nan=False)

    center: float
    width: Annotated[float, Field(gt=0)]


def _require_bounded(window: Window) -> Window:
    """A file's window may lie anywhere; one that a card gives is computed with for every picture."""
    if abs(window.center) > 1e6 or not 1e-6 <= window.width <= 1e6:
        raise ValueError("center and width must lie within 1,000,000, and width above 0.000001")
    return window


class FrameChoice(StrEnum):
    """Which picture of a file with several is read: frames of a DICOM file, pages of a TIFF, slices of a volume."""

    ONLY = "only"
    """None is chosen: a file with several is refused."""
    FIRST = "first"
    MIDDLE = "middle"


class ColourChoice(StrEnum):
    """What becomes of a picture in colours. One whose colours are all grey is read as grey in any case."""

    REFUSE = "refuse"
    LUMINANCE = "luminance"
    """Its brightness is read (ITU-R BT.601), as of an ultrasound picture with coloured marks."""


class View(StrEnum):
    """Projections of a radiograph, as DICOM's View Position names them (PS3.3 C.8.1.1 and C.8.11.5)."""

    AP = "AP"
    PA = "PA"
    LEFT_LATERAL = "LL"
    RIGHT_LATERAL = "RL"
    LEFT_LATERAL_DECUBITUS = "LLD"
    RIGHT_LATERAL_DECUBITUS = "RLD"
    LEFT_LATERAL_OBLIQUE = "LLO"
    RIGHT_LATERAL_OBLIQUE = "RLO"
    CRANIO_CAUDAL = "CC"
    MEDIO_LATERAL = "ML"
    LATERO_MEDIAL = "LM"
    MEDIO_LATERAL_OBLIQUE = "MLO"
    LATERO_MEDIAL_OBLIQUE = "LMO"


class Task(StrEnum):
    """What a model's outputs mean."""

    CLASSIFICATION = "classification"
    """One of the classes holds: probabilities are a softmax and add up to 1."""
    BINARY = "binary"
    """One of two classes holds, the second the finding; model.onnx ends in one number, the finding's logit. At import
    it becomes the logits (0, finding), so that everything else sees a classification with two classes."""
    MULTI_LABEL = "multi-label"
    """Each class is a finding of its own, present or not: probabilities are sigmoids, independent of each other."""


class AgeRange(Strict):
    """Ages of patients in completed years, both ends included: 1 to 5 holds until the sixth birthday."""

    youngest: Annotated[int, Field(ge=0, lt=130)]
    oldest: Annotated[int, Field(ge=0, lt=130)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.youngest > self.oldest:
            raise ValueError("youngest must not be above oldest")
        return self

    def __str__(self) -> str:
        return f"{self.youngest} to {self.oldest} years"


class InputSpecification(Strict):
    """The tensor that the model asks for: float32, shape (channels, height, width)."""

    model_config = ConfigDict(allow_inf_nan=False)

    modalities: tuple[Modality, ...] = Field(min_length=1, max_length=_MAX_LIST)
    body_parts: tuple[ShownName, ...] = Field(default=(), max_length=_MAX_LIST)
    """Accepted values of DICOM BodyPartExamined; empty: any."""
    views: tuple[View, ...] = Field(default=(), max_length=_MAX_LIST)
    """Projections that the model was made for; empty: any."""
    ages: AgeRange | None = None
    """Ages that the model was made for, by DICOM PatientAge or birth and study dates; None: any."""
    channels: Literal[1, 3] = 1
    height: Annotated[int, Field(ge=8, le=MAX_SIDE)]
    width: Annotated[int, Field(ge=8, le=MAX_SIDE)]
    resize: Literal["bilinear-squash"] = "bilinear-squash"
    """`bilinear-squash`: antialiased bilinear resampling to (height, width), aspect ratio not kept."""
    window: Annotated[Window, AfterValidator(_require_bounded)] | None = None
    frame: FrameChoice = FrameChoice.ONLY
    colour: ColourChoice = ColourChoice.REFUSE
    mean: tuple[Number, ...]
    standard_deviation: tuple[Positive, ...]

    @model_validator(mode="after")
    def _one_statistic_per_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.standard_deviation) != self.channels:
            raise ValueError(f"mean and standard_deviation need {self.channels} value(s), one for each channel")
        return self


class Metric(Strict):
    """One reported figure with its data set, split and 95 % interval."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: str
    value: float
    interval_95: tuple[float, float] | None = None
    data_set: str
    split: str
    examples: Annotated[int, Field(gt=0)]


class OutputPolicy(StrEnum):
    """The most that the data owner receives."""

    LOGITS = "logits"
    LABEL_ONLY = "label-only"
    LOGITS_AND_HEAT_MAP = "logits-and-heat-map"
    """Logits and a class activation map of every class: it tells more of the weights (docs/threat-model.md)."""


class Arithmetic(StrEnum):
    """How the masked engine rounds where a layer cuts bits off (docs/protocol.md)."""

    EXACT = "exact"
    """To nearest: the same image gives the same logits each time."""
    DITHERED = "dithered"
    """Up or down at random, right on average: less traffic, and logits that differ a little from answer to answer."""


class FederatedTraining(Strict):
    """How a model came about that was trained by several hospitals, as their coordinator knows it.

    Counts are those of all hospitals together: nothing here tells of one what only a sum may tell.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    hospitals: tuple[Name, ...] = Field(min_length=1)
    rounds: int = Field(ge=1)
    """That were aggregated."""
    chosen_round: int = Field(ge=1)
    """The round whose weights were kept, by validation data."""
    restarted_rounds: int = Field(default=0, ge=0)
    """Attempts that were aborted before anything was unmasked, and made again with fresh keys and masks."""
    method: str
    """In words: `FedAvg weighted by examples`, `FedProx (mu 0.01)`, ..."""
    local_batches: int | None = Field(default=None, ge=1)
    """Between two aggregations; None: one pass over a hospital's images."""
    examples: int | None = Field(default=None, ge=0)
    """Training images of all hospitals together."""
    class_counts: dict[str, int] | None = None
    """The same by class."""
    secure_aggregation: dict[str, str | int | float] | None = None
    """Its parameters by name; None: updates were averaged in the clear."""
    software: dict[str, str] = Field(default_factory=dict)
    """Versions by name."""


class ModelCard(Strict):
    """card.json. Public: shown to everybody who may list models."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: Name
    version: Version
    title: ShownName
    intended_use: Words
    task: Task = Task.CLASSIFICATION
    input: InputSpecification
    classes: tuple[ShownName, ...] = Field(min_length=2, max_length=MAX_CLASSES)
    thresholds: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(default_factory=dict)
    """Multi-label: the probability from which on a finding counts as present, by class; 0.5 if none is named."""
    calibration_temperature: Positive | None = None
    """Probabilities are softmax(logits / calibration_temperature), or its sigmoid for a multi-label model. None: nobody
    measured it. Probabilities are then those of the bare logits, and are not called calibrated."""
    uncertain_below: Annotated[float, Field(gt=0, lt=1)] | None = None
    """An answer whose largest probability is below this is shown as uncertain; None: none is."""
    output_policy: OutputPolicy = OutputPolicy.LOGITS
    arithmetic: Arithmetic = Arithmetic.DITHERED
    metrics: tuple[Metric, ...] = ()
    training: Words
    """Provenance: data, split, method, in words."""
    federation: FederatedTraining | None = None
    """Provenance of a model that was trained by several hospitals; None: it was trained in one place."""
    citations: tuple[str, ...] = ()
    model_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of model.onnx; checked at import and at start."""
    references: References | None = None
    """Pictures with the answers that the owner vouches for, by which a data owner checks the model that is served. The
    import writes them."""

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        """Everything that does not fit is said at once."""
        faults = [*self._class_faults(), *self._task_faults(), *self._uncertainty_faults(), *self._reference_faults()]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _class_faults(self) -> Iterator[str]:
        if len(set(self.classes)) != len(self.classes):
            yield "classes must differ from each other"
        if self.task is Task.BINARY and len(self.classes) != 2:
            yield "task binary needs two classes: first what holds without the finding, then the finding"

    def _task_faults(self) -> Iterator[str]:
        if self.task is not Task.MULTI_LABEL:
            if self.thresholds:
                yield "thresholds belong to task multi-label"
            return
        unknown = sorted(set(self.thresholds) - set(self.classes))
        if unknown:
            yield f"thresholds names '{unknown[0]}', which is none of the classes"
        if self.output_policy is OutputPolicy.LABEL_ONLY:
            yield "output_policy label-only names the most probable class, which a multi-label model does not have"
        if self.uncertain_below is not None:
            yield "uncertain_below is for one class of several; a multi-label model has thresholds instead"

    def _uncertainty_faults(self) -> Iterator[str]:
        if self.uncertain_below is not None and self.output_policy is OutputPolicy.LABEL_ONLY:
            yield "uncertain_below needs probabilities, which output_policy label-only does not give"

    def _reference_faults(self) -> Iterator[str]:
        for one in () if self.references is None else self.references.pictures:
            count, classes = len(one.numbers), len(self.classes)
            match self.output_policy:
                case OutputPolicy.LOGITS:
                    fits = count == classes
                case OutputPolicy.LOGITS_AND_HEAT_MAP:
                    fits = count > classes and count % classes == 0
                case OutputPolicy.LABEL_ONLY:
                    fits = count == 1 and 0 <= one.numbers[0] < classes and not one.tolerances
                case _:
                    assert_never(self.output_policy)
            if not fits or (self.arithmetic is Arithmetic.EXACT and one.tolerances):
                yield "references are not answers of such a model: leave them out, and import with --references FOLDER"
                return

    def is_uncertain(self, probabilities: dict[str, float]) -> bool:
        """Whether an answer is to be shown as uncertain."""
        return self.uncertain_below is not None and max(probabilities.values()) < self.uncertain_below

    def card_hash(self) -> str:
        """SHA-256 of the card in its canonical form, hexadecimal: tickets carry it, so that all mean the same card."""
        return hashlib.sha256(canonical_json(self)).hexdigest()

    @property
    def outputs(self) -> int:
        """How many numbers model.onnx ends in for one image."""
        return 1 if self.task is Task.BINARY else len(self.classes)

    @property
    def temperature(self) -> float:
        """What logits are divided by."""
        return 1.0 if self.calibration_temperature is None else self.calibration_temperature

    def threshold(self, name: str) -> float:
        """The probability from which on a multi-label model's finding counts as present."""
        return self.thresholds.get(name, 0.5)

    def probabilities(self, logits: tuple[float, ...]) -> dict[str, float]:
        """Float logits, one for each class -> probabilities by class name, in the order of `classes`."""
        scaled = [logit / self.temperature for logit in logits]
        match self.task:
            case Task.CLASSIFICATION | Task.BINARY:
                found = _softmax(scaled)
            case Task.MULTI_LABEL:
                found = [_sigmoid(value) for value in scaled]
            case _:
                assert_never(self.task)
        return dict(zip(self.classes, found, strict=True))


def _softmax(values: list[float]) -> list[float]:
    largest = max(values)
    weights = [math.exp(value - largest) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


def read_card(path: Path) -> ModelCard:
    """Parse a card.json from outside. Raises ModelFileError telling each fault: field, what is wrong, what to write."""
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise ModelFileError(f"{path}: larger than {MAX_CARD_BYTES} bytes; a model card is a short JSON file")
        data = path.read_bytes().removeprefix(BOM_UTF8)  # some editors begin every file so
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); give the path of a card.json") from error
    faults = find_card_faults(data, ModelCard)
    if faults:
        raise ModelFileError(f"{path}: {list_faults(faults)}")
    return ModelCard.model_validate_json(data)
