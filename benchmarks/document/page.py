"""Makes docs/benchmarks.md and its plots from kept results. A part without one is said not to be measured."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.configuration import ROOT
from benchmarks.document.blocks import PLOTS, Block, describe_machine, to_section
from benchmarks.document.parts import PARTS, Part
from benchmarks.document.sections import plot_traffic, show_summary
from benchmarks.latency import Summary
from benchmarks.results import PartFile, read_part
from federated_learning.report import writing
from federated_learning.report.writing import Section

TEMPLATE: Final = Path(__file__).parent / "page.md"
PAGE: Final = ROOT / "docs" / "benchmarks.md"
NOTICE: Final = "<!-- made by scripts/bench report; words stand in benchmarks/document/page.md -->\n\n"
MISSING: Final = "*Not measured: there is no result of this part.*"
LATENCY: Final = "latency-"
"""How the parts of the section `latency` begin: one for each model."""


def _source(kept: PartFile[Any]) -> str:
    """Which file the figures are from, and under which load they were taken."""
    name = f"{kept.part}.json"
    return (
        f"[{name}](../benchmarks/results/{name}), {kept.taken[:10]}, code {kept.code}, load when it began "
        f"{kept.machine.load_average:.1f}."
    )


def _show_part(part: Part, folder: Path) -> Section:
    kept = read_part(part.name, folder, part.kind)
    if kept is None:
        return Section(MISSING)
    shown = part.show(kept.result)
    return to_section([shown.title, _source(kept), *shown.blocks])


def _show_machine(folder: Path) -> Section:
    """The machine and the versions, by the first latency result."""
    kept = read_part("latency-resnet18", folder, Summary)
    if kept is None:
        return Section(MISSING)
    first = kept.result.results[0]
    versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    return Section(
        f"- Machine: {describe_machine(first.machine)}.\n"
        f"- {first.threads} thread for a tensor operation in each party.\n- Versions: {versions}."
    )


def _show_latency(folder: Path) -> Section:
    """One image, each model."""
    blocks: list[Block] = []
    summaries = []
    for part in PARTS:
        if part.name.startswith(LATENCY):
            label = part.name.removeprefix(LATENCY)
            kept = read_part(part.name, folder, Summary)
            if kept is None:
                blocks.append(f"**{label}**. {MISSING}")
                continue
            shown = show_summary(kept.result)
            blocks += [shown.title, _source(kept), *shown.blocks]
            summaries.append((label, kept.result))
    return to_section([*blocks, plot_traffic(summaries)])


SECTIONS: Final[Mapping[str, Callable[[Path], Section]]] = {
    "machine": _show_machine,
    "latency": _show_latency,
    **{part.name: partial(_show_part, part) for part in PARTS if not part.name.startswith(LATENCY)},
}
"""From the folder of kept results, by the name of the place in the template."""


def render(results: Path, *, template: str | None = None) -> Section:
    """Make the page from a folder of results. Raises CallerError for a result of another version."""
    text = TEMPLATE.read_text() if template is None else template
    return writing.fill(NOTICE + text, {name: partial(make, results) for name, make in SECTIONS.items()})


def write(results: Path, page: Path = PAGE) -> None:
    """Write the page and its plots."""
    writing.write(render(results), page, plots=PLOTS)
