"""A training run from start to end in one process: centralised, or several hospitals without a network between them.

Both are the same loop over the same local training; a centralised run has one hospital.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from contract.base import Strict
from contract.errors import ConfigurationError
from contract.model_card import FederatedTraining
from federated_learning import checkpoints
from federated_learning.averaging import GlobalModel, weighted_mean
from federated_learning.checkpoints import Arrays
from federated_learning.data_source.examples import DataSource, check_disjoint_patients
from federated_learning.data_source.images import ImageArray, LazyImages
from federated_learning.data_source.preparing import prepare
from federated_learning.data_statistics import add_pixels, compute_statistics, count_classes, weigh_classes
from federated_learning.local_training import LocalTrainer, Progress, evaluate, silent
from federated_learning.rounds.display import show_bars
from federated_learning.run_records import (
    RoundRecord,
    RunKind,
    RunRecord,
    append_round,
    describe_training,
    write_run,
)
from federated_learning.torch_networks import Labels, network_with
from federated_learning.training_settings import RoundTask, Stage, TrainingSettings, plan_rounds
from plumbing.command_line import console


class EpochResult(Strict):
    """One line of the training log. `final_size` says whether it was measured at the model's input size."""

    epoch: int
    size: int
    loss: float
    accuracy: float
    validation_loss: float
    final_size: bool

    @property
    def rank(self) -> tuple[float, float]:
        """More right answers, or as many with a lower loss."""
        return self.accuracy, -self.validation_loss


