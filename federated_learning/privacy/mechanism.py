"""From clipped gradients to the noised integers that are summed, and from their sum to a step. No image here.

A patient's gradient, of norm C at most, is written in grid steps, D of which are C, and rounded towards zero: so its
integers have a norm of D at most, which is checked in integers. A hospital adds up its patients' integers and its own
discrete Gaussian noise of variance sigma^2 D^2 / t; what leaves it is that sum mod 2^32, masked. From t hospitals on
the sum of all has noise of variance sigma^2 D^2 or more. It is divided by what was agreed on beforehand, never by a
number of patients.
"""

from dataclasses import dataclass
from math import ceil, log2
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from federated_learning.privacy.accounting import Releases, Shares
from federated_learning.privacy.discrete_gaussian import draw_discrete_gaussian
from federated_learning.privacy.settings import Privacy
from secure_computation.randomness import Seed

RING_BITS: Final = 32
_ROOM: Final = 1 << (RING_BITS - 2)
"""Of a sum's absolute value: half of what the ring has, as chance may draw more patients than are expected."""
_FINEST: Final = 1 << 20
_LEAST_DEVIATION: Final = 16
"""Of a hospital's noise, in grid steps, from which on the accountant may take it for continuous."""
_LEAST_STEPS: Final = 4
"""Of an element of a gradient, in the mean of squares, if it is as long as it may be."""
_TAIL: Final = 16
"""Deviations of noise for which there is room."""


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """What one run's settings and its federation make of `Privacy`."""

    privacy: Privacy
    shares: Shares
    steps: int
    """D: grid steps in `privacy.clip`."""
    variance: int
    """Of one hospital's noise, in grid steps squared."""

    @classmethod
    def plan(cls, privacy: Privacy, *, hospitals: int, threshold: int, elements: int) -> Self:
        """The finest grid that has room in the ring, for gradients of so many elements.

        Raises ConfigurationError if noise has no room there, or a gradient would mostly be rounded to nothing.
        """
        shares = Shares(threshold=threshold, each_alone=privacy.each_alone)
        patients = 4 * privacy.sampling_rate * privacy.patients + 64
        deviations = privacy.noise_multiplier * shares.own * hospitals**0.5
        steps = min(_FINEST, 1 << int(log2(_ROOM / (patients + _TAIL * deviations))))
        variance = ceil((privacy.noise_multiplier * shares.own * steps) ** 2)
        if variance < _LEAST_DEVIATION**2 or steps < _LEAST_STEPS * elements**0.5:
            raise ConfigurationError(
                f"[privacy] with {privacy.patients} patients a sum has no room for gradients of {elements} "
                f"elements and noise of {privacy.noise_multiplier:g} times their norm: draw fewer patients a round "
                "(`sampling_rate`), or train a smaller network"
            )
        return cls(privacy=privacy, shares=shares, steps=steps, variance=variance)

    def add_noise(self, total: NDArray[np.int64], seed: Seed) -> NDArray[np.uint32]:
        """A hospital's sum, (elements,) in grid steps, with its noise: ring elements that may be summed.

        `seed` is used for this and never again.
        """
        noise = draw_discrete_gaussian(seed, step=0, variance=self.variance, count=total.size)
        return ((total + noise) & 0xFFFF_FFFF).astype(np.uint32)

    def decode(self, total: NDArray[np.uint32], *, rate: float) -> NDArray[np.float32]:
        """A step of gradient descent with learning rate `rate`, in units of the weights, from the ring's sum.

        Two roundings, the same on every machine.
        """
        divisor = self.privacy.sampling_rate * self.privacy.patients
        factor = -rate * self.privacy.clip / (self.steps * divisor)
        return (total.view(np.int32).astype(np.float64) * factor).astype(np.float32)

    def outsider(self, rounds: int) -> Releases:
        """So many rounds, as the coordinator and whoever has a model sees them."""
        return self._releases(self.shares.outsider, rounds)

    def insider(self, rounds: int, *, colluding: int | None = None) -> Releases:
        """So many rounds, as so many other hospitals see them together; None: all others."""
        share = self.shares.insider if colluding is None else self.shares.against(colluding)
        return self._releases(share, rounds)

    def _releases(self, share: float, rounds: int) -> Releases:
        noise = self.privacy.noise_multiplier * share
        return Releases(noise_multiplier=noise, sampling_rate=self.privacy.sampling_rate, rounds=rounds)
