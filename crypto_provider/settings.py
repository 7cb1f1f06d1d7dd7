"""Settings of the crypto provider, from a TOML file and `CRYPTO_PROVIDER_` variables."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from contract.base import Name
from plumbing.settings import Address, FrontEnd, SessionPartySettings, settings_config


class CryptoProviderSettings(SessionPartySettings):
    """Everything that an operator may choose."""

    model_config = settings_config("CRYPTO_PROVIDER_")

    data_folder: Path
    """Holds the book of what was dealt, to whom and by which tickets."""
    listen: Address = Address(host="127.0.0.1", port=8082)
    inference_service: FrontEnd
    """Where public plans are read."""
    data_owners: tuple[Name, ...] = ()
    """Organisations that are dealt to, pinned; empty: every data owner with a certificate."""
    model_owners: tuple[Name, ...] = ()
    """Likewise for model owners."""
    items_per_day: Annotated[int, Field(ge=0, le=1_000_000_000)] = 20_000
    """Items of material dealt to each organisation in a day (UTC), by its certificate; one is for one image."""
    channels_at_once: Annotated[int, Field(ge=1, le=1024)] = 16
    """Sessions that are dealt to; the channels of both parties of a session count as one."""
    channels_per_data_owner: Annotated[int | None, Field(ge=1, le=1024)] = None
    """Of these, the most for sessions of one hospital; absent: three quarters, so that none keeps the others out."""
