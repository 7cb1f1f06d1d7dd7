"""Settings of the crypto provider, from a TOML file and `CRYPTO_PROVIDER_` variables."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from contract.base import Name
from contract.identity import Credentials
from contract.ticket import TICKET_SECONDS, TicketSeconds
from plumbing.settings import Address, AtRest, FrontEnd, PartySettings, PlanLimits, Waiting, settings_config


class CryptoProviderSettings(PartySettings):
    """Everything that an operator may choose."""

    model_config = settings_config("CRYPTO_PROVIDER_")

    data_folder: Path
    """Holds the book of what was dealt, to whom and by which tickets."""
    listen: Address = Address(host="127.0.0.1", port=8082)
    credentials: Credentials
    at_rest: AtRest
    """The key that seals what lies in `data_folder`."""
    ticket_keys: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Public keys of the inference service, pinned."""
    ticket_seconds: TicketSeconds = TICKET_SECONDS
    """The longest that a ticket may live, from its issue to its expiry, to be accepted here."""
    inference_service: FrontEnd
    """Where public plans are read."""
    data_owners: tuple[Name, ...] = ()
    """Organisations that are dealt to, pinned; empty: every data owner of the federation."""
    model_owners: tuple[Name, ...] = ()
    """Likewise for model owners."""
    items_per_day: Annotated[int, Field(ge=0, le=1_000_000_000)] = 20_000
    """Items of material dealt to each organisation in a day (UTC), by its certificate; one is for one image."""
    waiting: Waiting = Waiting()
    plan_limits: PlanLimits = PlanLimits()
    """What one image may cost by its plan; a plan that costs more is refused before any work."""
    channels_at_once: Annotated[int, Field(ge=1, le=1024)] = 16
    """Sessions that are dealt to; the channels of both parties of a session count as one."""
    channels_per_data_owner: Annotated[int | None, Field(ge=1, le=1024)] = None
    """Of these, the most for sessions of one hospital; absent: three quarters, so that none keeps the others out."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of one tensor operation."""
