"""What a section is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from benchmarks.document.parts import PartFile

MISSING: Final = "*Not measured: there is no result of this part.*"


@dataclass(frozen=True)
class Section:
    """Text, and the plots that it shows, by file name."""

    text: str
    plots: Mapping[str, bytes] = field(default_factory=dict)


def source(kept: PartFile) -> str:
    """Where the figures stand, and under which load."""
    name = f"{kept.part}.json"
    return (
        f"[{name}](../benchmarks/results/{name}), {kept.taken[:10]}, code {kept.code}, load when it began "
        f"{kept.machine.load_average:.1f}."
    )


def picture(name: str, words: str) -> str:
    """A plot that stands beside the page."""
    return f"![{words}](plots/{name})"
