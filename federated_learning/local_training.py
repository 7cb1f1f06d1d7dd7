"""What one hospital does between two aggregations; a centralised run is a single hospital that holds every image."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from numpy.typing import NDArray
from torch import Tensor, nn

from contract.errors import ConfigurationError
from federated_learning.augmentation import augment, mix, resize
from federated_learning.checkpoints import Arrays, add_prefix, read_facts, select_tensors, write_facts
from federated_learning.data_source.images import ImageArray, LazyImages
from federated_learning.torch_networks import (
    Labels,
    Weights,
    load_shared,
    network_with,
    new_network,
    predict,
    shared_weights,
)
from federated_learning.training_settings import RoundTask, TrainingSettings

Progress = Callable[[int, int], None]


def silent(_done: int, _all: int) -> None:
    """No progress shown."""


@dataclass(frozen=True, kw_only=True)
class LocalResult:
    """One round at one hospital. `examples` is its weight in the mean: its images, or 0 once it has stopped."""

    examples: int
    batches: int
    loss: float
    """Mean over the batches; nan if none was trained."""
    stopped: bool
    """Whether this hospital's own held-out images say that it has trained enough."""


@dataclass(frozen=True, kw_only=True)
class ValidationSums:
    """What hospitals add up of a model's answers to their validation images."""

    examples: int
    correct: int
    loss: float
    """Sum of the negative log-likelihoods, in nats."""


def evaluate(
    settings: TrainingSettings, weights: Mapping[str, Tensor], images: ImageArray, labels: Labels, *, size: int
) -> ValidationSums:
    """Sums over these images of the network with these weights."""
    logits = torch.from_numpy(predict(network_with(settings, weights), images, size=size)).double()
    truth = torch.from_numpy(labels)
    return ValidationSums(
        examples=len(labels),
        correct=int((logits.argmax(1) == truth).sum()),
        loss=float(F.cross_entropy(logits, truth, reduction="sum")),
    )


def make_optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The settings' optimiser. Weight decay acts on kernels only: on biases, gains and normalisation it does harm."""
    kernels = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0
        return torch.optim.SGD(groups, lr=settings.peak_rate, momentum=settings.momentum, nesterov=nesterov, fused=True)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.peak_rate, fused=True)


def learning_rate(settings: TrainingSettings, done: float) -> float:
    """Linear warm-up, then cosine to zero; `done` is the part of the run that has passed, in [0, 1]."""
    if done < settings.warm_up:
        return settings.peak_rate * done / settings.warm_up
    falling = (done - settings.warm_up) / (1 - settings.warm_up)
    return settings.peak_rate * 0.5 * (1 + math.cos(math.pi * falling))


