"""What the model owner wants to know before serving: layers, value ranges, cost, and the gap to onnxruntime."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contract.errors import ImageError, ModelFileError
from contract.model_card import InputSpecification, Strict
from contract.onnx_runtime import load_onnxruntime
from imaging.reading import read_model_input
from model_owner.onnx_import.ending import final_activation
from model_owner.prediction import LinkPrediction, predict_over_links
from model_owner.registry import RegisteredModel
from secure_computation import reference
from secure_computation.engines.crypten.lowering import predict_cost
from secure_computation.engines.masked.costs import total_cost
from secure_computation.engines.masked.integer_weights import round_weights
from secure_computation.float_reference import evaluate, value_ranges
from secure_computation.network import Shape

RANDOM_SAMPLES = 4
RANDOM_SEED = 2018


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

    max_abs_error: float | None
    """Largest difference of a logit from onnxruntime's; None where the plan gives labels only."""
    labels_agree: int
    """Samples on which both name the same class."""
    out_of_range: str | None
    """What the audit said of the first sample with a value beyond its ring; such samples are not compared."""


class CheckReport(Strict):
    """Everything that `model-owner check` prints."""

    name: str
    version: str
    plan_hash: str
    samples: int
    samples_are_random: bool
    layers: tuple[LayerReport, ...]
    costs: tuple[CostReport, ...]
    predictions: tuple[LinkPrediction, ...]
    """Seconds over usual links; computing is estimated on the machine of the reference measurement."""
    max_abs_error: float
    """Largest difference of a logit from onnxruntime's."""
    labels_agree: int
    """Samples on which both name the same class."""
    fixed_point: FixedPointReport | None
    """None where the masked engine cannot take the model."""


def check_model(model: RegisteredModel, files: tuple[Path, ...] = ()) -> CheckReport:
    """Evaluate both halves in the clear, at the model owner, on files or on seeded random images.

    Raises ImageError for a file that cannot be read, ModelFileError where onnxruntime refuses the model.
    """
    images = _images(files, model.card.input) if files else random_images(model.card.input)
    expected = onnxruntime_logits(model.onnx(), images)
    network = model.plan.network
    logits = evaluate(network, model.weights, torch.from_numpy(images)).numpy()
    return CheckReport(
        name=model.card.name,
        version=model.card.version,
        plan_hash=model.plan.plan_hash(),
        samples=len(images),
        samples_are_random=not files,
        layers=_layers(model, images),
        costs=_costs(model),
        predictions=predict_over_links(model.plan),
        max_abs_error=float(np.abs(logits - expected).max()),
        labels_agree=int((logits.argmax(axis=1) == expected.argmax(axis=1)).sum()),
        fixed_point=_fixed_point(model, images, expected),
    )


def random_images(specification: InputSpecification) -> NDArray[np.float32]:
    """Seeded noise with the card's mean and standard deviation, cut to what a picture can hold, then normalised."""
    shape = (RANDOM_SAMPLES, specification.channels, specification.height, specification.width)
    mean = np.reshape(specification.mean, (1, -1, 1, 1))
    deviation = np.reshape(specification.standard_deviation, (1, -1, 1, 1))
    pixels = np.random.default_rng(RANDOM_SEED).normal(mean, deviation, shape).clip(0.0, 1.0)
    return np.asarray((pixels - mean) / deviation, dtype=np.float32)


def onnxruntime_logits(model: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (samples, classes) of an ONNX model, one image at a time: what its final Softmax or Sigmoid reads, if any.

    One logit z of a binary model becomes (0, z), as at import.
    """
    onnxruntime = load_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as failures

    try:
        session = onnxruntime.InferenceSession(_ending_in_logits(model), providers=["CPUExecutionProvider"])
        entry = session.get_inputs()[0]
        kind = np.float16 if entry.type == "tensor(float16)" else np.float32
        rows = [session.run(None, {entry.name: image[np.newaxis].astype(kind)})[0] for image in images]
    except (failures.Fail, failures.InvalidArgument, failures.InvalidGraph, failures.NotImplemented) as error:
        raise ModelFileError("onnxruntime cannot run this model: export it again with standard operators") from error
    logits = np.stack([row.reshape(-1) for row in rows]).astype(np.float32)
    return np.insert(logits, 0, 0.0, axis=1) if logits.shape[1] == 1 else logits


def _ending_in_logits(given: bytes) -> bytes:
    """What onnxruntime is to load: the model, or a copy without its final Softmax or Sigmoid."""
    import onnx

    model = onnx.load_model_from_string(given)
    last = final_activation(model.graph)
    if last is None:
        return given
    last.op_type = "Identity"
    del last.attribute[:]
    return bytes(model.SerializeToString())


def _images(files: tuple[Path, ...], specification: InputSpecification) -> NDArray[np.float32]:
    return np.stack([read_model_input(file, specification).tensor for file in files])


def _layers(model: RegisteredModel, images: NDArray[np.float32]) -> tuple[LayerReport, ...]:
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


def _costs(model: RegisteredModel) -> tuple[CostReport, ...]:
    crypten = predict_cost(model.plan.network, model.plan.engines.crypten)
    found = CostReport(
        engine="crypten",
        one_way_trips=crypten.online_trips,
        online_bytes=2 * crypten.online_bytes_each_way,
        offline_bytes=crypten.offline_bytes,
    )
    if model.plan.engines.masked is None:
        return (found,)
    masked = total_cost(model.plan.engines.masked)
    declared = CostReport(
        engine="masked",
        one_way_trips=masked.trips,
        online_bytes=masked.data_owner_to_model_owner + masked.model_owner_to_data_owner,
        offline_bytes=masked.dealer_to_model_owner + masked.data_owner_to_model_owner_offline,
    )
    return (declared, found)


def _fixed_point(
    model: RegisteredModel, images: NDArray[np.float32], expected: NDArray[np.float32]
) -> FixedPointReport | None:
    lowering = model.plan.engines.masked
    if lowering is None:
        return None
    weights = round_weights(lowering, model.weights)
    errors, agree, out_of_range = [], 0, None
    for image, wanted in zip(images, expected, strict=True):
        try:
            output = reference.evaluate(lowering, weights, reference.quantise_image(lowering, image))
        except (ModelFileError, ImageError) as error:
            out_of_range = out_of_range or str(error)
            continue
        agree += int(reference.label_of(output) == wanted.argmax())
        errors.append(float(np.abs(reference.logits_of(lowering, output) - wanted).max()))
    return FixedPointReport(
        max_abs_error=None if lowering.gives_label or not errors else max(errors),
        labels_agree=agree,
        out_of_range=out_of_range,
    )
