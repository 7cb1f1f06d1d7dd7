"""Settings of the model owner's server, from a TOML file and `MODEL_OWNER_` variables."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from contract.allowance import Allowance
from contract.base import Name
from contract.ticket import MAX_IMAGES
from contract.violation import MOST_AUDITED
from plumbing.settings import Address, Peer, SessionPartySettings, WebSocketUrl, settings_config


class DealerPeer(Peer):
    """The crypto provider that this model owner trusts, and where it listens."""

    url: WebSocketUrl


class HospitalAllowance(Allowance):
    """What one hospital may use, if that is not what every hospital may."""

    organisation: Name
    model: Name | None = None
    """Absent: of every model that has no entry of its own."""


class ModelOwnerSettings(SessionPartySettings):
    """Everything that a model owner may choose."""

    model_config = settings_config("MODEL_OWNER_")

    data_folder: Path
    """Imported models, the ledger of consumed material, and stocked material."""
    listen: Address = Address(host="127.0.0.1", port=8081)
    public_url: WebSocketUrl | None = None
    """Where data owners reach this server, if not where it listens (behind a proxy, say)."""
    crypto_provider: DealerPeer
    data_owners: tuple[Name, ...] = ()
    """Organisations that are served; empty: every data owner with a certificate."""
    sessions_at_once: Annotated[int, Field(ge=1, le=256)] = 4
    """Each holds its corrections in memory: about 300 MB for a ResNet-18 at 224 x 224 and one image."""
    sessions_per_data_owner: Annotated[int | None, Field(ge=1, le=256)] = None
    """Of these, the most of one hospital; absent: three quarters, so that none keeps the others out."""
    images_per_session: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 8
    """Most images that a data owner may have evaluated together; each beyond the first takes some 180 MB more."""
    allowance: Allowance = Allowance()
    """What each hospital may use of each model, all versions together. Counted here, by the organisation in its
    certificate; the front end is told, so that it refuses early. `images` left out: by the model (allowances.py)."""
    allowances: tuple[HospitalAllowance, ...] = ()
    """Exceptions; what one leaves out is as for every hospital."""
    audit_days: Annotated[float, Field(ge=1, le=36_525)] = 6 * 365.25
    """How long entries of the audit log are kept."""
    audit_share: Annotated[float, Field(ge=0, le=MOST_AUDITED)] = 0.1
    """Of the items of material, this share are decoys, by which data owners are checked (masked engine). A data owner
    that deviates n times is not found with odds of (1 - share)^n; honest ones have this share of their images evaluated
    twice. 0: none are checked. Of a model that gives heat maps it is the most, 0.5, whatever stands here but 0."""
    stock_per_data_owner: Annotated[int, Field(ge=0, le=10_000)] = 32
    """Items that one data owner may stock here; each takes some 185 MB of disk for a ResNet-18 at 224 x 224."""
    stock_days: Annotated[float, Field(gt=0, le=365)] = 7.0
    """How long a stocked item is kept."""

    @property
    def audit_folder(self) -> Path:
        return self.data_folder / "audit"
