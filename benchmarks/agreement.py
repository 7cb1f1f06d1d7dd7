"""How often the masked engine's answer is the plain model's, over whole sets of images.

The integer reference stands in for the engine: tests show that the two are equal in every element of every value, so
hundreds of images need no parties. Every value is audited against its ring on the way.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import OnStep, Step, estimate_left
from contract.base import Strict
from contract.errors import CallerError
from contract.model_card import ModelCard, Task, read_card
from demonstration.plaintext import PlaintextModel
from federated_learning.data_source.table import read_table
from imaging.reading import read_model_input
from model_owner.agreement import choose_answers
from model_owner.calibration_images import load_calibration_images
from model_owner.choosing_precision import lower_within_budget
from model_owner.onnx_import.compiling import compile_model
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights

CLEAR_MARGIN = 0.1
"""If the plain model's answer is clearer, in logits, the labels must agree: see `margin`."""


class Disagreement(Strict):
    """One image on which the answers differ: its place in the list, never its name, and the plain model's margin."""

    index: int
    margin: float


class Agreement(Strict):
    """Labels and logits of one set of images."""

    model: str
    version: str
    images: int
    labels_agree: int
    disagreements: tuple[Disagreement, ...]
    clear_disagreements: int
    """Of these, how many with a margin above 0.1."""
    mean_abs_error: float
    """Mean over images of the largest distance of a logit from onnxruntime's."""
    max_abs_error: float
    machine: Machine
    versions: dict[str, str]


def measure_agreement(model_folder: Path, images: Sequence[Path], _folder: Path, on_step: OnStep) -> Agreement:
    """Compare over `images`. The plan is calibrated as an import without images would. Raises CallerError for none."""
    if not images:
        raise CallerError("no image given: name files or folders of images")
    plaintext = PlaintextModel(model_folder)
    card = plaintext.card
    compiled = compile_model(model_folder / "model.onnx", card)
    calibration = load_calibration_images(card.input, ())
    lowering = lower_within_budget(compiled.network, compiled.weights, calibration, arithmetic=card.arithmetic).lowering
    weights = round_weights(lowering, compiled.weights)
    dithers = reference.draw_dithers(np.random.default_rng(2018))
    errors, disagreements = [], []
    started, total = time.monotonic(), len(images)
    for index, path in enumerate(images):
        left = estimate_left(started, index, total)
        on_step(Step(words="comparing images", done=index, total=total, seconds_left=left))
        tensor = read_model_input(path, card.input).tensor
        expected = plaintext.logits(tensor)
        integers = reference.quantise_image(lowering, tensor)
        answered = reference.evaluate(lowering, weights, integers, dithers=dithers, audit=True)
        logits = reference.read_logits(lowering, answered)
        errors.append(float(np.abs(logits - expected).max()))
        differ = (choose_answers(card, logits[np.newaxis]) != choose_answers(card, expected[np.newaxis]))[0]
        if differ.any():
            disagreements.append(Disagreement(index=index, margin=margin(card, expected, differ)))
    return Agreement(
        model=card.name,
        version=card.version,
        images=len(images),
        labels_agree=len(images) - len(disagreements),
        disagreements=tuple(disagreements),
        clear_disagreements=sum(one.margin > CLEAR_MARGIN for one in disagreements),
        mean_abs_error=float(np.mean(errors)),
        max_abs_error=float(np.max(errors)),
        machine=read_machine(),
        versions=read_versions(),
    )


def margin(card: ModelCard, expected: NDArray[np.float64], differ: NDArray[np.bool_]) -> float:
    """How clear the plain model's answer is: between its two largest logits, or of a finding from its threshold's."""
    if card.task is not Task.MULTI_LABEL:
        second, first = np.sort(expected)[-2:]
        return float(first - second)
    thresholds = np.array([card.threshold(name) for name in card.classes])
    at_threshold = card.temperature * np.log(thresholds / (1 - thresholds))
    return float(np.abs(expected - at_threshold)[differ].max())


def choose_images(
    paths: Sequence[Path], model_folder: Path, *, manifest: Path | None, roles: Sequence[str]
) -> tuple[Path, ...]:
    """Files as they are and every file below a folder; with a manifest, the rows of these roles in one folder.

    Raises CallerError if paths and manifest do not go together.
    """
    if manifest is None:
        return tuple(file for path in paths for file in _list_files(path))
    if len(paths) != 1 or not roles:
        raise CallerError("with --manifest, name one folder of images and at least one --role")
    classes = read_card(model_folder / "card.json").classes
    source = read_table(manifest, folder=paths[0], classes=classes)
    return tuple(example.path for example in source.examples(*roles))


def _list_files(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
