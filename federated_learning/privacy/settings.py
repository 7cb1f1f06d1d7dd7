"""What hospitals agree on about noise, and what each of them allows for its own patients."""

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from contract.base import Name, Strict
from contract.errors import CallerError, ConfigurationError
from federated_learning.architectures import ARCHITECTURES
from federated_learning.augmentation import NONE
from federated_learning.faults import explain_fault
from federated_learning.privacy.sampling import MAX_PATIENTS
from federated_learning.training_settings import TrainingSettings

Delta = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
WITHOUT_BATCH_STATISTICS: Final = tuple(
    sorted(name for name in ARCHITECTURES if name == "small-cnn" or name.endswith("normaliser-free"))
)


class Privacy(Strict):
    """Differential privacy by patient: the same in everybody's settings. A hospital draws its own noise for each round.

    Every number here is public: none may be computed from the images.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    noise_multiplier: Annotated[float, Field(ge=0.05, le=1e6)]
    """Deviation of the noise in a sum of as few hospitals as may be in one, in units of `clip`; with `each_alone`,
    of each hospital's noise."""
    clip: Positive
    """Euclidean norm to which a patient's gradient, the mean over the patient's images, is shortened."""
    sampling_rate: Annotated[float, Field(ge=1e-6, le=1)] = 1.0
    """Chance of each patient to be in a round; drawn at the hospital, in secret."""
    patients: Annotated[int, Field(ge=2, le=MAX_PATIENTS)]
    """Of all hospitals together, to train on, as their people estimate it: what a round's sum is divided by, times
    `sampling_rate`."""
    delta: Delta
    """Chance with which epsilon may fail to hold for a patient."""
    unit: Literal["patient", "picture"] = "patient"
    """Of what one is hidden. "picture" if a hospital's table has no patient numbers: each picture then counts as a
    patient, and one with several pictures is hidden less."""
    each_alone: bool = False
    """Each hospital draws as much noise as would do for all: no hospital has to rely on another's noise, at sqrt(t)
    times the noise in a sum of t."""

    @model_validator(mode="after")
    def _delta_below_one_patient(self) -> Self:
        if self.delta * self.patients >= 1:
            raise ValueError(
                f"delta must be below 1 / {self.patients}, one patient in all: giving one patient's images away would "
                "be allowed otherwise"
            )
        return self


class PrivacyLimits(Strict):
    """What one hospital allows for its own patients, over all runs. It stands in no one else's settings."""

    model_config = ConfigDict(allow_inf_nan=False)

    ledger: Path
    """Folder of the ledgers. One for the hospital and for good: a new one forgets what was spent."""
    population: Name
    """Whose patients: what is spent is counted for each population apart. Data with the same patients are one."""
    outsider_epsilon: Positive
    """At most, to the coordinator and whoever has a trained model."""
    insider_epsilon: Positive
    """At most, to all other hospitals together with the coordinator."""
    delta: Delta = 1e-5


class PrivacyAim(Strict):
    """What a trial on one machine asks for, where somebody knows how many patients there are; the noise follows."""

    model_config = ConfigDict(allow_inf_nan=False)

    epsilon: Annotated[float, Field(gt=0, le=1000)]
    """Of one patient, to the coordinator and whoever has the model; with `each_alone` to all other hospitals, too."""
    delta: Delta = 1e-5
    clip: Positive = 1.0
    sampling_rate: Annotated[float, Field(ge=1e-6, le=1)] = 1.0
    each_alone: bool = False


def read_aim(text: str) -> PrivacyAim:
    """From `epsilon=3` or `epsilon=3,delta=1e-6,clip=0.5,sampling_rate=0.2,each_alone=true`. Raises CallerError."""
    parts = [part.partition("=") for part in text.split(",")]
    values = {name.strip(): value.strip() for name, _, value in parts}
    if "noise" in values:
        raise CallerError(
            "--privacy takes no noise: each hospital draws its own. Noise that the coordinator adds would protect "
            "nobody from the coordinator, and is not there"
        )
    if len(values) != len(parts) or not all(sign for _, sign, _ in parts):
        raise CallerError("--privacy is a list such as epsilon=3 or epsilon=3,delta=1e-6,clip=0.5, each name once")
    try:
        return PrivacyAim.model_validate_strings(values)
    except ValidationError as error:
        raise CallerError(
            f"--privacy: {explain_fault(error)}; its names are {', '.join(PrivacyAim.model_fields)}"
        ) from None


def check_private_training(training: TrainingSettings) -> None:
    """Raise ConfigurationError for what would give more away than the noise hides, or would not be done."""
    one_step = "as a round is one step"
    wrong = {
        f"architecture must be one of {', '.join(WITHOUT_BATCH_STATISTICS)}, as batch normalisation mixes patients": (
            training.architecture not in WITHOUT_BATCH_STATISTICS
        ),
        f"optimizer must be 'sgd', {one_step}": training.optimizer != "sgd",
        f"momentum must be 0, {one_step}: `server_momentum` carries on from round to round": training.momentum != 0,
        f"proximal must be 0, {one_step}": training.proximal != 0,
        f"sync_every must be left out, {one_step}": training.sync_every is not None,
        "weight_decay must be 0": training.weight_decay != 0,
        "class_balance must be 0, as weights of classes follow from counts": training.class_balance != 0,
        "local_patience must be left out, as when a hospital stops tells of its images": (
            training.local_patience is not None
        ),
        "dropout must be 0": training.dropout != 0,
        "augmentation must be 'none', as mixup adds one patient's image to another's": training.augmentation != NONE,
        "precision must be 'float32'": training.precision != "float32",
    }
    for words, is_wrong in wrong.items():
        if is_wrong:
            raise ConfigurationError(f"with [privacy], training.{words}")


def check_agreed(
    privacy: Privacy, training: TrainingSettings, *, secure: bool, ring_bits: int, exchange_statistics: bool
) -> None:
    """Raise ConfigurationError if the settings beside `privacy` would void it."""
    if not secure:
        raise ConfigurationError(
            "[privacy] needs aggregation.secure = true: a hospital's own noise is not enough for its own update"
        )
    if ring_bits != 32:
        raise ConfigurationError("[privacy] needs aggregation.ring_bits = 32: noise has no room in 16")
    if exchange_statistics:
        raise ConfigurationError(
            "[privacy] needs exchange_statistics = false: sums of pixels are exact; mean and standard deviation are "
            "those of the description, which must be public"
        )
    if privacy.sampling_rate * privacy.patients < 1:
        raise ConfigurationError("[privacy] sampling_rate draws less than one patient a round: raise it")
    check_private_training(training)
