"""Plots of a page: SVG, the same bytes for the same results, legible on light and dark ground."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from federated_learning.evaluation import Estimate

GREY: Final = "#7d7d7d"
"""Of text and axes: stands out from white and from black."""
COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Okabe and Ito's, which differ for all kinds of colour vision."""
MARKERS: Final = "osD^vPX"
"""One more than colours, so that a pair of both comes again only after 42 series."""
_SETTINGS: Final[Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY),
    "axes.titlecolor": GREY,
    "axes.titlesize": 10,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}

Points = Sequence[tuple[float, float]]


def intervals(groups: Mapping[str, Mapping[str, Estimate]], *, up: str) -> bytes:
    """A group for each name; in it, for each series, its value and interval. A series may be missing in a group."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        names = list_series(groups)
        for number, name in enumerate(names):
            found = [(place, group[name]) for place, group in enumerate(groups.values()) if name in group]
            shift = (number - (len(names) - 1) / 2) * 0.8 / len(names)
            axes.errorbar(
                [place + shift for place, _ in found],
                [estimate.value for _, estimate in found],
                yerr=[
                    [estimate.value - estimate.low for _, estimate in found],
                    [estimate.high - estimate.value for _, estimate in found],
                ],
                linestyle="none",
                capsize=3,
                label=name,
                **choose_look(number),
            )
        axes.set_xticks(range(len(groups)), labels=list(groups))
        axes.set_ylabel(up)
        axes.grid(visible=False, axis="x")
        _legend(figure, axes)

    return draw_svg(draw, height=3.8)


def lines(series: Mapping[str, Points], *, across: str, up: str) -> bytes:
    """One line for each name: (across, up) points."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(series.items()):
            axes.plot(*zip(*points, strict=True), label=name, markersize=3, **choose_look(number))
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        _legend(figure, axes)

    return draw_svg(draw, height=3.8)


def squares(panels: Mapping[str, Mapping[str, Points]], *, across: str, up: str, markers: bool) -> bytes:
    """Panels side by side, both axes from 0 to 1 with the diagonal, a line for each name."""

    def draw(figure: Figure) -> None:
        names = list_series(panels)
        for axes, (title, series) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            axes.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle="dotted")
            for name, points in series.items():
                look = choose_look(names.index(name)) | ({"markersize": 4} if markers else {"marker": ""})
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2, **look)
            axes.set(title=title, xlabel=across, xlim=(0, 1), ylim=(0, 1), aspect="equal")
        figure.axes[0].set_ylabel(up)
        _legend(figure, figure.axes[0])

    return draw_svg(draw, height=3.2)


def list_series(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of all groups, each once, in their order."""
    return list(dict.fromkeys(name for group in groups.values() for name in group))


def choose_look(number: int) -> dict[str, Any]:
    """Colour and marker of the series of that number."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def draw_svg(draw: Callable[[Figure], None], *, height: float, salt: str = "federated-learning") -> bytes:
    """The SVG of a figure of this height in inches. `salt` goes into the names of its parts, the same each time."""
    with mpl.rc_context(_SETTINGS | {"svg.hashsalt": salt}):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        draw(figure)
        output = BytesIO()
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # One space or none at line ends: whatever the library leaves there.
    return b"\n".join(line.rstrip() for line in output.getvalue().splitlines()) + b"\n"
