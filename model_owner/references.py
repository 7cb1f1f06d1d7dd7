"""What a model answers to a folder of reference pictures, so that its card can vouch for it (`import --references`).

An exact plan answers with the same whole numbers in every session. A dithered one rounds at random, so the card says
how far an answer may lie from the mean. In `_measure_spread`, each rounding goes to one or the other of its two ends
with equal odds: of all that a session can draw, this spreads answers most. By Hoeffding's inequality an answer is
further from its mean than x such deviations with odds of at most 2 exp(-x^2 / 2), as long as an error of rounding
changes an answer in proportion, as it does in networks of many values. The deviation itself is measured on few draws,
for which `_choose_factor` makes up.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import CallerError, ImageError, ModelFileError
from contract.model_card import Arithmetic, ModelCard
from contract.references import (
    MOST_REFERENCE_BYTES,
    MOST_REFERENCE_NUMBERS,
    MOST_REFERENCES,
    ReferencePicture,
    References,
)
from imaging.reading import read_model_input
from model_owner.choosing_precision import OnStep
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights, round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import ReluStep, TruncateStep
from secure_computation.engines.masked.plan.whole_answers import count_numbers, hash_input
from secure_computation.plan import Plan
from secure_computation.private_weights import PrivateWeights

FALSE_ALARM: Final = 1e-9
"""Odds that an honest answer to a reference picture lies beyond its tolerances."""
SPREADS: Final = 24
"""Evaluations that measure by how much answers to one picture spread,"""
DRAWS: Final = 8
"""and those whose mean is the answer that is vouched for."""
_SEED: Final = 17


def make_references(
    files: Sequence[Path],
    card: ModelCard,
    plan: Plan,
    weights: PrivateWeights,
    *,
    on_step: OnStep = lambda _words: None,
) -> References:
    """Read every picture as the card asks, and evaluate it in clear with the plan's integers.

    Raises CallerError for one that is there twice, ImageError for a file that cannot be read, ModelFileError if the
    plan's answers cannot be vouched for.
    """
    lowering = _require_vouchable(plan)
    count = count_numbers(lowering)
    if len(files) * count > MOST_REFERENCE_NUMBERS:
        raise ModelFileError(
            f"an answer of this model has {count} numbers, and a card holds {MOST_REFERENCE_NUMBERS} for all reference "
            f"pictures together: leave {MOST_REFERENCE_NUMBERS // count} in the folder, or import without --references"
        )
    evaluator = _Evaluator(lowering, round_weights(lowering, weights))
    found: dict[str, Path] = {}
    pictures = []
    for number, path in enumerate(files, start=1):
        on_step(f"evaluating reference picture {number} of {len(files)}")
        picture = _make_one(path, card, evaluator)
        for digest in (picture.file_sha256, picture.input_sha256):
            if (twin := found.setdefault(digest, path)) != path:
                raise CallerError(f"{path} and {twin.name} are the same picture: remove one of the two")
        pictures.append(picture)
    return References(plan_hash=plan.plan_hash(), pictures=tuple(pictures))


def _require_vouchable(plan: Plan) -> MaskedLowering:
    lowering = plan.engines.masked
    if lowering is None:
        raise ModelFileError(
            "only the masked engine's answers can be vouched for, and it cannot take this model: import it without "
            "--references"
        )
    if not lowering.is_exact:
        raise ModelFileError(
            "this model has layers that are computed on CrypTen's tensors, whose last digits differ from session to "
            "session and now and then by more, so no answer can be vouched for: import it without --references"
        )
    return lowering


def list_pictures(folder: Path) -> list[Path]:
    """The files of a folder of reference pictures. Raises CallerError if they are none, too many or too large."""
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        sizes = {path: path.stat().st_size if path.is_file() else None for path in files}
    except OSError as error:
        raise CallerError(f"{folder}: cannot be read ({error.strerror}); give the folder of the pictures") from error
    if not 1 <= len(files) <= MOST_REFERENCES:
        raise CallerError(f"{folder} holds {len(files)} files: put 1 to {MOST_REFERENCES} reference pictures there")
    for path, size in sizes.items():
        if size is None:
            raise CallerError(f"{path}: is no file; the folder of reference pictures holds nothing else")
        if size > MOST_REFERENCE_BYTES:
            raise CallerError(f"{path}: larger than {MOST_REFERENCE_BYTES >> 20} MiB; choose a smaller picture")
    return files


def _make_one(path: Path, card: ModelCard, evaluator: "_Evaluator") -> ReferencePicture:
    try:
        image = read_model_input(path, card.input).tensor
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        numbers, tolerances = evaluator.answer(reference.quantise_image(evaluator.lowering, image))
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ImageError, ModelFileError) as error:
        raise type(error)(f"{path}: {error}") from error
    return ReferencePicture(
        file_sha256=digest,
        input_sha256=hash_input(evaluator.lowering, image),
        numbers=numbers,
        tolerances=tolerances,
    )


@dataclass(frozen=True)
class _Evaluator:
    lowering: MaskedLowering
    weights: IntegerWeights = field(repr=False)

    def answer(self, image: reference.Integers) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What is vouched for, and how far an answer may be from it: nothing for an exact plan and for a label."""
        if self.lowering.arithmetic is Arithmetic.EXACT:
            exact, _, shown = self._evaluate(image, reference.middle_dither)
            if self.lowering.gives_label:
                return (reference.find_label(exact),), ()
            return (*_as_numbers(exact), *_as_numbers(shown)), ()
        logits, spread, sums, sums_spread = self._measure_spread(image)
        if self.lowering.gives_label:
            return (_require_certain(logits, spread),), ()
        step = self.lowering.heat_map
        shift = 0 if step is None else step.shift
        # The map's own rounding moves a cell by one at most.
        cells, cell_spread = np.rint(sums).astype(np.int64) >> shift, np.ceil(sums_spread / (1 << shift)) + 1
        numbers = (*_as_numbers(np.rint(logits)), *_as_numbers(cells))
        return numbers, (*_as_numbers(np.ceil(spread) + 1), *_as_numbers(cell_spread))

    def _measure_spread(self, image: reference.Integers) -> Iterator[NDArray[np.float64]]:
        """Means and tolerances of the logits, then of the sums that a heat map is cut from."""
        draw = reference.draw_dithers(np.random.default_rng(_SEED))  # to measure with: nothing secret is near
        spread = [self._evaluate(image, _go_to_ends(draw)) for _ in range(SPREADS)]
        drawn = [self._evaluate(image, draw) for _ in range(DRAWS)]
        factor = _choose_factor(numbers=sum(value.size for value in drawn[0][:2]))
        for which in (0, 1):
            yield np.mean([one[which] for one in drawn], axis=0)
            yield factor * np.std([one[which] for one in spread], axis=0, ddof=1)

    def _evaluate(
        self, image: reference.Integers, dithers: reference.Dithers
    ) -> tuple[reference.Integers, reference.Integers, reference.Integers]:
        """Logits, the sums that a heat map is cut from, and the map; the last two are empty if there is none."""
        lowering, shown = self.lowering, self.lowering.heat_map
        seen: dict[str, reference.Integers] = {}
        logits = lowering.steps[-1].inputs[0] if lowering.gives_label else lowering.output
        names = (logits, *(() if shown is None else (shown.inputs[0], shown.name)))

        def observe(name: str, value: reference.Integers) -> None:
            if name in names:
                seen[name] = value.reshape(-1).copy()

        reference.evaluate(lowering, self.weights, image, dithers=dithers, observe=observe)
        nothing = np.zeros(0, np.int64)
        return seen[logits], seen.get(names[1], nothing) if shown else nothing, seen[names[2]] if shown else nothing


