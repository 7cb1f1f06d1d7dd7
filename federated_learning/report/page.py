"""Makes docs/federated-results.md and its plots from result files. Each section gives Markdown and its plots."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Final

from contract.errors import CallerError
from federated_learning.evaluation import Estimate, compute_reliability, confusion_matrix
from federated_learning.report import PLOTS, drawing, writing
from federated_learning.report.measured import COMPARED, FIGURES, Measured, compare, measure_all, trace_curve
from federated_learning.report.results import RunResult, check_comparable, read_results
from federated_learning.report.writing import Section, picture, table
from federated_learning.run_records import RunKind

Splits = Mapping[str, Mapping[str, Measured]]
"""By split, then by run."""
NOTHING = "*No run has this.*"
TEMPLATE: Final = Path(__file__).parent / "page.md"
NOTICE: Final = "<!-- made by federated-learning report; words stand in federated_learning/report/page.md -->\n\n"


@dataclass(frozen=True, kw_only=True)
class Content:
    """What sections are made from."""

    results: Sequence[RunResult]
    splits: Splits
    links: str
    """From the page to the folder of results."""


def show_estimate(estimate: Estimate) -> str:
    """A value and its interval."""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def show_difference(estimate: Estimate) -> str:
    """A difference and its interval, with its sign; significant ones stand out."""
    text = f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"
    return f"**{text}**" if estimate.excludes_zero else text


def validation(content: Content) -> Section:
    """The role on which choices were made. Raises CallerError where runs differ in it."""
    roles = {result.validation_role for result in content.results}
    if len(roles) != 1:
        raise CallerError(f"runs were chosen on different roles ({', '.join(sorted(roles))}): compare like with like")
    return Section(f"`{roles.pop()}`")


def runs(content: Content) -> Section:
    """Who trained what, and where the file is."""
    rows = [
        (
            f"[{result.name}]({content.links}/{result.name}.json)",
            result.kind,
            ", ".join(result.training_roles),
            str(result.settings.get("architecture", "")),
            _plan(result),
            f"{result.size} px",
            f"{result.chosen_round} of {_rounds(result)}",
            _method(result),
            result.taken[:10],
        )
        for result in content.results
    ]
    headings = ("run", "kind", "trained on", "network", "epochs", "input", "round or epoch kept", "method", "evaluated")
    data_sets = ", ".join(sorted({result.data_set for result in content.results}))
    return Section(f"Data: {data_sets}.\n\n{table(headings, rows)}")


def _plan(result: RunResult) -> str:
    """The stages of its recipe; of a published model without one, where to read them."""
    if "stages" not in result.settings and "published" in result.settings:
        return f"as the card of {result.settings['published']} says"
    stages = result.settings.get("stages", ())
    return ", ".join(f"{stage['epochs']} at {stage['size']} px" for stage in stages)


def _rounds(result: RunResult) -> int:
    if result.federation is not None:
        return result.federation.rounds
    return max((line.round for line in result.history), default=result.chosen_round)


def _method(result: RunResult) -> str:
    if result.federation is None:
        return ""
    parameters = result.federation.secure_aggregation or {}
    names = ", ".join(f"{name} {value}" for name, value in parameters.items())
    return f"{result.federation.method}{'; ' if names else ''}{names}"


def _tabulate(
    content: Content, headings: Sequence[str], make_row: Callable[[str, Measured], Sequence[str]]
) -> list[str]:
    """A titled table for each split, with a row for each run."""
    parts = []
    for name, measured in content.splits.items():
        rows = [make_row(run, one) for run, one in measured.items()]
        parts += [_title(name, measured), table(headings, rows)]
    return parts


def figures(content: Content) -> Section:
    """All figures by split, and accuracy drawn."""
    parts = _tabulate(
        content,
        ("run", *FIGURES),
        lambda run, one: (run, *(show_estimate(one.estimates[figure]) for figure in FIGURES)),
    )
    groups = {
        name: {run: one.estimates["accuracy"] for run, one in measured.items()}
        for name, measured in content.splits.items()
    }
    # ROC of the first split that nothing was chosen on, if there is one.
    chosen_on = content.results[0].validation_role
    shown = next((name for name in content.splits if name != chosen_on), chosen_on)
    curves = {
        label: {
            run: trace_curve(one.probabilities[:, index], one.split.truth == index)
            for run, one in content.splits[shown].items()
        }
        for index, label in enumerate(content.results[0].classes)
    }
    parts.append(picture(PLOTS, "accuracy.svg", "accuracy with intervals"))
    parts += [f"ROC on {shown}, one class against the rest:", picture(PLOTS, "roc.svg", "ROC curves by class")]
    drawn = {
        "accuracy.svg": drawing.intervals(groups, up="accuracy"),
        "roc.svg": drawing.squares(curves, across="false positives", up="true positives", markers=False),
    }
    return Section("\n\n".join(parts), drawn)


def _title(name: str, measured: Mapping[str, Measured]) -> str:
    first = next(iter(measured.values())).split
    return f"**{name}**, {len(first.labels)} images of {len(set(first.patients))} patients:"


def against(content: Content) -> Section:
    """Every run against the centralised one, and secure aggregation against none, where both had the same epochs."""
    by_kind = {kind: [result for result in content.results if result.kind is kind] for kind in RunKind}
    wanted = [
        (result, other)
        for other in by_kind[RunKind.CENTRALISED]
        for result in content.results
        if result.kind is not RunKind.CENTRALISED
    ]
    wanted += [(one, other) for one in by_kind[RunKind.FEDERATED_SECURE] for other in by_kind[RunKind.FEDERATED]]
    pairs = [(one.name, other.name) for one, other in wanted if _plan(one) == _plan(other)]
    parts = ["The first run's figure less the second's; significant ones in bold."] if pairs else [NOTHING]
    for name, measured in content.splits.items():
        rows = []
        for first, second in pairs:
            if first in measured and second in measured:
                found = compare(measured[first], measured[second])
                rows.append((f"{first} - {second}", *(show_difference(found[figure]) for figure in COMPARED)))
        if rows:
            parts += [_title(name, measured), table(("runs", *COMPARED), rows)]
    return Section("\n\n".join(parts))


def recalls(content: Content) -> Section:
    """By class and split."""
    headings = ("run", *content.results[0].classes)
    parts = _tabulate(
        content, headings, lambda run, one: (run, *(show_estimate(one.recalls[label]) for label in one.run.classes))
    )
    return Section("\n\n".join(parts))


def confusion(content: Content) -> Section:
    """A matrix for each run and split, the splits side by side."""
    classes = content.results[0].classes
    parts = []
    for result in content.results:
        found = {
            name: confusion_matrix(measured[result.name].probabilities, measured[result.name].split.truth)
            for name, measured in content.splits.items()
            if result.name in measured
        }
        headings = ["", *(f"{name}: {label}" for name in found for label in classes)]
        rows = [
            (label, *(str(count) for matrix in found.values() for count in matrix[index]))
            for index, label in enumerate(classes)
        ]
        parts += [f"**{result.name}**:", table(headings, rows)]
    return Section("\n\n".join(parts))


def calibration(content: Content) -> Section:
    """Errors by run and split, and reliability drawn."""
    rows = [
        (
            result.name,
            f"{result.temperature:g}",
            *(
                f"{one.calibration_error(1.0):.3f} to {one.calibration_error(result.temperature):.3f}" if one else ""
                for one in (measured.get(result.name) for measured in content.splits.values())
            ),
        )
        for result in content.results
    ]
    panels = {
        name: {
            run: [(one.confidence, one.accuracy) for one in compute_reliability(found.probabilities, found.split.truth)]
            for run, found in measured.items()
        }
        for name, measured in content.splits.items()
    }
    text = table(("run", "temperature", *content.splits), rows)
    drawn = drawing.squares(panels, across="confidence", up="right answers", markers=True)
    return Section(
        f"{text}\n\n{picture(PLOTS, 'calibration.svg', 'how often answers are right, by confidence')}",
        {"calibration.svg": drawn},
    )


def learning(content: Content) -> Section:
    """Validation accuracy by round."""
    series = {
        result.name: points
        for result in content.results
        if (
            points := [
                (line.round / result.history[-1].round, line.validation_accuracy)
                for line in result.history
                if line.validation_accuracy is not None
            ]
        )
    }
    if not series:
        return Section(NOTHING)
    drawn = drawing.lines(series, across="share of the run's rounds or epochs", up="validation accuracy")
    words = "Accuracy of the weights that would be kept, after each round of a training, or epoch in one place."
    return Section(f"{words}\n\n{picture(PLOTS, 'learning.svg', 'accuracy by round')}", {"learning.svg": drawn})


def costs(content: Content) -> Section:
    """Time and bytes of a round."""
    rows = []
    for result in content.results:
        if result.federation is None or not result.history:
            continue
        lines = result.history
        sent = _median([line.bytes_sent_per_hospital for line in lines])
        clear = _median([line.bytes_in_the_clear for line in lines])
        rows.append(
            (
                result.name,
                str(len(result.federation.hospitals)),
                _number(_median([line.seconds for line in lines]), "{:.1f}"),
                _number(_median([line.aggregation_seconds for line in lines]), "{:.2f}"),
                _number(sent, "{:,.0f}", scale=1e-3),
                f"{sent / clear:.2f}" if sent and clear else "",
                str(result.federation.restarted_rounds),
            )
        )
    headings = (
        *("run", "hospitals", "seconds a round", "of them aggregation", "kB sent by a hospital and round"),
        *("of a float32 update", "rounds made again"),
    )
    if not rows:
        return Section(NOTHING)
    return Section(f"Medians over the rounds.\n\n{table(headings, rows)}")


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _number(value: float | None, form: str, *, scale: float = 1.0) -> str:
    return "" if value is None else form.format(value * scale)


SECTIONS: Mapping[str, Callable[[Content], Section]] = MappingProxyType({
    "validation": validation,
    "runs": runs,
    "figures": figures,
    "differences": against,
    "recalls": recalls,
    "confusion": confusion,
    "calibration": calibration,
    "learning": learning,
    "costs": costs,
})  # fmt: skip


def render(results: Path, page: Path) -> Section:
    """Make the page at `page` from a folder of results. Raises CallerError for results that cannot be compared."""
    found = read_results(results)
    if not found:
        raise CallerError(f"{results}: holds no result; write one for each run with federated-learning evaluate")
    check_comparable(found)
    links = Path(os.path.relpath(results, page.parent)).as_posix()
    content = Content(results=found, splits=measure_all(found), links=links)
    sections = {name: partial(make, content) for name, make in SECTIONS.items()}
    return writing.fill(NOTICE + TEMPLATE.read_text(encoding="utf-8"), sections)


def write(results: Path, page: Path) -> None:
    """Write the page and its plots."""
    writing.write(render(results, page), page, plots=PLOTS)
