"""A page of Markdown with plots beside it, made from a template: for the report on training and for benchmarks."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from contract.errors import CallerError

_PLACE: Final = re.compile(r"\{\{([a-z-]+)\}\}")


@dataclass(frozen=True)
class Section:
    """Text in Markdown, and the plots that it shows, by file name. A whole page is one as well."""

    text: str
    plots: Mapping[str, bytes] = field(default_factory=dict)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(folder: str, name: str, words: str) -> str:
    """Markdown that shows a plot in a folder beside the page."""
    return f"![{words}]({folder}/{name})"


def fill(template: str, sections: Mapping[str, Callable[[], Section]]) -> Section:
    """Replace each `{{name}}` of the template by the section of that name, which is made once.

    Raises CallerError if there is no section of a name.
    """
    made: dict[str, Section] = {}

    def text_for(place: re.Match[str]) -> str:
        name = place.group(1)
        if name not in sections:
            raise CallerError(f"the template names a section '{name}' that does not exist: correct page.md")
        if name not in made:
            made[name] = sections[name]()
        return made[name].text

    text = _PLACE.sub(text_for, template)
    return Section(text, {name: plot for section in made.values() for name, plot in section.plots.items()})


def write(made: Section, page: Path, *, plots: str) -> None:
    """Write a page, and its plots into the folder `plots` beside it, from which plots that it no longer shows go."""
    folder = page.parent / plots
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        if old.name not in made.plots:
            old.unlink()
    for name, content in made.plots.items():
        (folder / name).write_bytes(content)
    page.write_text(made.text, encoding="utf-8")