class Trainer:
    """The state of a run; `run_round` advances it. State after a round depends on the settings and the data alone."""

    def __init__(self, settings: TrainingSettings, hospitals: Mapping[str, tuple[ImageArray, Labels]]) -> None:
        """A run over these hospitals' images and labels; class weights follow from the counts of all of them together.

        A centralised run has one, without a name.
        """
        self.settings = settings
        counts = count_classes(np.concatenate([labels for _, labels in hospitals.values()]), settings.classes)
        weights = weigh_classes(counts, power=settings.class_balance)
        self.hospitals = tuple(
            LocalTrainer(settings, images=images, labels=labels, hospital=name, class_weights=weights)
            for name, (images, labels) in hospitals.items()
        )
        self.tasks = plan_rounds(settings, examples=sum(counts), hospitals=len(hospitals))
        self.model = GlobalModel(settings)
        self.rounds = 0
        """Rounds done."""
        self.history: list[EpochResult] = []
        self.plans: list[tuple[int, tuple[Stage, ...]]] = [(0, settings.stages)]
        """Each plan of stages with the epoch from which it was followed: more than one if a run was replanned."""

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.tasks[self.rounds - 1].epoch + 1 if self.rounds else 0

    def run_round(self, progress: Progress = silent) -> float:
        """Let every hospital train one round and average; returns their mean loss, nan if all have stopped early.

        `progress(done, all)` counts image points drawn over the whole run.
        """
        task = self.tasks[self.rounds]
        passed = sum(map(_count_points, self.tasks[: self.rounds]))
        everything, share = sum(map(_count_points, self.tasks)), _count_points(task) / len(self.hospitals)
        updates, results = [], []
        for index, hospital in enumerate(self.hospitals):
            hospital.load(self.model.weights)

            def advance(done: int, batches: int, before: float = passed + index * share) -> None:
                progress(round(before + share * done / batches), everything)

            results.append(hospital.train(task, advance))
            updates.append(hospital.update())
        self.rounds += 1
        examples = [result.examples for result in results]
        if not any(examples):
            return math.nan
        self.model.apply(weighted_mean(updates, examples), batches=task.batches)
        weighed = (result.loss * result.examples for result in results if result.examples)
        return sum(weighed) / sum(examples)

    def state(self) -> Arrays:
        """All that `restore` needs, as arrays by name."""
        arrays = {"facts": self._note_facts()} | self.model.state()
        for index, hospital in enumerate(self.hospitals):
            arrays |= checkpoints.add_prefix(f"hospital/{index}", hospital.state())
        return arrays

    def chosen(self) -> Arrays:
        """The averaged weights and how they came about, as arrays by name: what is kept of the best epoch."""
        return {"facts": self._note_facts()} | checkpoints.add_prefix("average", self.model.average)

    def _note_facts(self) -> NDArray[Any]:
        return checkpoints.write_facts(
            {
                "epoch": self.epoch,
                "rounds": self.rounds,
                "history": [line.model_dump() for line in self.history],
                "plans": [(epoch, [stage.model_dump() for stage in stages]) for epoch, stages in self.plans],
            }
        )

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue where `state` was taken.

        The stages may differ, to shorten or extend a run; the learning rate then follows the new plan from here on.
        Raises ConfigurationError if any other setting differs.
        """
        facts = checkpoints.read_facts(state)
        for index, hospital in enumerate(self.hospitals):
            hospital.restore(checkpoints.select_prefix(state, f"hospital/{index}"))
        self.model.restore(state)
        self.history = [EpochResult.model_validate(line) for line in facts["history"]]
        self.plans = [(begin, tuple(map(Stage.model_validate, stages))) for begin, stages in facts["plans"]]
        self.rounds = facts["rounds"]
        if self.plans[-1][1] != self.settings.stages:
            self.plans.append((facts["epoch"], self.settings.stages))
            self.rounds = sum(task.epoch < facts["epoch"] for task in self.tasks)


def _count_points(task: RoundTask) -> int:
    return task.batches * task.batch * task.size**2


class Chosen(Strict):
    """How the kept weights came about."""

    epoch: int
    plans: tuple[tuple[int, tuple[Stage, ...]], ...]


def read_chosen(path: Path) -> tuple[dict[str, Tensor], Chosen]:
    """The averaged weights in a file written by `save`, and their history. Raises ConfigurationError."""
    arrays = checkpoints.read(path)
    facts = checkpoints.read_facts(arrays)
    return checkpoints.select_tensors(arrays, "average"), Chosen.model_validate(
        {"epoch": facts["epoch"], "plans": facts["plans"]}
    )


def fit(
    trainer: Trainer,
    *,
    images: ImageArray,
    labels: Labels,
    folder: Path,
    report: Callable[[EpochResult], None] = lambda _line: None,
    progress: Progress = silent,
) -> nn.Module:
    """Train to the end, from folder/checkpoint.npz if it exists, and return the network chosen on the validation data.

    `images` and `labels` are the validation data. Kept in `folder`: checkpoint.npz after each epoch, and best.npz, the
    averaged weights of the epoch with the highest validation accuracy among those measured at the final size.
    Raises ConfigurationError, also if all hospitals stop before the images have their final size.
    """
    checkpoint, best = folder / "checkpoint.npz", folder / "best.npz"
    if checkpoint.exists():
        trainer.restore(checkpoints.read(checkpoint))
    losses: list[float] = []
    while trainer.rounds < len(trainer.tasks):
        task = trainer.tasks[trainer.rounds]
        losses.append(trainer.run_round(progress))
        if math.isnan(losses[-1]):
            break
        if not task.last_of_epoch:
            continue
        sums = evaluate(trainer.settings, trainer.model.average, images, labels, size=task.size)
        line = EpochResult(
            epoch=trainer.epoch,
            size=task.size,
            loss=sum(losses) / len(losses),
            accuracy=sums.correct / sums.examples,
            validation_loss=sums.loss / sums.examples,
            final_size=task.final_size,
        )
        losses = []
        better = line.final_size and all(line.rank > old.rank for old in trainer.history if old.final_size)
        trainer.history.append(line)
        if better:
            checkpoints.save(trainer.chosen(), best)
        checkpoints.save(trainer.state(), checkpoint)
        report(line)
    if not best.exists():
        raise ConfigurationError("training stopped before any epoch at the model's size: allow more patience")
    return network_with(trainer.settings, read_chosen(best)[0])


def run_training(record: RunRecord, source: DataSource, *, output: Path) -> None:
    """Read the images, train, and write the record of the run; bars show how far. Raises ConfigurationError."""
    screen = console()
    check_disjoint_patients(source.examples(*record.training_roles), source.examples(record.validation_role))
    output.mkdir(parents=True, exist_ok=True)
    with show_bars(screen) as advance:
        read, train = partial(advance, "reading"), partial(advance, "training")
        record, hospitals = _prepare_hospitals(record, source, cache=output, progress=read)
        held_out = prepare(source, [record.validation_role], record.description.input, cache=output, progress=read)
        screen.print(f"{sum(len(found) for _, found in hospitals.values())} images to train on")
        trainer = Trainer(record.settings, hospitals)

        def report(line: EpochResult) -> None:
            kept = RoundRecord(
                round=line.epoch,
                training_loss=line.loss,
                validation_loss=line.validation_loss,
                validation_accuracy=line.accuracy,
            )
            append_round(output, kept)
            screen.print(
                f"epoch {line.epoch} of {record.settings.epochs}, {line.size} px: loss {line.loss:.3f}, "
                f"{record.validation_role} accuracy {line.accuracy:.3f}"
            )

        fit(trainer, images=held_out.images, labels=held_out.labels, folder=output, report=report, progress=train)
    # Only now: settings that a checkpoint refused must not replace those it was made with.
    chosen = read_chosen(output / "best.npz")[1]
    write_run(output, record.model_copy(update={"federation": _describe_training(record, trainer, chosen, hospitals)}))
    best = max(line.accuracy for line in trainer.history if line.final_size)
    screen.print(f"best {record.validation_role} accuracy {best:.4f}")


def _prepare_hospitals(
    record: RunRecord, source: DataSource, *, cache: Path, progress: Callable[[int, int], None]
) -> tuple[RunRecord, dict[str, tuple[LazyImages, Labels]]]:
    """Images and labels by hospital, normalised by the statistics of all of them, and the record with these."""
    apart = record.kind is RunKind.FEDERATED
    groups = [(role,) for role in record.training_roles] if apart else [record.training_roles]
    names = [f"hospital-{letter}" for letter in ascii_lowercase[: len(groups)]] if apart else [""]
    found = [prepare(source, roles, record.description.input, cache=cache, progress=progress) for roles in groups]
    pictures = (picture for prepared in found for picture in prepared.images.in_unit_range())
    mean, deviation = compute_statistics(add_pixels(pictures))
    described = record.description.with_statistics(mean, deviation)
    hospitals = {
        name: (prepared.images.with_statistics(mean, deviation), prepared.labels)
        for name, prepared in zip(names, found, strict=True)
    }
    return record.model_copy(update={"description": described}), hospitals


def _describe_training(
    record: RunRecord, trainer: Trainer, chosen: Chosen, hospitals: Mapping[str, tuple[LazyImages, Labels]]
) -> FederatedTraining | None:
    if record.kind is not RunKind.FEDERATED:
        return None
    labels = np.concatenate([found for _, found in hospitals.values()])
    classes = record.description.classes
    return describe_training(
        record.settings,
        hospitals=tuple(hospitals),
        class_counts=dict(zip(classes, count_classes(labels, len(classes)), strict=True)),
        rounds=trainer.rounds,
        chosen_round=sum(task.epoch < chosen.epoch for task in trainer.tasks),
        how="in one process",
    )
