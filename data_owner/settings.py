"""Settings of the data owner, from a TOML file and `DATA_OWNER_` variables."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from plumbing.settings import Peer, SessionPartySettings, settings_config


class DataOwnerSettings(SessionPartySettings):
    """Everything that a data owner may choose. It dials out only and listens nowhere."""

    model_config = settings_config("DATA_OWNER_")

    data_folder: Path
    """The record of used tickets, the ledger of consumed material, stocked material, and masked weights."""
    model_owners: Annotated[tuple[Peer, ...], Field(min_length=1)]
    """Model owners that this hospital computes with."""
    crypto_providers: Annotated[tuple[Peer, ...], Field(min_length=1)]
    """Crypto providers that this hospital trusts not to collude with a model owner."""
    references: Path | None = None
    """Folder of reference pictures that model owners gave away, of any number of models; None: no model is checked."""
    reference_share: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.05
    """Odds that one of them is sent along with an image."""
    stock_days: Annotated[float, Field(gt=0, le=365)] = 7.0
    """How long material that `data-owner prepare` stocked is kept."""
    stock_items: Annotated[int, Field(ge=0, le=100_000)] = 256
    """How many items may be stocked at once, of all models."""
