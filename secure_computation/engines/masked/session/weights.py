"""The model owner's weights under their mask: what stays there, what the dealer knows, what the data owner keeps.

    D   A                   from the model seed
    P1  W, and A            from the model seed
    P0  Delta = W - A       sent once for each version of the weights, kept on disk: uniform without A

A model seed belongs to one version of one model's weights. D derives it from a key of its own and the version's name,
so it keeps no list; a new import has a new name, so two versions of weights never share a mask.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_computation.engines.masked.plan.fixed_point import IntegerWeights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import LinearStep
from secure_computation.kernels.linear import PreparedWeights, prepare_weights
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.protocols.linear import draw_weight_mask, mask_weights
from secure_computation.randomness import Seed
from secure_computation.ring import Reduced, reduce_to_ring

_ITEM = "weights"


def linear_steps(lowering: MaskedLowering) -> Iterator[tuple[int, LinearStep]]:
    """Every linear step with its number among them."""
    steps = (step for step in lowering.steps if isinstance(step, LinearStep))
    return enumerate(steps)


def derive_model_seed(dealer_key: Seed, *, model_owner: str, version_name: str, lowering: MaskedLowering) -> Seed:
    """D: the seed of A for one version of weights in one plan.

    `version_name` is drawn at random when the version is imported. The plan is bound in as well, so that one name used
    for two plans would not repeat a mask.
    """
    plan = hashlib.sha256(lowering.model_dump_json().encode()).hexdigest()
    item = f"{model_owner}\n{version_name}\n{plan}"
    return Seed(dealer_key.stream(item=item, step=0, label="model seed").uint8(32).tobytes())


def name_deltas(model_seed: Seed, version_name: str) -> str:
    """P1: what Delta is called at P0, which keeps it by that name. Public.

    By the mask as well as by the weights: a dealer that has another key deals the corrections of another A, to which a
    Delta that is kept does not belong.
    """
    return model_seed.stream(item=version_name, step=0, label="name of the masked weights").uint8(16).tobytes().hex()


def draw_mask(model_seed: Seed, number: int, step: LinearStep) -> RingElements:
    """D and P1: A of one step."""
    draws = Draws(model_seed, item=_ITEM, step=number)
    return draw_weight_mask(draws, step.weight_shape, bits=step.value.ring_bits)


def prepare_maps(
    lowering: MaskedLowering, find_weights: Callable[[int, LinearStep], NDArray[Any]], *, threads: int
) -> dict[str, PreparedWeights]:
    """A at the dealer, Delta at the data owner, W at the model owner: of every step, laid out for products.

    `threads`: most that one product may use.
    """
    return {
        step.name: prepare_weights(
            step.operation, find_weights(number, step), bits=step.value.ring_bits, threads=threads
        )
        for number, step in linear_steps(lowering)
    }


def delta_layout(step: LinearStep) -> BundleLayout:
    """P1 -> P0, once for each version of the weights."""
    return BundleLayout(count=int(np.prod(step.weight_shape)), ring_bits=(step.value.ring_bits,))


def send_deltas(
    lowering: MaskedLowering,
    tensors: IntegerWeights,
    model_seed: Seed,
    send: Callable[[LinearStep, BundleLayout, Bundle], None],
) -> None:
    """P1: Delta of every step."""
    for number, step in linear_steps(lowering):
        delta = mask_step(tensors, model_seed, number, step)
        flat = reduce_to_ring(delta.values.reshape(-1), delta.bits)
        send(step, delta_layout(step), Bundle(rings=(flat,)))


def mask_step(tensors: IntegerWeights, model_seed: Seed, number: int, step: LinearStep) -> Reduced:
    """P1: Delta of one step. Weights may be held in fewer bytes, see `held_small`."""
    weights = tensors[step.weight_name].astype(np.int32, copy=False)
    return mask_weights(weights, draw_mask(model_seed, number, step), bits=step.value.ring_bits)


def shape_bias(step: LinearStep, tensors: IntegerWeights) -> RingElements:
    """P1: the bias of one step, in the shape in which it is added."""
    bias: RingElements = tensors[step.bias_name].astype(np.uint32)
    return bias.reshape(-1, *([1] * (len(step.shape) - 1)))


def held_small(tensors: IntegerWeights) -> IntegerWeights:
    """The same integers in as few bytes each as a tensor needs: P1 holds them for whoever lacks Delta."""
    return IntegerWeights({name: tensor.astype(_smallest_type(tensor)) for name, tensor in tensors.items()})


def _smallest_type(tensor: NDArray[Any]) -> "np.dtype[Any]":
    small = (np.dtype(np.int8), np.dtype(np.int16))
    low, high = int(tensor.min()), int(tensor.max())
    fitting = (kind for kind in small if max(~low, high) < 1 << (8 * kind.itemsize - 1))
    return next(fitting, tensor.dtype)


def receive_deltas(
    lowering: MaskedLowering, receive: Callable[[LinearStep, BundleLayout], Bundle]
) -> dict[str, RingElements]:
    """P0: Delta of every step, by its name."""
    return {
        step.name: receive(step, delta_layout(step)).rings[0].values.reshape(step.weight_shape)
        for _, step in linear_steps(lowering)
    }
