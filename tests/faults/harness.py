"""Cells: a model owner and a data owner behind faulty links, and a neighbour who must notice nothing.

Front end and crypto provider are shared by all cells. In a cell the data owner runs scenarios, one after the other,
each with one fault; meanwhile a second data owner of the same hospital, the neighbour, spends stocked items at the same
model owner over links without faults. docs/faults.md says what counts as a failure; `Cell.trial` finds it.
"""

import logging
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from bookkeeping.spending import Counted, SpendingBook
from bookkeeping.used_tickets import TicketUse, UsedTickets
from contract.api import SessionView
from contract.errors import EncryptedInferenceError
from contract.identity import Role
from contract.model_card import Arithmetic
from contract.ticket import Engine
from data_owner.diagnosis import Diagnosis
from data_owner.session import Diagnoser
from imaging.reading import read_model_input
from model_owner.imported_models import ImportedModels
from plumbing.settings import Waiting
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.session.stock import stockable
from secure_computation.material import ConsumptionLedger, ItemName
from secure_computation.stock_folder import Binding, Body, StockFolder
from tests.end_to_end.federation import ENDED, SEALING, SILENT, Federation, RecordingClient
from tests.end_to_end.models import NAME, radiograph
from tests.faults.fault import HARMLESS, Fault, Kind, Link, Way
from tests.faults.faulty_link import FaultyLink, faulty_links

ANSWERED = "answered"
PATIENT_ENOUGH = Waiting(connect=8, step=8, material=8)
"""Of the cell's data owner and of its model owner: a stalled link costs these seconds."""
UNHURRIED = Waiting(connect=30, step=60, material=60)
"""Of the neighbour."""
HTTP_SECONDS = 8.0
HANGS_AFTER_SECONDS = 60.0
"""Far beyond the deadlines of every wait of one scenario together: what takes longer hangs."""
NEIGHBOURS_ITEMS = 4
EXACT = {"arithmetic": Arithmetic.EXACT}
"""Of the model: its logits equal the integer reference's in every bit."""
CRYPTEN_TOLERANCE = 0.05


CUT_FIRST = Fault(kind=Kind.CUT, link=Link.OWNERS, way=Way.OUT, number=5)
"""A model owner reports to the front end only what goes wrong: so that it does, where the fault is in the report."""


class Scenario(StrEnum):
    """What the data owner does while the fault strikes."""

    FRESH = "diagnosis with material dealt now"
    STOCKED = "diagnosis from stock"
    PREPARE = "stocking one item"
    BATCH = "two images in one session"
    CRYPTEN = "diagnosis with CrypTen's protocols"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one fault led to."""

    scenario: Scenario
    fault: Fault | None
    struck: bool
    outcome: str
    """`answered`, or the code of the error that the data owner saw."""
    seconds: float
    messages: Mapping[tuple[Link, Way], int]
    """How many passed on each link, each way."""
    failures: tuple[str, ...]


@dataclass
class Watch:
    """Every use of a ticket or item that the parties of this process noted, every item they took out of a stock, and
    all logs."""

    consumed: list[tuple[Path, str]] = field(default_factory=list)
    taken: list[tuple[Path, str]] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    def used_twice(self) -> list[str]:
        """What was consumed or taken more than once in the same folder."""
        counted = [("consumed", Counter(self.consumed)), ("taken", Counter(self.taken))]
        return [
            f"{what} {count} times: {item[:12]} in {folder.parent.name}"
            for what, counts in counted
            for (folder, item), count in counts.items()
            if count > 1
        ]


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch the whole process until the block ends."""
    watch, handler = Watch(), None
    consume, take = ConsumptionLedger.consume, StockFolder.take
    use, spend = UsedTickets.use, SpendingBook.spend

    def watched_consume(self: ConsumptionLedger, item: ItemName) -> None:
        consume(self, item)  # raises where the item was consumed before: then it is not used either
        watch.consumed.append((self._folder, item))

    def watched_use(self: UsedTickets, ticket: TicketUse) -> None:
        use(self, ticket)
        watch.consumed.append((self._path, ticket.name))

    def watched_spend(self: SpendingBook, *arguments: Any, ticket: TicketUse) -> Counted:
        counted = spend(self, *arguments, ticket=ticket)
        watch.consumed.append((self._path, ticket.name))
        return counted

    def watched_take(self: StockFolder, binding: Binding, sizes: Any) -> list[Body] | None:
        bodies = take(self, binding, sizes)
        if bodies is not None:
            watch.taken.append((self._folder, binding.item))
        return bodies

    handler = _Lines(watch.logged)
    logging.getLogger().addHandler(handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ConsumptionLedger, "consume", watched_consume)
            patch.setattr(StockFolder, "take", watched_take)
            patch.setattr(UsedTickets, "use", watched_use)
            patch.setattr(SpendingBook, "spend", watched_spend)
            yield watch
    finally:
        logging.getLogger().removeHandler(handler)


