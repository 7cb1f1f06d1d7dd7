"""The history's page: what this workstation keeps of its answers, looked at and deleted."""

from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from data_owner.ui.answering import answer_done, read_theme
from data_owner.ui.history import is_record_id
from data_owner.ui.showing import load_templates
from data_owner.ui.workplace import Workplace


class HistoryPages:
    """Handlers of the history."""

    def __init__(self, workplace: Workplace) -> None:
        """Show and change what `workplace` keeps."""
        self._place = workplace

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/history", self.history),
            Route("/history/{record}/picture.png", self.kept_picture),
            Route("/history/{record}/delete", self.delete_record, methods=["POST"]),
            Route("/history/{record}/forget-name", self.forget_name, methods=["POST"]),
            Route("/history/delete-all", self.delete_all_records, methods=["POST"]),
        ]

    async def history(self, request: Request) -> Response:
        """What this workstation keeps."""
        records = await run_in_threadpool(self._place.history.records)
        history = self._place.history
        pictures = {record.id for record in records if history.picture(record.id) is not None}
        names = {record.id: name for record in records if (name := history.name(record.id)) is not None}
        html = load_templates().get_template("history.html")
        given = {"records": records, "pictures": pictures, "names": names, "place": self._place}
        return HTMLResponse(html.render(given, theme=read_theme(request)))

    async def kept_picture(self, request: Request) -> Response:
        """A picture that was kept."""
        path = self._place.history.picture(_read_record_id(request))
        if path is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return FileResponse(path, media_type="image/png")

    async def delete_record(self, request: Request) -> Response:
        """Forget one answer."""
        self._place.history.delete(_read_record_id(request))
        self._forget_records()
        return answer_done(request, to="/history")

    async def forget_name(self, request: Request) -> Response:
        """Keep an answer without whose it is."""
        record = _read_record_id(request)
        self._place.history.forget_name(record)
        with self._place.changing():
            for entry in self._place.entries():
                entry.name_kept = entry.name_kept and entry.record != record
        return answer_done(request, to="/history")

    async def delete_all_records(self, request: Request) -> Response:
        """Forget all."""
        self._place.history.delete_all()
        self._forget_records()
        return answer_done(request, to="/history")

    def _forget_records(self) -> None:
        """Entries of the page whose answer is no longer kept."""
        kept = {record.id for record in self._place.history.records()}
        with self._place.changing():
            for entry in self._place.entries():
                if entry.record not in kept:
                    entry.record, entry.picture_kept, entry.name_kept = None, False, False


def _read_record_id(request: Request) -> str:
    name: str = request.path_params["record"]
    if not is_record_id(name):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return name
