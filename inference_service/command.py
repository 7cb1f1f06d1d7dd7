"""`inference-service`: set up, run, and hand out API keys.

inference-service init --config service.toml        makes the data folder and the key that signs tickets
inference-service account add --config service.toml --role clinician --organisation st-mary
inference-service serve --config service.toml
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bookkeeping.audit_command import audit_app
from bookkeeping.audit_log import AuditLog
from contract.allowance import MAX_AMOUNT, MAX_DAYS, MAX_SESSIONS_PER_MINUTE, Allowance
from contract.errors import CallerError, ConfigurationError
from contract.ticket import new_signing_key
from inference_service.accounts import AccountRole, Accounts
from inference_service.renewal import follow_renewals
from inference_service.settings import ServiceSettings
from inference_service.storage import Database
from plumbing.command_line import new_app, new_program, run, say
from plumbing.listening import LISTEN, start_listening, take_port, with_port
from plumbing.output import write_out
from plumbing.settings import load_settings

if TYPE_CHECKING:
    from socket import socket

    from fastapi import FastAPI

app = new_program("The front end: who may run which model with whom, when, and what became of it.")
account_app = new_app("Accounts and their API keys.")
app.add_typer(account_app, name="account")
app.add_typer(audit_app(lambda config: load_settings(ServiceSettings, config).audit_folder, ask=None), name="audit")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file; INFERENCE_SERVICE_ variables of the environment replace its values."),
]
RoleOption = Annotated[str, typer.Option("--role", help=f"One of: {', '.join(AccountRole)}.")]
OrganisationOption = Annotated[str, typer.Option("--organisation", help="Lower-case letters, digits, hyphens.")]
PrefixArgument = Annotated[
    str, typer.Argument(help="The key's prefix, or the account's id, as `account list` shows them.")
]


@app.command()
def init(config: ConfigOption = None) -> None:
    """Make the data folder, its database and the ticket signing key; print the path of the public key."""
    settings = load_settings(ServiceSettings, config)
    try:
        settings.data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{settings.data_folder}: cannot be made ({error.strerror}); choose another data_folder"
        ) from error
    public_key = new_signing_key(settings.data_folder)
    Database(settings.database).close()
    say("Every party pins this public key in its own settings:")
    write_out(str(public_key))


@app.command()
def upgrade(config: ConfigOption = None) -> None:
    """Bring the database of an earlier release to this one. Stop the service and make a backup first."""
    open_database(load_settings(ServiceSettings, config), upgrade=True).close()
    say("The database is of this release.")


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Where to; a folder that does not exist yet.")],
    config: ConfigOption = None,
) -> None:
    """Copy database, ticket key and audit log into a folder, while the service runs. Keep it as safe as the service."""
    from inference_service.backup import back_up

    settings = load_settings(ServiceSettings, config)
    if back_up(settings, folder):
        say(f"{folder} is a data folder as it was now: to restore, stop the service and put it in data_folder's place.")
    else:
        say(f"{folder} holds the ticket key and the audit log; copy the database with pg_dump.")


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Serve until stopped. Prints the URL once it listens."""
    settings = load_settings(ServiceSettings, config)
    with take_port(settings.listen.host, settings.listen.port, setting=LISTEN) as listener:  # before what takes a while
        from inference_service.app import create_app

        run_server(create_app(settings), settings, listener)


def http_options() -> dict[str, Any]:
    """What `uvicorn.Config` needs for the front end: bounded heads and TLS handshakes, few strangers, no WebSockets."""
    from plumbing.http_server import EVENT_LOOP, BoundedHeadProtocol, new_lobby

    return {"http": partial(BoundedHeadProtocol, lobby=new_lobby()), "ws": "none", "loop": EVENT_LOOP}


def run_server(service: "FastAPI", settings: ServiceSettings, listener: "socket") -> None:
    """Print the URL on stdout and serve on a bound socket until a signal arrives. Raises ConfigurationError."""
    import ssl

    import uvicorn

    from plumbing.http_server import AnnouncedServer

    configuration = uvicorn.Config(
        service,
        **http_options(),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_keyfile=settings.key,
        ssl_certfile=settings.certificate,
        timeout_graceful_shutdown=10,
    )
    try:
        configuration.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{settings.certificate}: key and certificate cannot be used together; enrol this party again"
        ) from error
    if configuration.ssl is not None:
        configuration.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        if settings.certificate is not None and settings.key is not None:
            follow_renewals(configuration.ssl, certificate=settings.certificate, key=settings.key)
    scheme = "https" if configuration.is_ssl else "http"
    where = with_port(settings.listen.host, listener.getsockname()[1])
    start_listening(listener, setting=LISTEN)
    AnnouncedServer(configuration, announce=lambda: write_out(f"{scheme}://{where}")).run(sockets=[listener])


