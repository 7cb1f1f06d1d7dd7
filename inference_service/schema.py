"""Which release's tables a database has, and the way from there to this release's (alembic, `migrations/`)."""

from typing import Final

from sqlalchemy import Connection, inspect, text

from contract.errors import ConfigurationError

CURRENT: Final = "0004"
"""The newest step in `migrations/versions`."""
BEFORE_MIGRATIONS: Final = "0001"
"""What a database is that has tables and says nothing of itself: made before there were migrations."""
_FIRST_TABLES: Final = {"accounts", "plans", "model_versions", "sessions", "session_events"}
_VERSION_TABLE: Final = "alembic_version"


def revision_of(connection: Connection) -> str | None:
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
    revision = revision_of(connection)
    if revision == BEFORE_MIGRATIONS and not inspect(connection).has_table(_VERSION_TABLE):
        command.stamp(config, BEFORE_MIGRATIONS)
    if revision is not None and revision > CURRENT:
        require_current(revision)
    command.upgrade(config, CURRENT)
