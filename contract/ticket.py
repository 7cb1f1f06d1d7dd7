"""The ticket: the front end's signed word that one session may run, with whom, on what, and until when.

A ticket is a compact JWT signed with Ed25519 ("EdDSA", RFC 8037) by the inference service. Every party checks it
against public keys pinned in its own configuration; nothing in the ticket names a key, so a ticket can restrict who
speaks and never introduce anybody.

What the signature cannot do is stop a replay: the same ticket is valid until it expires, for everybody it names. Each
party therefore notes which tickets it has used, until they can no longer be valid (bookkeeping/used_tickets.py). To
make this soon, each party bounds by its own settings how long a ticket may live.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self
from uuid import UUID

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import Field, ValidationError, model_validator

from contract.base import Name, Sha256, Strict, Version
from contract.errors import ConfigurationError, TicketInvalid
from contract.files import read_bounded, write_new_together
from contract.identity import Party, Role
from contract.model_card import OutputPolicy

MAX_TICKET_CHARACTERS = 8 * 1024
LEEWAY = timedelta(seconds=30)
"""How far the clocks of two parties may differ if nothing else is configured."""

TICKET_SECONDS = 15 * 60
"""How long a session and its ticket live if nothing else is configured."""
TicketSeconds = Annotated[int, Field(ge=10, le=3600)]
"""From a ticket's issue to its expiry: what the front end signs, and the most that a party accepts. The upper bound is
every party's own, so that no ticket of anybody lives longer."""

SIGNING_KEY_FILE = "ticket-key.pem"
PUBLIC_KEY_FILE = "ticket-key.public.pem"

_TYPE = "inference-ticket+jwt"  # explicit typing, RFC 8725 section 3.11: no other JWT of this key can pass for a ticket
_ALGORITHM = "EdDSA"
_MAX_KEY_FILE_BYTES = 16 * 1024


class Purpose(StrEnum):
    """What a session may do."""

    DIAGNOSE = "diagnose"
    """Evaluate images."""
    PREPARE = "prepare"
    """Stock correlated randomness for later diagnoses."""


class Engine(StrEnum):
    """Which of the two lowerings of a model is evaluated."""

    CRYPTEN = "crypten"
    MASKED = "masked"


STOCKED_ENGINES = frozenset({Engine.MASKED})
"""Engines whose material can be prepared ahead and kept."""


BATCHED_ENGINES = frozenset({Engine.MASKED})
"""Engines that evaluate several images in one session."""

MAX_IMAGES = 16
"""The most images of one session."""

Images = Annotated[int, Field(ge=1, le=MAX_IMAGES)]
"""How many images a session evaluates."""


Items = Annotated[tuple[Sha256, ...], Field(max_length=MAX_IMAGES)]
"""Names of stocked items that a session spends: one for each image, or none. Public."""


def require_own_items(items: Sequence[str], *, purpose: Purpose, engine: Engine, images: int) -> None:
    """Raise ValueError unless a session may name these stocked items."""
    if not items:
        return
    if purpose is not Purpose.DIAGNOSE or engine not in STOCKED_ENGINES:
        raise ValueError("stocked items are spent by a diagnosis with an engine whose material can be stocked")
    if len(items) != images or len(set(items)) != images:
        raise ValueError("a session names as many stocked items as it has images, each once, or none")


class NetworkProfile(StrEnum):
    """What link the parties should choose parameters for."""

    LAN = "lan"
    WAN = "wan"


class TicketClaims(Strict):
    """Everything a party needs to know before it takes part in a session. Public to the parties named."""

    iss: Literal["inference-service"] = "inference-service"
    jti: UUID
    """Names the ticket; differs for each."""
    session: UUID
    purpose: Purpose
    account: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    """Who asked, as the front end's account id; no name of a person."""
    model: Name
    version: Version
    plan_hash: Sha256
    """SHA-256 of the public plan; parties refuse to run any other."""
    card_hash: Sha256
    """SHA-256 of the model card (`ModelCard.card_hash`); an answer is read by no other."""
    engine: Engine
    data_owner: Name
    model_owner: Name
    crypto_provider: Name
    """Organisations, one for each role."""
    output_policy: OutputPolicy
    images: Images = 1
    """How many the session may evaluate; each takes an item of material of its own. Public."""
    items: Items = ()
    """Stocked items that the session may spend, and no others. The front end names each of them in one ticket."""
    network_profile: NetworkProfile = NetworkProfile.LAN
    iat: int
    exp: int
    """Issued at and expires at, in seconds since 1970 (UTC)."""

    @model_validator(mode="after")
    def _expires_after_it_was_issued(self) -> Self:
        if not 0 <= self.iat < self.exp < 2**40:
            raise ValueError("exp must come after iat")
        return self

    @model_validator(mode="after")
    def _several_images_are_diagnosed_by_an_engine_that_can(self) -> Self:
        if self.images > 1 and (self.purpose is not Purpose.DIAGNOSE or self.engine not in BATCHED_ENGINES):
            raise ValueError("several images need an engine that takes them, and a session to diagnose")
        require_own_items(self.items, purpose=self.purpose, engine=self.engine, images=self.images)
        return self

    def require_party(self, party: Party) -> None:
        """Raise TicketInvalid unless this ticket names `party` for its role."""
        named = {
            Role.DATA_OWNER: self.data_owner,
            Role.MODEL_OWNER: self.model_owner,
            Role.CRYPTO_PROVIDER: self.crypto_provider,
        }.get(party.role)
        if named != party.organisation:
            raise TicketInvalid(
                f"ticket of session {self.session} was made for somebody else: it does not name the {party}; "
                "open a session with the parties that will take part"
            )


