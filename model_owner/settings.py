"""Settings of the model owner's server, from a TOML file and `MODEL_OWNER_` variables."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from contract.identity import Credentials
from contract.model_card import Name
from contract.settings import Address, FrontEnd, PartySettings, Peer, Waiting, WebSocketUrl, settings_config
from contract.ticket import MAX_IMAGES


class DealerPeer(Peer):
    """The crypto provider that this model owner trusts, and where it listens."""

    url: WebSocketUrl


class ModelOwnerSettings(PartySettings):
    """Everything that a model owner may choose."""

    model_config = settings_config("MODEL_OWNER_")

    data_folder: Path
    """Imported models, the ledger of consumed material, and stocked material."""
    listen: Address = Address(host="127.0.0.1", port=8081)
    public_url: WebSocketUrl | None = None
    """Where data owners reach this server, if not where it listens (behind a proxy, say)."""
    credentials: Credentials
    ticket_keys: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Public keys of the inference service, pinned."""
    inference_service: FrontEnd
    crypto_provider: DealerPeer
    data_owners: tuple[Name, ...] = ()
    """Organisations that are served; empty: every data owner of the federation."""
    waiting: Waiting = Waiting()
    sessions_at_once: Annotated[int, Field(ge=1, le=256)] = 4
    """Each holds its corrections in memory: about 300 MB for a ResNet-18 at 224 x 224 and one image."""
    images_per_session: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 8
    """Most images that a data owner may have evaluated together; each beyond the first takes some 180 MB more."""
    stock_per_data_owner: Annotated[int, Field(ge=0, le=10_000)] = 32
    """Items that one data owner may stock here; each takes some 185 MB of disk for a ResNet-18 at 224 x 224."""
    stock_days: Annotated[float, Field(gt=0, le=365)] = 7.0
    """How long a stocked item is kept."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of one tensor operation."""
