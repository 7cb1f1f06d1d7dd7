"""Centralised training: the baseline that federated training is compared with."""

import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from contract.errors import ConfigurationError
from contract.model_card import Strict
from federated_learning.architectures import build
from federated_learning.augmentation import Augmentation, augment, mix

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


class Stage(Strict):
    """Some epochs at one image size; small images first make training several times faster."""

    size: int = Field(ge=8)
    epochs: int = Field(ge=1)
    batch: int = Field(default=32, ge=2)


class TrainingSettings(Strict):
    """All that decides a run, besides the data. The last stage's size should be the model's input size."""

    architecture: str = "resnet18"
    channels: Literal[1, 3] = 1
    classes: int = Field(default=3, ge=2)
    stages: tuple[Stage, ...] = (Stage(size=112, epochs=16), Stage(size=160, epochs=6), Stage(size=224, epochs=6))
    peak_rate: float = Field(default=1.5e-3, gt=0)
    warm_up: float = Field(default=0.15, ge=0, lt=1)
    """Fraction of all steps in which the learning rate rises; afterwards it falls as a cosine to zero."""
    weight_decay: float = Field(default=0.05, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    average_decay: float = Field(default=0.995, ge=0, lt=1)
    """Of the exponential moving average of weights, which is what is evaluated and kept."""
    augmentation: Augmentation = Augmentation()
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 2018

    @property
    def epochs(self) -> int:
        """Of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def stage_of(self, epoch: int) -> Stage:
        """The stage that `epoch` (from 0) belongs to."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage
            epoch -= stage.epochs
        raise ConfigurationError("an epoch beyond the last stage was asked for: give the settings more epochs")


class EpochResult(Strict):
    """One line of the training log. `final_size` says whether accuracy was measured at the model's input size."""

    epoch: int
    size: int
    loss: float
    accuracy: float
    final_size: bool


def resize(images: Tensor, size: int) -> Tensor:
    """Antialiased bilinear to (size, size); unchanged where it already is."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


@torch.no_grad()
def predict(network: nn.Module, images: Images, *, size: int | None = None, batch: int = 32) -> NDArray[np.float32]:
    """Logits in float32 for normalised images (n, channels, height, width) -> (n, classes), in evaluation mode."""
    network.eval()
    parts = []
    for start in range(0, len(images), batch):
        inputs = torch.from_numpy(np.ascontiguousarray(images[start : start + batch]))
        inputs = inputs if size is None else resize(inputs, size)
        parts.append(network(inputs.contiguous(memory_format=torch.channels_last)).numpy())
    return np.concatenate(parts).astype(np.float32)


class Trainer:
    """Holds a run's state; `run_epoch` advances it. State after an epoch depends on the settings and data alone."""

    def __init__(self, settings: TrainingSettings, *, images: Images, labels: Labels) -> None:
        """`images`: normalised float32 (n, channels, height, width); `labels`: class indices (n,)."""
        if len(images) != len(labels) or len(images) < 2:
            raise ConfigurationError("training needs at least two images and one label for each: check the manifest")
        self.settings = settings
        self._images = images
        self._labels = torch.from_numpy(labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = build(settings.architecture, channels=settings.channels, classes=settings.classes)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self._optimizer = torch.optim.AdamW(_groups(self.network, settings.weight_decay), lr=settings.peak_rate)
        self.epoch = 0
        self._step = 0
        self.history: list[EpochResult] = []
        self.plans: list[tuple[int, tuple[Stage, ...]]] = [(0, settings.stages)]
        """Each plan of stages with the epoch from which it was followed: more than one if a run was replanned."""

    def _batches(self, stage: Stage) -> int:
        return max(1, len(self._images) // stage.batch)

    def _rate(self) -> float:
        """Linear warm-up, then cosine, over the steps of all stages."""
        total = sum(stage.epochs * self._batches(stage) for stage in self.settings.stages)
        rising = self.settings.warm_up * total
        if self._step < rising:
            return self.settings.peak_rate * (self._step + 1) / rising
        return self.settings.peak_rate * 0.5 * (1 + math.cos(math.pi * (self._step - rising) / (total - rising)))

    def run_epoch(self, progress: Callable[[int, int], None] = lambda _done, _all: None) -> float:
        """Train one epoch and return its mean loss. `progress(done, batches)` is called after each batch."""
        stage = self.settings.stage_of(self.epoch)
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self._images), generator=generator).numpy()
        self.network.train()
        batches, losses = self._batches(stage), []
        for index in range(batches):
            chosen = np.sort(order[index * stage.batch : (index + 1) * stage.batch])
            losses.append(self._train_batch(chosen, stage.size, generator))
            progress(index + 1, batches)
        self.epoch += 1
        return sum(losses) / len(losses)

    def _train_batch(self, chosen: NDArray[np.int64], size: int, generator: torch.Generator) -> float:
        settings = self.settings
        images = augment(resize(torch.from_numpy(self._images[chosen]), size), settings.augmentation, generator)
        targets = F.one_hot(self._labels[torch.from_numpy(chosen)], settings.classes).float()
        images, targets = mix(images, targets, settings.augmentation, generator)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16"):
            logits = self.network(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=settings.label_smoothing)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._step += 1
        self._update_average()
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        # The decay grows from 0: otherwise the random start would weigh on the average for the first epochs.
        decay = min(self.settings.average_decay, self._step / (self._step + 10))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def averaged_network(self) -> nn.Module:
        """A new network that holds the averaged weights, in evaluation mode."""
        return network_with(self.settings, self.average)

    def state(self) -> dict[str, NDArray[Any]]:
        """All that `restore` needs, as arrays by name: network/..., average/..., optimizer/<parameter>/..., facts."""
        arrays = {"facts": self._facts()}
        for part, tensors in (("network", self.network.state_dict()), ("average", self.average)):
            arrays |= {f"{part}/{name}": value.detach().numpy() for name, value in tensors.items()}
        for parameter, moments in self._optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer/{parameter}/{name}": value.numpy() for name, value in moments.items()}
        return arrays

    def _facts(self) -> NDArray[Any]:
        facts = {
            "settings": self.settings.model_dump_json(),
            "epoch": self.epoch,
            "step": self._step,
            "history": [line.model_dump() for line in self.history],
            "plans": [(epoch, [stage.model_dump() for stage in stages]) for epoch, stages in self.plans],
        }
        return np.array(json.dumps(facts))

    def chosen(self) -> dict[str, NDArray[Any]]:
        """The averaged weights and how they came about, as arrays by name: what is kept of the best epoch."""
        return {"facts": self._facts()} | {f"average/{name}": value.numpy() for name, value in self.average.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue where `state` was taken.

        The stages may differ, to shorten or extend a run; the learning rate then follows the new plan from here on.
        Raises ConfigurationError if any other setting differs.
        """
        facts = json.loads(str(state["facts"]))
        then = TrainingSettings.model_validate_json(facts["settings"])
        if then.model_copy(update={"stages": self.settings.stages}) != self.settings:
            raise ConfigurationError(
                "the checkpoint was written with other settings: give the same ones again, or another output folder"
            )
        self.epoch, self._step = int(facts["epoch"]), int(facts["step"])
        self.history = [EpochResult.model_validate(line) for line in facts["history"]]
        self.plans = [(begin, tuple(map(Stage.model_validate, stages))) for begin, stages in facts["plans"]]
        if self.plans[-1][1] != self.settings.stages:
            self.plans.append((self.epoch, self.settings.stages))
        self.network.load_state_dict(_part(state, "network"))
        self.average = _part(state, "average")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(state, "optimizer").items():
            parameter, moment = name.split("/")
            moments.setdefault(int(parameter), {})[moment] = value
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": moments})


def _part(state: Mapping[str, NDArray[Any]], part: str) -> dict[str, Tensor]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): torch.tensor(state[name]) for name in state if name.startswith(prefix)}


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only: on biases and normalisation it does harm."""
    kernels = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def network_with(settings: TrainingSettings, weights: Mapping[str, Tensor]) -> nn.Module:
    """The settings' architecture with these weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        network = build(settings.architecture, channels=settings.channels, classes=settings.classes)
    network.load_state_dict(dict(weights))
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def save(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write an .npz so that a crash leaves either the old file or the new one."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    os.replace(partial, path)  # noqa: PTH105  (the atomic one, by name)


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays written by `save`; nothing in the file is run. Raises ConfigurationError."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{path}: is not a readable checkpoint; remove it to start over") from error


class Chosen(Strict):
    """How the kept weights came about."""

    epoch: int
    plans: tuple[tuple[int, tuple[Stage, ...]], ...]


def read_chosen(path: Path) -> tuple[dict[str, Tensor], Chosen]:
    """The averaged weights in a file written by `save`, and their history. Raises ConfigurationError."""
    arrays = read(path)
    facts = json.loads(str(arrays["facts"]))
    return _part(arrays, "average"), Chosen.model_validate({"epoch": facts["epoch"], "plans": facts["plans"]})


def fit(
    trainer: Trainer,
    *,
    images: Images,
    labels: Labels,
    folder: Path,
    report: Callable[[EpochResult], None] = lambda _line: None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> nn.Module:
    """Train to the end, from folder/checkpoint.npz if it exists, and return the network chosen on the validation data.

    `images` and `labels` are the validation data. Kept in `folder`: checkpoint.npz after each epoch, and best.npz, the
    averaged weights of the epoch with the highest validation accuracy among those measured at the final size.
    """
    checkpoint, best = folder / "checkpoint.npz", folder / "best.npz"
    if checkpoint.exists():
        trainer.restore(read(checkpoint))
    settings = trainer.settings
    final_size = settings.stages[-1].size
    while trainer.epoch < settings.epochs:
        size = settings.stage_of(trainer.epoch).size
        loss = trainer.run_epoch(progress)
        logits = predict(trainer.averaged_network(), images, size=size)
        line = EpochResult(
            epoch=trainer.epoch,
            size=size,
            loss=loss,
            accuracy=float((logits.argmax(1) == labels).mean()),
            final_size=size == final_size,
        )
        better = line.final_size and all(line.accuracy > old.accuracy for old in trainer.history if old.final_size)
        trainer.history.append(line)
        if better:
            save(trainer.chosen(), best)
        save(trainer.state(), checkpoint)
        report(line)
    return network_with(settings, read_chosen(best)[0])
