"""What the front end relies on, on each database that it can keep its records in; and databases of other releases."""

import gzip
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, select, text
from sqlalchemy.exc import IntegrityError

from bookkeeping.audit_log import AuditLog
from contract.allowance import Allowance
from contract.api import SessionEvent, SessionEventName, SessionRequest, SessionState
from contract.errors import BudgetSpent, ConfigurationError
from contract.model_card import ModelCard
from contract.ticket import Engine, NetworkProfile, load_signing_key, new_signing_key
from inference_service.accounts import AccountRole, Accounts
from inference_service.budgets import Budgets
from inference_service.catalog import Catalog
from inference_service.command import app
from inference_service.metrics import Metrics
from inference_service.problems import Conflict, NotFound, Unauthenticated, Unavailable
from inference_service.session_store import Sessions
from inference_service.settings import DATABASE_FILE
from inference_service.storage import (
    CURRENT,
    AccountRow,
    Base,
    Database,
    ModelVersionRow,
    PlanRow,
    SessionEventRow,
    SessionRow,
    read_postgresql_url,
)
from inference_service.tickets import TicketOffice
from plumbing.command_line import run
from tests.inference_service import postgresql
from tests.inference_service.builders import PLAN, registration

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
BEFORE_MIGRATIONS = Path(__file__).parent / "databases" / "before_migrations.sql"


@pytest.fixture(scope="module")
def server() -> Iterator[URL]:
    with postgresql.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | URL]:
    """Where an empty database is to be."""
    if request.param == "sqlite":
        yield tmp_path / "front-end.sqlite"
        return
    with postgresql.fresh_database(request.getfixturevalue("server")) as url:
        yield url


@pytest.fixture
def database(target: Path | URL) -> Iterator[Database]:
    database = Database(target)
    yield database
    database.close()


def account_row(prefix: str = "0a1b2c3d") -> AccountRow:
    return AccountRow(
        id=uuid4(),
        role="clinician",
        organisation="st-mary",
        prefix=prefix,
        key_sha256=bytes(range(224, 256)),
        created_at=NOW,
        revoked_at=None,
    )


def difference(database: Database) -> list[object]:
    """What the tables lack or have too much, next to what the program declares."""
    with database.read() as session:
        found = compare_metadata(MigrationContext.configure(session.connection()), Base.metadata)
    # SQLite knows no 64-bit column apart from others, and PostgreSQL's UUID is one of ours.
    return [change for change in found if not (isinstance(change, list) and change[0][0] == "modify_type")]


