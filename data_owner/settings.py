"""Settings of the data owner, from a TOML file and `DATA_OWNER_` variables."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from contract.identity import Credentials
from contract.ticket import TICKET_SECONDS, TicketSeconds
from plumbing.settings import AtRest, FrontEnd, PartySettings, Peer, PlanLimits, Waiting, settings_config


class DataOwnerSettings(PartySettings):
    """Everything that a data owner may choose. It dials out only and listens nowhere."""

    model_config = settings_config("DATA_OWNER_")

    data_folder: Path
    """The record of used tickets, the ledger of consumed material, stocked material, and masked weights."""
    credentials: Credentials
    at_rest: AtRest
    """The key that seals what lies in `data_folder`."""
    ticket_keys: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Public keys of the inference service, pinned."""
    ticket_seconds: TicketSeconds = TICKET_SECONDS
    """The longest that a ticket may live, from its issue to its expiry, to be accepted here."""
    inference_service: FrontEnd
    model_owners: Annotated[tuple[Peer, ...], Field(min_length=1)]
    """Model owners that this hospital computes with."""
    crypto_providers: Annotated[tuple[Peer, ...], Field(min_length=1)]
    """Crypto providers that this hospital trusts not to collude with a model owner."""
    waiting: Waiting = Waiting()
    plan_limits: PlanLimits = PlanLimits()
    """What one image may cost by its plan; a plan that costs more is refused before any work."""
    stock_days: Annotated[float, Field(gt=0, le=365)] = 7.0
    """How long material that `data-owner prepare` stocked is kept."""
    stock_items: Annotated[int, Field(ge=0, le=100_000)] = 256
    """How many items may be stocked at once, of all models."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of one tensor operation."""
