"""Writes docs/federated-results.md and its plots from result files."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.errors import CallerError
from federated_learning.report.measured import measure_all
from federated_learning.report.results import check_comparable, read_results
from federated_learning.report.sections import SECTIONS, Content

TEMPLATE: Final = Path(__file__).parent / "page.md"
PLOTS: Final = "federated-plots"
_PLACE = re.compile(r"\{\{([a-z]+)\}\}")
NOTICE: Final = "<!-- made by federated-learning report; words stand in federated_learning/report/page.md -->\n\n"


@dataclass(frozen=True)
class Page:
    """The page and the files that it shows."""

    text: str
    plots: Mapping[str, bytes]


def render(results: Path, page: Path) -> Page:
    """Make the page at `page` from a folder of results. Raises CallerError for results that cannot be compared."""
    found = read_results(results)
    if not found:
        raise CallerError(f"{results}: holds no result; write one for each run with federated-learning evaluate")
    check_comparable(found)
    links = Path(os.path.relpath(results, page.parent)).as_posix()
    content = Content(results=found, splits=measure_all(found), links=links)
    made = {name: section(content) for name, section in SECTIONS.items()}
    text = _PLACE.sub(lambda place: made[place.group(1)].text, TEMPLATE.read_text(encoding="utf-8"))
    return Page(NOTICE + text, {name: plot for section in made.values() for name, plot in section.plots.items()})


def write(results: Path, page: Path) -> None:
    """Write the page, and its plots into a folder beside it, where plots that it no longer shows are removed."""
    made = render(results, page)
    folder = page.parent / PLOTS
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        if old.name not in made.plots:
            old.unlink()
    for name, content in made.plots.items():
        (folder / name).write_bytes(content)
    page.write_text(made.text, encoding="utf-8")
