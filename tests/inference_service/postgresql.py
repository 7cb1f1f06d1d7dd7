"""A PostgreSQL database for a test: of the server at TEST_POSTGRES_URL, or of one started here for the test run."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import URL, create_engine, text

from inference_service.storage import read_postgresql_url

VARIABLE = "TEST_POSTGRES_URL"
_ABSENT = f"no PostgreSQL: set {VARIABLE}, or install it (Debian: apt-get install postgresql)"


@contextmanager
def server() -> Iterator[URL]:
    """The URL of a server's `postgres` database; skips where there is no server to be had."""
    pytest.importorskip("psycopg", reason="no psycopg: install the extra `postgresql`")
    if written := os.environ.get(VARIABLE):
        yield read_postgresql_url(written)
        return
    tools = _tools()
    if tools is None:
        pytest.skip(_ABSENT)
    folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir="/tmp"))  # a socket's path is short
    account = _account(folder)
    try:
        data = folder / "data"
        _run(account, tools / "initdb", "-D", data, "-U", "test", "-A", "trust", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        _run(account, tools / "pg_ctl", "-D", data, "-w", "-t", "60", "-o", options, "-l", folder / "log", "start")
        try:
            yield read_postgresql_url("postgresql://test@/postgres").update_query_dict({"host": str(folder)})
        finally:
            _run(account, tools / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def fresh_database(at: URL) -> Iterator[URL]:
    """An empty database on a server, dropped afterwards."""
    name = f"test_{uuid4().hex}"
    engine = create_engine(at, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield at.set(database=name)
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        engine.dispose()


def _tools() -> Path | None:
    """Where initdb and pg_ctl are: Debian keeps them out of the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next(
        (folder for folder in folders if {"initdb", "pg_ctl"} <= {path.name for path in folder.iterdir()}), None
    )


def _account(folder: Path) -> list[str]:
    """What to put before a command: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        try:
            shutil.chown(folder, user=name)
        except LookupError:
            continue
        return ["setpriv", f"--reuid={name}", "--clear-groups", "--"]
    pytest.skip(_ABSENT)


def _run(account: list[str], *arguments: str | Path) -> None:
    command = [*account, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
