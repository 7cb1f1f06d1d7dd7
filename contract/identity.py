"""Who is who: roles, organisations, and how both stand in a certificate.

A party is a role at an organisation. Its certificate carries exactly one URI in the subject alternative name,
`party://<role>/<organisation>`, signed by the federation's authority. Names of hosts never identify a party: between
parties, TLS runs inside a WebSocket, wherever the socket ends.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from cryptography import x509
from pydantic import TypeAdapter, ValidationError

from contract.errors import ConfigurationError, PeerViolation
from contract.model_card import Name

_NAME: TypeAdapter[str] = TypeAdapter(Name)


class Role(StrEnum):
    """The four kinds of party."""

    DATA_OWNER = "data-owner"
    MODEL_OWNER = "model-owner"
    CRYPTO_PROVIDER = "crypto-provider"
    INFERENCE_SERVICE = "inference-service"


@dataclass(frozen=True, kw_only=True)
class Party:
    """A role at an organisation, say the data owner of `st-mary`."""

    role: Role
    organisation: str

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
    """Files by which a party proves who it is and checks others: PEM, the key readable by its owner only."""

    key: Path
    certificate: Path
    authority: Path
    """Certificate of the federation's authority."""


def party_of_certificate(path: Path, *, role: Role) -> Party:
    """Who this party itself is, by its own certificate. Raises ConfigurationError where it is not of `role`."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, x509.ExtensionNotFound) as error:
        raise ConfigurationError(f"{path}: is not a party's certificate; make one with `federation enroll`") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    party = Party.from_uri(uris[0]) if len(uris) == 1 else None
    if party is None or party.role is not role:
        raise ConfigurationError(f"{path}: is not the certificate of a {role.value}; give the one enrolled for it")
    return party
