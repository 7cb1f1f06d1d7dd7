"""The engines over emulated links, beside what the cost model makes of the runs on loopback.

Predictions are made again whenever a result is shown, so that files hold measurements alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.case import Case, prepare
from benchmarks.configuration import Configuration
from benchmarks.cost_model import estimate_cost, predict
from benchmarks.emulation import MeasuredLink, measure_link
from benchmarks.engines import openers
from benchmarks.machine import read_machine
from benchmarks.measuring import Campaign, Cell, Measurement, OnStep, Run
from benchmarks.relay import start_relay
from benchmarks.results import Figures, Taken, describe_taking, summarise_figures
from benchmarks.variants import variant
from benchmarks.wiring import HOME, Wiring
from contract.base import Strict
from contract.errors import CallerError
from contract.files import create

FORMAT: Final = 2
"""Of saved files. Raised if a reader of the old form would go wrong."""
SLOW_SECONDS: Final = 40.0
"""An engine that is predicted to take longer over a link is run once there, and the row says so."""
FIRST_DIFFERS: Final = frozenset({"masked", "masked-stocked"})
"""Engines whose first session fetches what later ones have (masked weights): warmed up over every link."""
WITHOUT_LINK: Final = frozenset({"plaintext", "plaintext-torch"})
"""Measured on loopback alone: no link would change it."""


class LinkFacts(Strict):
    """Links that were asked for, and what the relay made of them on this machine."""

    link: Wiring
    measured: MeasuredLink | None
    """None on loopback, which has no relay."""
    others_measured: MeasuredLink | None = None
    """Of links that do not lead to the hospital, if they are of another kind."""


class LinkRow(Figures):
    """One engine over one kind of link."""

    engine: str
    network: str
    """The link's name."""
    runs: int
    """Measured ones. 1 if the engine is slow over this link."""


@dataclass(frozen=True, kw_only=True)
class LinkRun(Run):
    """One run as it was, warm-ups (round 0) too."""

    network: str


class LinkResults(Taken):
    """Everything that `scripts/bench networks` keeps."""

    format: int
    model: str
    model_version: str
    size: int
    batch: int
    seed: int
    links: tuple[LinkFacts, ...]
    rows: tuple[LinkRow, ...]
    runs: tuple[LinkRun, ...]

    def measurements(self, engine: str, network: str) -> list[Measurement]:
        """Those of an engine over a link, without the warm-up."""
        wanted = (engine, network)
        return [run.measurement for run in self.runs if (run.engine, run.network) == wanted and run.round > 0]


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
    wirings = {facts.link.name: facts.link for facts in result.links}
    engines = {row.engine for row in result.rows if row.network == HOME.name}
    costs = {engine: estimate_cost(engine, result.measurements(engine, HOME.name)) for engine in engines}
    found = []
    for row in result.rows:
        if row.network != HOME.name:
            predicted = predict(costs[row.engine], wirings[row.network])
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


class _OverLink:
    """One engine over one kind of link, and what its runs on loopback say of it."""

    def __init__(self, wiring: Wiring, cell: Cell, home: Cell | None) -> None:
        self.wiring, self.cell = wiring, cell
        self._home = home
        cell.predict_seconds = self._wall_seconds

    def predict_seconds(self, wiring: Wiring) -> float | None:
        """Of one run, offline and online; None before there are runs on loopback."""
        if self._home is None or not self._home.counted:
            return None
        predicted = predict(estimate_cost(self.cell.engine, [run.measurement for run in self._home.counted]), wiring)
        return predicted.online_seconds + predicted.offline_seconds

    def choose_turns(self) -> None:
        """Run once if the engine is slow here; with a warm-up if its first run differs."""
        if (self.predict_seconds(self.wiring) or 0.0) > SLOW_SECONDS:
            self.cell.turns = (0, 1) if self.cell.engine in FIRST_DIFFERS else (1,)

    def _wall_seconds(self) -> float | None:
        """With the start of processes."""
        here, on_loopback = self.predict_seconds(self.wiring), self.predict_seconds(HOME)
        if here is None or on_loopback is None or self._home is None or self._home.wall_seconds is None:
            return None
        return self._home.wall_seconds + here - on_loopback


def measure_over_links(
    configuration: Configuration, wirings: Sequence[Wiring], folder: Path, on_step: OnStep
) -> LinkResults:
    """Measure every engine of `configuration` over every kind of link: loopback first, whether asked for or not.

    What stands between the parties is taken down link by link, whatever happens. `folder` takes temporary files.
    """
    machine = read_machine()
    model = variant(configuration.model_folder, folder, model=configuration.model, side=configuration.side)
    case = prepare(model, folder, seed=configuration.seed, rounds=configuration.runs + 1)
    ordered = (HOME, *(wiring for wiring in wirings if wiring != HOME))
    planned = _plan(configuration, case, ordered)
    campaign = Campaign([one.cell for one in planned], timeout_seconds=configuration.timeout_seconds, on_step=on_step)
    facts = []
    for wiring in ordered:
        here = [one for one in planned if one.wiring == wiring]
        for one in here:
            one.choose_turns()
        facts.append(_measure_relay(campaign, wiring))
        campaign.measure([one.cell for one in here])
        for one in here:
            if one.cell.failure:
                raise CallerError(f"{one.cell.engine} {one.cell.failure}: leave it out of --engines")
    return LinkResults(
        format=FORMAT,
        model=configuration.model,
        model_version=case.card.version,
        size=case.size,
        batch=1,
        seed=configuration.seed,
        links=tuple(facts),
        rows=tuple(
            LinkRow(
                engine=one.cell.engine,
                network=one.wiring.name,
                runs=len(one.cell.counted),
                **summarise_figures(one.cell.counted),
            )
            for one in planned
        ),
        runs=tuple(LinkRun(network=one.wiring.name, **vars(run)) for one in planned for run in one.cell.runs),
        **describe_taking(machine),
    )


def _plan(configuration: Configuration, case: Case, wirings: Sequence[Wiring]) -> list[_OverLink]:
    home: dict[str, Cell] = {}
    found = []
    for wiring in wirings:
        every = openers(wiring)
        for engine in configuration.engines:
            if wiring == HOME or engine not in WITHOUT_LINK:
                cell = Cell(
                    engine=engine,
                    words=f"{wiring.name}, {engine}",
                    prepare=lambda: case,
                    opener=every[engine],
                    turns=range(configuration.runs + 1),
                )
                found.append(_OverLink(wiring, cell, home.get(engine)))
                home.setdefault(engine, cell)
    return found


def _measure_relay(campaign: Campaign, wiring: Wiring) -> LinkFacts:
    if wiring == HOME:
        return LinkFacts(link=wiring, measured=None)
    campaign.tell(f"{wiring.name}: measuring the relay")
    with start_relay(wiring) as relay:
        return LinkFacts(
            link=wiring,
            measured=measure_link(relay, wiring, name="data-owner/measured"),
            others_measured=None if wiring.others is None else measure_link(relay, wiring.others),
        )


def save_link_results(folder: Path, result: LinkResults) -> Path:
    """Write the result as one new JSON file; return its path."""
    path = folder / f"networks-{result.model}-{datetime.now(tz=UTC):%Y%m%dT%H%M%SZ}.json"
    create(path, f"{result.model_dump_json(indent=2)}\n".encode(), mode=None)
    return path
