"""Plots of the page: SVG, the same bytes for the same results, legible on light and dark ground."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from math import floor, log10
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#7d7d7d"
"""Of text and axes: stands out from white and from black."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Okabe and Ito's, which differ for all kinds of colour vision."""
MARKERS = "osD^vPX"
"""One more than colours, so that a pair of both comes again only after 42 series."""
_SETTINGS: Any = {
    "svg.hashsalt": "benchmarks",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], *, across: str, up: str, logarithmic: bool = False
) -> bytes:
    """One line for each name: (across, up) points."""

    def draw(axes: "Axes") -> None:
        for number, (name, points) in enumerate(series.items()):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=name)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        if logarithmic:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.legend()

    return _drawn(draw, height=3.6)


def grouped_bars(
    groups: Mapping[str, Mapping[str, float]], *, up: str, logarithmic: bool = True, height: float = 3.6
) -> bytes:
    """A group of bars for each name, a bar in it for each series; a series may lack in a group."""

    def draw(axes: "Axes") -> None:
        names = list(dict.fromkeys(name for group in groups.values() for name in group))
        width = 0.8 / len(names)
        for number, name in enumerate(names):
            places = [place for place, group in enumerate(groups.values()) if name in group]
            axes.bar(
                [place + (number - (len(names) - 1) / 2) * width for place in places],
                [group[name] for group in groups.values() if name in group],
                width * 0.92,
                color=COLOURS[number % len(COLOURS)],
                label=name,
            )
        axes.set_xticks(range(len(groups)), labels=list(groups))
        axes.set_ylabel(up)
        axes.grid(visible=False, axis="x")
        if logarithmic:
            axes.set_yscale("log")
            smallest = min(value for group in groups.values() for value in group.values())
            axes.set_ylim(bottom=10 ** floor(log10(smallest) - 0.3))  # so that the smallest bar is one
        axes.legend(ncols=2)

    return _drawn(draw, height=height)


def stacked_bars(rows: Mapping[str, Mapping[str, float]], *, across: str) -> bytes:
    """One horizontal bar for each row, first row on top, its parts side by side."""

    def draw(axes: "Axes") -> None:
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        labels = list(rows)
        lefts = [0.0] * len(rows)
        for number, name in enumerate(names):
            values = [row.get(name, 0.0) for row in rows.values()]
            axes.barh(labels, values, left=lefts, color=COLOURS[number % len(COLOURS)], label=name)
            lefts = [left + value for left, value in zip(lefts, values, strict=True)]
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.set_xlabel(across)
        axes.grid(visible=False, axis="y")
        axes.legend()

    return _drawn(draw, height=0.8 + 0.22 * len(rows))


def _drawn(draw: Any, *, height: float) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        draw(figure.add_subplot())
        output = BytesIO()
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # One space or none at line ends: whatever the library leaves there.
    return b"\n".join(line.rstrip() for line in output.getvalue().splitlines()) + b"\n"
