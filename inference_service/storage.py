"""The front end's memory: accounts, model versions, plans, sessions and what happened to them.

In SQLite, or in PostgreSQL if several machines share it. Nothing here can hold an image, a share, a seed or a weight;
API keys are kept as SHA-256 digests, tickets not at all. A write transaction holds the only write lock from its first
line (SQLite: BEGIN IMMEDIATE; PostgreSQL: an advisory lock), so one that reads and then writes never fails half-way
because another one wrote in between, and what it counted still holds when it commits.

A database of an earlier release is brought to this one by the steps in `migrations/` (alembic).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    URL,
    BigInteger,
    Connection,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from contract.errors import ConfigurationError, EncryptedInferenceError
from contract.files import ensure_file
from inference_service.problems import Unavailable

Clock = Callable[[], datetime]
"""Gives the present with a time zone; tests pass their own."""

_BEGIN = "inference_service_begin"
_BUSY_SECONDS = 10
_POSTGRESQL = "postgresql"
_WRITE_LOCK: Final = 0x1EFE12CE
"""Number of the advisory lock that writers to one PostgreSQL database take."""


_FAILURES: Final = (OperationalError, InterfaceError, DatabaseError)
"""What says that a database is away, full or damaged."""
_TRIALS: Final = {
    "sqlite": ("PRAGMA user_version = 1",),  # a number of its header that nobody reads: written as any other page
    _POSTGRESQL: ("SELECT txid_current()",),  # a transaction that has a number is written when it ends
}
"""What changes nothing and is written all the same, by kind of database."""


def utc_now() -> datetime:
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
    allowance: Mapped[str | None] = mapped_column(Text)
    """A contract.allowance.Allowance as JSON; absent: the settings' for its role."""


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
    allowances: Mapped[str | None] = mapped_column(Text)
    """The contract.allowance.ModelAllowances that its owner registered, as JSON; absent: none."""
    voucher: Mapped[str | None] = mapped_column(Text)
    """The contract.api.Voucher that its owner registered, as JSON; absent until it registers again."""


class SessionRow(Base):
    """A session: who runs which model with whom, and what became of it."""

    __tablename__ = "sessions"
    __table_args__ = (
        Index("ix_sessions_by_account", "account_id", "created_at"),
        Index("ix_sessions_by_data_owner", "data_owner", "model", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), index=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    purpose: Mapped[str] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    plan_hash: Mapped[str] = mapped_column(String(64))
    engine: Mapped[str] = mapped_column(String(16))
    images: Mapped[int]
    audited: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of these, how many got no answer because the model owner checked the data owner by them: they do not count."""
    data_owner: Mapped[str] = mapped_column(String(64))
    model_owner: Mapped[str] = mapped_column(String(64))
    crypto_provider: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    report: Mapped[str] = mapped_column(Text)
    """A contract.api.SessionReport as JSON: everything reported so far."""


class SpentItemRow(Base):
    """A stocked item that a ticket named: no other ticket does. Kept for good: parties do not report what they drop."""

    __tablename__ = "spent_items"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    session_id: Mapped[UUID] = mapped_column(ForeignKey("sessions.id"))


class AuditHeadRow(Base):
    """How far a model owner's audit log had come when it last reported."""

    __tablename__ = "audit_heads"

    organisation: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class SessionEventRow(Base):
    """What happened in sessions: one line for each event, never changed."""

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

    def __init__(self, target: Path | URL, *, upgrade: bool = False) -> None:
        """Open a SQLite file (made if it is missing) or the PostgreSQL database at a URL.

        An empty database gets this release's tables, and one of an earlier release as well if `upgrade` says so.
        Raises ConfigurationError for one of another release, Unavailable if it cannot be opened.
        """
        self._engine, self._writing = _make_engines(target)
        try:
            if isinstance(target, Path):
                ensure_file(target)
            with self._engine.begin() as connection:
                revision = find_revision(connection)
            if upgrade or revision is None:
                self._migrate()
            else:
                require_current(revision)
        except (*_FAILURES, OSError) as error:
            self.close()
            words = f"{_describe(target)} cannot be opened; check that it is there and may be written"
            raise Unavailable(words) from error
        except EncryptedInferenceError:
            self.close()
            raise

    def _migrate(self) -> None:
        """Run the steps that are missing, in one transaction: all of them happen, or none."""
        with _report_unavailable(), self._writing.begin() as connection:
            _lock(connection)
            migrate(connection)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent view. Raises Unavailable when the database does not answer."""
        with _report_unavailable(), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction under the write lock; rolled back when the block raises. Raises Unavailable as above."""
        with _report_unavailable(), Session(self._writing, expire_on_commit=False) as session, session.begin():
            _lock(session.connection())
            yield session

    def check(self) -> None:
        """Raise Unavailable unless the database takes what is written: a full disk answers readers still."""
        with self.write() as session:
            for statement in _TRIALS[session.connection().dialect.name]:
                session.execute(text(statement))

    def close(self) -> None:
        self._engine.dispose()


def read_postgresql_url(written: str) -> URL:
    """Read `postgresql://user:password@host/name`. Raises ConfigurationError, which does not repeat it."""
    try:
        url = make_url(written)
    except ArgumentError:
        url = None
    if url is None or url.drivername not in {_POSTGRESQL, f"{_POSTGRESQL}+psycopg"}:
        raise ConfigurationError("database_url: write postgresql://user:password@host/name, or leave it out for SQLite")
    return url.set(drivername=f"{_POSTGRESQL}+psycopg")


def _describe(target: Path | URL) -> str:
    return f"{target}: the database" if isinstance(target, Path) else f"the database at {target.host or 'this machine'}"


def _lock(connection: Connection) -> None:
    if connection.dialect.name == _POSTGRESQL:  # SQLite's BEGIN IMMEDIATE has it already
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _WRITE_LOCK})


