"""How many bits an import gives each layer of the masked engine: as few as keep the logits near floating point.

What a layer rounds away matters more in some than in others, and costs more in large ones. `allot` shares out an error
of a given size; here that size is chosen. Each plan is measured on calibration images by the integer reference, which
the engine equals, with dithers that are drawn once: the same model and images give the same plan.

Bounded: at most 2 * (_TRIALS + _FINER_TRIALS) + 2 plans, each measured on at most _IMAGES images.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from secure_computation.engines.masked.lowering.bounds import WeightSums
from secure_computation.engines.masked.lowering.calibration import calibrate
from secure_computation.engines.masked.lowering.drafts import Allotment, Precision
from secure_computation.engines.masked.lowering.lower import draft_masked, lower_masked
from secure_computation.engines.masked.lowering.trimming import Estimate, Trimming, predict_variance
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights, round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import DIGIT_LIMIT, LinearStep, ReluStep
from secure_computation.engines.masked.session.costs import most_it_costs
from secure_computation.network import Convolution2d, FullyConnected, Network
from secure_computation.private_weights import PrivateWeights

USUAL_ERROR: Final = 0.03
"""Largest error of a logit that an import allows unless it is told otherwise; but:"""
LEAST_SHARE: Final = 0.001
"""not less than this share of the largest logit,"""
ERROR_BUDGET: Final = 0.02
"""and not more than this, beyond which the owner is warned as well."""
ONLINE_WEIGHT: Final = 4
"""How many dealt bytes an online byte is worth, because an image waits for it."""
_IMAGES: Final = 8
_SENSITIVITY_IMAGES: Final = 3
_TRIALS: Final = 5
_SIZES_A_FACTOR: Final = 4
"""So many sizes of error are tried for each factor of two."""
_FINEST: Final = -64
_FINER_TRIALS: Final = 6
"""If no plan is within the budget; fewer, if so many in a row do not help:"""
_HELPLESS: Final = 2
_MANY_BITS: Final = (2, 3)
"""Beyond the usual precision, for all layers alike: tried last."""
_TRIMMINGS: Final = 2
_SEED: Final = 15
_TAIL: Final = 3.0
"""So many standard deviations of the error must be within the budget, too: there will be more images than these few."""
_LOG = logging.getLogger(__name__)
OnStep = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ChosenPrecision:
    """A plan, and what is known of its error."""

    lowering: MaskedLowering
    precision: Precision
    error: float
    """Largest error of a logit over calibration images, or _TAIL standard deviations of it if that is more."""
    allowed: float
    images: int
    layers: int
    """With weights."""
    fine_layers: int
    """Of these, how many have weights of more than 8 bits."""

    @property
    def is_within(self) -> bool:
        """Whether the budget is met."""
        return self.error <= self.allowed

    @property
    def cost(self) -> int:
        """Bytes of one image, as the plan declares them; one online counts for ONLINE_WEIGHT."""
        return _weigh(self.lowering)

    def describe(self) -> str:
        """What was chosen and what it costs, in one line."""
        declared = most_it_costs(self.lowering)
        relus = [step for step in self.lowering.steps if isinstance(step, ReluStep)]
        kept = [step.ring_bits - step.shift - 1 for step in relus]
        compared = [sum(step.high_chunks) for step in relus]
        activations = f"ReLUs keep {_span(kept)} bits and compare {_span(compared)}, " if relus else ""
        return (
            f"{activations}weights have 8 bits in {self.layers - self.fine_layers} of {self.layers} layers; logits "
            f"stay within {self.error:.2g} of floating point on {self.images} calibration images (allowed: "
            f"{self.allowed:.2g}); an image costs {declared.offline_bytes / 1e6:,.1f} MB ahead and "
            f"{declared.online_bytes / 1e6:,.1f} MB online"
        )


def _weigh(lowering: MaskedLowering) -> int:
    declared = most_it_costs(lowering)
    return declared.offline_bytes + ONLINE_WEIGHT * declared.online_bytes


def _span(numbers: list[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if min(numbers) < max(numbers) else str(numbers[0])


def lower_within_budget(
    network: Network,
    weights: PrivateWeights,
    calibration: NDArray[np.float32],
    *,
    arithmetic: Arithmetic = Arithmetic.DITHERED,
    label_only: bool = False,
    logit_error: float | None = None,
    on_step: OnStep = lambda _words: None,
) -> ChosenPrecision:
    """Lower for the masked engine at least cost within a budget; if none is within it, with the smallest error.

    `calibration`: float32 (images, channels, height, width). `logit_error`: the budget; by default USUAL_ERROR.
    `on_step`: told in words what takes the next seconds.

    Weights have one digit of 8 bits in all layers of many products if that is within the budget.

    Raises ModelFileError if the engine cannot take the network.
    """
    search = _Search(network, weights, calibration, arithmetic=arithmetic, logit_error=logit_error, on_step=on_step)
    chosen = search.run()
    if label_only:
        chosen = replace(chosen, lowering=search.lower(chosen.precision, label_only=True))
    if chosen.error > ERROR_BUDGET * search.largest_logit and logit_error is None:
        _LOG.warning(
            "the masked engine's logits are off by up to %.1f %% of the largest on calibration images, also with the "
            "most bits that help: give real images of the model's kind with --calibration, and see what `model-owner "
            "check --samples IMAGE` says of others",
            100 * chosen.error / search.largest_logit,
        )
    return chosen


class _Search:
    def __init__(
        self,
        network: Network,
        weights: PrivateWeights,
        calibration: NDArray[np.float32],
        *,
        arithmetic: Arithmetic,
        logit_error: float | None,
        on_step: OnStep,
    ) -> None:
        import torch

        from secure_computation.engines.masked.lowering.sensitivity import measure_sensitivity
        from secure_computation.float_reference import evaluate

        self._network, self._weights, self._calibration = network, weights, calibration
        self._arithmetic, self._on_step = arithmetic, on_step
        on_step("measuring values on calibration images")
        self._ranges = calibrate(network, weights, calibration)
        self._images = calibration[_spread(len(calibration), _IMAGES)]
        self._expected = evaluate(network, weights, torch.from_numpy(self._images)).numpy()
        few = self._images[_spread(len(self._images), _SENSITIVITY_IMAGES)]
        self._sensitivity = measure_sensitivity(network, weights, few)
        self.largest_logit = float(np.abs(self._expected).max()) or 1.0
        self._allowed = logit_error or find_usual_budget(self.largest_logit)
        self._tried: dict[tuple[int, int], ChosenPrecision | ModelFileError] = {}
        self._sums: WeightSums = {}
        layers = (one.name for one in network.operations if isinstance(one, Convolution2d | FullyConnected))
        self._largest_weights = {name: float(np.abs(weights[f"{name}.weight"]).max()) for name in layers}
        self._measured = 0

    def run(self) -> ChosenPrecision:
        for digits in (1, 2):
            self._try_sizes(digits)
            found = [one for one in self._tried.values() if isinstance(one, ChosenPrecision)]
            within = [one for one in found if one.is_within]
            if within:
                return self._trim(min(within, key=lambda one: one.cost))
        return self._find_least_error()

    def _trim(self, chosen: ChosenPrecision) -> ChosenPrecision:
        """A cheaper plan that uses what the budget leaves, if one is found that is within it too."""
        assert chosen.precision.allotment is not None  # of a plan that was tried by its size
        self._on_step("choosing each layer's bits: taking off those that matter least")
        trimming = Trimming(self._network, chosen.precision.allotment, self._estimate)
        unused = (self._allowed / max(chosen.error, self._allowed / 16)) ** 2
        most = min((self._allowed / _TAIL) ** 2, trimming.predicted * unused)
        for _ in range(_TRIMMINGS):
            trimmed = self._measure(Precision(allotment=trimming.trim(most)))
            if isinstance(trimmed, ChosenPrecision) and trimmed.is_within and trimmed.cost < chosen.cost:
                return trimmed
            most = math.sqrt(most * trimming.predicted)  # half of the bits
        return chosen

    def _estimate(self, allotment: Allotment) -> Estimate:
        drafted = draft_masked(
            self._network,
            self._weights,
            self._ranges,
            precision=Precision(allotment=allotment),
            arithmetic=self._arithmetic,
            sums=self._sums,
        )
        return Estimate(
            cost=_weigh(drafted.lowering),
            variance=predict_variance(drafted.drafts, self._largest_weights, self._sensitivity, self._arithmetic),
        )

    def _find_least_error(self) -> ChosenPrecision:
        """The plan of the smallest error that is found: the same whatever budget was missed, so that it can be named.

        Ever finer from the usual budget on, until it helps no more: a product has 32 bits, so that still finer
        activations take bits from the weights.
        """
        first = _first_size(find_usual_budget(self.largest_logit))
        sizes = range(first, max(first - _FINER_TRIALS * _SIZES_A_FACTOR, _FINEST), -_SIZES_A_FACTOR)
        tried = [one for digits in (1, 2) for one in self._try_finer(digits, sizes)]
        tried += [self._measure(Precision().finer(bits)) for bits in _MANY_BITS]  # alike for all layers
        found = [one for one in tried if isinstance(one, ChosenPrecision)]
        if not found:
            assert isinstance(tried[-1], ModelFileError)
            raise tried[-1]
        return min(found, key=lambda one: one.error)

    def _try_finer(self, digits: int, sizes: Iterable[int]) -> "Iterator[ChosenPrecision | ModelFileError]":
        errors: list[float] = []
        for size in sizes:
            found = self._try(digits, size)
            yield found
            errors.append(math.inf if isinstance(found, ModelFileError) else found.error)
            if min(errors[-_HELPLESS:]) > min(errors):
                return

    def lower(self, precision: Precision, *, label_only: bool = False) -> MaskedLowering:
        return lower_masked(
            self._network,
            self._weights,
            self._calibration,
            precision=precision,
            arithmetic=self._arithmetic,
            label_only=label_only,
            ranges=self._ranges,
        )

    def _try_sizes(self, digits: int) -> None:
        """Begin with the size that the derivatives ask for, then go up or down by the error that is measured."""
        size, too_large = _first_size(self._allowed), math.inf
        for _ in range(_TRIALS):
            size = max(_FINEST, size)
            if (digits, size) in self._tried:
                return
            found = self._try(digits, size)
            if isinstance(found, ModelFileError):
                return
            room = math.floor(_SIZES_A_FACTOR * math.log2(self._allowed / max(found.error, self._allowed / 16)))
            if room < 0:
                too_large = min(too_large, size)
            size = int(min(size + room, too_large - 1))

    def _try(self, digits: int, size: int) -> ChosenPrecision | ModelFileError:
        from secure_computation.engines.masked.lowering.allotment import allot

        if (digits, size) not in self._tried:
            deviation = 2 ** (size / _SIZES_A_FACTOR)
            allotment = allot(self._network, self._sensitivity, deviation, digits=digits)
            self._tried[digits, size] = self._measure(Precision(allotment=allotment))
        return self._tried[digits, size]

    def _measure(self, precision: Precision) -> ChosenPrecision | ModelFileError:
        """The plan of these bits and its error; or why its values do not fit the rings."""
        self._measured += 1
        self._on_step(f"choosing each layer's bits: trying plan {self._measured}")
        try:
            lowering = self.lower(precision)
            integers = round_weights(lowering, self._weights)
            error = self._measure_error(lowering, integers)
        except ModelFileError as refusal:
            return refusal
        layers = [step for step in lowering.steps if isinstance(step, LinearStep)]
        return ChosenPrecision(
            lowering=lowering,
            precision=precision,
            error=error,
            allowed=self._allowed,
            images=len(self._images),
            layers=len(layers),
            fine_layers=sum(bool(np.abs(integers[one.weight_name]).max() > DIGIT_LIMIT) for one in layers),
        )

    def _measure_error(self, lowering: MaskedLowering, weights: IntegerWeights) -> float:
        from secure_computation.engines.masked.plan import reference  # loads torch

        dithers = reference.draw_dithers(np.random.default_rng(_SEED))  # to measure with: nothing secret is near
        integers = [
            reference.evaluate(lowering, weights, reference.quantise_image(lowering, image), dithers=dithers)
            for image in self._images
        ]
        errors = np.stack([reference.read_logits(lowering, logits) for logits in integers]) - self._expected
        return float(max(np.abs(errors).max(), _TAIL * np.sqrt(np.square(errors).mean(axis=0)).max()))


def _first_size(allowed: float) -> int:
    return math.floor(_SIZES_A_FACTOR * math.log2(allowed / _TAIL))


def find_usual_budget(largest_logit: float) -> float:
    """The largest error of a logit that an import allows unless it is told otherwise."""
    return min(max(USUAL_ERROR, LEAST_SHARE * largest_logit), ERROR_BUDGET * largest_logit)


def suggest_budget(measured: float, largest_logit: float) -> float:
    """A smaller error that is worth trying, where `measured` is too much: half of it, or of the usual one."""
    allowed = find_usual_budget(largest_logit)
    return float(f"{min(measured or allowed, allowed) / 2:.1g}")


def round_up(error: float) -> float:
    """To two digits, so that what is shown is not below what is meant."""
    unit = 10.0 ** (math.floor(math.log10(error)) - 1)
    return math.ceil(error / unit) * unit


def _spread(count: int, most: int) -> list[int]:
    """At most `most` places among `count`, evenly spread."""
    return sorted({(2 * number + 1) * count // (2 * most) for number in range(most)})