class TestContract:
    def test_a_new_database_has_the_tables_that_the_program_declares(self, database: Database) -> None:
        assert difference(database) == []

    def test_every_kind_of_value_comes_back_as_it_was(self, database: Database) -> None:
        row, zone = account_row(), timezone(timedelta(hours=5, minutes=30))
        row.revoked_at = NOW.astimezone(zone)
        plan = PlanRow(sha256="f" * 64, length=3, compressed=gzip.compress("é\0'".encode()))
        with database.write() as session:
            session.add_all([row, plan])
        with database.read() as session:
            stored = session.scalars(select(AccountRow)).one()
            assert (stored.id, stored.key_sha256) == (row.id, bytes(range(224, 256)))
            assert stored.created_at == stored.revoked_at == NOW
            assert stored.created_at.tzinfo is not None
            assert gzip.decompress(session.scalars(select(PlanRow)).one().compressed) == "é\0'".encode()

    def test_a_block_that_raises_leaves_nothing(self, database: Database) -> None:
        def write() -> None:
            with database.write() as session:
                session.add(account_row())
                session.flush()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            write()
        with database.read() as session:
            assert session.scalars(select(AccountRow)).all() == []

    def test_what_must_be_unique_is(self, database: Database) -> None:
        with database.write() as session:
            session.add(account_row())
        with pytest.raises(IntegrityError) as caught, database.write() as session:
            session.add(account_row())
        assert "st-mary" not in str(caught.value)  # the words of an error carry nothing that was to be stored

    def test_what_refers_to_nothing_is_refused(self, database: Database) -> None:
        row = SessionEventRow(session_id=uuid4(), event="run", state="running", account_id=None, at=NOW)
        with pytest.raises(IntegrityError), database.write() as session:
            session.add(row)

    def test_what_a_writer_counted_holds_until_it_commits(self, database: Database) -> None:
        """Eight writers, each of which adds a row where it counts fewer than three: three rows, on every run."""
        together = threading.Barrier(8)

        def add(number: int) -> None:
            together.wait(30)
            with database.write() as session:
                if len(session.scalars(select(AccountRow)).all()) < 3:
                    session.add(account_row(prefix=f"{number:08x}"))

        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(add, range(8)))
        with database.read() as session:
            assert len(session.scalars(select(AccountRow)).all()) == 3

    def test_a_reader_sees_one_moment(self, database: Database) -> None:
        with database.read() as session:
            assert session.scalars(select(AccountRow.prefix)).all() == []
            with database.write() as writing:
                writing.add(account_row())
            assert session.scalars(select(AccountRow.prefix)).all() == []

    def test_a_front_end_works_on_it(self, database: Database, tmp_path: Path) -> None:
        new_signing_key(tmp_path)
        audit = AuditLog(tmp_path / "audit", keep_days=1)
        accounts = Accounts(database, audit=audit)
        catalog = Catalog(database, audit=audit, max_plan_bytes=10_000)
        sessions = Sessions(
            database,
            catalog=catalog,
            tickets=TicketOffice(load_signing_key(tmp_path / "ticket-key.pem"), network_profile=NetworkProfile.LAN),
            budgets=Budgets({AccountRole.CLINICIAN: Allowance(images=1)}),
            audit=audit,
            metrics=Metrics(),
            lifetime=timedelta(minutes=1),
            live_per_account=1,
        )
        clinician, key = accounts.add(role=AccountRole.CLINICIAN, organisation="st-mary")
        model_owner, _ = accounts.add(role=AccountRole.MODEL_OWNER, organisation="north-lab")
        entry = catalog.register(model_owner, name="resnet", version="1.0.0", registration=registration())
        assert catalog.plan(entry.plan_hash) == PLAN.encode()
        account = accounts.authenticate(key.get_secret_value())
        opened = sessions.open(account, SessionRequest(model="resnet", engine=Engine.CRYPTEN))
        events = (SessionEventName.RUN, SessionEventName.COMPLETE)
        seen = [sessions.apply(account, opened.id, SessionEvent(event=event)).state for event in events]
        assert seen == [SessionState.RUNNING, SessionState.COMPLETED]
        with pytest.raises(Conflict):
            sessions.apply(account, opened.id, SessionEvent(event=SessionEventName.RUN))
        with pytest.raises(BudgetSpent, match="1 images a day, is used up"):
            sessions.open(account, SessionRequest(model="resnet", engine=Engine.CRYPTEN))
        accounts.revoke(clinician.prefix)
        with pytest.raises(Unauthenticated):
            accounts.authenticate(key.get_secret_value())
        catalog.withdraw(model_owner, name="resnet", version="1.0.0")
        with pytest.raises(NotFound):
            catalog.model("resnet", "2.0.0")

    def test_it_is_kept_when_the_program_ends(self, target: Path | URL) -> None:
        first = Database(target)
        with first.write() as session:
            session.add(account_row())
        first.close()
        second = Database(target)
        with second.read() as session:
            assert session.scalars(select(AccountRow.prefix)).all() == ["0a1b2c3d"]
        second.close()

    def test_one_of_a_later_release_is_left_alone(self, target: Path | URL) -> None:
        database = Database(target)
        with database.write() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        database.close()
        for upgrade in (False, True):
            with pytest.raises(ConfigurationError, match="of a later release: update this installation"):
                Database(target, upgrade=upgrade)

    def test_somebody_elses_tables_are_left_alone(self, target: Path | URL) -> None:
        database = Database(target)
        with database.write() as session:
            session.execute(text("DROP TABLE alembic_version"))
            session.execute(text("CREATE TABLE payroll (id INTEGER)"))
        database.close()
        for upgrade in (False, True):
            with pytest.raises(ConfigurationError, match="not the front end's"):
                Database(target, upgrade=upgrade)


@pytest.fixture
def before_migrations(tmp_path: Path) -> Path:
    """A database that the release before migrations made."""
    path = tmp_path / "old.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(BEFORE_MIGRATIONS.read_text())
    connection.close()
    return path