def _as_numbers(values: NDArray[np.int64] | NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _go_to_ends(draw: reference.Dithers) -> reference.Dithers:
    """The least or the greatest that a session can draw, with equal odds: the top bit of what it draws decides."""

    def draw_ends(step: ReluStep | TruncateStep) -> reference.Dither:
        drawn, cut = draw(step), step.sign_cut_bits if isinstance(step, ReluStep) else 0
        return reference.Dither(_end(drawn.rounding, step.shift), _end(drawn.sign, cut))

    return draw_ends


def _end(drawn: reference.Integers, bits: int) -> reference.Integers:
    """0 or 2^bits - 1, for 0 <= drawn < 2^bits."""
    return (2 * drawn >> bits) * ((1 << bits) - 1)


def _choose_factor(*, numbers: int) -> float:
    """How many measured deviations a tolerance is, so that none of an answer's `numbers` is beyond by chance.

    If the measured variance is chi-squared with n degrees of freedom, 2 exp(-x^2 / 2) becomes, averaged over it,
    2 (1 + x^2 / n)^(-n / 2), of which this is the inverse. The mean of few draws has a variance of its own.
    """
    freedom = SPREADS - 1
    odds = FALSE_ALARM / numbers
    return math.sqrt(freedom * ((2 / odds) ** (2 / freedom) - 1) * (1 + 1 / DRAWS))


def _require_certain(logits: NDArray[np.float64], spread: NDArray[np.float64]) -> int:
    """The class whose logit is the largest whatever a session draws. Raises ModelFileError if two are too close."""
    best = reference.find_label(logits)
    if any(logits[best] - spread[best] <= logits[one] + spread[one] for one in range(len(logits)) if one != best):
        raise ModelFileError(
            "its most probable classes are too close to each other for rounding at random: choose another picture"
        )
    return best
