"""Data owners that are served no more: their records of violations, and who is stopped until an operator lifts it.

    DATA/violations/HOSPITAL-SESSION-ITEM.json   the record, as `model-owner verdict` reads it
    DATA/stopped/HOSPITAL.json                   only of a hospital that is stopped: since when, by which record

A server looks for the second file at each session, so that `model-owner accounts lift` needs no restart. What is
stopped is the hospital by the name in its certificate, whichever account of it opened the session: the front end gives
accounts, and could give another. The record is on the disk before the hospital is stopped, and stays when it is lifted.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

from pydantic import Field, ValidationError

from bookkeeping.audit_log import AuditLog
from contract.base import Name, Strict
from contract.errors import AccountStopped, CallerError, ConfigurationError
from contract.files import create, explaining_failure, private_folder, read_bounded, sync_folder
from contract.violation import AccountId, Moment, ViolationRecord

RECORDS: Final = "violations"
STOPPED: Final = "stopped"
_MAX_STOP_BYTES: Final = 4096
_STOP_FILE: Final = re.compile(r"([a-z0-9-]{1,64})\.json")


class Stop(Strict):
    """Why and since when a data owner is stopped."""

    data_owner: Name
    account: AccountId
    """That opened the session, on the front end's word."""
    at: Moment
    session: UUID
    record: Annotated[str, Field(pattern=r"^[a-z0-9.-]{1,200}$")]
    """Name of the file in `violations`."""

    @property
    def day(self) -> str:
        return f"{datetime.fromtimestamp(self.at, UTC):%Y-%m-%d}"


@dataclass(frozen=True, kw_only=True)
class StoppedAccounts:
    """Those of one model owner. For use by several threads and processes."""

    data_folder: Path
    audit: AuditLog
    _unwritten: set[str] = field(default_factory=set, init=False)
    """Whom this process stops although the disk did not take it."""

    def stop(self, record: ViolationRecord) -> Path:
        """Keep a record and stop its data owner, durably; the record's path.

        A second record of one that is stopped is kept as well. Raises ConfigurationError if the disk will not; until
        this process ends it is stopped all the same.
        """
        item = record.item
        stop = Stop(
            data_owner=item.data_owner,
            account=record.account,
            at=record.at,
            session=record.session,
            record=f"{item.data_owner}-{record.session}-{item.item[:12]}.json",
        )
        path = self.data_folder / RECORDS / stop.record
        self._unwritten.add(item.data_owner)
        _write_once(path, record.encode())
        _write_once(self._path(item.data_owner), stop.model_dump_json().encode())
        self._unwritten.discard(item.data_owner)
        self.audit.record(
            "account-stopped",
            session=record.session,
            account=record.account,
            organisation=item.data_owner,
            model=item.model,
            version=item.version,
            plan_hash=item.plan_hash,
            state=f"wrong-{record.found.value}",
            item=item.item,
            record=record.hash(),
        )
        return path

    def require_served(self, data_owner: str, *, own: str) -> None:
        """Raise AccountStopped if a data owner is stopped. `own`: this model owner's organisation."""
        path = self._path(data_owner)
        if not path.exists() and data_owner not in self._unwritten:
            return
        try:
            stop = _read(path)
            since = f"in session {stop.session}, on {stop.day}, its software did not follow the protocol"
        except ConfigurationError:  # it is stopped, whatever can be read of why
            since = "its software did not follow the protocol"
        raise AccountStopped(
            f"{own} serves {data_owner} no more: {since}; ask the operator of {own}, who keeps the record and can lift "
            "this"
        )

    def list(self) -> tuple[Stop, ...]:
        """Who is stopped, by name. Raises ConfigurationError for a file that is wrong."""
        folder = self.data_folder / STOPPED
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        return tuple(_read(path) for path in paths if _STOP_FILE.fullmatch(path.name))

    def lift(self, data_owner: str) -> Path:
        """Serve a data owner again; the file that stopped it, which is gone. Raises CallerError if none did."""
        path = self._path(data_owner)
        if not _STOP_FILE.fullmatch(f"{data_owner}.json") or not path.exists():
            raise CallerError(
                f"{data_owner[:64]!r} is not stopped here; `model-owner accounts list` names those that are"
            )
        self.audit.record("account-lifted", organisation=data_owner)
        with explaining_failure(path):
            path.unlink()
            sync_folder(path.parent)
        return path

    def _path(self, data_owner: str) -> Path:
        """Made of a name of the contract's, except in `lift`, which looks at what it was given."""
        return self.data_folder / STOPPED / f"{data_owner}.json"


def _write_once(path: Path, content: bytes) -> None:
    private_folder(path.parent)
    with explaining_failure(path):
        try:
            create(path, content)
        except FileExistsError:
            return


def _read(path: Path) -> Stop:
    try:
        return Stop.model_validate_json(read_bounded(path, limit=_MAX_STOP_BYTES))
    except ValidationError:
        raise ConfigurationError(
            f"{path}: is not what this program wrote of a stopped hospital, which stays stopped until it is lifted"
        ) from None
