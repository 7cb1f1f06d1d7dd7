"""The page's routes. What changes something is a POST, answered by 204 to the page's script and else by a redirect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from contract.errors import EncryptedInferenceError
from data_owner.ui.answering import (
    THEMES,
    answer_done,
    answer_error,
    answer_not_found,
    find_entry,
    make_post_routes,
    parse_whole_number,
    read_form,
    read_theme,
)
from data_owner.ui.batch import BatchPages
from data_owner.ui.entries import Entry
from data_owner.ui.export_pages import ExportPages
from data_owner.ui.history_pages import HistoryPages
from data_owner.ui.intake import READERS_AT_ONCE, read_file, receive_file
from data_owner.ui.polarity import PolarityPages
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


def make_page_app(workplace: Workplace, runner: Runner, access: Access) -> Starlette:
    """The ASGI app. It starts and ends the runner."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        runner.start()
        yield
        workplace.bell.close()
        await run_in_threadpool(runner.close)
        workplace.folders.close()

    pages = Pages(workplace, runner, access)
    return Starlette(
        routes=[
            *pages.routes(),
            *BatchPages(workplace).routes(),
            *ExportPages(workplace).routes(),
            *HistoryPages(workplace).routes(),
            *PolarityPages(workplace).routes(),
        ],
        lifespan=lifespan,
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={HTTPException: answer_not_found, EncryptedInferenceError: answer_error},
    )


