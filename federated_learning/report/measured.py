"""What is computed from result files, once for all sections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from federated_learning import metrics as figures
from federated_learning.evaluation import Estimate, bootstrap_patients
from federated_learning.metrics import Figure
from federated_learning.report.results import RunResult, SplitResult

FIGURES: Mapping[str, Figure] = MappingProxyType({
    "accuracy": figures.accuracy,
    "MCC": figures.matthews_correlation,
    "macro recall": figures.macro_recall,
    "macro ROC-AUC": figures.macro_area_under_curve,
    "log loss": figures.log_loss,
})  # fmt: skip
COMPARED = ("accuracy", "MCC", "macro ROC-AUC")


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A run on one split."""

    run: RunResult
    split: SplitResult
    probabilities: NDArray[np.float64]
    """Calibrated."""
    estimates: Mapping[str, Estimate]
    """By the names of `FIGURES`."""
    recalls: Mapping[str, Estimate]
    """By class."""

    def calibration_error(self, temperature: float) -> float:
        """Of the probabilities at this temperature; 1: as the network gives them."""
        return figures.compute_once(figures.calibration_error, self.split.probabilities(temperature), self.split.truth)


def measure(run: RunResult, split: SplitResult) -> Measured:
    """All figures of a run on a split, in one bootstrap."""
    probabilities = split.probabilities(run.temperature)
    recalls = [figures.make_recall(label) for label in range(len(run.classes))]
    found = bootstrap_patients((*FIGURES.values(), *recalls), probabilities, split.truth, split.patient_names)
    return Measured(
        run=run,
        split=split,
        probabilities=probabilities,
        estimates=dict(zip(FIGURES, found, strict=False)),
        recalls=dict(zip(run.classes, found[len(FIGURES) :], strict=True)),
    )


def measure_all(results: Sequence[RunResult]) -> dict[str, dict[str, Measured]]:
    """By split, in the order of the files, then by run."""
    splits = dict.fromkeys(split.split for result in results for split in result.splits)
    return {
        name: {result.name: measure(result, split) for result in results if (split := result.split(name)) is not None}
        for name in splits
    }


def compare(first: Measured, second: Measured) -> dict[str, Estimate]:
    """The figures of `COMPARED` of `first` less those of `second`, on the same examples."""
    found = bootstrap_patients(
        [FIGURES[name] for name in COMPARED],
        first.probabilities,
        first.split.truth,
        first.split.patient_names,
        less=second.probabilities,
    )
    return dict(zip(COMPARED, found, strict=True))


def trace_curve(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """ROC: (share of negatives, share of positives) at or above each score, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], positive[order]
    last = np.flatnonzero(np.concatenate((ranked[1:] != ranked[:-1], [True])))  # ties move together
    right, wrong = hits.cumsum()[last], (~hits).cumsum()[last]
    points = zip(wrong / max(wrong[-1], 1), right / max(right[-1], 1), strict=True)
    return [(0.0, 0.0), *((float(x), float(y)) for x, y in points)]
