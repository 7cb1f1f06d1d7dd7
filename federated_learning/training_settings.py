"""What decides a training run besides its data, and the rounds that follow from it."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from contract.base import Strict
from contract.errors import ConfigurationError
from contract.model_card import MAX_SIDE
from federated_learning.architectures import Pool
from federated_learning.augmentation import Augmentation, NamedAugmentation
from federated_learning.faults import explain_fault, read_json

MAX_POINTS = 1 << 26
"""Pixels of a batch: a network's activations take several hundred bytes for each."""
MAX_ROUNDS, MAX_EXAMPLES = 100_000, 100_000_000
Size = Annotated[int, Field(ge=8, le=MAX_SIDE)]
Batch = Annotated[int, Field(ge=2, le=4096)]


def _check_points(size: int, batch: int) -> None:
    if batch * size**2 > MAX_POINTS:
        raise ValueError(f"a batch has at most {MAX_POINTS // size**2} images of {size} x {size}")


class Stage(Strict):
    """Some epochs at one image size; small images first make training several times faster."""

    size: Size
    epochs: int = Field(ge=1, le=10_000)
    batch: Batch = 32

    @model_validator(mode="after")
    def _fits_a_machine(self) -> Self:
        _check_points(self.size, self.batch)
        return self


class TrainingSettings(Strict):
    """The same for a centralised run, one hospital and several. The last stage has the model's input size."""

    model_config = ConfigDict(allow_inf_nan=False)

    architecture: str = Field(default="resnet18", max_length=64)
    pool: Pool = "average"
    channels: int = Field(default=1, ge=1, le=3)
    classes: int = Field(default=3, ge=2, le=1000)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    stages: tuple[Stage, ...] = Field(
        default=(Stage(size=112, epochs=16), Stage(size=160, epochs=6), Stage(size=224, epochs=6)),
        min_length=1,
        max_length=100,
    )
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    peak_rate: float = Field(default=1.5e-3, gt=0, le=1000)
    warm_up: float = Field(default=0.15, ge=0, lt=1)
    """Fraction of the run in which the learning rate rises; afterwards it falls as a cosine to zero."""
    weight_decay: float = Field(default=0.05, ge=0, le=1000)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    class_balance: float = Field(default=0.0, ge=0, le=1)
    """Power of a class's inverse frequency in its weight in the loss: 0 counts examples, 1 counts classes."""
    average_decay: float = Field(default=0.995, ge=0, lt=1)
    """Per batch, of the moving average of the global weights, which is what is evaluated and kept."""
    sync_every: int | None = Field(default=None, ge=1, le=MAX_EXAMPLES)
    """Batches that each hospital trains between two aggregations; None: its share of one epoch."""
    server_momentum: float = Field(default=0.0, ge=0, lt=1)
    """Nesterov momentum of the mean updates: rounds that agree go further than their mean. 0: plain averaging."""
    proximal: float = Field(default=0.0, ge=0, le=1000)
    """Weight of FedProx's pull towards the global weights (Li et al. 2020, mu)."""
    local_patience: int | None = Field(default=None, ge=1, le=MAX_ROUNDS)
    """Rounds without a lower loss on a hospital's own held-out images after which it stops; None: never."""
    augmentation: NamedAugmentation = Augmentation()
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(default=2018, ge=0, lt=1 << 32)
    """Torch draws initial weights from 32 bits: two longer seeds could give the same ones."""

    @property
    def epochs(self) -> int:
        """Of all stages together."""
        return sum(stage.epochs for stage in self.stages)


def read_settings(path: Path) -> TrainingSettings:
    """Settings from a JSON file. Raises ConfigurationError naming the field that is wrong."""
    return read_json(path, TrainingSettings.model_validate_json, remedy="correct it")


def change_settings(settings: TrainingSettings, **values: Any) -> TrainingSettings:
    """A copy with other values, checked like any settings. Raises ConfigurationError."""
    try:
        return TrainingSettings.model_validate_json(settings.model_copy(update=values).model_dump_json(warnings=False))
    except ValidationError as error:
        raise ConfigurationError(f"training settings: {explain_fault(error)}; correct it") from error


