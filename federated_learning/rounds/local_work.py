"""A hospital's own work: reading its images, training, and what of it must outlive a crash."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from contract.model_card import InputSpecification
from federated_learning import checkpoints
from federated_learning.data_source.examples import DataSource
from federated_learning.data_source.preparing import Prepared, list_files, open_source, prepare
from federated_learning.local_training import LocalResult, LocalTrainer, ValidationSums, evaluate
from federated_learning.rounds.letters import Step
from federated_learning.rounds.round_orders import EvaluateOrder, RoundOrder, TrainOrder, hash_order, pack
from federated_learning.rounds.settings import HospitalSettings
from federated_learning.secure_aggregation.encoding import UpdateEncoding, VectorLayout, compute_norm, compute_weight
from federated_learning.torch_networks import Images, Weights

FloatArray = NDArray[np.float32]
STATE = "training.npz"
FACTS = ("key", "round", "stopped", "loss")
ARRAYS = ("encoded", "largest", "residual_before", "residual_after")
"""What of `Trained` is kept, and how."""


@dataclass(frozen=True, kw_only=True, repr=False)
class LocalData:
    """Images of this hospital, as the order's input specification asks for them."""

    specification: InputSpecification
    training: Prepared
    validation: Prepared | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Trained:
    """What a round's training gave, and what is kept of it."""

    key: str
    """Hexadecimal hash of the order: another order needs another training."""
    round: int
    stopped: bool
    """Whether this hospital's own held-out images say that it has trained enough."""
    loss: float
    """Mean over the round's batches."""
    encoded: NDArray[Any]
    """The update as ring elements, and in the clear as float32."""
    largest: NDArray[np.float64]
    """The largest absolute value of each tensor of the update."""
    residual_before: FloatArray | None
    residual_after: FloatArray | None


