"""`audit list`, `audit verify` and `audit heads`, the same for every party that keeps an audit log."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from bookkeeping.audit_log import DAY_SECONDS, read_log, verify_log
from bookkeeping.audit_segments import Entry
from contract.api import AuditHead
from contract.errors import CallerError
from plumbing.command_line import new_app, refuse_no_number, say
from plumbing.output import write_out

MAX_HEADS_BYTES: Final = 64 << 20
MOST_DAYS: Final = 10_000
_HEADER: Final = ("number", "at", "event", "previous")

ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
HeadsOption = Annotated[
    list[Path] | None,
    typer.Option("--heads", help="File of heads that another party remembers (its `audit heads`); repeat for several."),
]


FolderOf = Callable[[Path | None], Path]
"""Where a party's log is, by its settings' file."""
Asking = Callable[[Path | None], AuditHead | None]
"""What the other side remembers of a party's log, by the party's settings' file."""


def audit_app(folder_of: FolderOf, ask: Asking | None) -> typer.Typer:
    """The three commands. `ask`: None if there is nobody to ask."""
    app = new_app("The audit log: who asked for what, and whether the log is whole.")
    _add_list(app, folder_of)
    _add_verify(app, folder_of, ask)
    _add_heads(app, folder_of)
    return app


def _add_list(app: typer.Typer, folder_of: FolderOf) -> None:
    @app.command("list")
    def show(
        *,
        organisation: Annotated[str | None, typer.Option("--organisation", help="Only of this one.")] = None,
        model: Annotated[str | None, typer.Option("--model", help="Only of this one.")] = None,
        account: Annotated[str | None, typer.Option("--account", help="Only of this one, by its id.")] = None,
        event: Annotated[str | None, typer.Option("--event", help="Only of this kind.")] = None,
        days: Annotated[
            float | None,
            typer.Option("--days", min=0, max=MOST_DAYS, callback=refuse_no_number, help="Only of so many days past."),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="The entries as they are kept, one JSON a line.")] = False,
        config: ConfigOption = None,
    ) -> None:
        """Print entries, the oldest first. Checks the chain on the way."""
        wanted = {"organisation": organisation, "model": model, "event": event, "account": account}
        since = datetime.fromtimestamp(time.time() - days * DAY_SECONDS, UTC) if days is not None else None
        for entry in read_log(folder_of(config)):
            fits = all(value in {None, getattr(entry, name)} for name, value in wanted.items())
            if fits and (since is None or entry.at >= since):
                write_out(entry.model_dump_json(exclude_none=True) if as_json else _line(entry))


def _add_verify(app: typer.Typer, folder_of: FolderOf, ask: Asking | None) -> None:
    @app.command()
    def verify(
        *,
        heads: HeadsOption = None,
        offline: Annotated[bool, typer.Option("--offline", help="Ask nobody.")] = False,
        config: ConfigOption = None,
    ) -> None:
        """Check that no entry was altered, removed, added, moved, or (by what others remember) cut off the end."""
        remembered = [head for path in heads or () for head in _read_heads(path)]
        known = ask(config) if ask is not None and not offline else None
        if known is not None:
            remembered.append(known)
        verified = verify_log(folder_of(config), remembered)
        if verified.head is None:
            say("The log is empty.")
            return
        say(f"Entries {verified.first} to {verified.head.number} are as they were written.")
        if verified.torn:
            say("A line after them has no end: the disk was full, or the power was cut. The next entry notes that.")
        if remembered:
            say(f"{verified.heads_found} of them are as others remember them, up to the latest that others have seen.")
        else:
            say("Nobody else's memory was compared: were entries cut off at the end, this would not notice.")


def _add_heads(app: typer.Typer, folder_of: FolderOf) -> None:
    @app.command("heads")
    def print_heads(
        *,
        organisation: Annotated[str | None, typer.Option("--organisation", help="Whose, if it has several.")] = None,
        config: ConfigOption = None,
    ) -> None:
        """Print what this party remembers of another's log, one JSON object a line, for the other's `audit verify`."""
        for entry in read_log(folder_of(config)):
            seen = entry.event == "head-seen" and entry.organisation == organisation
            if seen and entry.entry is not None and entry.hash is not None:
                write_out(AuditHead(number=entry.entry, hash=entry.hash).model_dump_json())


def _line(entry: Entry) -> str:
    details = entry.model_dump(mode="json", exclude_none=True)
    rest = " ".join(f"{name}={value}" for name, value in details.items() if name not in _HEADER)
    return f"{entry.number}  {entry.at:%Y-%m-%d %H:%M:%S}  {entry.event}  {rest}"


def _read_heads(path: Path) -> Iterator[AuditHead]:
    try:
        if path.stat().st_size > MAX_HEADS_BYTES:
            raise CallerError(f"{path}: larger than {MAX_HEADS_BYTES} bytes; give a file that `audit heads` wrote")
        for line in path.read_bytes().splitlines():
            yield AuditHead.model_validate_json(line)
    except OSError as error:
        raise CallerError(f"{path}: cannot be read ({error.strerror}); correct the path of --heads") from error
    except ValidationError:
        raise CallerError(f"{path}: is not what `audit heads` writes; give such a file") from None
