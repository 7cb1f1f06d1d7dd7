"""Writes docs/benchmarks.md and its plots from kept results."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.configuration import ROOT
from benchmarks.document.sections import SECTIONS, Render
from contract.errors import CallerError

TEMPLATE: Final = Path(__file__).parent / "page.md"
PAGE: Final = ROOT / "docs" / "benchmarks.md"
_PLACE = re.compile(r"\{\{([a-z-]+)\}\}")
NOTICE: Final = "<!-- made by scripts/bench report; words stand in benchmarks/document/page.md -->\n\n"


@dataclass(frozen=True)
class Page:
    """The page and the files that it shows."""

    text: str
    plots: Mapping[str, bytes]


def render(results: Path, *, template: str | None = None, sections: Mapping[str, Render] = SECTIONS) -> Page:
    """Make the page from a folder of results. Raises CallerError for a result of another version."""
    text = TEMPLATE.read_text() if template is None else template
    drawn: dict[str, bytes] = {}

    def fill(place: re.Match[str]) -> str:
        section = sections.get(place.group(1))
        if section is None:
            raise CallerError(f"the template names a section '{place.group(1)}' that there is not: correct page.md")
        made = section(results)
        drawn.update(made.plots)
        return made.text

    return Page(NOTICE + _PLACE.sub(fill, text), drawn)


def write(results: Path, page: Path = PAGE) -> None:
    """Write the page, and its plots into a folder beside it, where plots that it no longer shows are removed."""
    made = render(results)
    folder = page.parent / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        if old.name not in made.plots:
            old.unlink()
    for name, content in made.plots.items():
        (folder / name).write_bytes(content)
    page.write_text(made.text)
