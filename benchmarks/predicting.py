"""The cost model held against a measured result: anew whenever it is shown, so that files hold measurements alone."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.cost_model import cost_of, predict
from benchmarks.emulated_links import NetworkRow, Networks
from contract.base import Strict
from secure_computation.links import LOOPBACK

TABLE_WIDTH: Final = 130


class NetworkPrediction(Strict):
    """What the runs on loopback foretell for one engine over one link, and how far that is from what was measured."""

    network: str
    engine: str
    online_seconds: float
    offline_seconds: float
    online_error: float | None
    """(predicted - measured) / measured. None where nothing was measured to last."""
    offline_error: float | None


class ForetoldNetworks(Networks):
    """A result with its predictions, in the order of its rows. What `scripts/bench networks --json` prints."""

    predictions: tuple[NetworkPrediction, ...]
    """Of every row but those of loopback, which they rest on."""


def foretell(result: Networks) -> ForetoldNetworks:
    """Hold the cost model against a result, by nothing but what its file holds."""
    links = {facts.link.name: facts.link for facts in result.links}
    costs = {
        row.engine: cost_of(row.engine, result.measured(row.engine, LOOPBACK))
        for row in result.rows
        if row.network == LOOPBACK.name
    }
    found = []
    for row in result.rows:
        if row.network == LOOPBACK.name:
            continue
        foretold = predict(costs[row.engine], links[row.network])
        found.append(
            NetworkPrediction(
                network=row.network,
                engine=row.engine,
                online_seconds=foretold.online_seconds,
                offline_seconds=foretold.offline_seconds,
                online_error=_relative(foretold.online_seconds, row.online_seconds),
                offline_error=_relative(foretold.offline_seconds, row.offline_seconds),
            )
        )
    return ForetoldNetworks(**dict(result), predictions=tuple(found))


def _relative(foretold: float, measured: float) -> float | None:
    return (foretold - measured) / measured if measured else None


def rows_with_predictions(result: ForetoldNetworks) -> list[tuple[NetworkRow, NetworkPrediction | None]]:
    """Each row with its prediction."""
    foretold = {(one.network, one.engine): one for one in result.predictions}
    return [(row, foretold.get((row.network, row.engine))) for row in result.rows]


def error_words(result: ForetoldNetworks) -> str:
    """How far predictions were off, by engine: their range over the links."""
    words = []
    for engine in dict.fromkeys(one.engine for one in result.predictions):
        mine = [one for one in result.predictions if one.engine == engine]
        phases = {
            "online": [one.online_error for one in mine if one.online_error is not None],
            "offline": [one.offline_error for one in mine if one.offline_error is not None],
        }
        told = [f"{phase} {_range(errors)}" for phase, errors in phases.items() if errors]
        words.append(f"{engine} {', '.join(told)}")
    return "; ".join(words)


def _range(errors: Sequence[float]) -> str:
    low, high = percent(min(errors)), percent(max(errors))
    return low if low == high else f"{low} to {high}"


def print_networks(console: Console, result: ForetoldNetworks) -> None:
    """Print the figures for people."""
    table = Table(
        title=f"{result.model} {result.model_version}, {result.size} x {result.size}, one image, by network",
        caption=f"{result.machine.processor}, {result.machine.cores} core(s), {result.threads} thread(s) a party; load "
        f"when it began: {result.machine.load_average:.1f}",
    )
    for heading in ("network", "engine"):
        table.add_column(heading)
    for heading in ("runs", "online s", "(range)", "predicted", "off by", "offline s", "predicted", "off by"):
        table.add_column(heading, justify="right")
    links = {facts.link.name: facts.link for facts in result.links}
    shown: set[str] = set()
    for row, foretold in rows_with_predictions(result):
        spread = row.online_seconds_range
        table.add_row(
            "" if row.network in shown else links[row.network].words(),
            row.engine,
            str(row.runs),
            f"{row.online_seconds:.3g}",
            f"{spread.smallest:.3g} - {spread.largest:.3g}",
            "" if foretold is None else f"{foretold.online_seconds:.3g}",
            percent(foretold.online_error if foretold else None),
            f"{row.offline_seconds:.3g}",
            "" if foretold is None else f"{foretold.offline_seconds:.3g}",
            percent(foretold.offline_error if foretold else None),
        )
        shown.add(row.network)
    console.print(table)
    if result.predictions:
        console.print(f"Predictions were off by: {error_words(result)}.")


def percent(error: float | None) -> str:
    """A relative error for people."""
    return "" if error is None else f"{round(error * 100):+d}%"
