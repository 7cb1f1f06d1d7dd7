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
from data_owner.ui.showing import load_templates
from data_owner.ui.words import Problem, describe_error
from data_owner.ui.workplace import Workplace

THEMES = ("light", "dark")
Handler = Callable[[Request], Awaitable[Response]]
Form = dict[str, str]


def make_post_routes(prefix: str, *handlers: Handler) -> list[Route]:
    """Routes of handlers that change something, each called as its function is."""
    return [Route(f"{prefix}/{_make_address(one)}", one, methods=["POST"]) for one in handlers]


async def answer_error(request: Request, error: Exception) -> Response:
    """An error of the tree, in plain words."""
    assert isinstance(error, EncryptedInferenceError)
    return _answer_problem(request, describe_error(error), int(error.http_status))


async def answer_not_found(request: Request, error: Exception) -> Response:
    """There is nothing at this address."""
    assert isinstance(error, HTTPException)
    gone = Problem(
        code="not-found", title="Nothing here", advice="Go back to the page: it may have been removed.", detail=""
    )
    return _answer_problem(request, gone, error.status_code)


def _answer_problem(request: Request, error: Problem, status: int) -> Response:
    if is_from_script(request):
        return JSONResponse({"title": error.title, "advice": error.advice, "detail": error.detail}, status_code=status)
    html = load_templates().get_template("problem.html").render(error=error, theme=read_theme(request))
    return HTMLResponse(html, status_code=status)


def is_from_script(request: Request) -> bool:
    """Whether the page's script asks, which reads JSON."""
    return "application/json" in request.headers.get("accept", "")


def read_theme(request: Request) -> str:
    """The colours that were chosen."""
    theme = request.cookies.get("theme", "")
    return theme if theme in THEMES else "auto"


def find_workplace(request: Request) -> Workplace:
    """What the page of a request knows."""
    place: Workplace = request.app.state.workplace
    return place


def find_entry(request: Request) -> Entry:
    """The entry that a request names. Raises HTTPException if there is none."""
    entry = find_workplace(request).entry(request.path_params["entry"])
    if entry is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return entry


async def read_form(request: Request) -> Form:
    """A form of the page. Its length was checked at the door."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        return {name: values[0] for name, values in parse_qs(body, max_num_fields=16).items()}
    except ValueError as error:  # more fields than any form of the page has
        raise HTTPException(HTTPStatus.BAD_REQUEST) from error


def parse_whole_number(text: str) -> int | None:
    """A number of at most nine digits that stands in a request; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def answer_done(request: Request, entry: Entry | None = None, *, to: str = "/") -> Response:
    """What was asked for is done: nothing to say to the script; else back to the page."""
    if is_from_script(request):
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return RedirectResponse(to if entry is None else f"/?entry={entry.id}", status_code=HTTPStatus.SEE_OTHER)


def _make_address(handler: Handler) -> str:
    return getattr(handler, "__name__", "").replace("_", "-")
