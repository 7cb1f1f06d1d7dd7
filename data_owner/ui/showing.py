"""What the templates are given: numbers and states as people read them."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final, assert_never

from jinja2 import Environment, PackageLoader, select_autoescape

from contract.identity import Role
from data_owner.progress import Stage
from data_owner.ui.entries import CAN_SUBMIT, Entry, State
from data_owner.ui.exporting import Row, format_full_date, format_text
from data_owner.ui.history import KeptName
from data_owner.ui.workplace import MOST_PREPARED, Activity, Connection, Workplace
from data_owner.wording import explain, list_lines, say_repeats, summarise

STATES: Final = {
    State.WAITING: "Being read",
    State.UNREADABLE: "Cannot be read",
    State.READY: "Ready to submit",
    State.QUEUED: "In the queue",
    State.RUNNING: "Running",
    State.STOPPING: "Stopping",
    State.FAILED: "No result",
    State.ANSWERED: "Answered",
}
_TALLY: Final = {
    State.ANSWERED: "answered",
    State.RUNNING: "running",
    State.STOPPING: "stopping",
    State.QUEUED: "in the queue",
    State.READY: "ready to submit",
    State.FAILED: "without result",
    State.UNREADABLE: "cannot be read",
    State.WAITING: "being read",
}
"""In the order in which they are told."""
_ASKS: Final = "with a question"
CONNECTIONS: Final = {
    Connection.STARTING: "Connecting",
    Connection.WARMING: "Getting ready",
    Connection.READY: "Ready",
    Connection.OFFLINE: "Offline",
}
REGIONS: Final = ("status", "queue", "entry", "stock")
_WHO = {Role.DATA_OWNER: "This workstation", Role.MODEL_OWNER: "Model owner", Role.CRYPTO_PROVIDER: "Crypto provider"}
LOW_STOCK: Final = 3
MAP_OPACITY: Final = 80
"""Percent, of a heat map when it is first shown; of a model that found nothing it waits until it is asked for."""


@cache
def load_templates() -> Environment:
    """The page's templates; everything that is put into them is escaped."""
    environment = Environment(
        loader=PackageLoader("data_owner.ui"),
        autoescape=select_autoescape(default_for_string=True, default=True),
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters = {
        "age": format_age,
        "clock": format_clock,
        "full_date": format_full_date,
        "amount": format_amount,
        "duration": format_duration,
        "lines": list_lines,
        "sentence": make_sentence,
        "standing": describe_state,
        "when": format_date,
    }
    environment.filters |= filters
    environment.globals |= {"STATES": STATES, "State": State, "Connection": Connection, "CONNECTIONS": CONNECTIONS}
    return environment


@cache
def load_asset(name: str) -> bytes | None:
    """A file that the page loads; None if there is none of this name."""
    kind = name.rpartition(".")[2]
    place = files("data_owner.ui") / "static" / name
    return place.read_bytes() if kind in MEDIA_TYPES and "/" not in name and place.is_file() else None


MEDIA_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def format_amount(count: int) -> str:
    """Bytes for people."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:,.1f} kB" if count < 1_000_000 else f"{count / 1e6:,.1f} MB"


def format_duration(seconds: float) -> str:
    """What a session took, for people."""
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def format_age(seconds: float) -> str:
    """An age in words."""
    if seconds < 90:
        return "a minute"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def describe_state(entry: Entry) -> str:
    """Where an entry stands, in words."""
    if entry.polarity_question is not None:
        return "Which way round?"
    return "Needs your confirmation" if entry.state is State.READY and entry.needs_confirmation else STATES[entry.state]


def make_sentence(text: str) -> str:
    """A warning's words as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def format_date(date: datetime) -> str:
    """A date in this workstation's time zone."""
    return f"{date.astimezone():%Y-%m-%d %H:%M}"


def format_clock(date: datetime) -> str:
    """A time of day in this workstation's time zone."""
    return f"{date.astimezone():%H:%M}"


def count_by_state(entries: Sequence[Entry], ready: Sequence[Entry]) -> str:
    """How many images there are in which state: 22 images: 3 answered, 18 ready to submit, 1 with a question.

    `ready`: those of them that may be submitted without a question.
    """
    counts = Counter(
        _ASKS if entry.state is State.READY and entry not in ready else _TALLY[entry.state] for entry in entries
    )
    parts = [f"{counts[words]} {words}" for words in (*_TALLY.values(), _ASKS) if counts[words]]
    return f"{len(entries)} image{'' if len(entries) == 1 else 's'}: {', '.join(parts)}"


def make_context(place: Workplace, chosen: str | None, theme: str) -> dict[str, Any]:
    """All that the page's parts need."""
    entries = place.entries()
    entry = place.entry(chosen) if chosen else None
    entry = entry or (entries[-1] if entries else None)
    answer = make_result(place, entry) if entry is not None and entry.diagnosis is not None else None
    ready = [one for one in entries if place.can_submit_at_once(one)]
    return {
        "place": place,
        "tally": count_by_state(entries, ready),
        "answered": [one for one in entries if one.answer is not None],
        "twin": place.find_twin(entry) if entry is not None else None,
        "repeats": entry is not None and place.repeats(entry),
        "report": make_report(place, entry, answer) if entry is not None and answer is not None else None,
        "theme": theme,
        "entries": entries,
        "entry": entry,
        "card": place.model.card if place.model is not None else None,
        "ready": ready,
        "can_submit": entry is not None and entry.state in CAN_SUBMIT and entry.image is not None,
        "patients": place.count_patients(entry) if entry is not None else 0,
        "alike": len(place.find_alike(entry)) if entry is not None else 0,
        "result": answer,
        "low_stock": LOW_STOCK,
        "most_prepared": MOST_PREPARED,
    }


def make_result(place: Workplace, entry: Entry) -> dict[str, Any]:
    """An answer, as it is shown."""
    diagnosis = entry.diagnosis
    assert diagnosis is not None
    answer, lines = diagnosis.diagnosis, list_lines(diagnosis.diagnosis)
    maps = list(diagnosis.heat_map or {})
    first = answer.mapped[0] if answer.mapped else lines[0].name
    organisations = {
        Role.MODEL_OWNER: place.model.model_owner.organisation if place.model else "",
        Role.CRYPTO_PROVIDER: place.model.crypto_provider.organisation if place.model else "",
        Role.DATA_OWNER: "",
    }
    return {
        "diagnosis": diagnosis,
        "answer": answer,
        "lines": lines,
        "spoken": summarise(answer),
        "explained": explain(answer, diagnosis.calibration),
        "repeated": say_repeats(diagnosis.repeats),
        "opacity": MAP_OPACITY if answer.mapped else 0,
        "maps": [(index, name, name == first) for index, name in enumerate(maps)],
        "links": [
            {
                "to": link.receiver,
                "sender": _WHO[link.sender],
                "receiver": _WHO[link.receiver],
                "sender_organisation": organisations[link.sender],
                "receiver_organisation": organisations[link.receiver],
                "bytes": link.offline + link.online,
                "offline": link.offline,
                "online": link.online,
                "left": link.sender is Role.DATA_OWNER,
            }
            for link in diagnosis.bytes.links
            if link.offline + link.online
        ],
    }


def make_row(place: Workplace, entry: Entry) -> Row:
    """An answer of the page; with whose it is only while the page shows names."""
    assert entry.answer is not None
    name = KeptName.of(entry.named, file_name=entry.file_name) if place.names_shown else None
    return Row(record=entry.answer, image=entry.name, name=name)


def make_report(place: Workplace, entry: Entry, result: dict[str, Any]) -> dict[str, Any]:
    """What the report's template is given of one entry, whose answer is shown as `result`."""
    row = make_row(place, entry)
    card = place.model.card if place.model is not None else None
    same_model = card is not None and card.name == row.record.model
    title = card.title if card is not None and same_model else "Answer"
    use = card.intended_use if card is not None and same_model else ""
    return {
        "entry": entry,
        "result": result,
        "record": row.record,
        "name": row.name,
        "title": title,
        "intended_use": use,
        "text": format_text(row, title=title, intended_use=use),
    }


def render_region(name: str, given: dict[str, Any]) -> tuple[str, str]:
    """One part of the page as HTML, and a key that changes with it."""
    html = load_templates().get_template(f"{name}.html").render(given)
    return html, hashlib.sha256(html.encode()).hexdigest()[:16]


def measure_progress(place: Workplace) -> dict[str, Any] | None:
    """How far the session is that runs now."""
    with place.looking():
        activity = place.activity
        if activity is None:
            return None
        elapsed = activity.elapsed()
        fraction, left = activity.run.fraction(at=elapsed), activity.run.left(at=elapsed)
        return {
            "entry": activity.entry,
            "step": activity.step.value,
            "words": _describe_stage(activity),
            "fraction": fraction,
            "elapsed": round(elapsed, 1),
            "left": None if left is None else round(left, 1),
            "time": _describe_time(elapsed, left),
        }


def _describe_stage(activity: Activity) -> str:
    match activity.stage:
        case Stage.READING | Stage.OPENING:
            return "Opening a session"
        case Stage.FROM_STOCK:
            return "Taking offline material from stock"
        case Stage.PREPARING:
            return "Preparing offline material"
        case Stage.COMPUTING:
            layer = f": layer {activity.layer} of {activity.layers}" if activity.layers else ""
            return f"Computing on shares{layer}"
        case _:
            assert_never(activity.stage)


def _describe_time(elapsed: float, left: float | None) -> str:
    if left is None:
        return f"{elapsed:.0f} s so far; how long it takes is not known yet on this workstation"
    if left <= 0:
        return f"{elapsed:.0f} s so far, longer than usual"
    return f"about {left:.0f} s left" if left >= 1 else "about 1 s left"