@account_app.command("add")
def add_account(role: RoleOption, organisation: OrganisationOption, config: ConfigOption = None) -> None:
    """Make an account and print its API key, once, alone on stdout."""
    try:
        wanted = AccountRole(role.replace("_", "-"))
    except ValueError:
        raise CallerError(f"there is no role {role[:40]!r}: choose one of {', '.join(AccountRole)}") from None
    with _open_accounts(load_settings(ServiceSettings, config)) as accounts:
        account, key = accounts.add(role=wanted, organisation=organisation)
    say(f"Account {account.prefix} ({wanted.value}, {organisation}), in audit logs {account.id}.")
    say("Its key, which cannot be shown again:")
    write_out(key.get_secret_value())


@account_app.command("list")
def list_accounts(config: ConfigOption = None) -> None:
    """One account a line: prefix, role, organisation, since when, its own allowance, until when if revoked, and its id.

    Audit logs name accounts by the id, the front end's and the model owners'.
    """
    with _open_accounts(load_settings(ServiceSettings, config)) as accounts:
        every = accounts.list()
    for account in every:
        revoked = f"  revoked {account.revoked_at:%Y-%m-%d}" if account.revoked_at is not None else ""
        own = f"  {account.allowance.words()}" if account.allowance is not None else ""
        since = f"{account.created_at:%Y-%m-%d}"
        write_out(
            f"{account.prefix}  {account.role.value:<16}{account.organisation}  {since}{own}{revoked}  {account.id}"
        )


@account_app.command("allow")
def allow_account(
    prefix: PrefixArgument,
    *,
    images: Annotated[int | None, typer.Option("--images", min=0, max=MAX_AMOUNT, help="Images in a period.")] = None,
    items: Annotated[
        int | None, typer.Option("--items", min=0, max=MAX_AMOUNT, help="Items of material in a period; 0: none.")
    ] = None,
    days: Annotated[int | None, typer.Option("--days", min=1, max=MAX_DAYS, help="Length of the period.")] = None,
    sessions_per_minute: Annotated[
        int | None, typer.Option("--sessions-per-minute", min=1, max=MAX_SESSIONS_PER_MINUTE)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Give an account an allowance of its own; what is left out is as for its role. No option: its role's again."""
    settings = load_settings(ServiceSettings, config)
    wanted = {"images": images, "items": items, "days": days, "sessions_per_minute": sessions_per_minute}
    given = {name: value for name, value in wanted.items() if value is not None}
    with _open_accounts(settings) as accounts:
        role = accounts.find(prefix).role
    base = settings.gateway_allowance if role is AccountRole.GATEWAY else settings.clinician_allowance
    allowance = Allowance.model_validate(base.model_dump() | given) if given else None
    with _open_accounts(settings) as accounts:
        account = accounts.allow(prefix, allowance)
    say(f"{account.prefix} ({account.role.value}, {account.organisation}): {(allowance or base).words()}.")


@account_app.command("revoke")
def revoke_account(prefix: PrefixArgument, config: ConfigOption = None) -> None:
    """Make a key worthless, from its next call on."""
    with _open_accounts(load_settings(ServiceSettings, config)) as accounts:
        account = accounts.revoke(prefix)
    say(f"Revoked {account.prefix} ({account.role.value}, {account.organisation}).")


@contextmanager
def _open_accounts(settings: ServiceSettings) -> Iterator[Accounts]:
    """The accounts in the database that `init` made, with the audit log that notes their changes."""
    database = open_database(settings)
    try:
        yield Accounts(database, audit=AuditLog(settings.audit_folder, keep_days=settings.audit_days))
    finally:
        database.close()


def open_database(settings: ServiceSettings, *, upgrade: bool = False) -> Database:
    """The database that `init` made. Raises ConfigurationError if there is none."""
    target = settings.database
    if isinstance(target, Path) and not target.exists():
        raise ConfigurationError(f"{settings.data_folder}: holds no database; run `inference-service init` first")
    return Database(target, upgrade=upgrade)


def main() -> None:
    run(app, name="inference-service")