class HurriedFederation(Federation):
    """The same federation to somebody who does not wait long for the front end."""

    def client(self, role: Role = Role.DATA_OWNER, kind: type[RecordingClient] = RecordingClient) -> RecordingClient:
        return kind(self.front_end_url, self.front_end_keys[role], timeout_seconds=HTTP_SECONDS)


def _hurried(federation: Federation, front_end_port: int) -> HurriedFederation:
    known = {each.name: getattr(federation, each.name) for each in fields(federation)}
    return HurriedFederation(**known | {"front_end_url": f"http://127.0.0.1:{front_end_port}"})


def _port(url: str) -> int:
    return urlsplit(url).port or 0


def _through(url: str, link: FaultyLink) -> str:
    return url.replace(f":{_port(url)}/", f":{link.port}/")


@dataclass
class Cell:
    """One model owner, a data owner who meets faults and a neighbour who must not."""

    federation: Federation
    """As the neighbour sees it."""
    beyond: HurriedFederation
    """As the data owner sees it, through its faulty link to the front end."""
    links: dict[Link, FaultyLink]
    folder: Path
    images: tuple[Path, ...]
    model_owner_url: str
    watch: Watch
    opened: list[SessionView] = field(default_factory=list)

    def trial(self, scenario: Scenario, fault: Fault | None) -> Trial:
        """Run one scenario under one fault, and look for everything that counts as a failure."""
        if scenario is Scenario.STOCKED and not self._stocked("data-owner-stock"):
            self._prepare("data-owner-stock")
        if not self._stocked("neighbour"):
            self._prepare("neighbour")
        failures: list[str] = []
        neighbour = threading.Thread(target=self._neighbour, args=(failures,))
        for name, link in self.links.items():
            link.arm(CUT_FIRST if fault is not None and (fault.link, name) == (Link.REPORTS, Link.OWNERS) else fault)
        neighbour.start()
        started = time.monotonic()
        outcome = self._outcome(scenario, failures)
        seconds = time.monotonic() - started
        neighbour.join(HANGS_AFTER_SECONDS)
        struck = fault is not None and self.links[fault.link].struck
        messages = {(name, way): count for name, link in self.links.items() for way, count in link.passed.items()}
        if seconds > HANGS_AFTER_SECONDS or neighbour.is_alive():
            failures.append(f"hung for {seconds:.0f} s")
        if (
            struck
            and fault is not None
            and fault.kind in HARMLESS
            and fault.link is not Link.REPORTS
            and outcome != ANSWERED
        ):
            failures.append(f"a short delay ended the session with {outcome}")
        failures += self._left_open(fault)
        for link in self.links.values():
            link.arm(None)
        failures += self._recovery(scenario)
        return Trial(
            scenario=scenario,
            fault=fault,
            struck=struck,
            outcome=outcome,
            seconds=seconds,
            messages=messages,
            failures=tuple(failures),
        )

    # What is done

    @contextmanager
    def _diagnoser(self, folder: str, *, faulty: bool) -> Iterator[Diagnoser]:
        federation = self.beyond if faulty else self.federation
        owners, dealer = self.links[Link.OWNERS], self.links[Link.DEALING_TO_DATA_OWNER]
        with federation.diagnoser(
            data_folder=self.folder / folder,
            model_owner_url=_through(self.model_owner_url, owners) if faulty else self.model_owner_url,
            dealer_url=_through(self.federation.dealer_url, dealer) if faulty else self.federation.dealer_url,
            waiting=PATIENT_ENOUGH if faulty else UNHURRIED,
        ) as (diagnoser, client):
            try:
                yield diagnoser
            finally:
                if faulty:
                    self.opened += client.opened

    def _prepare(self, folder: str) -> None:
        with self._diagnoser(folder, faulty=False) as diagnoser:
            diagnoser.stock(diagnoser.choose_model(None), engine=Engine.MASKED, progress=SILENT)

    def _stocked(self, folder: str) -> list[str]:
        stock = self.folder / folder / "stock"
        return [path.name for path in stock.iterdir()] if stock.is_dir() else []

    def _run(self, scenario: Scenario, *, faulty: bool) -> list[Diagnosis]:
        engine = Engine.CRYPTEN if scenario is Scenario.CRYPTEN else Engine.MASKED
        images = self.images if scenario is Scenario.BATCH else self.images[:1]
        with self._diagnoser(_folder(scenario), faulty=faulty) as diagnoser:
            entry = diagnoser.choose_model(None)
            if scenario is Scenario.PREPARE:
                diagnoser.stock(entry, engine=engine, progress=SILENT)
                return []
            submissions = [diagnoser.read(path, entry, force=False) for path in images]
            results = diagnoser.submit(submissions, entry, engine=engine, progress=SILENT)
            for result in results:
                if isinstance(result, EncryptedInferenceError):
                    raise result
            return [result for result in results if isinstance(result, Diagnosis)]

    # What is looked for

    def _outcome(self, scenario: Scenario, failures: list[str]) -> str:
        try:
            failures += self._wrong(scenario, self._run(scenario, faulty=True))
        except EncryptedInferenceError as error:
            self.watch.logged.append("".join(traceback.format_exception(error)))
            if "\n" in str(error) or not str(error):
                failures.append(f"an error of more than one line, or of none: {type(error).__name__}")
            return error.code
        except Exception as error:  # noqa: BLE001  (a failure to report, whatever it is)
            self.watch.logged.append("".join(traceback.format_exception(error)))
            failures.append(f"an error outside the tree: {type(error).__name__}: {error}")
            return type(error).__name__
        return ANSWERED

    def _wrong(self, scenario: Scenario, diagnoses: Sequence[Diagnosis]) -> list[str]:
        tolerance = CRYPTEN_TOLERANCE if scenario is Scenario.CRYPTEN else 0.0
        return [
            f"a wrong result was shown as right for {diagnosis.file}"
            for path, diagnosis in zip(self.images, diagnoses, strict=False)
            if np.abs(np.asarray(diagnosis.logits) - expected(self.federation, path)).max() > tolerance
        ]

    def _neighbour(self, failures: list[str]) -> None:
        try:
            with self._diagnoser("neighbour", faulty=False) as diagnoser:
                entry = diagnoser.choose_model(None)
                diagnosis = diagnoser.diagnose(
                    self.images[0], entry, engine=Engine.MASKED, force=False, progress=SILENT
                )
            failures += [f"neighbour: {wrong}" for wrong in self._wrong(Scenario.STOCKED, [diagnosis])]
        except Exception as error:  # noqa: BLE001  (a failure to report, whatever it is)
            failures.append(f"another session was disturbed: {type(error).__name__}: {error}")

    def _left_open(self, fault: Fault | None) -> list[str]:
        """A session whose parties can reach the front end ends at once; another one when its time is over."""
        ended = [(view, self.federation.ended(view).state) for view in self.opened]
        self.opened.clear()
        if fault is not None and fault.link in {Link.FRONT_END, Link.REPORTS}:
            return []  # `swept` looks at these
        return [f"session {view.id} was left {state.value}" for view, state in ended if state not in ENDED]

    def _recovery(self, scenario: Scenario) -> list[str]:
        """The next diagnosis is right, and nothing consumed is left in the stock."""
        try:
            again = Scenario.STOCKED if scenario is Scenario.PREPARE else scenario
            failures = [f"afterwards: {wrong}" for wrong in self._wrong(again, self._run(again, faulty=False))]
        except EncryptedInferenceError as error:
            return [f"afterwards: {type(error).__name__}: {error}"]
        ledger = self.folder / _folder(scenario) / "consumed"
        spent = {path.name for path in ledger.iterdir()} & set(self._stocked(_folder(scenario)))
        return failures + [f"consumed and still in stock: {item[:12]}" for item in sorted(spent)]


