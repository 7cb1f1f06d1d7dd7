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
from contract.model_card import FederationRecord, InputSpecification, ModelCard, read_card
from federated_learning.data_source import DataSource, OnDemandImages, collect_labels
from federated_learning.export import run_onnx, to_onnx
from federated_learning.in_process import read_chosen
from federated_learning.publication import recipe_words
from federated_learning.recipe import PEDIATRIC_PNEUMONIA_RECIPE
from federated_learning.report.results import FORMAT, RunResult, SplitResult, split_result
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
    if source.classes != description.classes:
        raise CallerError("the data has other classes than the run was trained for: give the data of the run")
    model = to_onnx(network_with(record.settings, weights), description.input)
    roles = dict.fromkeys((record.validation_role, *test_roles))
    splits = _predicted(model, description.input, name=name, source=source, roles=tuple(roles), progress=progress)
    return RunResult(
        format=FORMAT,
        name=name,
        kind=record.kind,
        taken=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        data_set=description.data_set,
        classes=description.classes,
        size=description.input.height,
        settings=record.settings.model_dump(mode="json"),
        training_roles=record.training_roles,
        validation_role=record.validation_role,
        chosen_round=chosen.epoch if record.federation is None else record.federation.chosen_round,
        temperature=fit_usable_temperature(np.asarray(splits[0].logits), splits[0].truth) or 1.0,
        model_sha256=hashlib.sha256(model.SerializeToString()).hexdigest(),
        federation=record.federation,
        history=read_history(run),
        software=_software(),
        splits=splits,
    )


def evaluate_published(
    model: Path,
    *,
    name: str,
    source: DataSource,
    validation_role: str,
    test_roles: tuple[str, ...],
    progress: Callable[[str], None] = lambda _text: None,
) -> RunResult:
    """Predict with a published model, whose run need not be there any more: how it was trained is what its card says.

    Raises CallerError for a model without a card of a federation, or ModelFileError.
    """
    card = read_card(model / "card.json")
    if card.federation is None or not card.metrics:
        raise CallerError(f"{model.name} has no federation in its card: evaluate the run that it came from")
    if source.classes != card.classes:
        raise CallerError("the data has other classes than the model: give the data that it was trained for")
    file, roles = model / "model.onnx", tuple(dict.fromkeys((validation_role, *test_roles)))
    return RunResult(
        format=FORMAT,
        name=name,
        kind=_kind(card.federation),
        taken=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        data_set=card.metrics[0].data_set,
        classes=card.classes,
        size=card.input.height,
        settings={"published": f"{card.name} {card.version}"} | _settings_of(card),
        training_roles=card.federation.hospitals,
        validation_role=validation_role,
        chosen_round=card.federation.chosen_round,
        temperature=card.temperature,
        model_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        federation=card.federation,
        history=(),
        software=_software(),
        splits=_predicted(file, card.input, name=name, source=source, roles=roles, progress=progress),
    )


def _settings_of(card: ModelCard) -> dict[str, Any]:
    """Our recipe, if it is what the card tells of its training; nothing otherwise: words alone are not settings."""
    told = recipe_words(PEDIATRIC_PNEUMONIA_RECIPE, card.federation)
    return PEDIATRIC_PNEUMONIA_RECIPE.model_dump(mode="json") if told in card.training else {}


def _kind(federation: FederationRecord) -> RunKind:
    return RunKind.FEDERATED if federation.secure_aggregation is None else RunKind.FEDERATED_SECURE


def _predicted(
    model: onnx.ModelProto | Path,
    wanted: InputSpecification,
    *,
    name: str,
    source: DataSource,
    roles: tuple[str, ...],
    progress: Callable[[str], None],
) -> tuple[SplitResult, ...]:
    splits: list[SplitResult] = []
    for role in roles:
        examples = source.examples(role)
        logits = run_onnx(model, OnDemandImages(examples, wanted))
        splits.append(split_result(role, examples, logits))
        right = float((logits.argmax(1) == collect_labels(examples)).mean())
        progress(f"{name}: {role}: {len(examples)} images, accuracy {right:.4f}")
    return tuple(splits)


def _software() -> dict[str, str]:
    return {"python": platform.python_version()} | {library: version(library) for library in LIBRARIES}