class LocalTrainer:
    """A hospital's data, optimiser and position in its data; the weights come and go.

    All randomness follows from the settings' seed, the hospital's name and counters, so that a run repeats itself on
    the same machine with the same number of threads.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        *,
        images: ImageArray,
        labels: Labels,
        hospital: str = "",
        class_weights: Sequence[float] | None = None,
        validation: tuple[ImageArray, Labels] | None = None,
        trains_on: bool = False,
    ) -> None:
        """`images`: normalised float32 (n, channels, height, width), square, or read lazily; `labels`: classes (n,).

        `class_weights` weigh the loss. `validation`: the hospital's own held-out images, for early stopping.
        `trains_on`: also after it has stopped, as a sum of the others' updates could be one hospital's; a hospital
        without held-out images then has always stopped. Raises ConfigurationError.
        """
        who = f"hospital {hospital}: " if hospital else ""
        if len(images) != len(labels) or len(images) < 2:
            raise ConfigurationError(f"{who}training needs at least two images and one label for each: check the data")
        if not (labels.min() >= 0 and labels.max() < settings.classes):
            raise ConfigurationError(f"{who}a label lies outside the {settings.classes} classes: check the class list")
        if settings.local_patience is not None and validation is None and not trains_on:
            raise ConfigurationError(f"{who}early stopping needs held-out images: give some, or switch it off")
        self.settings = settings
        self._hospital = hospital
        self._images = images
        self._labels = torch.from_numpy(labels)
        self._class_weights = torch.ones(settings.classes)
        if class_weights is not None:
            self._class_weights = torch.tensor(tuple(class_weights), dtype=torch.float32)
        self._validation, self._trains_on = validation, trains_on
        self._network = new_network(settings)
        self._loaded = shared_weights(self._network)
        self._optimizer = make_optimizer(self._network, settings)
        self._step = 0
        self._pass = 0
        self._position = 0
        self._order = self._shuffled()
        self._side = images[:1].shape[-1]
        self._resized: tuple[int, ImageArray] = (self._side, images)
        self.rounds = 0
        """Rounds done."""
        self.stopped = False
        self._best_loss, self._without_gain = float("inf"), 0

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Start the next round from these global weights. Raises ConfigurationError if they are of another network."""
        own = self._loaded
        if weights.keys() != own.keys() or any(weights[name].shape != own[name].shape for name in own):
            raise ConfigurationError("the global weights are of another network: give every site the same settings")
        self._loaded = {name: value.detach().clone() for name, value in weights.items()}
        load_shared(self._network, self._loaded)

    def weights(self) -> Weights:
        """Copies of the weights as trained so far."""
        return shared_weights(self._network)

    def update(self) -> Weights:
        """What this round changed: the weights minus the loaded ones."""
        return {name: value - self._loaded[name] for name, value in self.weights().items()}

    def train(self, task: RoundTask, progress: Progress = silent) -> LocalResult:
        """Train the round's batches, unless this hospital has stopped for good.

        `progress(done, batches)` is called after each batch.
        """
        self.rounds = task.number + 1
        if self.stopped and not self._trains_on:
            return LocalResult(examples=0, batches=0, loss=float("nan"), stopped=True)
        images = self._at_size(task.size)
        self._network.train()
        losses = []
        for index in range(task.batches):
            done = task.begin + (task.end - task.begin) * (index + 0.5) / task.batches
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(self.settings, done)
            losses.append(self._train_batch(images, self._next(task.batch)))
            progress(index + 1, task.batches)
        self._check_early_stop(task.size)
        return LocalResult(
            examples=len(self._labels), batches=task.batches, loss=sum(losses) / len(losses), stopped=self.stopped
        )

    def _at_size(self, size: int) -> ImageArray:
        """All images at the round's size: shrinking them again for each batch would cost as much as training.

        Images that are read lazily stay on the disk at any size, so that memory does not grow with their number.
        """
        if size == self._side:
            self._resized = (size, self._images)
        elif self._resized[0] != size and isinstance(self._images, LazyImages):
            self._resized = (size, self._images.at_size(size))
        elif self._resized[0] != size:
            parts = [
                resize(torch.from_numpy(np.ascontiguousarray(self._images[start : start + 64])), size).numpy()
                for start in range(0, len(self._images), 64)
            ]
            self._resized = (size, np.concatenate(parts))
        return self._resized[1]

    def _generator(self, *purpose: str | int) -> torch.Generator:
        text = "/".join(map(str, (self.settings.seed, self._hospital, *purpose)))
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))

    def _shuffled(self) -> NDArray[np.int64]:
        return torch.randperm(len(self._labels), generator=self._generator("order", self._pass)).numpy()

    def _next(self, batch: int) -> NDArray[np.int64]:
        """Indices of the next batch; what is left of a pass and too few for one is skipped."""
        batch = min(batch, len(self._order))
        if self._position + batch > len(self._order):
            self._pass, self._position = self._pass + 1, 0
            self._order = self._shuffled()
        chosen = self._order[self._position : self._position + batch]
        self._position += batch
        return np.sort(chosen)

    def _train_batch(self, source: ImageArray, chosen: NDArray[np.int64]) -> float:
        settings, generator = self.settings, self._generator("batch", self._step)
        halved = settings.precision == "bfloat16"
        images = augment(torch.from_numpy(source[chosen]), settings.augmentation, generator)
        targets = F.one_hot(self._labels[torch.from_numpy(chosen)], settings.classes).float()
        images, targets = mix(images, targets, settings.augmentation, generator)
        with torch.random.fork_rng(devices=[]), torch.autocast("cpu", torch.bfloat16, enabled=halved):
            torch.manual_seed(generator.initial_seed())  # dropout draws from the global generator
            logits = self._network(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(
            logits.float(), targets, weight=self._class_weights, label_smoothing=settings.label_smoothing
        )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.proximal:
            # FedProx: the gradient of strength / 2 * |weights - global weights|^2 on top of the loss's own.
            for name, parameter in self._network.named_parameters():
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - self._loaded[name], alpha=settings.proximal)
        self._optimizer.step()
        self._step += 1
        return loss.item()

    def _check_early_stop(self, size: int) -> None:
        if self.settings.local_patience is None:
            return
        if self._validation is None:
            self.stopped = True
            return
        loss = evaluate(self.settings, self.weights(), *self._validation, size=size).loss
        if loss < self._best_loss:
            self._best_loss, self._without_gain = loss, 0
        else:
            self._without_gain += 1
        self.stopped = self._without_gain >= self.settings.local_patience

    def state(self) -> Arrays:
        """All that `restore` needs besides the next round's global weights, as arrays by name."""
        counters = {
            "settings": self.settings.model_dump_json(),
            "hospital": self._hospital,
            "examples": len(self._labels),
            "step": self._step,
            "pass": self._pass,
            "position": self._position,
            "rounds": self.rounds,
            "stopped": self.stopped,
            "best_loss": self._best_loss,
            "without_gain": self._without_gain,
        }
        arrays: Arrays = {"local": write_facts(counters)}
        for parameter, moments in self._optimizer.state_dict()["state"].items():
            known = {name: value for name, value in moments.items() if value is not None}
            arrays |= add_prefix(f"optimizer/{parameter}", known)
        return arrays

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue where `state` was taken: between two rounds.

        Stages may differ from then. Raises ConfigurationError if another setting, the hospital or its number of images
        does.
        """
        facts = read_facts(state, "local")
        then = TrainingSettings.model_validate_json(facts["settings"])
        if then.model_copy(update={"stages": self.settings.stages}) != self.settings:
            raise ConfigurationError(
                "the checkpoint was written with other settings: give the same ones again, or another output folder"
            )
        if (facts["hospital"], facts["examples"]) != (self._hospital, len(self._labels)):
            raise ConfigurationError(
                f"hospital {self._hospital}: the checkpoint is of {facts['examples']} images of hospital "
                f"{facts['hospital']}, now there are {len(self._labels)}: restore the data, or start over"
            )
        self._step, self._pass, self._position = facts["step"], facts["pass"], facts["position"]
        self.rounds, self.stopped = facts["rounds"], facts["stopped"]
        self._best_loss, self._without_gain = facts["best_loss"], facts["without_gain"]
        self._order = self._shuffled()
        moments: dict[int, dict[str, Tensor]] = {}
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        for name, value in select_tensors(state, "optimizer").items():
            index, moment = name.split("/")
            like = parameters[int(index)]
            # A fused optimiser goes through parameter and moments in the order of their memory, which must be one.
            kept = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            moments.setdefault(int(index), {})[moment] = kept
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": moments})
