"""What the page knows: the entries, the model, the stock, and how far the session is.

Shared by requests and the runner. Everything here is behind one lock; whatever changes rings the bell.
"""

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, assert_never

from contract.api import ModelEntry
from contract.errors import CallerError, EncryptedInferenceError, Refused
from data_owner.progress import Cancellation, Stage
from data_owner.ui.bell import Bell
from data_owner.ui.entries import CAN_SUBMIT, MOST_ENTRIES, Entry, Facts, State
from data_owner.ui.folders import Folders
from data_owner.ui.history import History
from data_owner.ui.timings import Run, Timings
from data_owner.ui.words import Problem, describe_error

if TYPE_CHECKING:
    from imaging.reading import ModelInput

MOST_PREPARED: Final = 50
"""Items that one request to prepare may ask for."""


class Connection(StrEnum):
    """Where the connection to the front end stands."""

    STARTING = "starting"
    WARMING = "warming"
    """The catalog is there; what sessions need is being loaded."""
    READY = "ready"
    OFFLINE = "offline"


class Step(StrEnum):
    """Steps of a session as the page and the kept timings name them."""

    OPENING = "opening"
    MATERIAL = "material"
    LAYERS = "layers"


@dataclass(kw_only=True)
class Activity:
    """The session that runs."""

    entry: str | None
    """None if material is prepared ahead."""
    run: Run
    cancellation: Cancellation = field(default_factory=Cancellation)
    started: float = field(default_factory=time.monotonic)
    stage: Stage = Stage.OPENING
    from_stock: bool = False
    """Whether its material is in stock: what is expected, until it is known."""
    layer: int = 0
    layers: int = 0

    @property
    def step(self) -> Step:
        """Where its stage belongs."""
        match self.stage:
            case Stage.READING | Stage.OPENING:
                return Step.OPENING
            case Stage.FROM_STOCK | Stage.PREPARING:
                return Step.MATERIAL
            case Stage.COMPUTING:
                return Step.LAYERS
            case _:
                assert_never(self.stage)

    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.started


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A party that cannot be reached."""

    who: str
    since: datetime
    tried: datetime
    """The last time."""


@dataclass(frozen=True, kw_only=True)
class StockLevel:
    """Items for the chosen model."""

    items: int
    oldest_seconds: float | None
    days: float


@dataclass(kw_only=True)
class Preparing:
    """Stocking that was asked for."""

    wanted: int = 0
    done: int = 0
    error: Problem | None = None

    @property
    def left(self) -> int:
        """Items still to prepare."""
        return self.wanted - self.done


class Workplace:
    """The state of one page."""

    def __init__(self, folders: Folders, *, stock_days: float) -> None:
        """Begin empty, with what earlier pages left in the history."""
        self.folders = folders
        self.history = History(folders.history)
        self.timings = Timings(folders.timings)
        self.bell = Bell()
        self.connection = Connection.STARTING
        self.connection_error: Problem | None = None
        self.trouble: Trouble | None = None
        self.model: ModelEntry | None = None
        self.mismatch = False
        """Whether this model answered a reference picture otherwise than its owner signed."""
        self.offered: tuple[str, ...] = ()
        self.wanted_model: str | None = None
        self.stock = StockLevel(items=0, oldest_seconds=None, days=stock_days)
        self.preparing = Preparing()
        self.activity: Activity | None = None
        self.wake = threading.Event()
        """Set when the runner has something to do."""
        self.names_shown = False
        """Whether the page shows who is on the images. Not kept: each page begins without."""
        self.patient_key = secrets.token_bytes(32)
        self._entries: dict[str, Entry] = {}
        self._queue: list[str] = []
        self._numbers = 0
        self._lock = threading.RLock()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change something, and say so."""
        with self._lock:
            yield
        self.bell.ring()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look at several things that belong together."""
        with self._lock:
            yield

    # Entries

    def entries(self) -> list[Entry]:
        """All, in the order in which they came."""
        with self._lock:
            return list(self._entries.values())

    def entry(self, name: str) -> Entry | None:
        """One, by its id."""
        return self._entries.get(name)

    def new_entry(self, *, drop: str, file_name: str) -> Entry:
        """An entry for a file that arrives. Raises Refused if there are too many."""
        with self.changing():
            if len(self._entries) >= MOST_ENTRIES:
                raise Refused(f"the page holds {MOST_ENTRIES} images already: remove some, then drop this one again")
            self._numbers += 1
            entry = Entry(number=self._numbers, folder=self.folders.new_entry(), drop=drop, file_name=file_name)
            self._entries[entry.id] = entry
            return entry

    def accept_reading(self, entry: Entry, image: "ModelInput", facts: Facts, model: ModelEntry) -> None:
        """An entry's file has become a picture for `model`; it goes on waiting if another was chosen meanwhile."""
        with self.changing():
            if self.model is not model:
                return
            entry.image, entry.facts, entry.warnings = image, facts, image.warnings
            entry.state, entry.error = State.READY, None
            entry.reads += 1

    def refuse_reading(self, entry: Entry, error: EncryptedInferenceError, model: ModelEntry) -> None:
        """An entry's file cannot be read for `model`; it goes on waiting if another was chosen meanwhile."""
        with self.changing():
            if self.model is not model:
                return
            entry.state, entry.error = State.UNREADABLE, describe_error(error)

    def waiting(self) -> list[Entry]:
        """Entries to read when the model is known. A file that is still on its way is no picture yet."""
        return [entry for entry in self.entries() if entry.state is State.WAITING and entry.digest]

    def count_patients(self, entry: Entry) -> int:
        """How many patients the files name that were dropped with this one; 0 or 1 if there is nothing to ask."""
        together = (other for other in self.entries() if other.drop == entry.drop and not other.separate)
        return len({other.patient for other in together if other.patient is not None})

    def separate(self, entry: Entry) -> None:
        """The user means it: the files of this drop are of several patients."""
        with self.changing():
            for other in self._entries.values():
                if other.drop == entry.drop:
                    other.separate = True

    def keep_one_patient(self, entry: Entry) -> None:
        """Remove what was dropped with this entry and names another patient."""
        for other in self.entries():
            if other.drop == entry.drop and other.patient not in (None, entry.patient) and not other.busy:
                self.remove(other)

    def find_alike(self, entry: Entry) -> list[Entry]:
        """Entries of the same drop, this one too, whose bright and dark stand as this one's: open, or said the same."""

        def stand(one: Entry) -> tuple[object, ...]:
            return (one.drop, one.polarity, one.facts and one.facts.polarity_told_by, one.state in CAN_SUBMIT)

        return [other for other in self.entries() if stand(other) == stand(entry)]

    def find_twin(self, entry: Entry) -> Entry | None:
        """The image that came earlier and is the same file, if any."""
        earlier = (other for other in self.entries() if other.number < entry.number)
        return next((other for other in earlier if other.digest and other.digest == entry.digest), None)

    def repeats(self, entry: Entry) -> bool:
        """Whether an answer to this file is there or may come already, and the user has not said that it is meant."""
        known = entry.answered_before is not None or self.find_twin(entry) is not None
        return known and not entry.repeat_meant

    def remove(self, entry: Entry) -> None:
        """Forget an entry and its files. Raises CallerError if a session has it."""
        with self.changing():
            if entry.busy:
                raise CallerError("this image is being submitted: stop it first, then remove it")
            self._entries.pop(entry.id, None)
        entry.delete_files()

    # The other parties

    def note_lost(self, who: str) -> None:
        """A party cannot be reached, by a session or by asking."""
        now, before = datetime.now(tz=UTC), self.trouble
        since = before.since if before is not None and before.who == who else now
        with self.changing():
            self.trouble = Trouble(who=who, since=since, tried=now)

    def note_reached(self) -> None:
        """All that are needed can be reached."""
        if self.trouble is not None:
            with self.changing():
                self.trouble = None

    # Sessions

    def submit(self, entry: Entry, *, confirmed: bool) -> None:
        """Put an entry into the queue. Raises CallerError if it may not be submitted as it is."""
        with self.changing():
            if entry.state not in CAN_SUBMIT:
                raise CallerError(f"{entry.name} cannot be submitted now: it is {entry.state}")
            if self.count_patients(entry) > 1:
                raise CallerError("the files dropped together name several patients: say which are meant")
            if entry.polarity_question is not None:
                raise CallerError("say first which of the two pictures looks right")
            if entry.needs_confirmation and not confirmed:
                raise CallerError("this image has warnings: tick the box that you want to submit it anyway")
            entry.state, entry.error = State.QUEUED, None
            self._queue.append(entry.id)
        self.wake.set()

    def can_submit_at_once(self, entry: Entry) -> bool:
        """Whether it may be submitted without a question."""
        asked = entry.needs_confirmation or entry.polarity_question is not None
        alone = self.count_patients(entry) <= 1 and not self.repeats(entry)
        return entry.state is State.READY and not asked and alone

    def stop(self, entry: Entry) -> None:
        """Take an entry out of the queue, or end its session."""
        with self.changing():
            if entry.id in self._queue:
                self._queue.remove(entry.id)
                entry.state = State.READY
            elif entry.state is State.RUNNING and self.activity is not None and self.activity.entry == entry.id:
                entry.state = State.STOPPING
                self.activity.cancellation.cancel()

    def prepare(self, count: int) -> None:
        """Ask for items in stock. Raises CallerError for a number that cannot be meant."""
        with self.changing():
            if not 1 <= count <= MOST_PREPARED:
                raise CallerError(f"prepare 1 to {MOST_PREPARED} items at a time")
            before = self.preparing
            self.preparing = Preparing(wanted=count) if before.left <= 0 else before
            if before.left > 0:
                before.wanted = min(before.wanted + count, before.done + MOST_PREPARED)
        self.wake.set()

    def stop_preparing(self) -> None:
        """Stop preparing."""
        with self.changing():
            self.preparing = Preparing()
            if self.activity is not None and self.activity.entry is None:
                self.activity.cancellation.cancel()

    def next_entry(self) -> Entry | None:
        """The entry whose turn it is, out of the queue."""
        with self.changing():
            return self._entries[self._queue.pop(0)] if self._queue else None

    def fail_queue(self, error: Problem) -> None:
        """Nothing can be submitted now: give all back to the user."""
        with self.changing():
            for name in self._queue:
                self._entries[name].state, self._entries[name].error = State.FAILED, error
            self._queue.clear()
            self.preparing = Preparing(error=error) if self.preparing.left > 0 else self.preparing

    def queue_position(self, entry: Entry) -> int:
        """How many go before it."""
        with self._lock:
            return self._queue.index(entry.id) if entry.id in self._queue else 0

    def adopt(self, model: ModelEntry) -> None:
        """Read for this model from now on; what is not submitted yet is read again."""
        with self.changing():
            self.model = model
            for entry in self._entries.values():
                if entry.state in (*CAN_SUBMIT, State.UNREADABLE):
                    entry.state, entry.error, entry.image = State.WAITING, None, None