def _folder(scenario: Scenario) -> str:
    return "data-owner-stock" if scenario in {Scenario.STOCKED, Scenario.PREPARE} else "data-owner"


@lru_cache
def _expected(folder: Path, path: Path) -> NDArray[np.float64]:
    model = ImportedModels(folder / "registry", SEALING).load(NAME, "1.0.0")
    lowering = stockable(model.plan)
    integers = reference.quantise_image(lowering, read_model_input(path, model.card.input).tensor)
    weights = round_weights(lowering, model.weights)
    return reference.read_logits(lowering, reference.evaluate(lowering, weights, integers))


def expected(federation: Federation, path: Path) -> NDArray[np.float64]:
    """The integer reference's logits for a file."""
    return _expected(federation.folder, path)


@contextmanager
def running_cell(federation: Federation, folder: Path, watch: Watch) -> Iterator[Cell]:
    """A model owner behind faulty links, until the block ends."""
    folder.mkdir(parents=True)
    images = tuple(radiograph(folder / f"chest-{seed}.dcm", seed=seed) for seed in range(2))
    front_end, dealer = _port(federation.front_end_url), _port(federation.dealer_url)
    for engine in (Engine.MASKED, Engine.CRYPTEN):  # compiles and loads, which takes longer than a cell's deadlines
        federation.diagnose(images[0], engine=engine)
    with ExitStack() as stack:
        around = {Link.REPORTS: front_end, Link.DEALING_TO_MODEL_OWNER: dealer}
        links = stack.enter_context(faulty_links(around))
        reporting = _hurried(federation, links[Link.REPORTS].port)
        url = stack.enter_context(
            reporting.model_owner(
                dealer_url=_through(federation.dealer_url, links[Link.DEALING_TO_MODEL_OWNER]),
                data_folder=folder / "model-owner",
                waiting=PATIENT_ENOUGH,
            )
        )
        within = {Link.FRONT_END: front_end, Link.DEALING_TO_DATA_OWNER: dealer, Link.OWNERS: _port(url)}
        links |= stack.enter_context(faulty_links(within))
        beyond = _hurried(federation, links[Link.FRONT_END].port)
        yield Cell(federation, beyond, links, folder, images, url, watch)
