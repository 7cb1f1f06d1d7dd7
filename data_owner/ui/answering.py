"""What every handler of the page needs: how it answers, how it fails, and what a request asks of it."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from contract.errors import EncryptedInferenceError
from data_owner.ui.entries import Entry
from data_owner.ui.showing import templates
from data_owner.ui.words import Told, told
from data_owner.ui.workplace import Workplace

THEMES = ("light", "dark")
Handler = Callable[[Request], Awaitable[Response]]
Form = dict[str, str]


def posts(prefix: str, *handlers: Handler) -> list[Route]:
    """Routes of handlers that change something, each called as its function is."""
    return [Route(f"{prefix}/{_name_of(one)}", one, methods=["POST"]) for one in handlers]


async def problem(request: Request, error: Exception) -> Response:
    """An error of the tree, in plain words."""
    assert isinstance(error, EncryptedInferenceError)
    return _answer_error(request, told(error), int(error.http_status))


async def http_problem(request: Request, error: Exception) -> Response:
    """There is nothing at this address."""
    assert isinstance(error, HTTPException)
    gone = Told(
        code="not-found", title="Nothing here", advice="Go back to the page: it may have been removed.", detail=""
    )
    return _answer_error(request, gone, error.status_code)


def _answer_error(request: Request, error: Told, status: int) -> Response:
    if from_script(request):
        return JSONResponse({"title": error.title, "advice": error.advice, "detail": error.detail}, status_code=status)
    html = templates().get_template("problem.html").render(error=error, theme=theme_of(request))
    return HTMLResponse(html, status_code=status)


def from_script(request: Request) -> bool:
    """Whether the page's script asks, which reads JSON."""
    return "application/json" in request.headers.get("accept", "")


def theme_of(request: Request) -> str:
    """The colours that were chosen."""
    theme = request.cookies.get("theme", "")
    return theme if theme in THEMES else "auto"


def entry_of(place: Workplace, request: Request) -> Entry:
    """The entry that a request names. Raises HTTPException where there is none."""
    entry = place.entry(request.path_params["entry"])
    if entry is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return entry


async def form_of(request: Request) -> Form:
    """A form of the page. Its length was checked at the door."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        return {name: values[0] for name, values in parse_qs(body, max_num_fields=16).items()}
    except ValueError as error:  # more fields than any form of the page has
        raise HTTPException(HTTPStatus.BAD_REQUEST) from error


def whole_number(text: str) -> int | None:
    """A number of at most nine digits that stands in a request; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def done(request: Request, entry: Entry | None = None, *, to: str = "/") -> Response:
    """What was asked for is done: nothing to say to the script; else back to the page."""
    if from_script(request):
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return RedirectResponse(to if entry is None else f"/?entry={entry.id}", status_code=HTTPStatus.SEE_OTHER)


def _name_of(handler: Handler) -> str:
    return getattr(handler, "__name__", "").replace("_", "-")
