"""`model-owner accounts`: which hospitals are stopped, and how an operator lets one in again."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from model_owner.stopped_accounts import RECORDS, StoppedAccounts
from plumbing.command_line import new_app, say
from plumbing.output import write_out

ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
AccountsOf = Callable[[Path | None], StoppedAccounts]
"""A model owner's stopped accounts, by its settings' file."""


def accounts_app(accounts_of: AccountsOf) -> typer.Typer:
    """The two commands."""
    app = new_app("Hospitals that are served no more, because a decoy found that they did not follow the protocol.")
    _add_list(app, accounts_of)
    _add_lift(app, accounts_of)
    return app


def _add_list(app: typer.Typer, accounts_of: AccountsOf) -> None:
    @app.command("list")
    def show(
        *,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
        config: ConfigOption = None,
    ) -> None:
        """Print who is stopped, since when and by which record."""
        accounts = accounts_of(config)
        stops = accounts.list()
        for stop in stops:
            path = accounts.data_folder / RECORDS / stop.record
            words = f"{stop.data_owner}  {stop.day}  session {stop.session}  account {stop.account}  {path}"
            write_out(stop.model_dump_json() if as_json else words)
        if not stops:
            say("No hospital is stopped.")


def _add_lift(app: typer.Typer, accounts_of: AccountsOf) -> None:
    @app.command()
    def lift(
        hospital: Annotated[str, typer.Argument(help="Its name in the certificate, as `accounts list` prints it.")],
        *,
        config: ConfigOption = None,
    ) -> None:
        """Serve a hospital again, from its next session on. Its records and the audit log keep what happened."""
        accounts_of(config).lift(hospital)
        say(f"{hospital} is served again. The records in {RECORDS} and the audit log stay as they are.")
