"""From a run's folder, or a published model, to its result file."""

import hashlib
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from contract.errors import CallerError
from contract.model_card import InputSpecification, ModelCard, read_card
from federated_learning.data_source.examples import DataSource, choose_validation_role, collect_labels
from federated_learning.data_source.images import OnDemandImages
from federated_learning.export import run_onnx, to_onnx
from federated_learning.in_process import read_chosen
from federated_learning.publication import describe_recipe
from federated_learning.recipe import PEDIATRIC_PNEUMONIA_RECIPE
from federated_learning.report.results import FORMAT, RunResult, SplitResult, make_split
from federated_learning.run_records import RunKind, read_history, read_run
from federated_learning.temperature import fit_usable_temperature
from federated_learning.torch_networks import network_with

LIBRARIES: Final = ("torch", "numpy", "onnx", "onnxruntime")


def evaluate(
    run: Path,
    *,
    name: str,
    source: DataSource,
    test_roles: tuple[str, ...],
    progress: Callable[[str], None] = lambda _text: None,
) -> RunResult:
    """Predict the validation role and the test roles with the exported model of a finished run.

    The temperature is fitted on the validation role. Raises ConfigurationError, ModelFileError or CallerError.
    """
    record = read_run(run)
    weights, chosen = read_chosen(run / "best.npz")
    description = record.description
    _require_classes(source, description.classes)
    model = to_onnx(network_with(record.settings, weights), description.input)
    roles = (record.validation_role, *test_roles)
    splits = _predict(model, description.input, name=name, source=source, roles=roles, progress=progress)
    return RunResult(
        **_name_result(name, source, splits),
        kind=record.kind,
        data_set=description.data_set,
        size=description.input.height,
        settings=record.settings.model_dump(mode="json"),
        training_roles=record.training_roles,
        chosen_round=chosen.epoch if record.federation is None else record.federation.chosen_round,
        temperature=fit_usable_temperature(np.asarray(splits[0].logits), splits[0].truth) or 1.0,
        model_sha256=hashlib.sha256(model.SerializeToString()).hexdigest(),
        federation=record.federation,
        history=read_history(run),
    )


def evaluate_published(
    model: Path,
    *,
    name: str,
    source: DataSource,
    validation_role: str | None,
    test_roles: tuple[str, ...],
    progress: Callable[[str], None] = lambda _text: None,
) -> RunResult:
    """Predict with a published model, whose run need not be there any more: how it was trained is what its card says.

    Raises CallerError for a model whose card names no federated training, or ModelFileError.
    """
    card = read_card(model / "card.json")
    training = card.federation
    if training is None or not card.metrics:
        raise CallerError(f"{model.name} has no federated training in its card: evaluate the run that it came from")
    _require_classes(source, card.classes)
    file, roles = model / "model.onnx", (choose_validation_role(source, validation_role), *test_roles)
    splits = _predict(file, card.input, name=name, source=source, roles=roles, progress=progress)
    return RunResult(
        **_name_result(name, source, splits),
        kind=RunKind.FEDERATED if training.secure_aggregation is None else RunKind.FEDERATED_SECURE,
        data_set=card.metrics[0].data_set,
        size=card.input.height,
        settings={"published": f"{card.name} {card.version}"} | _recognise_settings(card),
        training_roles=training.hospitals,
        chosen_round=training.chosen_round,
        temperature=card.temperature,
        model_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        federation=training,
        history=(),
    )


def _require_classes(source: DataSource, classes: tuple[str, ...]) -> None:
    if source.classes != classes:
        raise CallerError("the data has other classes than the model: give the data that it was trained for")


def _name_result(name: str, source: DataSource, splits: tuple[SplitResult, ...]) -> dict[str, Any]:
    """What every result holds. The first split is that of the validation role."""
    return {
        "format": FORMAT,
        "name": name,
        "taken": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "classes": source.classes,
        "validation_role": splits[0].split,
        "software": {"python": platform.python_version()} | {library: version(library) for library in LIBRARIES},
        "splits": splits,
    }


def _recognise_settings(card: ModelCard) -> dict[str, Any]:
    """Our recipe, if it is what the card says of its training; nothing otherwise: words alone are not settings."""
    words = describe_recipe(PEDIATRIC_PNEUMONIA_RECIPE, card.federation)
    return PEDIATRIC_PNEUMONIA_RECIPE.model_dump(mode="json") if words in card.training else {}


def _predict(
    model: onnx.ModelProto | Path,
    wanted: InputSpecification,
    *,
    name: str,
    source: DataSource,
    roles: tuple[str, ...],
    progress: Callable[[str], None],
) -> tuple[SplitResult, ...]:
    splits: list[SplitResult] = []
    for role in dict.fromkeys(roles):
        examples = source.examples(role)
        logits = run_onnx(model, OnDemandImages(examples, wanted))
        splits.append(make_split(role, examples, logits))
        right = float((logits.argmax(1) == collect_labels(examples)).mean())
        progress(f"{name}: {role}: {len(examples)} images, accuracy {right:.4f}")
    return tuple(splits)
