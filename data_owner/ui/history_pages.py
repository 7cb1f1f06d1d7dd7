"""The history's page: what this workstation keeps of its answers, looked at and deleted."""

from http import HTTPStatus
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from data_owner.ui.answering import answer_done, find_workplace, read_theme
from data_owner.ui.history import is_record_id
from data_owner.ui.showing import load_templates
from data_owner.ui.workplace import Workplace


async def history(request: Request) -> Response:
    """What this workstation keeps."""
    place = find_workplace(request)
    kept = place.history
    records = await run_in_threadpool(kept.records)
    pictures = {record.id for record in records if kept.picture(record.id) is not None}
    names = {record.id: name for record in records if (name := kept.name(record.id)) is not None}
    html = load_templates().get_template("history.html")
    given = {"records": records, "pictures": pictures, "names": names, "place": place}
    return HTMLResponse(html.render(given, theme=read_theme(request)))


async def kept_picture(request: Request) -> Response:
    """A picture that was kept."""
    path = find_workplace(request).history.picture(_read_record_id(request))
    if path is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return FileResponse(path, media_type="image/png")


async def delete_record(request: Request) -> Response:
    """Forget one answer."""
    place = find_workplace(request)
    place.history.delete(_read_record_id(request))
    _forget_records(place)
    return answer_done(request, to="/history")


async def forget_name(request: Request) -> Response:
    """Keep an answer without whose it is."""
    place = find_workplace(request)
    record = _read_record_id(request)
    place.history.forget_name(record)
    with place.changing():
        for entry in place.entries():
            entry.name_kept = entry.name_kept and entry.record != record
    return answer_done(request, to="/history")


async def delete_all_records(request: Request) -> Response:
    """Forget all."""
    place = find_workplace(request)
    place.history.delete_all()
    _forget_records(place)
    return answer_done(request, to="/history")


def _forget_records(place: Workplace) -> None:
    """Entries of the page whose answer is no longer kept."""
    kept = {record.id for record in place.history.records()}
    with place.changing():
        for entry in place.entries():
            if entry.record not in kept:
                entry.record, entry.picture_kept, entry.name_kept = None, False, False


def _read_record_id(request: Request) -> str:
    name: str = request.path_params["record"]
    if not is_record_id(name):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return name


ROUTES: Final = [
    Route("/history", history),
    Route("/history/{record}/picture.png", kept_picture),
    Route("/history/{record}/delete", delete_record, methods=["POST"]),
    Route("/history/{record}/forget-name", forget_name, methods=["POST"]),
    Route("/history/delete-all", delete_all_records, methods=["POST"]),
]
