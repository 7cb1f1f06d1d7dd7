"""Private linear map: z = W * x + b for weights that P1 knows and an input in masked form, without an online message.

x = rho + v mod 2^k: P0 holds rho, fixed before the input exists; P1 holds v. `*` is any map that is linear in both
arguments: a convolution, a matrix product.

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    once for each model version
    A from the model seed      Delta                           <--    A from the model seed; Delta = W - A
    offline, for each item
    rho, t from s0             rho, t from s0
    u1 = A * rho - t                                           -->    u1
                               u0 = Delta * rho + t
    online
                               its half of z is u0                    its half of z is W * v + u1 + b

    u0 + u1 = (W - A) * rho + t + A * rho - t = W * rho.

A public linear map L may follow before t is taken: u1 = L(A * rho) - t, u0 = L(Delta * rho) + t, and P1 applies L to
W * v + b. So what is dealt is no larger than what L leaves: an average pool's result, or the sum of several layers.

A hides W from P0 for as long as D and P0 do not collude; it must be fresh for each version of the weights, because two
Deltas under one A give the difference of the weights. t hides W * rho from P0 and from P1 alike. One rho may feed
several maps, each with a t of its own.

What is sent, and to whom: Delta to P0 (hidden by A), u1 to P1 (hidden by t). Nothing is opened.

Source: Beaver 1991, with the opening of the fixed operand done once; Delphi (Mishra et al. 2020) for the one-sided
online phase; docs/protocol.md, "Linear layers".
"""

import numpy as np
from numpy.typing import NDArray

from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.ring import Reduced, reduce_to_ring


def draw_weight_mask(draws: Draws, shape: tuple[int, ...], *, bits: int) -> RingElements:
    """D and P1: A, from the model seed."""
    return draws.ring("weight mask", shape, bits=bits)


def mask_weights(weights: NDArray[np.int32], weight_mask: RingElements, *, bits: int) -> Reduced:
    """P1: Delta = W - A, for P0."""
    return reduce_to_ring(weights.view(np.uint32) - weight_mask, bits)


def correction_layout(shape: tuple[int, ...], *, bits: int) -> BundleLayout:
    """D -> P1, offline: u1."""
    return BundleLayout(count=int(np.prod(shape)), ring_bits=(bits,))


def deal_linear(product: RingElements, *, p0: Draws, bits: int) -> Bundle:
    """D: u1 = A * rho - t. `product`: A * rho, or what a public linear map makes of it."""
    return Bundle(rings=(reduce_to_ring(product.reshape(-1) - _draw_pad(p0, product.size, bits), bits),))


def linear_as_p0(product: RingElements, *, draws: Draws, bits: int) -> RingElements:
    """P0, offline: u0 = Delta * rho + t. `product`: Delta * rho, or what a public linear map makes of it."""
    return product + _draw_pad(draws, product.size, bits).reshape(product.shape)


def linear_as_p1(product: RingElements, *, correction: RingElements) -> RingElements:
    """P1, online: W * v + b + u1, or some rows of it. `product`: W * v + b, or what a public linear map makes of it;
    `correction`: u1 in its shape.
    """
    return product + correction


def _draw_pad(draws: Draws, count: int, bits: int) -> RingElements:
    """Draw t."""
    return draws.ring("product pad", count, bits=bits)
