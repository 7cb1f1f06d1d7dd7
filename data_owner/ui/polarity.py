"""Which way round a picture is: the clinician says it, for one file or for all of its drop that stand alike.

It can be said again until the picture is submitted; each time, the file is read again.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from contract.errors import CallerError
from data_owner.ui.answering import answer_done, find_entry, find_workplace, make_post_routes, read_form
from data_owner.ui.entries import CAN_SUBMIT, Entry, State
from data_owner.ui.intake import read_file
from data_owner.ui.workplace import Workplace

if TYPE_CHECKING:
    from imaging.formats import Polarity

FOR_ONE, FOR_ALL = "polarity", "polarity-for-all"
"""Names of the buttons, whose values are of Polarity."""


async def polarity(request: Request) -> Response:
    """Take over what the clinician says, and show this entry's picture so; the others of its drop follow."""
    place = find_workplace(request)
    entry, form = find_entry(request), await read_form(request)
    said = await run_in_threadpool(_parse_polarity, form.get(FOR_ONE) or form.get(FOR_ALL, ""))
    others = [one for one in place.find_alike(entry) if one is not entry] if FOR_ALL in form else []
    _set_polarity(place, [entry, *others], said)
    await run_in_threadpool(read_file, place, entry)
    answer = answer_done(request, entry)
    answer.background = BackgroundTask(_read, place, others)
    return answer


async def _read(place: Workplace, entries: Sequence[Entry]) -> None:
    for entry in entries:
        await run_in_threadpool(read_file, place, entry)


def _parse_polarity(word: str) -> "Polarity":
    from imaging.formats import Polarity  # takes long to load, and the page is up before it

    if word not in set(Polarity):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return Polarity(word)


def _set_polarity(place: Workplace, entries: Sequence[Entry], said: "Polarity") -> None:
    """Let entries wait to be read so. Raises CallerError if one is being read, or was submitted."""
    with place.changing():
        for entry in entries:
            if entry.state not in CAN_SUBMIT:
                raise CallerError(f"{entry.name} cannot be changed now: wait until it is read, or stop it first")
        for entry in entries:
            entry.polarity, entry.state = said, State.WAITING
            entry.error, entry.image, entry.warnings = None, None, ()


ROUTES: Final = make_post_routes("/entries/{entry}", polarity)
