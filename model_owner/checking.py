"""What the model owner wants to know before serving: layers, value ranges, cost, and the gap to onnxruntime."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contract.base import Strict
from contract.errors import ImageError, ModelFileError
from contract.model_card import Arithmetic, InputSpecification, Task
from model_owner.agreement import Agreement
from model_owner.calibration_images import load_calibration_images
from model_owner.choosing_precision import ERROR_BUDGET, suggest_budget
from model_owner.cost_prediction import LinkPrediction, predict_over_links
from model_owner.imported_models import ImportedModel
from model_owner.in_clear import ModelInClear
from secure_computation.crypten_bridge import is_installed
from secure_computation.engines.crypten.lowering import predict_cost
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights, round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.session.costs import total_cost
from secure_computation.float_reference import evaluate, value_ranges
from secure_computation.network import Shape
from secure_computation.plan import Plan

RANDOM_SAMPLES = 4
RANDOM_SEED = 2018
DRAWS = 2
"""Sessions of dithered arithmetic that each sample is tried in: it rounds differently each time."""


class LayerReport(Strict):
    """One operation of the network."""

    name: str
    kind: str
    shape: Shape
    weights: int
    multiplications: int
    smallest: float
    """Smallest value of the output over the samples."""
    largest: float


class CostReport(Strict):
    """What one diagnosis costs under one engine, as its lowering declares. Without masked weights, sent once."""

    engine: str
    one_way_trips: int
    online_bytes: int
    """Both ways."""
    offline_bytes: int


class FixedPointReport(Strict):
    """The masked engine's answers on the samples, by its integer reference, which it equals in every element."""

    arithmetic: Arithmetic
    max_abs_error: float | None
    """Largest difference of a logit from onnxruntime's; None if the plan gives labels only, as for what follows."""
    relative_error: float | None
    """The same by the largest logit."""
    max_probability_error: float | None
    labels_agree: int
    """Samples on which both give the same answer: see CheckReport."""
    out_of_range: str | None
    """What the audit said of the first sample with a value beyond its ring; such samples are not compared."""
    advice: str | None
    """What to do if the error is above ERROR_BUDGET or an answer differs."""


class CheckReport(Strict):
    """Everything that `model-owner check` prints."""

    name: str
    version: str
    plan_hash: str
    card_hash: str
    samples: int
    samples_are_random: bool
    layers: tuple[LayerReport, ...]
    costs: tuple[CostReport, ...]
    predictions: tuple[LinkPrediction, ...]
    """Seconds over usual links; computing is estimated on the machine of the reference measurement."""
    task: Task
    max_abs_error: float
    """Largest difference of a logit from onnxruntime's."""
    largest_logit: float
    """The largest absolute logit of onnxruntime's."""
    relative_error: float
    """`max_abs_error` by `largest_logit`."""
    max_probability_error: float
    """Largest difference of a probability, by the card's task and temperature."""
    labels_agree: int
    """Samples on which both give the same answer: the same class; of a multi-label model, each finding on the same side
    of its threshold."""
    fixed_point: FixedPointReport | None
    """In the plan's arithmetic; None if the masked engine cannot take the model."""
    other_arithmetic: FixedPointReport | None
    """With the same bits in the other one: what the card's `arithmetic` could change."""


def check_model(model: ImportedModel, files: tuple[Path, ...] = ()) -> CheckReport:
    """Evaluate both halves in the clear, at the model owner, on files or on seeded random images.

    Raises ImageError for a file that cannot be read, ModelFileError if onnxruntime refuses the model.
    """
    images = load_calibration_images(model.card.input, files) if files else draw_random_images(model.card.input)
    in_clear = ModelInClear(model.onnx())
    expected = np.concatenate([in_clear.logits(image[np.newaxis]) for image in images])
    logits = evaluate(model.plan.network, model.weights, torch.from_numpy(images)).numpy()
    gap = Agreement.of(model.card, logits, expected)
    masked = model.plan.engines.masked
    own = Arithmetic.DITHERED if masked is None else masked.arithmetic
    other = Arithmetic.EXACT if own is Arithmetic.DITHERED else Arithmetic.DITHERED
    return CheckReport(
        name=model.card.name,
        version=model.card.version,
        plan_hash=model.plan_hash,
        card_hash=model.card_hash,
        samples=len(images),
        samples_are_random=not files,
        layers=_report_layers(model, images),
        costs=tuple(_report_costs(model.plan)),
        predictions=predict_over_links(model.plan),
        task=model.card.task,
        **gap.model_dump(),
        relative_error=gap.relative_error,
        fixed_point=_check_fixed_point(model, own, images, expected, samples_are_random=not files),
        other_arithmetic=_check_fixed_point(model, other, images, expected, samples_are_random=not files),
    )


def draw_random_images(specification: InputSpecification) -> NDArray[np.float32]:
    """Seeded noise with the card's mean and standard deviation, cut to what a picture can hold, then normalised."""
    shape = (RANDOM_SAMPLES, specification.channels, specification.height, specification.width)
    mean = np.reshape(specification.mean, (1, -1, 1, 1))
    deviation = np.reshape(specification.standard_deviation, (1, -1, 1, 1))
    pixels = np.random.default_rng(RANDOM_SEED).normal(mean, deviation, shape).clip(0.0, 1.0)
    return np.asarray((pixels - mean) / deviation, dtype=np.float32)


