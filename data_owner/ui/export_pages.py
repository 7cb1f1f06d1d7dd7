"""Answers leave the page: as a table, as a report to print or to save as PDF, and with their names into the history.

PDF is made by the browser's own print dialogue from `report.html`: every browser that shows the page has it, and the
page needs no library that would have to be kept safe.
"""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from data_owner.ui.answering import answer_done, find_entry, find_workplace, make_post_routes, read_theme
from data_owner.ui.entries import Entry
from data_owner.ui.exporting import Row, format_csv, make_file_name
from data_owner.ui.history import KeptName
from data_owner.ui.showing import load_templates, make_report, make_result, make_row
from data_owner.ui.workplace import Workplace


async def report(request: Request) -> Response:
    """Every answer of the page, or one, as it is printed."""
    place = find_workplace(request)
    wanted = request.query_params.get("entry")
    entries = [one for one in place.entries() if one.diagnosis is not None and wanted in (None, one.id)]
    if not entries:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    answers = [make_report(place, one, make_result(place, one)) for one in entries]
    html = load_templates().get_template("report.html")
    return HTMLResponse(html.render(answers=answers, theme=read_theme(request), now=datetime.now(tz=UTC)))


async def answers(request: Request) -> Response:
    """The answers of the page as a table; with names if the page shows them."""
    place = find_workplace(request)
    rows = [make_row(place, entry) for entry in place.entries() if entry.answer is not None]
    return _answer_csv(rows, names=place.names_shown)


async def history(request: Request) -> Response:
    """What this workstation keeps, as a table; with the names that were kept."""
    kept = find_workplace(request).history
    records = await run_in_threadpool(kept.records)
    rows = [Row(record=record, name=kept.name(record.id)) for record in records]
    return _answer_csv(rows, names=any(row.name is not None for row in rows))


async def keep_name(request: Request) -> Response:
    """Keep in the history whose picture this is."""
    entry = find_entry(request)
    await run_in_threadpool(_keep_name, find_workplace(request), entry)
    return answer_done(request, entry)


async def keep_names(request: Request) -> Response:
    """Keep in the history whose pictures the page's answers are of."""
    place = find_workplace(request)
    for entry in place.entries():
        if entry.record is not None and not entry.name_kept:
            await run_in_threadpool(_keep_name, place, entry)
    return answer_done(request)


def _keep_name(place: Workplace, entry: Entry) -> None:
    from data_owner.ui.patient import read_patient  # takes long to load, and the page is up before it

    if entry.record is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    name = KeptName.of(read_patient(entry.file), file_name=entry.file_name)
    kept = place.history.keep_name(entry.record, name)
    with place.changing():
        entry.name_kept = kept


def _answer_csv(rows: list[Row], *, names: bool) -> Response:
    name = make_file_name(datetime.now(tz=UTC), "csv")
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(
        format_csv(rows, names=names), media_type="text/csv; charset=utf-8; header=present", headers=headers
    )


ROUTES: Final = [
    Route("/report", report),
    Route("/answers.csv", answers),
    Route("/history.csv", history),
    *make_post_routes("/entries/{entry}", keep_name),
    *make_post_routes("", keep_names),
]
