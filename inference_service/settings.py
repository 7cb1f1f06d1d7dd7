"""Settings of the front end: one frozen object, from a TOML file and `INFERENCE_SERVICE_` variables."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator
from sqlalchemy import URL

from contract.allowance import Allowance
from contract.ticket import SIGNING_KEY_FILE, TICKET_SECONDS, NetworkProfile, TicketSeconds
from inference_service.storage import read_postgresql_url
from plumbing.proxies import is_loopback
from plumbing.settings import Address, PartySettings, settings_config

DATABASE_FILE = "inference-service.sqlite"


class ServiceSettings(PartySettings):
    """Everything that an operator may choose."""

    model_config = settings_config("INFERENCE_SERVICE_")

    data_folder: Path
    """Holds the database and the ticket signing key; `inference-service init` makes it."""
    database_url: SecretStr | None = None
    """postgresql://user:password@host/name; absent: a SQLite file in `data_folder`."""
    listen: Address = Address(host="127.0.0.1", port=8080)
    key: Path | None = None
    certificate: Path | None = None
    """The party's PEM files for TLS. Without them only loopback is served, or what stands behind `plain_http`."""
    plain_http: bool = False
    """True only if a proxy on this machine or a private link ends TLS in front of the service."""
    session_seconds: TicketSeconds = TICKET_SECONDS
    """How long a session and its ticket live. Parties refuse tickets that live longer than their `ticket_seconds`."""
    sweep_seconds: Annotated[float, Field(ge=0.05, le=3600)] = 30.0
    """How often sessions that ran out of time are looked for."""
    live_sessions_per_account: Annotated[int, Field(ge=1, le=100_000)] = 64
    clinician_allowance: Allowance = Allowance()
    """Of a clinician's account that has none of its own (`inference-service account allow`)."""
    gateway_allowance: Allowance = Allowance(images=10_000, items=10_000, sessions_per_minute=600)
    """Of a gateway's."""
    audit_days: Annotated[float, Field(ge=1, le=36_525)] = 6 * 365.25
    """How long entries of the audit log are kept."""
    network_profile: NetworkProfile = NetworkProfile.LAN

    @model_validator(mode="after")
    def _keys_never_travel_in_clear(self) -> Self:
        if (self.key is None) != (self.certificate is None):
            raise ValueError("key and certificate go together: give both, or neither")
        if self.certificate is None and not self.plain_http and not is_loopback(self.listen.host):
            raise ValueError("API keys would travel in clear: give key and certificate, or listen on loopback")
        return self

    @property
    def database(self) -> Path | URL:
        """The SQLite file, or where PostgreSQL is. Raises ConfigurationError for a URL of another kind."""
        if self.database_url is None:
            return self.data_folder / DATABASE_FILE
        return read_postgresql_url(self.database_url.get_secret_value())

    @property
    def audit_folder(self) -> Path:
        return self.data_folder / "audit"

    @property
    def signing_key(self) -> Path:
        return self.data_folder / SIGNING_KEY_FILE
