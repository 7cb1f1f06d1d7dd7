"""The thread that computes: it connects, loads what sessions need, and runs them one after the other."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from contract.api import ModelEntry
from contract.errors import (
    BudgetSpent,
    ConfigurationError,
    EncryptedInferenceError,
    ImageError,
    Refused,
    SessionCancelled,
    TooFast,
    TransportError,
)
from contract.ticket import STOCKED_ENGINES
from data_owner.progress import Progress, Stage
from data_owner.settings import DataOwnerSettings
from data_owner.ui.entries import Entry, State
from data_owner.ui.history import Record
from data_owner.ui.intake import read_waiting
from data_owner.ui.timings import Run
from data_owner.ui.watching import PeerWatch
from data_owner.ui.words import Problem, describe_defect, describe_error
from data_owner.ui.workplace import Activity, Connection, Preparing, Step, StockLevel, Workplace
from imaging.isolation.processes import SHARED
from plumbing.command_line import one_line, say

if TYPE_CHECKING:
    from data_owner.diagnosis import Diagnosis
    from data_owner.references import FoundReference, ReferenceMixer
    from data_owner.session import Diagnoser
    from inference_service.client import InferenceServiceClient

PAGE_FIRST_SECONDS: Final = 1.0
"""Loading begins after the page was asked for, or after this."""
RETRY_SECONDS: Final = 20.0
"""Between attempts to reach a front end that cannot be reached."""
_JOIN_SECONDS = 10.0


class Runner:
    """One thread, one session at a time."""

    def __init__(self, settings: DataOwnerSettings, workplace: Workplace) -> None:
        """Do nothing yet."""
        self._settings = settings
        self._workplace = workplace
        self._client: InferenceServiceClient | None = None
        self._diagnoser: Diagnoser | None = None
        self._mixer: tuple[ModelEntry, ReferenceMixer] | None = None
        self._watch = PeerWatch(settings, workplace)
        self._closing = False
        self._page_shown = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sessions", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._watch.start()

    def begin_loading(self) -> None:
        """The page is up: now load the rest."""
        self._page_shown.set()

    def note_look(self) -> None:
        """A browser asks what is new."""
        self._watch.note_look()

    def reconnect(self) -> None:
        """Try again now."""
        with self._workplace.changing():
            if self._workplace.connection is Connection.OFFLINE:
                self._workplace.connection = Connection.STARTING
        self._workplace.wake.set()
        self._watch.ask_now()

    def close(self) -> None:
        """End, with the session that runs."""
        self._closing = True
        self._watch.close()
        self._page_shown.set()
        activity = self._workplace.activity
        if activity is not None:
            activity.cancellation.cancel()
        self._workplace.wake.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def _work(self) -> None:
        self._page_shown.wait(PAGE_FIRST_SECONDS)
        self._guard(SHARED.start, self._go_offline)
        while not self._closing:
            self._workplace.wake.clear()
            if self._workplace.connection is not Connection.READY or self._wants_other_model():
                self._guard(self._connect, self._go_offline)
            if self._workplace.connection is Connection.READY:
                self._work_off()
            elif self._workplace.connection_error is not None:
                self._workplace.fail_queue(self._workplace.connection_error)
            offline = self._workplace.connection is Connection.OFFLINE
            if not self._closing:
                self._workplace.wake.wait(RETRY_SECONDS if offline else None)
        if self._client is not None:
            self._client.close()

    def _guard(self, do: Callable[[], None], failed: Callable[[Problem], None]) -> None:
        """Do something; whatever goes wrong is told, and the thread lives on."""
        try:
            do()
        except EncryptedInferenceError as error:
            failed(describe_error(error))
        except Exception as error:  # noqa: BLE001 - the last resort of a thread: told, without words that may hold anything
            failed(describe_defect(error))

    # Connection

    def _wants_other_model(self) -> bool:
        wanted, model = self._workplace.wanted_model, self._workplace.model
        return wanted is not None and (model is None or model.card.name != wanted)

    def _connect(self) -> None:
        """Learn the catalog, then load what a session needs."""
        from data_owner.session import Diagnoser
        from inference_service.client import InferenceServiceClient

        front_end = self._settings.inference_service
        if self._client is None:
            self._client = InferenceServiceClient.of(front_end)
        if self._diagnoser is None:
            self._diagnoser = Diagnoser(self._settings, self._client)
        model = self._diagnoser.catalog.require_vouched(self._choose(self._diagnoser))
        with self._workplace.changing():
            self._workplace.connection, self._workplace.connection_error = Connection.WARMING, None
        if not _is_unchanged(model, self._workplace.model):
            self._workplace.adopt(model)
        read_waiting(self._workplace)
        self._count_stock()
        self._look_for_mismatch(model)
        self._diagnoser.warm_up(model.engines[0], stocked_for=model)
        with self._workplace.changing():
            self._workplace.connection = Connection.READY
        self._watch.ask_now()

    def _choose(self, diagnoser: "Diagnoser") -> ModelEntry:
        newest, place = diagnoser.catalog.list_offered(), self._workplace
        with place.changing():
            place.offered = tuple(sorted(newest))
            if place.wanted_model not in newest:
                place.wanted_model = None
        before = place.model.card.name if place.model is not None else None
        wanted = place.wanted_model or (before if before in newest else place.offered[0])
        return newest[wanted]

    def _go_offline(self, error: Problem) -> None:
        with self._workplace.changing():
            self._workplace.connection, self._workplace.connection_error = Connection.OFFLINE, error

    def _count_stock(self) -> None:
        from data_owner.stock import open_stock

        model = self._workplace.model
        if model is None:
            return
        lines = [
            line
            for line in open_stock(self._settings).summarise()
            if (line.model, line.version) == (model.card.name, model.version)
        ]
        with self._workplace.changing():
            self._workplace.stock = StockLevel(
                items=sum(line.items for line in lines),
                oldest_seconds=max((line.oldest_seconds for line in lines), default=None),
                days=self._settings.stock_days,
            )

    # Work

    def _work_off(self) -> None:
        """What is in the queue, images before material."""
        read_waiting(self._workplace)
        while self._workplace.connection is Connection.READY and not (self._closing or self._wants_other_model()):
            if (entry := self._workplace.next_entry()) is not None:
                self._guard(lambda: self._diagnose(entry), lambda error: self._keep_error(entry, error))
            elif self._workplace.preparing.left > 0:
                self._guard(self._prepare_one, self._keep_preparing_error)
            else:
                break
            with self._workplace.changing():
                self._workplace.activity = None
            self._guard(self._count_stock, lambda _error: None)

    def _diagnose(self, entry: Entry) -> None:
        from data_owner.submission import Submission

        diagnoser, model = self._require_ready()
        activity = self._begin(entry, model)
        if not _is_unchanged(current := self._look_up(diagnoser, model), model):
            with self._workplace.changing():
                entry.state = State.READY
            self._adopt(current)
            raise Refused("the model has changed since you looked: look at the picture again, then submit it")
        image = entry.image
        if image is None:
            raise ImageError("the picture is gone: drop the file again")
        before, after = self._get_mixer(model).draw()
        if before is not None:
            self._send_along(before, diagnoser, model, activity)
            activity.started = time.monotonic()  # how long the next images will take is measured without it
        results = diagnoser.submit(
            [Submission(path=entry.file, image=image)],
            model,
            engine=model.engines[0],
            progress=self._progress(activity, model),
            cancellation=activity.cancellation,
        )
        (result,) = results
        if isinstance(result, EncryptedInferenceError):
            raise result
        self._keep_answer(entry, result)
        self._workplace.timings.finish(_name_kind(activity, model), activity.run, total=activity.elapsed())
        if after is not None:
            self._send_along(after, diagnoser, model, activity)

    def _get_mixer(self, model: ModelEntry) -> "ReferenceMixer":
        """What sends reference pictures of a model along; made again when the model changes."""
        from data_owner.references import ReferenceMixer

        if self._mixer is None or not _is_unchanged(model, self._mixer[0]):
            mixer = ReferenceMixer.of(
                self._settings, model, model.engines[0], tell=lambda words: say(f"data-owner: {words}")
            )
            self._mixer = (model, mixer)
        return self._mixer[1]

    def _send_along(
        self, found: "FoundReference", diagnoser: "Diagnoser", model: ModelEntry, activity: Activity
    ) -> None:
        """Check the model with a reference picture. What stops this session is told when it stops an image's."""
        from data_owner.references import read_reference

        try:
            submission = read_reference(found, model, diagnoser.catalog.fetch_plan(model))
            diagnoser.submit(
                [submission],
                model,
                engine=model.engines[0],
                progress=Progress(stage=lambda _stage: None, layer=lambda _index, _total, _name: None),
                cancellation=activity.cancellation,
            )
        except EncryptedInferenceError as error:
            say(f"data-owner: a reference picture was not answered: {one_line(error)}")
        self._look_for_mismatch(model)

    def _look_for_mismatch(self, model: ModelEntry) -> None:
        from data_owner.mismatches import Mismatches

        known = Mismatches(self._settings.data_folder).warn(model.card.name, model.version)
        with self._workplace.changing():
            self._workplace.mismatch = bool(known)

    def _look_up(self, diagnoser: "Diagnoser", model: ModelEntry) -> ModelEntry:
        """What the catalog has of a model now."""
        try:
            return diagnoser.choose_model(model.card.name)
        except TransportError as error:
            self._go_offline(describe_error(error))
            raise

    def _adopt(self, model: ModelEntry) -> None:
        self._workplace.adopt(model)
        read_waiting(self._workplace)

    def _require_ready(self) -> "tuple[Diagnoser, ModelEntry]":
        if self._diagnoser is None or self._workplace.model is None:
            raise ConfigurationError("the page is not connected yet; try again in a moment")
        return self._diagnoser, self._workplace.model

    def _begin(self, entry: Entry | None, model: ModelEntry) -> Activity:
        place = self._workplace
        activity = Activity(entry=None if entry is None else entry.id, run=Run(expected=None))
        activity.from_stock = entry is not None and place.stock.items > 0
        activity.run.expected = place.timings.expected(_name_kind(activity, model))
        with place.changing():
            place.activity = activity
            if entry is not None:
                entry.state = State.RUNNING
        return activity

    def _progress(self, activity: Activity, model: ModelEntry) -> Progress:
        place = self._workplace

        def stage(begins: Stage) -> None:
            with place.changing():
                activity.stage = begins
                if activity.step is Step.MATERIAL:
                    activity.from_stock = begins is Stage.FROM_STOCK
                    activity.run.expected = place.timings.expected(_name_kind(activity, model))
                activity.run.reach(activity.step.value, at=activity.elapsed())

        def layer(index: int, total: int, _name: str) -> None:
            with place.looking():  # browsers ask for it at their own pace
                activity.layer, activity.layers = index + 1, total
                activity.run.reach(f"layer {index + 1} of {total}", at=activity.elapsed())

        return Progress(stage=stage, layer=layer)

    def _keep_answer(self, entry: Entry, diagnosis: "Diagnosis") -> None:
        record = Record.of(diagnosis, date=datetime.now(tz=UTC), file_digest=entry.digest, warnings=diagnosis.warnings)
        kept = self._workplace.history.add(record)
        with self._workplace.changing():
            entry.answer, entry.record = record, record.id if kept else None
            entry.diagnosis, entry.image, entry.state = diagnosis, None, State.ANSWERED
        self._workplace.note_reached()

    def _keep_error(self, entry: Entry, error: Problem) -> None:
        with self._workplace.changing():
            entry.error = error
            entry.state = State.FAILED
        if error.lost:
            self._workplace.note_lost(error.lost)
        if error.code in (BudgetSpent.code, TooFast.code):
            self._workplace.fail_queue(error)  # the next would hear the same

    def _prepare_one(self) -> None:
        diagnoser, model = self._require_ready()
        if not _is_unchanged(current := self._look_up(diagnoser, model), model):
            self._adopt(model := current)
        engine = next((engine for engine in model.engines if engine in STOCKED_ENGINES), None)
        if engine is None:
            raise Refused("material for this model cannot be prepared ahead; images can be submitted anyway")
        activity, preparing = self._begin(None, model), self._workplace.preparing
        progress = self._progress(activity, model)
        diagnoser.stock(model, engine=engine, progress=progress, cancellation=activity.cancellation)
        self._workplace.timings.finish(_name_kind(activity, model), activity.run, total=activity.elapsed())
        with self._workplace.changing():
            preparing.done += 1

    def _keep_preparing_error(self, error: Problem) -> None:
        with self._workplace.changing():
            stopped = error.code == SessionCancelled.code
            self._workplace.preparing = Preparing(error=None if stopped else error)
        if error.lost:
            self._workplace.note_lost(error.lost)


def _is_unchanged(model: ModelEntry, before: ModelEntry | None) -> bool:
    """Whether the catalog says the same of a model as before; its owner may have signed it again."""
    return before is not None and model.statement() == before.statement()


def _name_kind(activity: Activity, model: ModelEntry) -> str:
    """Runs that take about as long."""
    what = "prepare" if activity.entry is None else "from stock" if activity.from_stock else "prepared in the session"
    return f"{model.card.name} {model.version} {model.engines[0].value}, {what}"
