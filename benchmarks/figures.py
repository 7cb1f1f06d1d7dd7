"""The figures on README's page: a table made from saved results, never by hand.

`scripts/bench figures` writes it between two markers; a test holds the page against the results.
"""

import re
from pathlib import Path
from typing import Final

from benchmarks.agreement import Agreement
from benchmarks.configuration import README, RESULTS
from benchmarks.latency import Result, read_newest
from contract.errors import CallerError
from federated_learning.report.writing import table

BEGIN, END = "<!-- figures: made by scripts/bench figures -->", "<!-- end of figures -->"
MODELS: Final = ("resnet18", "resnet18-maxpool")
_BLOCK = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
_COLUMNS = (
    "engine",
    "online s (range)",
    "offline s",
    "online MB",
    "offline MB",
    "one-way trips",
    "largest party MB",
    "logit error (phantoms)",
)


def render(folder: Path = RESULTS, models: tuple[str, ...] = MODELS) -> str:
    """The block for README, markers included. Raises CallerError if a result is missing."""
    parts = [show(folder, model) for model in models for show in (_show_latency, _describe_real_films)]
    return "\n\n".join([BEGIN, *filter(None, parts), END])


def _show_latency(folder: Path, model: str) -> str:
    path, summary = read_newest(folder, model)
    first = summary.results[0]
    title = (
        f"**{first.model}**, {first.size} x {first.size}, one image, loopback, {first.machine.cores} cores "
        f"({first.machine.processor}), {first.threads} thread a party, medians of {first.runs} runs in turns "
        f"([{path.name}](benchmarks/results/{path.name})):"
    )
    return f"{title}\n\n{table(_COLUMNS, [_cells(result) for result in summary.results])}"


def _describe_real_films(folder: Path, model: str) -> str:
    """What `scripts/bench agreement` found on real radiographs, set by set; nothing if none was measured."""
    lines = []
    for path in sorted(folder.glob(f"agreement-{model}-*.json")):
        found = Agreement.model_validate_json(path.read_text())
        lines.append(
            f"{path.stem.removeprefix(f'agreement-{model}-')}, {found.images} images, mean {found.mean_abs_error:.2g}, "
            f"largest {found.max_abs_error:.2g}, {found.labels_agree} labels as in clear "
            f"([{path.name}](benchmarks/results/{path.name}))"
        )
    start = "The masked engine's logit error on real radiographs, of each image's worst logit: "
    return f"{start}{'; '.join(lines)}." if lines else ""


def _cells(result: Result) -> tuple[str, ...]:
    ends = result.online_seconds_range
    return (
        result.engine,
        f"{result.online_seconds:.3g} ({ends.smallest:.3g} - {ends.largest:.3g})",
        f"{result.offline_seconds:.3g}",
        f"{result.online_bytes / 1e6:,.1f}",
        f"{result.offline_bytes / 1e6:,.1f}",
        str(result.one_way_trips),
        f"{max(result.peak_rss_bytes.values()) / 1e6:,.0f}",
        f"{result.max_abs_error:.2g}",
    )


def read_shown(readme: Path = README) -> str:
    """The block as it stands on the page. Raises CallerError if the markers are missing."""
    found = _BLOCK.search(readme.read_text())
    if found is None:
        raise CallerError(f"{readme.name} has lost its markers '{BEGIN}' and '{END}': put them back")
    return found.group()


def write(readme: Path = README) -> None:
    """Put the newest results on the page."""
    text, block = readme.read_text(), render()
    readme.write_text(text.replace(read_shown(readme), block))