def _report_layers(model: ImportedModel, images: NDArray[np.float32]) -> tuple[LayerReport, ...]:
    ranges = value_ranges(model.plan.network, model.weights, torch.from_numpy(images))
    return tuple(
        LayerReport(
            name=operation.name,
            kind=operation.kind,
            shape=operation.shape,
            weights=sum(int(np.prod(shape)) for shape in operation.weight_shapes().values()),
            multiplications=operation.multiplications(),
            smallest=ranges[operation.output].smallest,
            largest=ranges[operation.output].largest,
        )
        for operation in model.plan.network.operations
    )


def _report_costs(plan: Plan) -> Iterator[CostReport]:
    if plan.engines.masked is not None:
        masked = total_cost(plan.engines.masked)
        yield CostReport(
            engine="masked",
            one_way_trips=masked.trips,
            online_bytes=masked.online_bytes,
            offline_bytes=masked.offline_bytes,
        )
    if plan.engines.crypten is not None:
        crypten = predict_cost(plan.network, plan.engines.crypten)
        yield CostReport(
            engine="crypten",
            one_way_trips=crypten.online_trips,
            online_bytes=2 * crypten.online_bytes_each_way,
            offline_bytes=crypten.offline_bytes,
        )


def _check_fixed_point(
    model: ImportedModel,
    arithmetic: Arithmetic,
    images: NDArray[np.float32],
    expected: NDArray[np.float32],
    *,
    samples_are_random: bool,
) -> FixedPointReport | None:
    lowering = model.plan.engines.masked
    if lowering is None:
        return None
    outputs, out_of_range = _evaluate_samples(lowering, model, images, arithmetic)
    kept = list(outputs)
    gaps, agree = [], 0
    if lowering.gives_label:
        agree = sum(int((ones.argmax(axis=-1) == expected[index].argmax()).all()) for index, ones in outputs.items())
    else:
        gaps = [Agreement.of(model.card, logits, expected[[index] * DRAWS]) for index, logits in outputs.items()]
        agree = sum(gap.labels_agree == DRAWS for gap in gaps)
    largest = max((gap.max_abs_error for gap in gaps), default=None)
    relative = None if largest is None else largest / (float(np.abs(expected[kept]).max()) or 1.0)
    return FixedPointReport(
        arithmetic=arithmetic,
        max_abs_error=largest,
        relative_error=relative,
        max_probability_error=max((gap.max_probability_error for gap in gaps), default=None),
        labels_agree=agree,
        out_of_range=out_of_range,
        advice=advise(
            relative or 0.0,
            len(kept) - agree,
            samples_are_random=samples_are_random,
            budget=suggest_budget(largest or 0.0, float(np.abs(expected).max()) or 1.0),
        ),
    )


def _evaluate_samples(
    lowering: MaskedLowering, model: ImportedModel, images: NDArray[np.float32], arithmetic: Arithmetic
) -> tuple[dict[int, NDArray[np.float64]], str | None]:
    """What `_evaluate` gives for each sample, by its number; and why the first one that leaves the range does."""
    weights, outputs, out_of_range = round_weights(lowering, model.weights), {}, None
    for index, image in enumerate(images):
        try:
            outputs[index] = _evaluate(lowering, weights, image, arithmetic)
        except (ModelFileError, ImageError) as error:
            out_of_range = out_of_range or str(error)
    return outputs, out_of_range


def _evaluate(
    lowering: MaskedLowering, weights: IntegerWeights, image: NDArray[np.float32], arithmetic: Arithmetic
) -> NDArray[np.float64]:
    """Logits, or ones for labels, of DRAWS sessions, one row each."""
    integers = reference.quantise_image(lowering, image)
    draw = reference.draw_dithers(np.random.default_rng(RANDOM_SEED))  # to measure with: nothing secret is near
    sessions = [reference.evaluate_as(lowering, weights, integers, arithmetic, draw) for _ in range(DRAWS)]
    if lowering.gives_label:
        return np.array(sessions, dtype=np.float64)
    return np.stack([reference.read_logits(lowering, logits) for logits in sessions])


def advise(relative_error: float, differing: int, *, samples_are_random: bool, budget: float) -> str | None:
    """What to do about an error, if anything. `budget`: a smaller error of a logit that an import could aim at."""
    if relative_error <= ERROR_BUDGET and not differing:
        return None
    found = [f"the error is above {ERROR_BUDGET:.0%} of the largest logit"] if relative_error > ERROR_BUDGET else []
    found += [f"answers differ on {differing} of the samples"] if differing else []
    choose_other = "data owners choose the other engine (data-owner diagnose FILE --engine crypten), or "
    other = choose_other if is_installed() else ""
    trial = "noise is no picture, so check with real ones first (--samples); then " if samples_are_random else ""
    return (
        f"{' and '.join(found)}: {trial}import it under a new version with --calibration and several real images of "
        f"the model's kind and with --logit-error {budget:g}, which chooses more bits; if it stays so, {other}the "
        "model is trained again with smaller weights"
    )
