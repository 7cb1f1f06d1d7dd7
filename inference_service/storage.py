"""The front end's memory: accounts, model versions, plans, sessions and what happened to them, in SQLite.

Nothing here can hold an image, a share, a seed or a weight; API keys are kept as SHA-256 digests, tickets not at all.
Write transactions begin with BEGIN IMMEDIATE: a transaction that reads and then writes holds the only write lock from
its first line, so it never fails half-way because another one wrote in between.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    create_engine,
    event,
    text,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from inference_service.problems import Unavailable

Clock = Callable[[], datetime]
"""Gives the present with a time zone; tests pass their own."""

_BEGIN = "inference_service_begin"
_BUSY_SECONDS = 10


def utc_now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes, stored in UTC."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database: naive UTC."""
        del dialect
        return value.astimezone(UTC).replace(tzinfo=None) if value is not None else None

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """From the database: aware UTC."""
        del dialect
        return value.replace(tzinfo=UTC) if value is not None else None


class Base(DeclarativeBase):
    """Base of the tables."""


class AccountRow(Base):
    """Who may call. The key itself is shown once, when it is made."""

    __tablename__ = "accounts"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    role: Mapped[str] = mapped_column(String(32))
    organisation: Mapped[str] = mapped_column(String(64))
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    key_sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class PlanRow(Base):
    """A public plan, found by the SHA-256 of its bytes."""

    __tablename__ = "plans"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    length: Mapped[int]
    compressed: Mapped[bytes] = mapped_column(LargeBinary)
    """gzip"""


class ModelVersionRow(Base):
    """A model version. Card and plan never change; addresses may, and a version may be withdrawn."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("name", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    card: Mapped[str] = mapped_column(Text)
    plan_hash: Mapped[str] = mapped_column(ForeignKey("plans.sha256"))
    engines: Mapped[str] = mapped_column(String(200))
    """Names with a comma between."""
    model_owner: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(1024))
    crypto_provider: Mapped[str] = mapped_column(String(64))
    crypto_provider_address: Mapped[str] = mapped_column(String(1024))
    registered_at: Mapped[datetime] = mapped_column(UtcDateTime)
    withdrawn_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class SessionRow(Base):
    """A session: who runs which model with whom, and what became of it."""

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), index=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    purpose: Mapped[str] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    plan_hash: Mapped[str] = mapped_column(String(64))
    engine: Mapped[str] = mapped_column(String(16))
    images: Mapped[int]
    data_owner: Mapped[str] = mapped_column(String(64))
    model_owner: Mapped[str] = mapped_column(String(64))
    crypto_provider: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    report: Mapped[str] = mapped_column(Text)
    """A contract.api.SessionReport as JSON: everything reported so far."""


class SessionEventRow(Base):
    """The audit trail: one line for each event, never changed."""

    __tablename__ = "session_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[UUID] = mapped_column(ForeignKey("sessions.id"), index=True)
    event: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    """The state that the event led to."""
    account_id: Mapped[UUID | None] = mapped_column(ForeignKey("accounts.id"))
    """Absent for the clock."""
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class Database:
    """An open database. Thread-safe; every transaction is one `with` block."""

    def __init__(self, path: Path) -> None:
        """Open the file, making it and its tables if they are not there. Raises Unavailable when it cannot."""
        self._engine = _engine(path)
        self._writing = self._engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        try:
            path.touch(mode=0o600)
            Base.metadata.create_all(self._writing)
        except (OperationalError, OSError) as error:
            raise Unavailable(f"{path}: the database cannot be opened; check the folder and its permissions") from error

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent view. Raises Unavailable when the database does not answer."""
        with _available(), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction under the write lock; rolled back when the block raises. Raises Unavailable as above."""
        with _available(), Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    def check(self) -> None:
        """Raise Unavailable unless the database answers."""
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise Unavailable("the database does not answer: check its disk and restart the service") from error


def _engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": _BUSY_SECONDS},
        hide_parameters=True,  # the words of a database error must not carry what was to be stored
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver leaves BEGIN to us
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))

    return engine
