"""Settings of the coordinator and of a hospital: frozen, from TOML files, unknown keys refused.

What decides the model (`description`, `training`, ...) stands in everybody's file alike: a coordinator that could
choose it could choose it so that a hospital's update shows. What protects a hospital alone (its keys, its data, the
largest update that it sends) stands in its own file only.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contract.base import Name, Strict
from contract.errors import ConfigurationError
from federated_learning.privacy.settings import Privacy, PrivacyLimits, check_agreed
from federated_learning.recipe import NamedDescription, fit_to_description
from federated_learning.secure_aggregation.terms import MIN_SURVIVORS, least_threshold
from federated_learning.training_settings import TrainingSettings
from plumbing.settings import Address, PartySettings, settings_config

MaxNorm = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]


class Waiting(Strict):
    """How long the coordinator waits, in seconds."""

    start: Seconds = 600.0
    """For enough hospitals to come, at the start and after a round that had to be given up."""
    together: Seconds = 20.0
    """For hospitals that are missing when a round begins and enough others are there."""
    work: Seconds = 6 * 3600.0
    """For a hospital to train for one round."""
    step: Seconds = 120.0
    """For an answer in a step of secure aggregation."""
    offline: Seconds = 20.0
    """For a hospital that went away in the middle of a round; later it is left out of it."""
    repeat: Seconds = 900.0
    """Asks a hospital again that has not answered: it may have lost the question when its machine stopped."""


class Sums(Strict):
    """How updates are added up: the same at the coordinator and at every hospital."""

    secure: bool = True
    """False only to compare, on public data: the coordinator then sees each update."""
    threshold: Annotated[int, Field(ge=3)] | None = None
    """Hospitals that must remain in a round; None: all, so that no two sums differ by a hospital. Fewer, but more than
    two thirds and at least 3, let a round go on without one; two sums then tell of that one's update."""
    ring_bits: Literal[16, 32] = 16

    def survivors(self, hospitals: int) -> int:
        """How many of so many hospitals must remain. Raises ConfigurationError if none would be hidden."""
        if not self.secure:
            return self.threshold or 1
        threshold = self.threshold or hospitals
        if not least_threshold(hospitals) <= threshold <= hospitals:
            raise ConfigurationError(
                f"secure aggregation needs at least {MIN_SURVIVORS} hospitals and {least_threshold(hospitals)} of "
                f"{hospitals} in each sum, not {threshold}: with two, each would learn the other's update"
            )
        return threshold


class Aggregation(Sums):
    """How the coordinator adds updates up."""

    max_norm: MaxNorm = 1000.0
    """Euclidean norm that the mean update may have; a larger one stops the run. Each hospital has its own limit."""
    attempts: Annotated[int, Field(ge=1, le=1000)] = 20
    """Of one round, before the coordinator stops; what was reached is kept, and the same command goes on."""


class RunSettings(PartySettings):
    """What decides a run's model and what is summed: the coordinator and every hospital write the same."""

    run: Name
    """Names the run. Hospitals write it into their own settings: that is how they agree to take part."""
    federation: Path
    """federation.json, its fingerprint compared by telephone."""
    description: NamedDescription
    """Classes, input and words about the model: what a card holds that is not computed."""
    training: TrainingSettings
    """Nobody agrees to what they have not written. Channels and classes follow from the description."""
    exchange_statistics: bool = True
    """Mean and standard deviation of all hospitals' pixels, by secure aggregation; else the description's."""
    aggregation: Sums = Sums()
    privacy: Privacy | None = None
    """Noise at each hospital, so that a run tells little of any patient; None: without."""

    @model_validator(mode="after")
    def _fits_the_description(self) -> Self:
        try:
            training = fit_to_description(self.training, self.description)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        object.__setattr__(self, "training", training)  # frozen from here on
        return self

    @model_validator(mode="after")
    def _lets_noise_protect(self) -> Self:
        if self.privacy is not None:
            try:
                check_agreed(
                    self.privacy,
                    self.training,
                    secure=self.aggregation.secure,
                    ring_bits=self.aggregation.ring_bits,
                    exchange_statistics=self.exchange_statistics,
                )
            except ConfigurationError as error:
                raise ValueError(str(error)) from error
        return self


class CoordinatorSettings(RunSettings):
    """One federated run, at the coordinator."""

    model_config = settings_config("FEDERATED_LEARNING_COORDINATOR_")

    keys: Path
    """Folder with the coordinator's key and certificate."""
    output: Path
    """Folder for the global model after each round, the record of the run, and logs. The same one again resumes."""
    listen: Address = Address(host="0.0.0.0", port=9092)  # noqa: S104  (hospitals are on other machines)
    rounds: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Stop after so many; None: all that `training` plans."""
    training_roles: tuple[str, ...] = ()
    validation_role: str = "validation"
    """What the record says the hospitals trained on, and on what the published model's temperature is fitted."""
    aggregation: Aggregation = Aggregation()
    waiting: Waiting = Waiting()


class HospitalData(Strict):
    """A hospital's images: folders named after the classes, or a CSV beside them."""

    folder: Path
    table: Path | None = None
    """CSV with columns path (or file), label and, if wanted, patient and role."""
    training: Annotated[tuple[str, ...], Field(min_length=1)] = ("train",)
    """Roles to train on."""
    validation: tuple[str, ...] = ()
    """Roles on which this hospital judges the global model. Only sums over all hospitals leave it."""
    skip_unusable: bool = False
    """Leave out files that cannot be read or used, instead of stopping."""


class HospitalSettings(RunSettings):
    """One hospital's part in one run. Whatever the coordinator orders otherwise than this file says is refused."""

    model_config = settings_config("FEDERATED_LEARNING_HOSPITAL_")

    name: Name
    keys: Path
    """Folder that `federated-learning make-keys` made."""
    state: Path
    """Folder for what must outlive a crash: the trainer's state, what was signed, prepared images, logs."""
    data: HospitalData
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    max_norm: MaxNorm = 1000.0
    """Euclidean norm that an update may have; a larger one is scaled down, which only this hospital's screen says."""
    privacy_limits: PrivacyLimits | None = None
    """What this hospital allows for its patients: with `privacy`, and only with it."""

    @model_validator(mode="after")
    def _limited(self) -> Self:
        if self.privacy is not None and self.privacy_limits is None:
            raise ValueError(
                "a run with [privacy] needs [privacy_limits]: this hospital's ledger, and the most that all runs may "
                "cost together"
            )
        if self.privacy is None and self.privacy_limits is not None:
            raise ValueError(
                "[privacy_limits] limit what is told of this hospital's patients, and a run without [privacy] has no "
                "limit: agree on [privacy], or leave them out"
            )
        return self
