"""Makes docs/benchmarks.md and its plots from kept results. A part without one is said not to be measured."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from benchmarks.ariann import AriannTable
from benchmarks.comparison import Peers
from benchmarks.configuration import ROOT
from benchmarks.document import sections as ours
from benchmarks.document.blocks import PLOTS, Block, Shown, describe_machine, to_section
from benchmarks.document.other_systems import show_ariann, show_peers
from benchmarks.document.parts import AggregationCosts, PartFile, read_part
from benchmarks.emulated_links import LinkResults
from benchmarks.growth import Growth
from benchmarks.latency import Summary
from benchmarks.layers import Layers
from benchmarks.own_models import OwnModels
from benchmarks.scale import Scale
from contract.base import Strict
from federated_learning.report import writing
from federated_learning.report.writing import Section

TEMPLATE: Final = Path(__file__).parent / "page.md"
PAGE: Final = ROOT / "docs" / "benchmarks.md"
NOTICE: Final = "<!-- made by scripts/bench report; words stand in benchmarks/document/page.md -->\n\n"
MISSING: Final = "*Not measured: there is no result of this part.*"

Render = Callable[[Path], Section]
"""From the folder of kept results."""
Kept = TypeVar("Kept", bound=Strict)


def _source(kept: PartFile) -> str:
    """Which file the figures are from, and under which load they were taken."""
    name = f"{kept.part}.json"
    return (
        f"[{name}](../benchmarks/results/{name}), {kept.taken[:10]}, code {kept.code}, load when it began "
        f"{kept.machine.load_average:.1f}."
    )


def _part(name: str, kind: type[Kept], show: Callable[[Kept], Shown]) -> Render:
    def render(folder: Path) -> Section:
        found = read_part(name, folder, kind)
        if found is None:
            return Section(MISSING)
        kept, shown = found[0], show(found[1])
        return to_section([shown.title, _source(kept), *shown.blocks])

    return render


def _machine(folder: Path) -> Section:
    """The machine and the versions, by the first latency result."""
    found = read_part("latency-resnet18", folder, Summary)
    if found is None:
        return Section(MISSING)
    first = found[1].results[0]
    versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    return Section(
        f"- Machine: {describe_machine(first.machine)}.\n"
        f"- {first.threads} thread for a tensor operation in each party.\n- Versions: {versions}."
    )


def _latency(folder: Path) -> Section:
    """One image, both models."""
    blocks: list[Block] = []
    summaries = []
    for name in ("latency-resnet18", "latency-resnet18-maxpool"):
        label = name.removeprefix("latency-")
        found = read_part(name, folder, Summary)
        if found is None:
            blocks.append(f"**{label}**. {MISSING}")
            continue
        shown = ours.show_summary(found[1])
        blocks += [shown.title, _source(found[0]), *shown.blocks]
        summaries.append((label, found[1]))
    return to_section([*blocks, ours.plot_traffic(summaries)])


SECTIONS: Final[Mapping[str, Render]] = {
    "machine": _machine,
    "latency": _latency,
    "batch": _part("batch", Summary, ours.show_batch),
    "networks": _part("networks", LinkResults, ours.show_links),
    "peers": _part("peers", Peers, show_peers),
    "ariann": _part("ariann", AriannTable, show_ariann),
    "own-models": _part("own-models", OwnModels, ours.show_own_models),
    "scale": _part("scale", Scale, ours.show_scale),
    "growth": _part("growth", Growth, ours.show_growth),
    "layers": _part("layers", Layers, ours.show_layers),
    "aggregation": _part("aggregation", AggregationCosts, ours.show_aggregation),
}
"""By the name of the place in the template."""


def render(results: Path, *, template: str | None = None) -> Section:
    """Make the page from a folder of results. Raises CallerError for a result of another version."""
    text = TEMPLATE.read_text() if template is None else template
    return writing.fill(NOTICE + text, {name: partial(make, results) for name, make in SECTIONS.items()})


def write(results: Path, page: Path = PAGE) -> None:
    """Write the page and its plots."""
    writing.write(render(results), page, plots=PLOTS)
