"""The page's routes. What changes something is a POST, answered by 204 to the page's script and else by a redirect."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from contract.errors import EncryptedInferenceError
from data_owner.ui.entries import Entry
from data_owner.ui.intake import read_file, receive_file
from data_owner.ui.runner import Runner
from data_owner.ui.security import UPLOADS, Access, Guard
from data_owner.ui.showing import MEDIA_TYPES, REGIONS, asset, context, progress, region, templates
from data_owner.ui.words import Told, told
from data_owner.ui.workplace import Workplace

if TYPE_CHECKING:
    from data_owner.ui.patient import Patient

POLL_SECONDS = 20.0
TICK_SECONDS = 0.2
"""While a session runs: layers and the time left go on."""
_THEMES = ("light", "dark")
Handler = Callable[[Request], Awaitable[Response]]
Form = dict[str, str]


def page_app(workplace: Workplace, runner: Runner, access: Access) -> Starlette:
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
        routes=pages.routes(),
        lifespan=lifespan,
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={HTTPException: _http_problem, EncryptedInferenceError: _problem},
    )


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, EncryptedInferenceError)
    return _answer_error(request, told(error), int(error.http_status))


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    gone = Told(
        code="not-found", title="Nothing here", advice="Go back to the page: it may have been removed.", detail=""
    )
    return _answer_error(request, gone, error.status_code)


def _answer_error(request: Request, error: Told, status: int) -> Response:
    if _from_script(request):
        return JSONResponse({"title": error.title, "advice": error.advice, "detail": error.detail}, status_code=status)
    html = templates().get_template("problem.html").render(error=error, theme=_theme(request))
    return HTMLResponse(html, status_code=status)


def _from_script(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def _theme(request: Request) -> str:
    theme = request.cookies.get("theme", "")
    return theme if theme in _THEMES else "auto"


class Pages:
    """Handlers of one page."""

    def __init__(self, workplace: Workplace, runner: Runner, access: Access) -> None:
        """Show and change `workplace`."""
        self._place = workplace
        self._runner = runner
        self._access = access

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/", self.page),
            Route("/history", self.history),
            Route("/state", self.state),
            Route("/static/{name}", self.static),
            Route(UPLOADS, self.upload, methods=["POST"]),
            Route("/entries/{entry}/{picture}.png", self.picture),
            Route("/entries/{entry}/values", self.values),
            Route("/entries/{entry}/patient", self.patient),
            Route("/entries/{entry}/heat-map/{number:int}.png", self.heat_map),
            *self._posts("/entries/{entry}", self.submit, self.stop, self.remove, self.keep, self.separate, self.alone),
            *self._posts(
                "", self.submit_all, self.prepare, self.stop_preparing, self.reconnect, self.model, self.theme
            ),
            Route("/history/{record}/picture.png", self.kept_picture),
            Route("/history/{record}/delete", self.delete_record, methods=["POST"]),
            Route("/history/delete-all", self.delete_all_records, methods=["POST"]),
        ]

    @staticmethod
    def _posts(prefix: str, *handlers: Handler) -> list[Route]:
        return [Route(f"{prefix}/{_name(one)}", one, methods=["POST"]) for one in handlers]

    # Looking

    async def page(self, request: Request) -> Response:
        """The page itself."""
        given = context(self._place, request.query_params.get("entry"), _theme(request))
        parts = {name: region(name, given) for name in REGIONS}
        html = templates().get_template("page.html").render(given, parts=parts)
        self._runner.page_shown()
        return HTMLResponse(html)

    async def state(self, request: Request) -> Response:
        """What has changed since a revision; waits for it. `key-...`: what the browser shows, by region."""
        query = request.query_params
        since = int(query["since"]) if query.get("since", "").isdigit() else -1
        patience = POLL_SECONDS if self._place.activity is None else TICK_SECONDS
        revision = await self._place.bell.wait(since=since, seconds=patience)
        given = context(self._place, query.get("entry"), _theme(request))
        shown = [region(name, given) for name in REGIONS]
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
                "progress": progress(self._place),
            }
        )

    async def static(self, request: Request) -> Response:
        """Styles, script, mark."""
        name = request.path_params["name"]
        content = asset(name)
        if content is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]])

    async def picture(self, request: Request) -> Response:
        """The whole picture, or what the model sees."""
        entry = self._entry(request)
        path = {"original": entry.original, "seen": entry.seen}.get(request.path_params["picture"])
        if path is None or entry.facts is None or not path.is_file():
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return FileResponse(path, media_type="image/png")

    async def values(self, request: Request) -> Response:
        """The values behind the picture."""
        entry = self._entry(request)
        if entry.facts is None or not entry.values.is_file():
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return FileResponse(entry.values, media_type="application/octet-stream")

    async def patient(self, request: Request) -> Response:
        """Who the patient is, read from the file now and kept nowhere."""
        entry = self._entry(request)
        patient: Patient | None = await run_in_threadpool(_patient_of, entry)
        html = templates().get_template("patient.html").render(patient=patient, entry=entry)
        return HTMLResponse(html)

    async def heat_map(self, request: Request) -> Response:
        """What speaks for one class, to be laid over the picture."""
        entry, number = self._entry(request), request.path_params["number"]
        grids = entry.diagnosis.heat_map if entry.diagnosis is not None else None
        if grids is None or entry.facts is None or number >= len(grids):
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return Response(await run_in_threadpool(_layer, entry, number), media_type="image/png")

    async def history(self, request: Request) -> Response:
        """What this workstation keeps."""
        records = await run_in_threadpool(self._place.history.records)
        pictures = {record.id for record in records if self._place.history.picture(record.id) is not None}
        html = templates().get_template("history.html")
        return HTMLResponse(html.render(records=records, pictures=pictures, theme=_theme(request), place=self._place))

    async def kept_picture(self, request: Request) -> Response:
        """A picture that was kept."""
        path = self._place.history.picture(_record(request))
        if path is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return FileResponse(path, media_type="image/png")

    # Doing

    async def upload(self, request: Request) -> Response:
        """One file: the body as it is. Its name and the drop that it belongs to stand in headers."""
        name = unquote(request.headers.get("x-file-name", ""))[:255]
        entry = self._place.new_entry(drop=request.headers.get("x-drop", "")[:64], file_name=name)
        try:
            await receive_file(entry, request.stream(), most_bytes=self._access.max_upload_bytes)
        except (EncryptedInferenceError, ClientDisconnect, asyncio.CancelledError):
            self._place.remove(entry)
            raise
        await run_in_threadpool(read_file, self._place, entry)
        return JSONResponse({"entry": entry.id}, status_code=HTTPStatus.CREATED)

    async def submit(self, request: Request) -> Response:
        """Put an entry into the queue."""
        entry = self._entry(request)
        self._place.submit(entry, confirmed=(await _form(request)).get("confirm") == "yes")
        return _done(request, entry)

    async def submit_all(self, request: Request) -> Response:
        """Put every entry into the queue that needs no question answered."""
        for entry in self._place.entries():
            if self._place.can_submit_at_once(entry):
                self._place.submit(entry, confirmed=False)
        return _done(request)

    async def stop(self, request: Request) -> Response:
        """End an entry's session, or take it out of the queue."""
        entry = self._entry(request)
        self._place.stop(entry)
        return _done(request, entry)

    async def remove(self, request: Request) -> Response:
        """Forget an entry and its files."""
        self._place.remove(self._entry(request))
        return _done(request)

    async def keep(self, request: Request) -> Response:
        """Keep the picture with the answer in the history."""
        entry = self._entry(request)
        if entry.record is None or not entry.original.is_file():
            raise HTTPException(HTTPStatus.NOT_FOUND)
        kept = self._place.history.keep_picture(entry.record, entry.original.read_bytes())
        with self._place.changing():
            entry.picture_kept = kept
        return _done(request, entry)

    async def separate(self, request: Request) -> Response:
        """The files of this drop are meant, though they are of several patients."""
        entry = self._entry(request)
        self._place.separate(entry)
        return _done(request, entry)

    async def alone(self, request: Request) -> Response:
        """Of this drop, keep only this entry's patient."""
        entry = self._entry(request)
        self._place.keep_one_patient(entry)
        return _done(request, entry)

    async def prepare(self, request: Request) -> Response:
        """Stock offline material."""
        count = (await _form(request)).get("count", "")
        self._place.prepare(int(count) if count.isascii() and count.isdigit() and len(count) < 6 else 0)
        return _done(request)

    async def stop_preparing(self, request: Request) -> Response:
        """Prepare no more."""
        self._place.stop_preparing()
        return _done(request)

    async def reconnect(self, request: Request) -> Response:
        """Try the front end again."""
        self._runner.reconnect()
        return _done(request)

    async def model(self, request: Request) -> Response:
        """Use another model of the catalog."""
        name = (await _form(request)).get("model", "")
        if name not in self._place.offered:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        with self._place.changing():
            self._place.wanted_model = name
        self._place.wake.set()
        return _done(request)

    async def theme(self, request: Request) -> Response:
        """Light, dark, or what the system says."""
        answer = _done(request)
        theme = (await _form(request)).get("theme", "")
        answer.set_cookie("theme", theme if theme in _THEMES else "auto", httponly=True, samesite="strict")
        return answer

    async def delete_record(self, request: Request) -> Response:
        """Forget one answer."""
        self._place.history.delete(_record(request))
        self._forget_records()
        return _done(request, to="/history")

    async def delete_all_records(self, request: Request) -> Response:
        """Forget all."""
        self._place.history.delete_all()
        self._forget_records()
        return _done(request, to="/history")

    def _forget_records(self) -> None:
        """Entries of the page whose answer is no longer kept."""
        kept = {record.id for record in self._place.history.records()}
        with self._place.changing():
            for entry in self._place.entries():
                if entry.record not in kept:
                    entry.record, entry.picture_kept = None, False

    def _entry(self, request: Request) -> Entry:
        entry = self._place.entry(request.path_params["entry"])
        if entry is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return entry


