"""The figures on README's page: a table made from saved results, never by hand.

`scripts/bench figures` writes it between two markers; a test holds the page against the results.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from benchmarks.configuration import ROOT
from contract.errors import CallerError
from federated_learning.report.writing import table

RESULTS: Final = ROOT / "benchmarks" / "results"
README: Final = ROOT / "README.md"
BEGIN, END = "<!-- figures: made by scripts/bench figures -->", "<!-- end of figures -->"
_BLOCK = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
READABLE: Final = (1, 2)
"""Versions of result files that hold what this table shows."""
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


def newest(folder: Path, model: str) -> Path:
    """The result of a model that `report` keeps, else the newest that `latency --save` wrote.

    Raises CallerError if there is none.
    """
    kept = folder / f"latency-{model}.json"
    if kept.is_file():
        return kept
    found = sorted(folder.glob(f"latency-{model}-[0-9]*.json"), key=lambda path: path.stem.rpartition("-")[2])
    if not found:
        raise CallerError(
            f"no result of {model} in {folder}: run scripts/bench latency --model {model} --save {folder}"
        )
    return found[-1]


def read_results(path: Path) -> list[dict[str, Any]]:
    """One engine's figures each. Raises CallerError for a file of another version."""
    content = json.loads(path.read_text())
    if content.get("format") not in READABLE:
        raise CallerError(f"{path.name} is a result file of a version that this program does not read: measure again")
    results: list[dict[str, Any]] = content.get("result", content)["results"]
    return results


def render(folder: Path = RESULTS, models: tuple[str, ...] = ("resnet18", "resnet18-maxpool")) -> str:
    """The block for README, markers included. Raises CallerError if a result is missing."""
    parts = [BEGIN]
    for model in models:
        path = newest(folder, model)
        parts += ["", *_table(read_results(path), path), *_describe_real_films(folder, model)]
    return "\n".join([*parts, "", END])


def _table(results: list[dict[str, Any]], path: Path) -> list[str]:
    first = results[0]
    machine = first["machine"]
    title = (
        f"**{first['model']}**, {first['size']} x {first['size']}, one image, loopback, {machine['cores']} cores "
        f"({machine['processor']}), {first['threads']} thread a party, medians of {first['runs']} runs in turns "
        f"([{path.name}](benchmarks/results/{path.name})):"
    )
    return [title, "", table(_COLUMNS, [_cells(result) for result in results])]


def _describe_real_films(folder: Path, model: str) -> list[str]:
    """What `scripts/bench agreement` found on real radiographs, set by set; nothing if none was measured."""
    lines = []
    for path in sorted(folder.glob(f"agreement-{model}-*.json")):
        found = json.loads(path.read_text())
        name = path.stem.removeprefix(f"agreement-{model}-")
        lines.append(
            f"{name}, {found['images']} images, mean {found['mean_abs_error']:.2g}, largest "
            f"{found['max_abs_error']:.2g}, {found['labels_agree']} labels as in clear "
            f"([{path.name}](benchmarks/results/{path.name}))"
        )
    if not lines:
        return []
    return [
        "",
        f"The masked engine's logit error on real radiographs, of each image's worst logit: {'; '.join(lines)}.",
    ]


def _cells(result: dict[str, Any]) -> tuple[str, ...]:
    spread = result["online_seconds_range"]
    largest = max(result["peak_rss_bytes"].values())
    return (
        result["engine"],
        f"{result['online_seconds']:.3g} ({spread['smallest']:.3g} - {spread['largest']:.3g})",
        f"{result['offline_seconds']:.3g}",
        f"{result['online_bytes'] / 1e6:,.1f}",
        f"{result['offline_bytes'] / 1e6:,.1f}",
        str(result["one_way_trips"]),
        f"{largest / 1e6:,.0f}",
        f"{result['max_abs_error']:.2g}",
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
