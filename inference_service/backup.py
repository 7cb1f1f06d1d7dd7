"""A copy of everything that the front end keeps, taken while it runs; to restore is to put it in the place of that."""

import sqlite3
from contextlib import closing
from pathlib import Path

from bookkeeping.audit_log import copy_log
from contract.errors import CallerError, ConfigurationError
from contract.files import claim, copy_new, sync_folder
from contract.ticket import PUBLIC_KEY_FILE, SIGNING_KEY_FILE
from inference_service.settings import DATABASE_FILE, ServiceSettings


def back_up(settings: ServiceSettings, folder: Path) -> bool:
    """Copy database, ticket key and audit log into `folder`, which is made (0700); whether the database is in it.

    A PostgreSQL database is not: its own tools copy it. The copy of the log is taken last: it lacks nothing that the
    copy of the database has.

    Raises CallerError if the folder exists, ConfigurationError if something cannot be read or written.
    """
    try:
        folder.mkdir(mode=0o700)
        sync_folder(folder.parent)
    except FileExistsError:
        raise CallerError(f"{folder}: exists; give a folder that does not") from None
    except OSError as error:
        raise CallerError(f"{folder}: cannot be made ({error.strerror}); give another place") from error
    try:
        database = settings.database
        if isinstance(database, Path):
            _copy_sqlite(database, folder / DATABASE_FILE)
        for name in (SIGNING_KEY_FILE, PUBLIC_KEY_FILE):
            copy_new(settings.data_folder / name, folder / name)
        copy_log(settings.audit_folder, folder / settings.audit_folder.name)
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"{folder}: the backup is not whole ({error}); remove it and try again") from error
    return isinstance(database, Path)


def _copy_sqlite(source: Path, target: Path) -> None:
    """SQLite's own online copy: one moment of the database, whoever writes meanwhile."""
    claim(target)
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)