class LocalWork:
    """Data and trainer of one hospital in one run. Nothing here is sent; see `HospitalSession` for what is."""

    def __init__(
        self,
        settings: HospitalSettings,
        folder: Path,
        *,
        say: Callable[[str], None],
        progress: Callable[[str, int, int], None],
    ) -> None:
        """`folder` keeps the trainer's state."""
        self._settings, self._path = settings, folder / STATE
        self._say, self._progress = say, progress
        self._data: LocalData | None = None
        self._trainer: LocalTrainer | None = None
        self._trained: Trained | None = None

    def check_listed(self) -> None:
        """Raise ConfigurationError if folder, table, roles or files are not there as set; reads no image."""
        data, source = self._settings.data, self._source()
        for roles in filter(None, (data.training, data.validation)):
            list_files(source, roles, hospital=self._settings.name, may_miss=data.skip_unusable)

    def _source(self) -> DataSource:
        data = self._settings.data
        return open_source(data.folder, classes=self._settings.description.classes, table=data.table)

    def prepare(self, order: RoundOrder) -> LocalData:
        """The images, read once; later rounds only check that the files are the same. Raises ConfigurationError."""
        if self._data is not None and self._data.specification == order.input:
            for data in filter(None, (self._data.training, self._data.validation)):
                data.check_unchanged()
            return self._data
        settings, source = self._settings.data, self._source()

        def read(roles: tuple[str, ...]) -> Prepared:
            data = prepare(
                source,
                roles,
                order.input,
                cache=self._settings.state / "images",
                hospital=self._settings.name,
                skip_unusable=settings.skip_unusable,
                progress=lambda done, total: self._progress("reading images", done, total),
            )
            for line in data.warnings:
                self._say(line)
            return data

        self._data = LocalData(
            specification=order.input,
            training=read(settings.training),
            validation=read(settings.validation) if settings.validation else None,
        )
        return self._data

    def evaluate(self, order: EvaluateOrder, weights: Mapping[str, FloatArray]) -> ValidationSums:
        """Sums over this hospital's validation images; zeros if it has none."""
        validation = self.prepare(order).validation
        if validation is None:
            return ValidationSums(examples=0, correct=0, loss=0.0)
        images = normalise(validation, order)
        return evaluate(order.training, _tensors(weights), images, validation.labels, size=order.size)

    def train(self, order: TrainOrder, weights: Mapping[str, FloatArray], layout: VectorLayout) -> Trained:
        """This order's training from the global `weights`: from memory or disk if it was done before, else done now.

        Raises ComputationFailed for an update that is not finite; the trainer is then what it was before.
        """
        data = self.prepare(order)
        key = hash_order(Step.TRAIN, order, {}).hex()
        trainer = self._trainer or self._resume(order, data)
        if self._trained is not None and self._trained.key == key:
            return self._trained
        self._trainer = None  # if this round fails, the next one begins with what is on the disk
        trainer.load(_tensors(weights))
        result = trainer.train(
            order.task, lambda done, total: self._progress(f"round {order.round}: training", done, total)
        )
        stops = ", enough for this hospital" if result.stopped else ""
        self._say(f"round {order.round}: trained {result.batches} batches, loss {result.loss:.3f}{stops}")
        trained = self._encode(order, layout, trainer.update(), result, key)
        self._keep(trained, trainer)
        self._trainer, self._trained = trainer, trained
        return trained

    def _encode(
        self, order: TrainOrder, layout: VectorLayout, trained: Weights, result: LocalResult, key: str
    ) -> Trained:
        """The update as it is added up. Raises ComputationFailed for one that is not finite."""
        update = self._shorten({name: value.numpy() for name, value in trained.items()})
        encoding = UpdateEncoding(layout=layout, limits=order.limits, weight_total=order.weight_total)
        # Others may have added anything to the total; an error would tell how this hospital's weight compares to it.
        weight = min(compute_weight(result.examples), order.weight_total)
        hospital, before = self._settings.name, self._choose_residual(order)
        after = before
        if order.secure:
            found = encoding.encode(update, hospital=hospital, weight=weight, residual=before)
            encoded, largest, after = found.update, found.largest, found.residual
        else:
            encoding.check(update, hospital=hospital, weight=weight)
            share = np.float32(weight / order.weight_total)
            encoded = np.frombuffer(pack({name: share * update[name] for name in update}, layout.update), dtype="<f4")
            largest = np.zeros(len(layout.update))
        return Trained(
            key=key,
            round=order.round,
            stopped=result.stopped,
            loss=result.loss,
            encoded=encoded,
            largest=largest,
            residual_before=before,
            residual_after=after,
        )

    def _shorten(self, update: Mapping[str, FloatArray]) -> Mapping[str, FloatArray]:
        """The update, scaled down if it is longer than this hospital allows.

        It is not left out: an error would tell the coordinator how long it is, and zeros in its place could leave
        another hospital's update alone in a sum.
        """
        norm, most = compute_norm(update), self._settings.max_norm
        if not (math.isfinite(norm) and norm > most):
            return update
        self._say(f"the update has norm {norm:.3g}: it is scaled down to this hospital's max_norm, {most:.3g}")
        return {name: value * np.float32(most / norm) for name, value in update.items()}

    def _choose_residual(self, order: TrainOrder) -> FloatArray | None:
        """What rounding cut off so far. Of an update that never came into a sum, what had been cut off before it."""
        before = self._trained
        if before is None:
            return None
        summed = before.round == order.round - 1 and self._settings.name in order.last_sum
        return before.residual_after if summed else before.residual_before

    def _resume(self, order: TrainOrder, data: LocalData) -> LocalTrainer:
        """Make the trainer, with what was kept of earlier rounds."""
        held_out = data.validation
        trainer = LocalTrainer(
            order.training,
            images=normalise(data.training, order),
            labels=data.training.labels,
            hospital=self._settings.name,
            class_weights=order.class_weights,
            validation=None if held_out is None else (normalise(held_out, order), held_out.labels),
            trains_on=True,
        )
        if self._path.exists():
            state = checkpoints.read(self._path)
            trainer.restore(checkpoints.select_prefix(state, "trainer"))
            kept: dict[str, Any] = {name: state.get(name) for name in ARRAYS}
            self._trained = Trained(**checkpoints.read_facts(state), **kept)
            self._say(f"goes on after round {self._trained.round}, which was trained before")
        self._trainer = trainer
        return trainer

    def _keep(self, trained: Trained, trainer: LocalTrainer) -> None:
        """Write the trainer's state and the last update, so that a crash leaves the old file or the new one."""
        facts = {name: getattr(trained, name) for name in FACTS}
        arrays = {name: value for name in ARRAYS if (value := getattr(trained, name)) is not None}
        arrays |= checkpoints.add_prefix("trainer", trainer.state())
        checkpoints.save(arrays | {"facts": checkpoints.write_facts(facts)}, self._path)


def normalise(data: Prepared, order: TrainOrder | EvaluateOrder) -> Images:
    """The images, normalised as the order says, read from the disk when they are needed."""
    return cast("Images", data.images.with_statistics(order.mean, order.standard_deviation))


def _tensors(arrays: Mapping[str, FloatArray]) -> Weights:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}
