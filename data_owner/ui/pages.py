"""The page's routes. What changes something is a POST, answered by 204 to the page's script and else by a redirect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from contract.errors import EncryptedInferenceError
from data_owner.ui import batch, export_pages, history_pages, polarity
from data_owner.ui.answering import (
    THEMES,
    answer_done,
    answer_error,
    answer_not_found,
    find_entry,
    find_workplace,
    make_post_routes,
    parse_whole_number,
    read_form,
    read_theme,
)
from data_owner.ui.entries import Entry
from data_owner.ui.intake import READERS_AT_ONCE, read_file, receive_file
from data_owner.ui.runner import Runner
from data_owner.ui.security import UPLOADS, Access, Guard
from data_owner.ui.showing import (
    MEDIA_TYPES,
    REGIONS,
    load_asset,
    load_templates,
    make_context,
    measure_progress,
    render_region,
)
from data_owner.ui.workplace import Workplace
from plumbing.output import printable

if TYPE_CHECKING:
    from data_owner.ui.patient import Patient

POLL_SECONDS = 20.0
TICK_SECONDS = 0.2
"""While a session runs: layers and the time left go on."""


def _find_runner(request: Request) -> Runner:
    runner: Runner = request.app.state.runner
    return runner


# Looking


async def page(request: Request) -> Response:
    """The page itself."""
    given = make_context(find_workplace(request), request.query_params.get("entry"), read_theme(request))
    parts = {name: render_region(name, given) for name in REGIONS}
    html = load_templates().get_template("page.html").render(given, parts=parts)
    _find_runner(request).begin_loading()
    _find_runner(request).note_look()
    return HTMLResponse(html)


async def state(request: Request) -> Response:
    """What has changed since a revision; waits for it. `key-...`: what the browser shows, by region."""
    place = find_workplace(request)
    query = request.query_params
    _find_runner(request).note_look()
    known = parse_whole_number(query.get("since", ""))
    since = -1 if known is None else known
    patience = POLL_SECONDS if place.activity is None else TICK_SECONDS
    revision = await place.bell.wait(since=since, seconds=patience)
    given = make_context(place, query.get("entry"), read_theme(request))
    shown = [render_region(name, given) for name in REGIONS]
    changed = {
        name: {"html": html, "key": key}
        for name, (html, key) in zip(REGIONS, shown, strict=True)
        if query.get(f"key-{name}") != key
    }
    chosen = given["entry"]
    return JSONResponse(
        {
            "revision": revision,
            "entry": None if chosen is None else chosen.id,
            "regions": changed,
            "progress": measure_progress(place),
        }
    )


async def static(request: Request) -> Response:
    """Styles, script, mark."""
    name = request.path_params["name"]
    content = load_asset(name)
    if content is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]])


async def picture(request: Request) -> Response:
    """The whole picture, or what the model sees."""
    entry = find_entry(request)
    path = {"original": entry.original, "seen": entry.seen}.get(request.path_params["picture"])
    if path is None or entry.facts is None or not path.is_file():
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return FileResponse(path, media_type="image/png")


async def values(request: Request) -> Response:
    """The values behind the picture."""
    entry = find_entry(request)
    if entry.facts is None or not entry.values.is_file():
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return FileResponse(entry.values, media_type="application/octet-stream")


async def patient(request: Request) -> Response:
    """Who the patient is, read from the file now and kept nowhere."""
    entry = find_entry(request)
    patient: Patient | None = await run_in_threadpool(_read_patient, entry)
    html = load_templates().get_template("patient.html").render(patient=patient, entry=entry)
    return HTMLResponse(html)


async def heat_map(request: Request) -> Response:
    """What speaks for one class, to be laid over the picture."""
    entry, number = find_entry(request), request.path_params["number"]
    grids = entry.diagnosis.heat_map if entry.diagnosis is not None else None
    if grids is None or entry.facts is None or number >= len(grids):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return Response(await run_in_threadpool(_draw_layer, entry, number), media_type="image/png")


# Doing


async def upload(request: Request) -> Response:
    """One file: the body as it is. Its name and the drop that it belongs to stand in headers."""
    place = find_workplace(request)
    name = printable(unquote(request.headers.get("x-file-name", ""))[:255])
    entry = place.new_entry(drop=request.headers.get("x-drop", "")[:64], file_name=name)
    try:
        await receive_file(entry, request.stream(), most_bytes=request.app.state.access.max_upload_bytes)
    except (EncryptedInferenceError, ClientDisconnect, asyncio.CancelledError):
        place.remove(entry)
        raise
    async with request.app.state.readers:  # whoever waits for a place takes no thread that others need
        await run_in_threadpool(read_file, place, entry)
    return JSONResponse({"entry": entry.id}, status_code=HTTPStatus.CREATED)


async def submit(request: Request) -> Response:
    """Put an entry into the queue."""
    entry = find_entry(request)
    find_workplace(request).submit(entry, confirmed=(await read_form(request)).get("confirm") == "yes")
    return answer_done(request, entry)


async def submit_all(request: Request) -> Response:
    """Put every entry into the queue that needs no question answered."""
    place = find_workplace(request)
    for entry in place.entries():
        if place.can_submit_at_once(entry):
            place.submit(entry, confirmed=False)
    return answer_done(request)


async def stop(request: Request) -> Response:
    """End an entry's session, or take it out of the queue."""
    entry = find_entry(request)
    find_workplace(request).stop(entry)
    return answer_done(request, entry)