class Pages:
    """Handlers of one page."""

    def __init__(self, workplace: Workplace, runner: Runner, access: Access) -> None:
        """Show and change `workplace`."""
        self._place = workplace
        self._runner = runner
        self._access = access
        self._readers = asyncio.Semaphore(READERS_AT_ONCE)

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/", self.page),
            Route("/state", self.state),
            Route("/static/{name}", self.static),
            Route(UPLOADS, self.upload, methods=["POST"]),
            Route("/entries/{entry}/{picture}.png", self.picture),
            Route("/entries/{entry}/values", self.values),
            Route("/entries/{entry}/patient", self.patient),
            Route("/entries/{entry}/heat-map/{number:int}.png", self.heat_map),
            *make_post_routes(
                "/entries/{entry}", self.submit, self.stop, self.remove, self.keep, self.separate, self.alone
            ),
            *make_post_routes(
                "", self.submit_all, self.prepare, self.stop_preparing, self.reconnect, self.model, self.theme
            ),
        ]

    # Looking

    async def page(self, request: Request) -> Response:
        """The page itself."""
        given = make_context(self._place, request.query_params.get("entry"), read_theme(request))
        parts = {name: render_region(name, given) for name in REGIONS}
        html = load_templates().get_template("page.html").render(given, parts=parts)
        self._runner.begin_loading()
        self._runner.note_look()
        return HTMLResponse(html)

    async def state(self, request: Request) -> Response:
        """What has changed since a revision; waits for it. `key-...`: what the browser shows, by region."""
        query = request.query_params
        self._runner.note_look()
        known = parse_whole_number(query.get("since", ""))
        since = -1 if known is None else known
        patience = POLL_SECONDS if self._place.activity is None else TICK_SECONDS
        revision = await self._place.bell.wait(since=since, seconds=patience)
        given = make_context(self._place, query.get("entry"), read_theme(request))
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
                "progress": measure_progress(self._place),
            }
        )

    async def static(self, request: Request) -> Response:
        """Styles, script, mark."""
        name = request.path_params["name"]
        content = load_asset(name)
        if content is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]])

    async def picture(self, request: Request) -> Response:
        """The whole picture, or what the model sees."""
        entry = find_entry(self._place, request)
        path = {"original": entry.original, "seen": entry.seen}.get(request.path_params["picture"])
        if path is None or entry.facts is None or not path.is_file():
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return FileResponse(path, media_type="image/png")

    async def values(self, request: Request) -> Response:
        """The values behind the picture."""
        entry = find_entry(self._place, request)
        if entry.facts is None or not entry.values.is_file():
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return FileResponse(entry.values, media_type="application/octet-stream")

    async def patient(self, request: Request) -> Response:
        """Who the patient is, read from the file now and kept nowhere."""
        entry = find_entry(self._place, request)
        patient: Patient | None = await run_in_threadpool(_read_patient, entry)
        html = load_templates().get_template("patient.html").render(patient=patient, entry=entry)
        return HTMLResponse(html)

    async def heat_map(self, request: Request) -> Response:
        """What speaks for one class, to be laid over the picture."""
        entry, number = find_entry(self._place, request), request.path_params["number"]
        grids = entry.diagnosis.heat_map if entry.diagnosis is not None else None
        if grids is None or entry.facts is None or number >= len(grids):
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return Response(await run_in_threadpool(_draw_layer, entry, number), media_type="image/png")

    # Doing

    async def upload(self, request: Request) -> Response:
        """One file: the body as it is. Its name and the drop that it belongs to stand in headers."""
        name = printable(unquote(request.headers.get("x-file-name", ""))[:255])
        entry = self._place.new_entry(drop=request.headers.get("x-drop", "")[:64], file_name=name)
        try:
            await receive_file(entry, request.stream(), most_bytes=self._access.max_upload_bytes)
        except (EncryptedInferenceError, ClientDisconnect, asyncio.CancelledError):
            self._place.remove(entry)
            raise
        async with self._readers:  # whoever waits for a place takes no thread that others need
            await run_in_threadpool(read_file, self._place, entry)
        return JSONResponse({"entry": entry.id}, status_code=HTTPStatus.CREATED)

    async def submit(self, request: Request) -> Response:
        """Put an entry into the queue."""
        entry = find_entry(self._place, request)
        self._place.submit(entry, confirmed=(await read_form(request)).get("confirm") == "yes")
        return answer_done(request, entry)

    async def submit_all(self, request: Request) -> Response:
        """Put every entry into the queue that needs no question answered."""
        for entry in self._place.entries():
            if self._place.can_submit_at_once(entry):
                self._place.submit(entry, confirmed=False)
        return answer_done(request)

    async def stop(self, request: Request) -> Response:
        """End an entry's session, or take it out of the queue."""
        entry = find_entry(self._place, request)
        self._place.stop(entry)
        return answer_done(request, entry)

    async def remove(self, request: Request) -> Response:
        """Forget an entry and its files."""
        self._place.remove(find_entry(self._place, request))
        return answer_done(request)

    async def keep(self, request: Request) -> Response:
        """Keep the picture with the answer in the history."""
        entry = find_entry(self._place, request)
        if entry.record is None or not entry.original.is_file():
            raise HTTPException(HTTPStatus.NOT_FOUND)
        kept = self._place.history.keep_picture(entry.record, entry.original.read_bytes())
        with self._place.changing():
            entry.picture_kept = kept
        return answer_done(request, entry)

    async def separate(self, request: Request) -> Response:
        """The files of this drop are meant, though they are of several patients."""
        entry = find_entry(self._place, request)
        self._place.separate(entry)
        return answer_done(request, entry)

    async def alone(self, request: Request) -> Response:
        """Of this drop, keep only this entry's patient."""
        entry = find_entry(self._place, request)
        self._place.keep_one_patient(entry)
        return answer_done(request, entry)

    async def prepare(self, request: Request) -> Response:
        """Stock offline material."""
        self._place.prepare(parse_whole_number((await read_form(request)).get("count", "")) or 0)
        return answer_done(request)

    async def stop_preparing(self, request: Request) -> Response:
        """Stop preparing."""
        self._place.stop_preparing()
        return answer_done(request)

    async def reconnect(self, request: Request) -> Response:
        """Try the front end again."""
        self._runner.reconnect()
        return answer_done(request)

    async def model(self, request: Request) -> Response:
        """Use another model of the catalog."""
        name = (await read_form(request)).get("model", "")
        if name not in self._place.offered:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        with self._place.changing():
            self._place.wanted_model = name
        self._place.wake.set()
        return answer_done(request)

    async def theme(self, request: Request) -> Response:
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
