"""The engines over emulated links. `predicting` says what the cost model makes of the runs on loopback."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import model_validator

from benchmarks.case import Case, prepare
from benchmarks.configuration import Configuration
from benchmarks.cost_model import cost_of, predict
from benchmarks.emulation import MeasuredLink, measure_link
from benchmarks.engines import openers
from benchmarks.machine import read_machine
from benchmarks.measuring import Campaign, Cell, OnStep
from benchmarks.relay import relayed
from benchmarks.results import Figures, Taken, describe_taking, figures_over
from benchmarks.variants import variant
from contract.base import Strict
from contract.errors import CallerError
from contract.files import create
from model_owner.link_profiles import LOOPBACK, LinkProfile, find_link

FORMAT: Final = 2
"""Of saved files. Raised if a reader of the old form would go wrong."""
SLOW_SECONDS: Final = 40.0
"""An engine that is predicted to take longer over a link is run once there, and the row says so."""
FIRST_DIFFERS: Final = frozenset({"masked"})
"""Engines whose first session fetches what later ones have (masked weights): warmed up over every link."""
WITHOUT_LINK: Final = frozenset({"plaintext"})
"""Measured on loopback alone: no link would change it."""


class LinkFacts(Strict):
    """A link that was asked for, and what the relay made of it on this machine."""

    link: LinkProfile
    measured: MeasuredLink | None
    """None on loopback, which has no relay."""


class LinkRow(Figures):
    """One engine over one link."""

    engine: str
    network: str
    """The link's name."""
    runs: int
    """Measured ones. 1 if the engine is slow over this link."""


class SavedRun(Strict):
    """One run as it was, warm-ups (round 0) too."""

    network: str
    engine: str
    round: int
    measurement: dict[str, Any]
    max_abs_error: float


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
    runs: tuple[SavedRun, ...]

    @model_validator(mode="before")
    @classmethod
    def _without_predictions(cls, content: Any) -> Any:
        """Files of format 1 held predictions of that day's cost model as well. What was measured stands unchanged."""
        if not isinstance(content, dict) or content.get("format") != 1:
            return content
        rows = [{name: row[name] for name in row if "predict" not in name} for row in content["rows"]]
        return {name: content[name] for name in content if name != "costs"} | {"format": FORMAT, "rows": rows}

    def measurements(self, engine: str, link: LinkProfile) -> list[dict[str, Any]]:
        """Those of an engine over a link, without the warm-up."""
        wanted = (engine, link.name)
        return [run.measurement for run in self.runs if (run.engine, run.network) == wanted and run.round > 0]


def parse_links(text: str) -> tuple[LinkProfile, ...]:
    """Read `loopback,lan,wan`, or with links spelt out `lan;latency_ms=15,mbit=50`.

    Raises CallerError for an unknown network, or one that is named twice.
    """
    separator = ";" if ";" in text or "=" in text else ","
    links = tuple(find_link(name.strip()) for name in text.split(separator) if name.strip())
    if not links:
        raise CallerError("no network named: give --networks some, say loopback,lan")
    if len(set(links)) != len(links):
        raise CallerError("--networks names a network twice: name each once, --runs repeats all of them")
    return links


class _OverLink:
    """One engine over one link, and what its runs on loopback say of it."""

    def __init__(self, link: LinkProfile, cell: Cell, home: Cell | None) -> None:
        self.link, self.cell = link, cell
        self._home = home
        cell.predict_seconds = self._wall_seconds

    def predict_seconds(self, link: LinkProfile) -> float | None:
        """Of one run, offline and online; None before there are runs on loopback."""
        if self._home is None or not self._home.counted:
            return None
        cost = cost_of(self.cell.engine, [asdict(run.measurement) for run in self._home.counted])
        predicted = predict(cost, link)
        return predicted.online_seconds + predicted.offline_seconds

    def choose_turns(self) -> None:
        """Run once if the engine is slow here; with a warm-up if its first run differs."""
        if (self.predict_seconds(self.link) or 0.0) > SLOW_SECONDS:
            self.cell.turns = (0, 1) if self.cell.engine in FIRST_DIFFERS else (1,)

    def _wall_seconds(self) -> float | None:
        """With the start of processes."""
        here, on_loopback = self.predict_seconds(self.link), self.predict_seconds(LOOPBACK)
        if here is None or on_loopback is None or self._home is None or self._home.wall_seconds is None:
            return None
        return self._home.wall_seconds + here - on_loopback


def measure_over_links(
    configuration: Configuration, folder: Path, links: Sequence[LinkProfile], on_step: OnStep
) -> LinkResults:
    """Measure every engine of `configuration` over every link: loopback first, whether asked for or not.

    What stands between the parties is taken down link by link, whatever happens. `folder` takes temporary files.
    """
    machine = read_machine()
    model = variant(configuration.model_folder, folder, model=configuration.model, side=configuration.side)
    case = prepare(model, folder, seed=configuration.seed, rounds=configuration.runs + 1)
    ordered = (LOOPBACK, *(link for link in links if link != LOOPBACK))
    planned = _plan(configuration, case, ordered)
    campaign = Campaign([one.cell for one in planned], timeout_seconds=configuration.timeout_seconds, on_step=on_step)
    facts = []
    for link in ordered:
        here = [one for one in planned if one.link == link]
        for one in here:
            one.choose_turns()
        facts.append(LinkFacts(link=link, measured=_measure_relay(campaign, link)))
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
                network=one.link.name,
                runs=len(one.cell.counted),
                **figures_over(one.cell.counted),
            )
            for one in planned
        ),
        runs=tuple(SavedRun(network=one.link.name, **asdict(run)) for one in planned for run in one.cell.runs),
        **describe_taking(machine),
    )


def _plan(configuration: Configuration, case: Case, links: Sequence[LinkProfile]) -> list[_OverLink]:
    home: dict[str, Cell] = {}
    found = []
    for link in links:
        every = openers(link)
        for engine in configuration.engines:
            if link == LOOPBACK or engine not in WITHOUT_LINK:
                cell = Cell(
                    engine=engine,
                    words=f"{link.name}, {engine}",
                    prepare=lambda: case,
                    opener=every[engine],
                    turns=range(configuration.runs + 1),
                )
                found.append(_OverLink(link, cell, home.get(engine)))
                home.setdefault(engine, cell)
    return found


def _measure_relay(campaign: Campaign, link: LinkProfile) -> MeasuredLink | None:
    if link == LOOPBACK:
        return None
    campaign.tell(f"{link.name}: measuring the relay")
    with relayed(link) as relay:
        return measure_link(relay, link)


def save_link_results(folder: Path, result: LinkResults) -> Path:
    """Write the result as one new JSON file; return its path."""
    path = folder / f"networks-{result.model}-{datetime.now(tz=UTC):%Y%m%dT%H%M%SZ}.json"
    create(path, f"{json.dumps(result.model_dump(mode='json'), indent=2)}\n".encode(), mode=None)
    return path
