"""A hospital's own work: reading its images, training, and what of it must outlive a crash."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from contract.errors import ComputationFailed
from contract.model_card import InputSpecification
from federated_learning import checkpoints
from federated_learning.data_source import Prepared, open_source, prepare
from federated_learning.federation.messages import Step
from federated_learning.federation.orders import (
    WEIGHTS,
    EvaluateOrder,
    Order,
    TrainOrder,
    common_hash,
    pack,
    unpack,
)
from federated_learning.federation.settings import HospitalSettings
from federated_learning.local_training import LocalResult, LocalTrainer, ValidationSums, evaluate
from federated_learning.networks import Images, Weights
from federated_learning.secure_aggregation.encoding import UpdateEncoding, VectorLayout, weight_of

FloatArray = NDArray[np.float32]
STATE = "training.npz"


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
    """Hexadecimal hash of the order: another order needs training anew."""
    round: int
    counts: bool
    """False: the update is zero, as this hospital has stopped early, or has to leave out what it trained."""
    stopped: bool
    """Whether it had stopped early before this round."""
    loss: float
    """Mean over the round's batches; 0 where the update is zero."""
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

    def prepared(self, order: Order) -> LocalData:
        """The images, read once; later rounds only check that the files are the same. Raises ConfigurationError."""
        if self._data is not None and self._data.specification == order.input:
            self._data.training.check_unchanged()
            if self._data.validation is not None:
                self._data.validation.check_unchanged()
            return self._data
        settings = self._settings.data
        source = open_source(settings.folder, classes=order.classes, table=settings.table)

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

    def evaluated(self, order: EvaluateOrder, weights: Mapping[str, FloatArray]) -> ValidationSums:
        """Sums over this hospital's validation images; zeros where it has none."""
        validation = self.prepared(order).validation
        if validation is None:
            return ValidationSums(examples=0, correct=0, loss=0.0)
        images = _images(validation, order)
        return evaluate(order.training, _tensors(weights), images, validation.labels, size=order.size)

    def trained(self, order: TrainOrder, parts: Mapping[str, bytes], layout: VectorLayout) -> Trained:
        """This order's training: from memory or disk where it was done before, else done now.

        An update that diverged is left out here, and told here only: an error would tell the coordinator about the
        update, and it says how large updates become. The trainer is then what it was before.
        """
        data = self.prepared(order)
        key = common_hash(Step.TRAIN, order, parts).hex()
        trainer = self._trainer or self._resume(order, data)
        if self._trained is not None and self._trained.key == key:
            return self._trained
        self._trainer = None  # where this round fails, the next one begins with what is on the disk
        trainer.load(_tensors(unpack(parts[WEIGHTS], layout.update, whose="the coordinator")))
        result = trainer.train(
            order.task, lambda done, total: self._progress(f"round {order.round}: training", done, total)
        )
        trained = self._zero(order, layout, key=key, stopped=not result.batches)
        if result.batches:
            stops = ", stopped early" if result.stopped else ""
            self._say(f"round {order.round}: trained {result.batches} batches, loss {result.loss:.3f}{stops}")
            try:
                trained = self._encoded(order, layout, trained, trainer.update(), result)
            except ComputationFailed as error:
                self._say(str(error))
                trainer = self._resume(order, data)
        self._keep(trained, trainer)
        self._trainer, self._trained = trainer, trained
        return trained

    def _zero(self, order: TrainOrder, layout: VectorLayout, *, key: str, stopped: bool) -> Trained:
        """An update that changes nothing."""
        bits = layout.ring_bits if order.secure else 32
        residual = self._residual(order)
        return Trained(
            key=key,
            round=order.round,
            counts=False,
            stopped=stopped,
            loss=0.0,
            encoded=np.zeros(layout.update_length, np.uint16 if bits == 16 else np.uint32),
            largest=np.zeros(len(layout.update)),
            residual_before=residual,
            residual_after=residual,
        )

    def _encoded(
        self, order: TrainOrder, layout: VectorLayout, zero: Trained, trained: Weights, result: LocalResult
    ) -> Trained:
        """The update as it is added up. Raises ComputationFailed for one that diverged."""
        update = {name: value.numpy() for name, value in trained.items()}
        encoding = UpdateEncoding(layout=layout, limits=order.limits, weight_total=order.weight_total)
        name, weight = self._settings.name, weight_of(result.examples)
        if not order.secure:
            encoding.check(update, hospital=name, weight=weight, max_norm=self._settings.max_norm)
            share = np.float32(weight / order.weight_total)
            weighted = pack({tensor: share * value for tensor, value in update.items()}, layout.update)
            return replace(zero, counts=True, loss=result.loss, encoded=np.frombuffer(weighted, dtype="<f4"))
        found = encoding.encode(
            update, hospital=name, weight=weight, max_norm=self._settings.max_norm, residual=zero.residual_before
        )
        return replace(
            zero,
            counts=True,
            loss=result.loss,
            encoded=found.update,
            largest=found.largest,
            residual_after=found.residual,
        )

    def _residual(self, order: TrainOrder) -> FloatArray | None:
        """What rounding cut off so far. Of an update that never came into a sum, what had been cut off before it."""
        before = self._trained
        if before is None:
            return None
        summed = before.round == order.round - 1 and self._settings.name in order.last_sum
        return before.residual_after if summed else before.residual_before

    def _resume(self, order: TrainOrder, data: LocalData) -> LocalTrainer:
        """Make the trainer, with what was kept of earlier rounds."""
        validation = None
        if data.validation is not None:
            validation = (_images(data.validation, order), data.validation.labels)
        trainer = LocalTrainer(
            order.training,
            images=_images(data.training, order),
            labels=data.training.labels,
            hospital=self._settings.name,
            class_weights=order.class_weights,
            validation=validation,
        )
        if self._path.exists():
            state = checkpoints.read(self._path)
            facts = json.loads(str(state["facts"]))
            trainer.restore({name.removeprefix("trainer/"): state[name] for name in state if "trainer/" in name})
            self._trained = Trained(
                **facts,
                encoded=state["encoded"],
                largest=state["largest"],
                residual_before=state.get("residual_before"),
                residual_after=state.get("residual_after"),
            )
            self._say(f"goes on after round {facts['round']}, which was trained before")
        self._trainer = trainer
        return trainer

    def _keep(self, trained: Trained, trainer: LocalTrainer) -> None:
        """Write the trainer's state and the last update, so that a crash leaves the old file or the new one."""
        facts = {name: getattr(trained, name) for name in ("key", "round", "counts", "stopped", "loss")}
        arrays: dict[str, NDArray[Any]] = {"facts": np.array(json.dumps(facts))}
        arrays |= {f"trainer/{name}": value for name, value in trainer.state().items()}
        arrays |= {"encoded": trained.encoded, "largest": trained.largest}
        for name in ("residual_before", "residual_after"):
            if (value := getattr(trained, name)) is not None:
                arrays[name] = value
        checkpoints.save(arrays, self._path)


def _images(data: Prepared, order: TrainOrder | EvaluateOrder) -> Images:
    """Normalised as the order says, read from the disk when they are needed."""
    return cast("Images", data.images.with_statistics(order.mean, order.standard_deviation))


def _tensors(arrays: Mapping[str, FloatArray]) -> Weights:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}