class TestUpgrade:
    def test_a_database_from_before_migrations_waits_for_its_operator(self, before_migrations: Path) -> None:
        untouched = before_migrations.read_bytes()
        with pytest.raises(ConfigurationError, match="earlier release: back it up, then run"):
            Database(before_migrations)
        with sqlite3.connect(before_migrations) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        connection.close()
        assert tables == {"accounts", "model_versions", "plans", "sessions", "session_events"}
        assert len(before_migrations.read_bytes()) == len(untouched)

    def test_it_keeps_everything_and_works(self, before_migrations: Path) -> None:
        key = next(line for line in BEFORE_MIGRATIONS.read_text().splitlines() if line.startswith("-- ei-"))[3:]
        database = Database(before_migrations, upgrade=True)
        assert difference(database) == []
        with database.read() as session:
            rows = [len(session.scalars(select(kind)).all()) for kind in (AccountRow, ModelVersionRow, SessionRow)]
            events = session.scalars(select(SessionEventRow.state).order_by(SessionEventRow.id)).all()
        assert (rows, events) == ([5, 3, 3], ["preparing", "running", "completed", "failed"])
        audit = AuditLog(before_migrations.parent / "audit", keep_days=1)
        assert Accounts(database, audit=audit).authenticate(key).organisation == "st-mary"
        catalog = Catalog(database, audit=audit, max_plan_bytes=10_000)
        assert [entry.version for entry in catalog.models()] == ["1.1.0", "1.0.0"]
        assert isinstance(catalog.model("resnet").card, ModelCard)
        database.close()
        Database(before_migrations, upgrade=True).close()  # once more changes nothing

    def test_it_happens_whole_or_not_at_all(self, before_migrations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from alembic import op

        def fail(*arguments: object, **named: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(op, "create_index", fail)
            with pytest.raises(ZeroDivisionError):
                Database(before_migrations, upgrade=True)
        connection = sqlite3.connect(before_migrations)
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(accounts)")]
        connection.close()
        assert "allowance" not in columns
        Database(before_migrations, upgrade=True).close()

    def test_the_newest_step_is_the_one_that_the_program_asks_for(self) -> None:
        config = Config()
        config.set_main_option("script_location", "inference_service:migrations")
        assert ScriptDirectory.from_config(config).get_heads() == [CURRENT]


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(app, name="inference-service", arguments=arguments)
    return int(caught.value.code or 0)


class TestCommandLine:
    def test_an_operator_upgrades(
        self, before_migrations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "service.toml"
        config.write_text('data_folder = "data"\n')
        assert command("upgrade", "--config", str(config)) == 5
        assert "holds no database; run `inference-service init` first" in capsys.readouterr().err
        (tmp_path / "data").mkdir()
        before_migrations.rename(tmp_path / "data" / DATABASE_FILE)
        assert command("account", "list", "--config", str(config)) == 5
        assert "run `inference-service upgrade`" in capsys.readouterr().err
        assert command("upgrade", "--config", str(config)) == 0
        assert command("account", "list", "--config", str(config)) == 0
        assert len(capsys.readouterr().out.splitlines()) == 5

    def test_a_front_end_is_set_up_on_postgresql(
        self, server: URL, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = tmp_path / "service.toml"
        config.write_text('data_folder = "data"\n')
        who = ("--role", "gateway", "--organisation", "st-mary")
        with postgresql.fresh_database(server) as url:
            monkeypatch.setenv("INFERENCE_SERVICE_DATABASE_URL", url.render_as_string(hide_password=False))
            for arguments in (("init",), ("account", "add", *who), ("account", "list")):
                assert command(*arguments, "--config", str(config)) == 0
        assert "gateway" in capsys.readouterr().out.splitlines()[-1]
        assert not (tmp_path / "data" / DATABASE_FILE).exists()


class TestPostgreSqlAddress:
    @pytest.mark.parametrize("written", ["postgresql://a:b@host/name", "postgresql+psycopg://a:b@host:5433/name"])
    def test_what_is_taken(self, written: str) -> None:
        assert read_postgresql_url(written).drivername == "postgresql+psycopg"

    @pytest.mark.parametrize("written", ["", "mysql://secret@host/name", "sqlite:///file", "postgresql+x://secret@h/n"])
    def test_what_is_refused_without_repeating_it(self, written: str) -> None:
        with pytest.raises(ConfigurationError, match="write postgresql://") as caught:
            read_postgresql_url(written)
        assert "secret" not in str(caught.value)

    def test_a_server_that_does_not_answer(self, tmp_path: Path) -> None:
        pytest.importorskip("psycopg")
        url = read_postgresql_url("postgresql://someone:pass-word@/name").update_query_dict({"host": str(tmp_path)})
        with pytest.raises(Unavailable, match="cannot be opened") as caught:
            Database(url)
        assert "pass-word" not in str(caught.value)
