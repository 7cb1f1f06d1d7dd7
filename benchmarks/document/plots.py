"""Plots of the page of measurements, in the look of the report on training."""

from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from typing import TYPE_CHECKING

from federated_learning.report.drawing import choose_look, draw_svg, list_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_lines(series: Mapping[str, Sequence[tuple[float, float]]], *, across: str, up: str) -> bytes:
    """One line for each name: (across, up) points."""

    def draw(axes: "Axes") -> None:
        for number, (name, points) in enumerate(series.items()):
            axes.plot(*zip(*points, strict=True), label=name, **choose_look(number))
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_ylim(bottom=0)
        axes.legend()

    return _draw(draw, height=3.6)


def draw_grouped_bars(groups: Mapping[str, Mapping[str, float]], *, up: str) -> bytes:
    """A group of bars for each name, a bar in it for each series, on a logarithmic scale; a group may lack a series."""

    def draw(axes: "Axes") -> None:
        names = list_series(groups)
        width = 0.8 / len(names)
        for number, name in enumerate(names):
            places = [place for place, group in enumerate(groups.values()) if name in group]
            axes.bar(
                [place + (number - (len(names) - 1) / 2) * width for place in places],
                [group[name] for group in groups.values() if name in group],
                width * 0.92,
                color=choose_look(number)["color"],
                label=name,
            )
        axes.set_xticks(range(len(groups)), labels=list(groups))
        axes.set_ylabel(up)
        axes.grid(visible=False, axis="x")
        axes.set_yscale("log")
        smallest = min(value for group in groups.values() for value in group.values())
        axes.set_ylim(bottom=10 ** floor(log10(smallest) - 0.3))  # so that the smallest bar is one
        axes.legend(ncols=2)

    return _draw(draw, height=3.6)


def draw_stacked_bars(rows: Mapping[str, Mapping[str, float]], *, across: str) -> bytes:
    """One horizontal bar for each row, first row on top, its parts side by side."""

    def draw(axes: "Axes") -> None:
        lefts = [0.0] * len(rows)
        for number, name in enumerate(list_series(rows)):
            values = [row.get(name, 0.0) for row in rows.values()]
            axes.barh(list(rows), values, left=lefts, color=choose_look(number)["color"], label=name)
            lefts = [left + value for left, value in zip(lefts, values, strict=True)]
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.set_xlabel(across)
        axes.grid(visible=False, axis="y")
        axes.legend()

    return _draw(draw, height=0.8 + 0.22 * len(rows))


def _draw(draw: "Callable[[Axes], None]", *, height: float) -> bytes:
    def draw_all(figure: "Figure") -> None:
        draw(figure.add_subplot())

    return draw_svg(draw_all, height=height, salt="benchmarks")
