"""The kinds of party. Standard library only: errors name them, also before anything is installed."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """The four kinds of party."""

    DATA_OWNER = "data-owner"
    MODEL_OWNER = "model-owner"
    CRYPTO_PROVIDER = "crypto-provider"
    INFERENCE_SERVICE = "inference-service"


@dataclass(frozen=True, kw_only=True)
class OtherEnd:
    """Who is at the other end of a link, as far as this side knows."""

    role: Role
    organisation: str
    """Empty if only the role is known, as of the front end."""
