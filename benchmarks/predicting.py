"""The cost model compared with a measured result: again whenever it is shown, so that files hold measurements alone."""

from collections.abc import Sequence

from benchmarks.cost_model import cost_of, predict
from benchmarks.emulated_links import LinkResults, LinkRow
from contract.base import Strict
from model_owner.link_profiles import LOOPBACK


class LinkPrediction(Strict):
    """What the runs on loopback predict for one engine over one link, and how far that is from what was measured."""

    network: str
    engine: str
    online_seconds: float
    offline_seconds: float
    online_error: float | None
    """(predicted - measured) / measured. None if nothing was measured to last."""
    offline_error: float | None


class PredictedLinkResults(LinkResults):
    """A result with its predictions, in the order of its rows. What `scripts/bench networks --json` prints."""

    predictions: tuple[LinkPrediction, ...]
    """Of every row except those of loopback, which they rest on."""


def add_predictions(result: LinkResults) -> PredictedLinkResults:
    """Compare the cost model with a result, by nothing but what its file holds."""
    links = {facts.link.name: facts.link for facts in result.links}
    at_home = [row for row in result.rows if row.network == LOOPBACK.name]
    costs = {row.engine: cost_of(row.engine, result.measurements(row.engine, LOOPBACK)) for row in at_home}
    found = []
    for row in result.rows:
        if row not in at_home:
            predicted = predict(costs[row.engine], links[row.network])
            found.append(
                LinkPrediction(
                    network=row.network,
                    engine=row.engine,
                    online_seconds=predicted.online_seconds,
                    offline_seconds=predicted.offline_seconds,
                    online_error=_relative(predicted.online_seconds, row.online_seconds),
                    offline_error=_relative(predicted.offline_seconds, row.offline_seconds),
                )
            )
    return PredictedLinkResults(**dict(result), predictions=tuple(found))


def _relative(predicted: float, measured: float) -> float | None:
    return (predicted - measured) / measured if measured else None


def rows_with_predictions(result: PredictedLinkResults) -> list[tuple[LinkRow, LinkPrediction | None]]:
    """Each row with its prediction."""
    predicted = {(one.network, one.engine): one for one in result.predictions}
    return [(row, predicted.get((row.network, row.engine))) for row in result.rows]


def describe_errors(result: PredictedLinkResults) -> str:
    """How far predictions were off, by engine: their range over the links."""
    words = []
    for engine in dict.fromkeys(one.engine for one in result.predictions):
        mine = [one for one in result.predictions if one.engine == engine]
        phases = {
            "online": [one.online_error for one in mine if one.online_error is not None],
            "offline": [one.offline_error for one in mine if one.offline_error is not None],
        }
        ranges = [f"{phase} {_describe_range(errors)}" for phase, errors in phases.items() if errors]
        words.append(f"{engine} {', '.join(ranges)}")
    return "; ".join(words)


def _describe_range(errors: Sequence[float]) -> str:
    low, high = percent(min(errors)), percent(max(errors))
    return low if low == high else f"{low} to {high}"


def percent(error: float) -> str:
    """A relative error for people."""
    return f"{round(error * 100):+d}%"
