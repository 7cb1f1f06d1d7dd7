"""What noise hides: epsilon of rounds of the Gaussian mechanism with patients drawn by chance.

One patient more or less in the data of one hospital (add or remove). Epsilon is an upper bound, by the privacy loss
distribution (dp-accounting; Koskela, Jälkö and Honkela 2020; Doroshenko et al. 2022), rounded up. The discrete
Gaussian on a fine grid is accounted for as the continuous one: with a deviation of 16 grid steps or more both differ by
less than exp(-5000) (Kairouz, Liu and Steinke 2021, who also bound sums of several).
"""

import sys
from collections.abc import Sequence
from functools import lru_cache
from math import inf, sqrt
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from contract.base import Strict
from contract.errors import ConfigurationError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

MAX_ROUNDS: Final = 100_000
_FINE: Final = 1e-4
_COARSE: Final = 1e-3
"""Steps in which privacy loss is counted."""
_WIDE: Final = 60.0
"""Epsilon above which the bound by Renyi divergence, 10 per cent more, is good enough: it means little there."""
_ORDERS: Final = (*range(2, 17), 20, 24, 32, 48, 64, 96, 128, 192, 256)
"""Of the Renyi divergence: at whole numbers it is a finite sum."""
_LEAST_NOISE: Final = 0.05
_MOST_NOISE: Final = 1e6


class Releases(Strict):
    """Some rounds with the same noise, as somebody sees them who knows the rest."""

    noise_multiplier: Annotated[float, Field(gt=0)]
    """Deviation of the noise that this somebody does not know, in units of the clipping norm."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    rounds: Annotated[int, Field(ge=1, le=MAX_ROUNDS)]


class Shares(Strict):
    """Whose noise is in a sum."""

    threshold: Annotated[int, Field(ge=2)]
    """t: hospitals that are in a sum at least."""
    each_alone: bool = False

    @property
    def own(self) -> float:
        """Deviation of one hospital's noise, as a part of the agreed one."""
        return 1.0 if self.each_alone else 1 / sqrt(self.threshold)

    def against(self, colluding: int) -> float:
        """Deviation of the noise that is left if so many hospitals give theirs away; the own one is."""
        return self.own * sqrt(max(1, self.threshold - colluding))

    @property
    def outsider(self) -> float:
        """To the coordinator and whoever has the model."""
        return self.against(0)

    @property
    def insider(self) -> float:
        """To all other hospitals together."""
        return self.own


def load_dp_accounting() -> None:
    """Import it so that no stream is closed behind our back.

    absl, on which it is built, notes what stderr is at its import, and closes that as soon as logging is set up once
    more, if stderr is something else by then: as in a notebook, or where output is captured.
    """
    from absl import logging as absl_logging

    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


def compute_epsilon(releases: Sequence[Releases], *, delta: float) -> float:
    """Epsilon of all these together, at `delta`. 0 for none."""
    return _compute(tuple(sorted(releases, key=lambda one: one.model_dump_json())), delta, _FINE)


@lru_cache(maxsize=256)
def _compute(releases: tuple[Releases, ...], delta: float, interval: float) -> float:
    load_dp_accounting()
    from dp_accounting import get_epsilon_gaussian
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    if not releases:
        return 0.0
    if all(one.sampling_rate == 1 for one in releases):
        # Rounds over everybody are together one round with less noise.
        together = 1 / sqrt(sum(one.rounds / one.noise_multiplier**2 for one in releases))
        return float(get_epsilon_gaussian(together, delta))
    rough, fine = RdpAccountant(orders=_ORDERS), PLDAccountant(value_discretization_interval=interval)
    for one in releases:
        rough.compose(_describe(one), one.rounds)
    bound = float(rough.get_epsilon(delta))
    if bound > _WIDE:
        return bound
    for one in releases:
        fine.compose(_describe(one), one.rounds)
    return min(bound, float(fine.get_epsilon(delta)))


def _describe(one: Releases) -> "DpEvent":
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    gaussian = GaussianDpEvent(one.noise_multiplier)
    return gaussian if one.sampling_rate == 1 else PoissonSampledDpEvent(one.sampling_rate, gaussian)


def find_noise(epsilon: float, *, delta: float, sampling_rate: float, rounds: int) -> float:
    """The least noise multiplier, to three digits after the first, with which so many rounds stay within epsilon.

    Raises ConfigurationError if no noise that could be drawn would do.
    """

    def exceeds(noise: float, interval: float) -> bool:
        one = Releases(noise_multiplier=noise, sampling_rate=sampling_rate, rounds=rounds)
        return _compute((one,), delta, interval) > epsilon

    low, high = _LEAST_NOISE, _LEAST_NOISE
    while exceeds(high, _COARSE):
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            raise ConfigurationError(
                f"epsilon {epsilon:g} at delta {delta:g} is not to be had in {rounds} rounds: ask for fewer or for more"
            )
    while high / low > 1.0002:
        middle = sqrt(low * high)
        low, high = (middle, high) if exceeds(middle, _COARSE) else (low, middle)
    noise = round_up(high)
    while exceeds(noise, _FINE):
        noise = round_up(noise * 1.0005)
    return noise


def round_up(noise: float) -> float:
    """To four significant digits."""
    rounded = float(f"{noise:.4g}")
    return rounded if rounded >= noise else float(f"{noise * 1.0005:.4g}")


def write_epsilon(epsilon: float) -> str:
    """As people read it: two digits after the point, never less than it is."""
    if epsilon == inf:
        return "without bound"
    return f"{-(-epsilon * 100 // 1) / 100:.2f}"
