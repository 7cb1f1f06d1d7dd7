"""Bits that a plan can do without: what each of them does to the logits is predicted, and what it costs is declared.

`allot` treats bits as numbers of any size, but a ring has whole bits, and a scale that others depend on is a power of
two. So from a plan with room for more error, single bits are taken off that save most for the error that they add.
Not of weights: they are rounded once, and with what error, only a measurement tells.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from secure_computation.engines.masked.lowering.drafts import Added, Allotment, Draft
from secure_computation.engines.masked.plan.steps import DIGIT_LIMIT
from secure_computation.network import Convolution2d, FullyConnected, Network

if TYPE_CHECKING:
    from secure_computation.engines.masked.lowering.sensitivity import Sensitivity  # loads torch

_EXACT_VARIANCE: Final = 1 / 12
_DITHERED_VARIANCE: Final = 1 / 6
"""Of rounding, in units of the last bit."""
_MOST_MOVES: Final = 40
"""Each is tried once, in the layers with most elements first."""
_LEAST: Final = 1e-30


@dataclass(frozen=True)
class Estimate:
    """Of one plan."""

    cost: int
    variance: float
    """Of a logit's error."""


class _Kind(Enum):
    VALUE = auto()
    """One bit of a value less; what its comparison leaves out stays as wide."""
    SIGN = auto()
    """One bit of a comparison less."""


_Move = tuple[_Kind, str]


def predict_variance(
    drafts: Iterable[Draft], largest_weights: dict[str, float], sensitivity: "Sensitivity", arithmetic: Arithmetic
) -> float:
    """Of a logit's error, means over images and logits. `largest_weights`: of each layer, by its name."""
    unit = _DITHERED_VARIANCE if arithmetic is Arithmetic.DITHERED else _EXACT_VARIANCE
    total = 0.0
    for draft in drafts:
        scale = float(draft.known_scale())
        if draft.operation is Added.INPUT:
            total += sensitivity.values[draft.name] * _EXACT_VARIANCE / scale**2
        if draft.rounds is not None:
            total += sensitivity.values[draft.rounds] * unit / scale**2
            if draft.sign_cut_bits:
                total += sensitivity.below_zero[draft.rounds].variance(scale, draft.sign_cut_bits)
        if isinstance(draft.operation, Convolution2d | FullyConnected):
            levels = largest_weights[draft.name] * draft.weight_scale
            total += sensitivity.weights[draft.name] * (DIGIT_LIMIT / max(levels, _LEAST)) ** 2
    return total


class Trimming:
    """Takes bits off one allotment. Each of them is tried alone, once."""

    def __init__(self, network: Network, allotment: Allotment, estimate: Callable[[Allotment], Estimate]) -> None:
        """`estimate`: of the plan of an allotment, or ModelFileError if there is none, as for this one there is."""
        self._allotment, self._estimate = allotment, estimate
        self._base = estimate(allotment)
        worth = [one for move in _find_moves(network, allotment)[:_MOST_MOVES] if (one := self._try(move)) is not None]
        self._worth = sorted(worth, key=lambda one: -one.saved / one.added)

    @property
    def predicted(self) -> float:
        """The variance of a logit's error before anything is taken off."""
        return self._base.variance

    def trim(self, variance: float) -> Allotment:
        """Take off what saves most for the error that it adds, while the predicted variance stays within this one."""
        chosen: list[_Move] = []
        room = variance - self._base.variance
        for one in self._worth:
            if one.added <= room:
                chosen.append(one.move)
                room -= one.added
        while chosen:
            trimmed = _apply(self._allotment, chosen)
            if self._is_worth_while(trimmed, variance):
                return trimmed
            chosen = chosen[: len(chosen) // 2]  # together they do more than one by one
        return self._allotment

    def _try(self, move: _Move) -> "_Worth | None":
        try:
            found = self._estimate(_apply(self._allotment, [move]))
        except ModelFileError:
            return None
        saved, added = self._base.cost - found.cost, found.variance - self._base.variance
        return _Worth(move, saved, max(added, _LEAST)) if saved > 0 else None

    def _is_worth_while(self, trimmed: Allotment, variance: float) -> bool:
        try:
            found = self._estimate(trimmed)
        except ModelFileError:
            return False
        return found.variance <= variance and found.cost < self._base.cost


@dataclass(frozen=True)
class _Worth:
    move: _Move
    saved: int
    added: float


def _find_moves(network: Network, allotment: Allotment) -> list[_Move]:
    sizes = {one.name: math.prod(one.shape) for one in network.operations}
    moves = [(_Kind.VALUE, name) for name in allotment.sign_cuts]
    moves += [(_Kind.SIGN, name) for name in allotment.sign_cuts]
    return sorted(moves, key=lambda move: -sizes[move[1]])


def _apply(allotment: Allotment, moves: Iterable[_Move]) -> Allotment:
    scales, cuts = dict(allotment.scales), dict(allotment.sign_cuts)
    for kind, name in moves:
        match kind:
            case _Kind.VALUE:
                scales[name] /= 2
                cuts[name] = max(1, cuts[name] - 1)
            case _Kind.SIGN:
                cuts[name] += 1
    return Allotment(scales=scales, levels=allotment.levels, sign_cuts=cuts)