async def remove(request: Request) -> Response:
    """Forget an entry and its files."""
    find_workplace(request).remove(find_entry(request))
    return answer_done(request)


async def keep(request: Request) -> Response:
    """Keep the picture with the answer in the history."""
    place = find_workplace(request)
    entry = find_entry(request)
    if entry.record is None or not entry.original.is_file():
        raise HTTPException(HTTPStatus.NOT_FOUND)
    kept = place.history.keep_picture(entry.record, entry.original.read_bytes())
    with place.changing():
        entry.picture_kept = kept
    return answer_done(request, entry)


async def separate(request: Request) -> Response:
    """The files of this drop are meant, though they are of several patients."""
    entry = find_entry(request)
    find_workplace(request).separate(entry)
    return answer_done(request, entry)


async def alone(request: Request) -> Response:
    """Of this drop, keep only this entry's patient."""
    entry = find_entry(request)
    find_workplace(request).keep_one_patient(entry)
    return answer_done(request, entry)


async def prepare(request: Request) -> Response:
    """Stock offline material."""
    find_workplace(request).prepare(parse_whole_number((await read_form(request)).get("count", "")) or 0)
    return answer_done(request)


async def stop_preparing(request: Request) -> Response:
    """Stop preparing."""
    find_workplace(request).stop_preparing()
    return answer_done(request)


async def reconnect(request: Request) -> Response:
    """Try the front end again."""
    _find_runner(request).reconnect()
    return answer_done(request)


async def model(request: Request) -> Response:
    """Use another model of the catalog."""
    place = find_workplace(request)
    name = (await read_form(request)).get("model", "")
    if name not in place.offered:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    with place.changing():
        place.wanted_model = name
    place.wake.set()
    return answer_done(request)


async def theme(request: Request) -> Response:
    """Light, dark, or what the system says."""
    answer = answer_done(request)
    theme = (await read_form(request)).get("theme", "")
    answer.set_cookie("theme", theme if theme in THEMES else "auto", httponly=True, samesite="strict")
    return answer


def _read_patient(entry: Entry) -> "Patient | None":
    from data_owner.ui.patient import read_patient

    return read_patient(entry.file)


def _draw_layer(entry: Entry, number: int) -> bytes:
    import numpy as np

    from data_owner.heat_map import draw_layer

    assert entry.diagnosis is not None
    assert entry.diagnosis.heat_map is not None
    assert entry.facts is not None
    grid: Any = list(entry.diagnosis.heat_map.values())[number]
    return draw_layer(np.asarray(grid), rows=entry.facts.look.rows, columns=entry.facts.look.columns)


ROUTES: Final = [
    Route("/", page),
    Route("/state", state),
    Route("/static/{name}", static),
    Route(UPLOADS, upload, methods=["POST"]),
    Route("/entries/{entry}/{picture}.png", picture),
    Route("/entries/{entry}/values", values),
    Route("/entries/{entry}/patient", patient),
    Route("/entries/{entry}/heat-map/{number:int}.png", heat_map),
    *make_post_routes("/entries/{entry}", submit, stop, remove, keep, separate, alone),
    *make_post_routes("", submit_all, prepare, stop_preparing, reconnect, model, theme),
]


def make_page_app(workplace: Workplace, runner: Runner, access: Access) -> Starlette:
    """The ASGI app. It starts and ends the runner."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        runner.start()
        yield
        workplace.bell.close()
        await run_in_threadpool(runner.close)
        workplace.folders.close()

    app = Starlette(
        routes=[*ROUTES, *batch.ROUTES, *export_pages.ROUTES, *history_pages.ROUTES, *polarity.ROUTES],
        lifespan=lifespan,
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={HTTPException: answer_not_found, EncryptedInferenceError: answer_error},
    )
    app.state.workplace, app.state.runner, app.state.access = workplace, runner, access
    app.state.readers = asyncio.Semaphore(READERS_AT_ONCE)
    return app
