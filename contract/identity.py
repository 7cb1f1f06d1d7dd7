"""Who is who: roles, organisations, and how both stand in a certificate.

A party is a role at an organisation. Its certificate carries exactly one URI in the subject alternative name,
`party://<role>/<organisation>`, signed by the authority. Names of hosts never identify a party: between
parties, TLS runs inside a WebSocket, wherever the socket ends.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, TypeAdapter, ValidationError

from contract.base import Name
from contract.errors import PeerViolation
from contract.roles import OtherEnd, Role

__all__ = ["MAX_CLOCK_SKEW_SECONDS", "Credentials", "Party", "Role"]

MAX_CLOCK_SKEW_SECONDS = 3600
"""The most that settings may tolerate."""
_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True, kw_only=True)
class Party(OtherEnd):
    """A role at an organisation, say the data owner of `st-mary`."""

    def __post_init__(self) -> None:
        """Refuse an organisation that is not a plain name."""
        try:
            _NAME.validate_python(self.organisation)
        except ValidationError as error:
            raise PeerViolation(
                f"organisation {self.organisation[:64]!r} is not a name of lower-case letters, digits and hyphens"
            ) from error

    def __str__(self) -> str:
        """Name the party as messages do: `model-owner of north-lab`."""
        return f"{self.role.value} of {self.organisation}"

    @property
    def uri(self) -> str:
        """The URI that stands in the party's certificate."""
        return f"party://{self.role.value}/{self.organisation}"

    @classmethod
    def from_uri(cls, uri: str) -> Self:
        """Parse a certificate's URI. Raises PeerViolation for anything that is not a party."""
        scheme, _, rest = uri.partition("://")
        role, _, organisation = rest.partition("/")
        if scheme != "party" or role not in set(Role):
            raise PeerViolation(
                f"certificate names {uri[:100]!r}, which is not a party; enrol it with `federation enroll`"
            )
        return cls(role=Role(role), organisation=organisation)


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Files by which a party proves who it is and checks others: PEM, the key readable by its owner only.

    A running party reads them again when they change.
    """

    key: Path
    certificate: Path
    authority: Path
    """Certificate of the authority."""
    revocations: Path | None = None
    """The authority's list of revoked certificates; None: revoked certificates are accepted until they end."""
    clock_skew_seconds: Annotated[float, Field(ge=0, le=MAX_CLOCK_SKEW_SECONDS)] = 30.0
    """How far this machine's clock may be from a peer's, for certificates and tickets."""

    @property
    def clock_skew(self) -> timedelta:
        """The tolerance, typed."""
        return timedelta(seconds=self.clock_skew_seconds)