class RoundTask(Strict):
    """What every hospital does in one round. `begin` and `end`, parts of the whole run, set the learning rate."""

    number: int = Field(ge=0, lt=MAX_ROUNDS)
    epoch: int = Field(ge=0, lt=MAX_ROUNDS)
    size: Size
    batch: Batch
    batches: int = Field(ge=1, le=MAX_EXAMPLES)
    begin: float = Field(ge=0, le=1)
    end: float = Field(ge=0, le=1)
    last_of_epoch: bool
    final_size: bool
    """Whether images have the size of the last stage, the model's own."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.begin >= self.end:
            raise ValueError("begin must lie before end")
        _check_points(self.size, self.batch)
        return self


def read_stages(text: str, *, like: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Stages from `112x40,224x4`, image size x epochs, with the batch that `like` has at that size, or in the end.

    Raises ConfigurationError.
    """
    batches = {stage.size: stage.batch for stage in like}
    try:
        return tuple(
            Stage(size=size, epochs=epochs, batch=batches.get(size, like[-1].batch))
            for size, epochs in (map(int, part.split("x")) for part in text.split(","))
        )
    except ValueError as error:
        raise ConfigurationError("--stages is a list such as 112x40,224x4: image size x epochs") from error


def plan_steps(settings: TrainingSettings, *, rate: float) -> tuple[RoundTask, ...]:
    """The rounds of a run with differential privacy: each is one step, over patients drawn with the chance `rate`.

    In an epoch each patient is drawn once, on average. Raises ConfigurationError for too many.
    """
    each = [max(1, round(stage.epochs / rate)) for stage in settings.stages]
    if (total := sum(each)) > MAX_ROUNDS:
        raise ConfigurationError(
            f"{total} rounds are more than the {MAX_ROUNDS} of a run: fewer epochs, or more in each"
        )
    sized = [(stage, index) for stage, count in zip(settings.stages, each, strict=True) for index in range(count)]
    return tuple(
        RoundTask(
            number=number,
            epoch=min(int(number * rate), settings.epochs - 1),
            size=stage.size,
            batch=stage.batch,
            batches=1,
            begin=number / total,
            end=(number + 1) / total,
            last_of_epoch=False,
            final_size=stage.size == settings.stages[-1].size,
        )
        for number, (stage, _) in enumerate(sized)
    )


def plan_rounds(settings: TrainingSettings, *, examples: int, hospitals: int = 1) -> tuple[RoundTask, ...]:
    """The rounds of a run over `examples` training images in all, shared by `hospitals`.

    In an epoch the hospitals together draw as many images as there are, so they compute as much as a
    centralised run. Every hospital trains the same number of batches, whatever its size. Raises ConfigurationError for
    a plan that nobody could follow.
    """
    if examples > MAX_EXAMPLES:
        raise ConfigurationError(f"{examples} training images are more than the {MAX_EXAMPLES} that a run may have")
    each = [max(1, examples // (hospitals * stage.batch)) for stage in settings.stages]
    count = sum(
        stage.epochs * -(-left // (settings.sync_every or left))
        for stage, left in zip(settings.stages, each, strict=True)
    )
    if count > MAX_ROUNDS:
        raise ConfigurationError(f"{count} rounds are more than the {MAX_ROUNDS} of a run: raise sync_every")
    total = sum(stage.epochs * batches for stage, batches in zip(settings.stages, each, strict=True))
    tasks: list[RoundTask] = []
    epoch = done = 0
    for stage, left in zip(settings.stages, each, strict=True):
        for _ in range(stage.epochs):
            for begin in range(0, left, settings.sync_every or left):
                batches = min(left - begin, settings.sync_every or left)
                tasks.append(
                    RoundTask(
                        number=len(tasks),
                        epoch=epoch,
                        size=stage.size,
                        batch=stage.batch,
                        batches=batches,
                        begin=done / total,
                        end=(done + batches) / total,
                        last_of_epoch=begin + batches == left,
                        final_size=stage.size == settings.stages[-1].size,
                    )
                )
                done += batches
            epoch += 1
    return tuple(tasks)