def issue_ticket(claims: TicketClaims, private_key: Ed25519PrivateKey) -> str:
    """Sign `claims`: a compact JWT of at most `MAX_TICKET_CHARACTERS` ASCII characters."""
    payload = claims.model_dump_json().encode()
    return jwt.PyJWS([_ALGORITHM]).encode(payload, private_key, algorithm=_ALGORITHM, headers={"typ": _TYPE})


def verify_ticket(
    token: str,
    *,
    public_keys: Sequence[Ed25519PublicKey],
    now: datetime,
    party: Party,
    leeway: timedelta = LEEWAY,
    longest: int = TICKET_SECONDS,
) -> TicketClaims:
    """Check a ticket from outside and return what it says.

    Args:
        token: the compact JWT as received.
        public_keys: the front end's keys as pinned by this party; more than one while a key is being replaced.
        now: the present, with a time zone.
        party: the party that must stand in the ticket for its role. A server checks itself here and whoever
            dialled with `TicketClaims.require_party`.
        leeway: how far clocks may differ.
        longest: seconds from its issue to its expiry that this party accepts, whatever the front end signed.

    Raises:
        TicketInvalid: malformed, forged, expired, not yet valid, valid for too long or made for somebody else. A
            replayed ticket passes: the caller notes which it has seen.
    """
    claims = _parse(_verified_payload(token, public_keys))
    if claims.exp - claims.iat > longest:
        raise TicketInvalid(
            f"ticket of session {claims.session} lives for {claims.exp - claims.iat} s, and the {party} accepts "
            f"{longest} s at most: the front end's operator lowers session_seconds, or this party raises ticket_seconds"
        )
    seconds, slack = now.timestamp(), leeway.total_seconds()
    if claims.exp + slack <= seconds:
        raise TicketInvalid(
            f"ticket of session {claims.session} has expired: open a new session; if this one was opened just now, the "
            f"clock of the {party} is ahead of the front end's by {seconds - claims.iat:.0f} s"
        )
    if claims.iat - slack > seconds:
        raise TicketInvalid(
            f"ticket of session {claims.session} is not yet valid: the clock of the {party} is behind the front end's "
            f"by {claims.iat - seconds:.0f} s (tolerated: {slack:g} s); set it"
        )
    claims.require_party(party)
    return claims


def _verified_payload(token: str, public_keys: Sequence[Ed25519PublicKey]) -> bytes:
    if len(token) > MAX_TICKET_CHARACTERS or not token.isascii():
        raise TicketInvalid(
            f"ticket is malformed: expected at most {MAX_TICKET_CHARACTERS} ASCII characters; open a new session"
        )
    if not public_keys:
        raise ConfigurationError("no key of the inference service is pinned: name its public key file in the settings")
    jws = jwt.PyJWS([_ALGORITHM])
    try:
        for public_key in public_keys:
            try:
                complete = jws.decode_complete(token, public_key, algorithms=[_ALGORITHM])
            except jwt.InvalidSignatureError:
                continue
            break
        else:
            raise TicketInvalid(
                "ticket is forged: no pinned key of the inference service has signed it; open a session"
            )
    except jwt.InvalidAlgorithmError as error:
        raise TicketInvalid("ticket is forged: it is not signed with Ed25519; open a session") from error
    except (jwt.PyJWTError, RecursionError) as error:  # a header of brackets within brackets exhausts json's recursion
        raise TicketInvalid("ticket is malformed: it is not a signed JWT; open a new session") from error
    if complete["header"].get("typ") != _TYPE:
        raise TicketInvalid("ticket is malformed: signed by the front end, but not as a ticket; open a new session")
    payload = complete["payload"]
    if not isinstance(payload, bytes):
        raise TicketInvalid("ticket is malformed: it carries no claims; open a new session")
    return payload


def _parse(payload: bytes) -> TicketClaims:
    try:
        return TicketClaims.model_validate_json(payload)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False, include_url=False)[0]["loc"])
        raise TicketInvalid(
            f"ticket is malformed: claim {where[:64] or 'set'} is wrong; update this party and the front end to the "
            "same version"
        ) from error


def new_signing_key(folder: Path) -> Path:
    """Make the front end's signing key in `folder` and return the path of its public half, for parties to pin.

    The private key (`SIGNING_KEY_FILE`, PKCS #8 PEM) is readable by its owner only.

    Raises:
        ConfigurationError: a key is there already, or the folder cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    private_path, public_path = folder / SIGNING_KEY_FILE, folder / PUBLIC_KEY_FILE
    for path in (private_path, public_path):
        if path.exists():
            raise ConfigurationError(
                f"{path} exists: keep it, or move both key files away and pin the new key at every party"
            )
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_new_together({private_path: (private, 0o600), public_path: (public, 0o644)})
    return public_path


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read the front end's private key. Raises ConfigurationError when it is absent, wrong or readable by others."""
    content = _read_key_file(path, private=True)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path}: not an Ed25519 key in PKCS #8 PEM; make one with `init`") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: holds another kind of key than Ed25519; make one with `init`")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read a pinned public key. Raises ConfigurationError when it is absent or not an Ed25519 public key."""
    content = _read_key_file(path, private=False)
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path}: not a public key in PEM; ask the front end for {PUBLIC_KEY_FILE}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path}: holds another kind of key than Ed25519; ask the front end for its key")
    return key


def _read_key_file(path: Path, *, private: bool) -> bytes:
    content = read_bounded(path, limit=_MAX_KEY_FILE_BYTES)
    if private and path.stat().st_mode & 0o077:
        raise ConfigurationError(f"{path}: others can read this private key; run `chmod 600` on it")
    return content
