"""From a run's folder to its result file."""

import hashlib
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np

from contract.errors import CallerError
from federated_learning.calibration import fit_temperature
from federated_learning.data_source import DataSource, OnDemandImages, labels_of
from federated_learning.export import run_onnx, to_onnx
from federated_learning.networks import network_with
from federated_learning.records import read_history, read_run
from federated_learning.report.results import DECIMALS, FORMAT, RunResult, SplitResult, split_result
from federated_learning.training import read_chosen

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
    splits: list[SplitResult] = []
    for role in dict.fromkeys((record.validation_role, *test_roles)):
        examples = source.examples(role)
        logits = run_onnx(model, OnDemandImages(examples, description.input))
        splits.append(split_result(role, examples, logits))
        right = float((logits.argmax(1) == labels_of(examples)).mean())
        progress(f"{name}: {role}: {len(examples)} images, accuracy {right:.4f}")
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
        temperature=round(fit_temperature(np.asarray(splits[0].logits), splits[0].truth), DECIMALS),
        model_sha256=hashlib.sha256(model.SerializeToString()).hexdigest(),
        federation=record.federation,
        history=read_history(run),
        software={"python": platform.python_version()} | {library: version(library) for library in LIBRARIES},
        splits=tuple(splits),
    )
