"""What concerns all images of the page: names shown or hidden, the same file twice, and removing all."""

from contextlib import suppress
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from contract.errors import CallerError
from data_owner.ui.answering import answer_done, find_entry, find_workplace, make_post_routes, read_form
from data_owner.ui.entries import Entry
from data_owner.ui.workplace import Workplace


async def names(request: Request) -> Response:
    """Show or hide who is on the images."""
    show = (await read_form(request)).get("show") == "yes"
    await run_in_threadpool(show_names if show else hide_names, find_workplace(request))
    return answer_done(request)


async def remove_all(request: Request) -> Response:
    """Forget every image and its files, but those that a session has."""
    place = find_workplace(request)
    for entry in place.entries():
        with suppress(CallerError):  # of one that is being submitted
            place.remove(entry)
    return answer_done(request)


async def keep_both(request: Request) -> Response:
    """The user means it: the same file once more."""
    entry = find_entry(request)
    with find_workplace(request).changing():
        entry.repeat_meant = True
    return answer_done(request, entry)


def show_names(place: Workplace) -> None:
    """Show names, of what is there and of what comes, until they are hidden or the page ends."""
    with place.changing():
        place.names_shown = True
    for entry in place.entries():
        learn_name(place, entry)


def hide_names(place: Workplace) -> None:
    """Hide and forget them."""
    with place.changing():
        place.names_shown = False
        for entry in place.entries():
            entry.named = None


def learn_name(place: Workplace, entry: Entry) -> None:
    """Read who is on an image, while names are shown; else nothing is kept."""
    from data_owner.ui.patient import read_patient

    if not (place.names_shown and entry.digest):
        return
    patient = read_patient(entry.file)
    with place.changing():
        entry.named = patient if place.names_shown else None


ROUTES: Final = [
    *make_post_routes("", names, remove_all),
    *make_post_routes("/entries/{entry}", keep_both),
]
