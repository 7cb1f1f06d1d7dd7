"""How the error that is allowed is shared out among layers: each gets as much of it as a bit of it costs.

The error of a logit is a sum of small independent ones. One bit more of a layer divides its part by four, and costs the
same bytes each time. So the cheapest plan for a given sum has parts in proportion to the bytes of a bit (Lagrange).
"""

import math
from typing import Final

from secure_computation.engines.masked.lowering.drafts import Allotment
from secure_computation.engines.masked.lowering.sensitivity import BelowZero, Sensitivity
from secure_computation.engines.masked.plan.steps import DIGIT_LIMIT, WEIGHT_LIMIT
from secure_computation.network import INPUT, Clip, Convolution2d, FullyConnected, MaxPool, Network, Relu

_ACTIVATION_BITS: Final = 13
"""What one more bit of an element costs: a bit of the message each way, which count for four each, since an image waits
for them; two of dealt shares; and the wider ring of the next layer."""
_SOURCE_BITS, _RESULT_BITS = 6, 2
"""What one more bit of weights costs for each element that is read and that is made: messages, dealt and prepared
shares, and corrections."""
_ROUNDING_VARIANCE: Final = 1 / 6
"""Of a truncation whose dither is uniform, in units of the last bit."""
_LEAST: Final = 1e-30
_FEWEST_LEVELS: Final = 7.0
_MOST_SIGN_CUT_BITS: Final = 8
_SMALL_SHARE: Final = 0.01
"""A layer with fewer of the network's products than this may have weights of two digits: nobody waits for it."""


def allot(network: Network, sensitivity: Sensitivity, deviation: float, *, digits: int) -> Allotment:
    """Bits for each layer so that a logit's error has about this standard deviation.

    `digits`: of 8 bits, that the weights of a layer with many products may have, 1 or 2.
    """
    sizes = {name: math.prod(shape) for name, shape in network.shapes().items()}
    rounded = [INPUT, *(one.name for one in network.operations if isinstance(one, Relu | Clip | MaxPool))]
    layers = {one.name: one for one in network.operations if isinstance(one, Convolution2d | FullyConnected)}
    prices = {
        name: _SOURCE_BITS * sizes[layer.inputs[0]] + _RESULT_BITS * sizes[name] for name, layer in layers.items()
    }
    share = deviation**2 / (2 * sum(_ACTIVATION_BITS * sizes[name] for name in rounded) + sum(prices.values()))
    parts = {name: share * _ACTIVATION_BITS * size for name, size in sizes.items()}
    scales = {
        name: math.sqrt(_ROUNDING_VARIANCE * max(sensitivity.values[name], _LEAST) / part)
        for name, part in parts.items()
    }
    products = sum(layer.multiplications() for layer in layers.values())
    levels = {}
    for name, layer in layers.items():
        wanted = DIGIT_LIMIT * math.sqrt(2 * max(sensitivity.weights[name], _LEAST) / (share * prices[name]))
        one_digit = digits == 1 and layer.multiplications() >= _SMALL_SHARE * products
        levels[name] = min(max(wanted, _FEWEST_LEVELS), DIGIT_LIMIT if one_digit else WEIGHT_LIMIT - 1)
    return Allotment(
        scales=scales,
        levels=levels,
        sign_cuts={name: _cut_sign(one, scales[name], parts[name]) for name, one in sensitivity.below_zero.items()},
    )


def _cut_sign(below: BelowZero, scale: float, part: float) -> int:
    """The most bits that a comparison can leave out for a variance of `part`."""
    return next((bits for bits in range(_MOST_SIGN_CUT_BITS, 1, -1) if below.variance(scale, bits) <= part), 1)
