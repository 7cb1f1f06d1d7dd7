"""The private integers of a masked plan: weights and biases as the engine multiplies them. Held by the model owner."""

from collections.abc import Iterator, Mapping
from typing import Any, Never

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelFileError
from secure_computation.engines.masked.plan.masked_lowering import HeatMapStep, LinearStep, MaskedLowering
from secure_computation.engines.masked.plan.step_bases import WEIGHT_LIMIT
from secure_computation.private_weights import PrivateWeights

IntegerTensor = NDArray[np.int32] | NDArray[np.int64]

_BIAS_LIMIT = 1 << 52  # beyond it, a float64 no longer holds every integer


class IntegerWeights(Mapping[str, IntegerTensor]):
    """int32 weights (|w| <= WEIGHT_LIMIT) and int64 biases by name, for every LinearStep; read-only, never shown."""

    def __init__(self, tensors: Mapping[str, IntegerTensor]) -> None:
        """Take over `tensors` and make them read-only."""
        self._tensors = dict(tensors)
        for tensor in self._tensors.values():
            tensor.setflags(write=False)

    def __getitem__(self, name: str) -> Any:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<IntegerWeights: {len(self)} tensors, values withheld>"

    def __reduce__(self) -> Never:
        raise TypeError("private weights are not pickled: round them again from PrivateWeights")


def round_weights(lowering: MaskedLowering, weights: PrivateWeights) -> IntegerWeights:
    """The integers of this plan from the model's real weights; the same ones each time.

    Raises ModelFileError where weights do not fit the plan, naming the layer.
    """
    tensors: dict[str, IntegerTensor] = {}
    for step in lowering.steps:
        if isinstance(step, LinearStep):
            tensors |= _round_layer(step, weights)
    return IntegerWeights(tensors)


def diffuse(weight: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
    """Round weight * scale to whole numbers so that the errors along each output's inputs cancel.

    The running sum is rounded, not each weight: no stretch of neighbouring weights is off by more than 1 in sum, so
    inputs that vary slowly, as pictures and their channels do, meet hardly any error. Worth two bits of weights against
    rounding each by itself. Each weight moves by less than 1.
    """
    running = np.cumsum(weight.reshape(weight.shape[0], -1).astype(np.float64) * scale, axis=1)
    return np.diff(np.rint(running), axis=1, prepend=0.0).reshape(weight.shape)


def _round_layer(step: LinearStep, weights: PrivateWeights) -> dict[str, IntegerTensor]:
    if isinstance(step, HeatMapStep):
        return _round_heat_map(step, weights)
    if step.weight_name not in weights or weights[step.weight_name].shape != step.weight_shape:
        raise ModelFileError(f"layer '{step.name}' of the plan has other weights: import the model again")
    weight = diffuse(weights[step.weight_name], step.weight_scale)
    bias = np.zeros(step.weight_shape[0])
    if step.operation.bias:
        bias = np.rint(weights[step.bias_name].astype(np.float64) * step.value.scale)
    if np.abs(weight).max() > WEIGHT_LIMIT or np.abs(bias).max() > _BIAS_LIMIT:
        raise ModelFileError(f"layer '{step.name}' has weights beyond the plan's integers: import the model again")
    return {
        step.weight_name: weight.astype(np.int32),
        step.bias_name: bias.astype(np.int64) + step.rounding,
    }


def _round_heat_map(step: HeatMapStep, weights: PrivateWeights) -> dict[str, IntegerTensor]:
    """The head's weights once more, as a 1 x 1 convolution without a bias of its own."""
    source = f"{step.weights_of}.weight"
    if source not in weights or weights[source].shape != step.weight_shape[:2]:
        raise ModelFileError(f"the heat map of the plan has other weights than '{source}': import the model again")
    weight = diffuse(weights[source], step.weight_scale)
    if np.abs(weight).max() > WEIGHT_LIMIT:
        raise ModelFileError("the heat map has weights beyond the plan's integers: import the model again")
    return {
        step.weight_name: weight.astype(np.int32).reshape(step.weight_shape),
        step.bias_name: np.full(step.weight_shape[0], step.rounding, np.int64),
    }