@contextmanager
def _report_unavailable() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if type(error) not in _FAILURES:
            raise  # a mistake of this program's
        raise Unavailable("the database does not answer: check its disk and restart the service") from error


def _make_engines(target: Path | URL) -> tuple[Engine, Engine]:
    """For reading and for writing, over the same connections."""
    if isinstance(target, Path):
        engine = _make_sqlite(target)
        return engine, engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
    try:
        engine = _make_postgresql(target)
    except ModuleNotFoundError:
        raise ConfigurationError("PostgreSQL needs psycopg: install the extra `postgresql`") from None
    return engine.execution_options(isolation_level="REPEATABLE READ"), engine


def _make_postgresql(url: URL) -> Engine:
    milliseconds = _BUSY_SECONDS * 1000
    return create_engine(
        url,
        connect_args={
            "connect_timeout": _BUSY_SECONDS,
            "options": f"-c lock_timeout={milliseconds} -c statement_timeout={3 * milliseconds}",
        },
        isolation_level="READ COMMITTED",  # behind the write lock, each statement sees all that was committed
        pool_pre_ping=True,  # a server that was restarted meanwhile costs nobody an error
        hide_parameters=True,
    )


def _make_sqlite(path: Path) -> Engine:
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


CURRENT: Final = "0005"
"""The newest step in `migrations/versions`."""
BEFORE_MIGRATIONS: Final = "0001"
"""What a database is that has tables and says nothing of itself: made before there were migrations."""
_FIRST_TABLES: Final = {"accounts", "plans", "model_versions", "sessions", "session_events"}
_VERSION_TABLE: Final = "alembic_version"


def find_revision(connection: Connection) -> str | None:
    """The step that a database has reached; None for an empty one. Raises ConfigurationError for a foreign one."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    if _VERSION_TABLE in tables:
        found = connection.scalar(text(f"SELECT version_num FROM {_VERSION_TABLE}"))  # noqa: S608 - our constant
        return str(found) if found is not None else None
    if tables == _FIRST_TABLES:
        return BEFORE_MIGRATIONS
    raise ConfigurationError("the database holds tables that are not the front end's: give it a database of its own")


def require_current(revision: str | None) -> None:
    """Raise ConfigurationError unless a database has this release's tables."""
    if revision == CURRENT:
        return
    if revision is None or revision < CURRENT:
        raise ConfigurationError(
            "the database is of an earlier release: back it up, then run `inference-service upgrade`"
        )
    raise ConfigurationError("the database is of a later release: update this installation, or restore a backup")


def migrate(connection: Connection) -> None:
    """Bring a database to this release, in the connection's open transaction. Raises as above."""
    from alembic import command  # seldom needed, and slow to load
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "inference_service:migrations")
    config.attributes["connection"] = connection
    revision = find_revision(connection)
    if revision == BEFORE_MIGRATIONS and not inspect(connection).has_table(_VERSION_TABLE):
        command.stamp(config, BEFORE_MIGRATIONS)
    if revision is not None and revision > CURRENT:
        require_current(revision)
    command.upgrade(config, CURRENT)