def _name(handler: Handler) -> str:
    return getattr(handler, "__name__", "").replace("_", "-")


def _record(request: Request) -> str:
    from data_owner.ui.history import is_name

    name: str = request.path_params["record"]
    if not is_name(name):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return name


async def _form(request: Request) -> Form:
    """A form of the page. Its length was checked at the door."""
    body = (await request.body()).decode("utf-8", "replace")
    return {name: values[0] for name, values in parse_qs(body, max_num_fields=16).items()}


def _done(request: Request, entry: Entry | None = None, *, to: str = "/") -> Response:
    if _from_script(request):
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return RedirectResponse(to if entry is None else f"/?entry={entry.id}", status_code=HTTPStatus.SEE_OTHER)


def _patient_of(entry: Entry) -> "Patient | None":
    from data_owner.ui.patient import read_patient

    return read_patient(entry.file)


def _layer(entry: Entry, number: int) -> bytes:
    import numpy as np

    from data_owner.heat_map import draw_layer

    assert entry.diagnosis is not None
    assert entry.diagnosis.heat_map is not None
    assert entry.facts is not None
    grid: Any = list(entry.diagnosis.heat_map.values())[number]
    return draw_layer(np.asarray(grid), rows=entry.facts.look.rows, columns=entry.facts.look.columns)
