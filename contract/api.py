"""What travels between a party and the front end: requests, answers and problems, all JSON.

Nothing here can hold an image, a share, a seed or a weight: the front end decides who may run what, and records that
it happened.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field, JsonValue, model_validator

from contract.allowance import ModelAllowances
from contract.base import Name, Sha256, Strict, Version, canonical_json
from contract.errors import ComputationFailed, EncryptedInferenceError, PeerViolation, TransportError
from contract.model_card import ModelCard
from contract.ticket import MAX_IMAGES, Engine, Images, Items, Purpose, require_own_items

MAX_PLAN_BYTES = 4 << 20
"""Largest public plan that anybody stores or reads. That of a DenseNet-121 has 0.3 MiB."""

ServerUrl = Annotated[str, Field(pattern=r"^wss?://[A-Za-z0-9.:\[\]-]{1,255}(/[A-Za-z0-9._~/-]*)?$", max_length=1024)]
"""Where a party listens: a WebSocket URL without user, query or fragment."""

MAX_MESSAGE = 500
"""Longest one-line message, in characters."""

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Seconds = Annotated[float, Field(ge=0, lt=1e7, allow_inf_nan=False)]

_CARD: JsonValue = {
    "name": "pediatric-pneumonia-resnet18",
    "version": "1.0.0",
    "title": "Pneumonia in children's chest radiographs",
    "intended_use": "Research only",
    "input": {"modalities": ["CR", "DX"], "height": 224, "width": 224, "mean": [0.48], "standard_deviation": [0.23]},
    "classes": ["normal", "bacteria", "virus"],
    "training": "ResNet-18, trained centrally",
    "model_sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
}
_PLAN = '{"operations":[]}'
_PLAN_HASH = "ba008b3ff2e64fd0f721e62a4159d1068da4c3f8ca432bf40a0414c167013059"
_MODEL_OWNER: JsonValue = {"organisation": "north-lab", "address": "wss://inference.north-lab.example/session"}
_CRYPTO_PROVIDER: JsonValue = {"organisation": "trust-centre", "address": "wss://dealer.trust-centre.example/session"}
_ENTRY: JsonValue = {
    "card": _CARD,
    "version": "1.0.0",
    "plan_hash": _PLAN_HASH,
    "engines": ["crypten"],
    "model_owner": _MODEL_OWNER,
    "crypto_provider": _CRYPTO_PROVIDER,
}
_VOUCHER: JsonValue = {
    "certificate": "-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n",
    "signature": "3045022100d3f09b6c51e2a7",
}
_SESSION = "5b1d3c1e-6f0a-4a53-9f0e-0d6f5f0c7c11"


def _example(**fields: JsonValue) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class SessionState(StrEnum):
    """Where a session stands. All but the first three are final, except that one which failed may turn out to be turned
    away, and that a model owner may accuse the data owner of any.
    """

    OPENED = "opened"
    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    TURNED_AWAY = "turned-away"
    """Before anything was begun, because every place was taken: it counts for no budget."""
    ACCUSED = "accused"
    """Its model owner found that the data owner did not follow the protocol, and keeps a record of that."""


class SessionEventName(StrEnum):
    """What can happen to a session."""

    PREPARE = "prepare"
    RUN = "run"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"
    TURN_AWAY = "turn-away"
    ACCUSE = "accuse"
    AUDIT = "audit"


_WITH_REASON: Final = frozenset({SessionEventName.FAIL, SessionEventName.TURN_AWAY, SessionEventName.ACCUSE})


class PartyAddress(Strict):
    """An organisation and where its server listens."""

    model_config = _example(organisation="north-lab", address="wss://inference.north-lab.example/session")

    organisation: Name
    address: ServerUrl


MAX_CERTIFICATE: Final = 16 << 10
"""Characters of a certificate in PEM."""


class Voucher(Strict):
    """A signature (ECDSA on P-256 with SHA-256) and the certificate that it is checked by. Public."""

    certificate: Annotated[str, Field(max_length=MAX_CERTIFICATE, repr=False)]
    """In PEM."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{16,160}$", repr=False)]
    """In DER, hexadecimal."""


class ModelEntry(Strict):
    """One version of a model in the catalog."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ENTRY]})

    card: ModelCard
    version: Version
    plan_hash: Sha256
    """SHA-256 of the plan's bytes as GET /v2/plans/{plan_hash} serves them."""
    engines: tuple[Engine, ...] = Field(min_length=1)
    """The default first."""
    model_owner: PartyAddress
    crypto_provider: PartyAddress
    voucher: Voucher | None = None
    """The model owner's, for `statement`; absent if it registered the version before there were any."""

    @model_validator(mode="after")
    def _fits_its_card(self) -> Self:
        if self.version != self.card.version:
            raise ValueError("version differs from the card's")
        references = self.card.references
        if references is not None and references.plan_hash != self.plan_hash:
            raise ValueError("the card's reference pictures are those of another plan")
        return self

    def statement(self) -> bytes:
        """What the model owner signs: all that the catalog says of this version, so that nothing of it can be changed.

        Two entries with the same statement say the same, whenever each was signed.
        """
        return canonical_json(self.model_copy(update={"voucher": None}))


class ModelList(Strict):
    """Every version that sessions may be opened for, newest first within a model."""

    model_config = _example(models=[_ENTRY])

    models: tuple[ModelEntry, ...]


class ModelRegistration(Strict):
    """What a model owner hands in to register a version. The organisation is its account's."""

    model_config = _example(
        card=_CARD,
        plan=_PLAN,
        plan_hash=_PLAN_HASH,
        engines=["crypten"],
        address="wss://inference.north-lab.example/session",
        crypto_provider=_CRYPTO_PROVIDER,
        voucher=_VOUCHER,
    )

    card: ModelCard
    plan: Annotated[str, Field(min_length=2, max_length=MAX_PLAN_BYTES, repr=False)]
    """The public plan: JSON text, kept byte for byte (UTF-8), because its hash stands in tickets."""
    plan_hash: Sha256
    engines: tuple[Engine, ...] = Field(min_length=1)
    address: ServerUrl
    """Where this model owner's server listens."""
    crypto_provider: PartyAddress
    voucher: Voucher
    """The model owner's own, for the entry that the catalog is to show."""
    allowances: ModelAllowances | None = None
    """What each hospital may use of this model, all versions together. The model owner counts as well, by itself."""


class SessionRequest(Strict):
    """Ask for a session."""

    model_config = _example(model="pediatric-pneumonia-resnet18", engine="crypten", purpose="diagnose")

    model: Name
    version: Version | None = None
    """Absent: the newest version in service."""
    engine: Engine
    purpose: Purpose = Purpose.DIAGNOSE
    """`diagnose`: images. `prepare`: stock material for a later one; for engines that can, and without `run`."""
    images: Images = 1
    """How many the session will evaluate together; more than one with engines that can."""
    items: Items = ()
    """Stocked items to spend, one for each image, or none: the ticket names them, and no other ticket ever does."""

    @model_validator(mode="after")
    def _items_are_the_sessions_own(self) -> Self:
        require_own_items(self.items, purpose=self.purpose, engine=self.engine, images=self.images)
        return self


class Failure(Strict):
    """Why a session failed, in one line that carries nothing of image, share, weight or key."""

    model_config = _example(
        code="deadline-exceeded", message="model-owner of north-lab did not answer within 30.0 s in step 'open'"
    )

    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    """The `code` of a class in contract.errors."""
    message: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f\u2028\u2029]*$", min_length=1, max_length=MAX_MESSAGE)]

    @classmethod
    def of(cls, error: EncryptedInferenceError) -> Self:
        """What may be reported of an error: its words if they are about the protocol or the link.

        Errors of a caller's input or of a party's own set-up name files, and a file may bear a patient's name: of
        those only the code leaves the machine.
        """
        line = "".join(character for character in " ".join(str(error).split()) if character.isprintable())
        if not line or not isinstance(error, PeerViolation | TransportError | ComputationFailed):
            line = f"a party stopped for a reason of its own ({error.code}): look at its own messages"
        return cls(code=error.code, message=line[:MAX_MESSAGE])


class PhaseSeconds(Strict):
    """Wall-clock seconds of the two phases, as the data owner measured them."""

    offline: Seconds
    online: Seconds


class SentBytes(Strict):
    """Bytes that each party sent on the parties' channels, as the data owner counted them."""

    data_owner: Count
    model_owner: Count
    crypto_provider: Count


class SessionReport(Strict):
    """What may be said about a session beside the event itself."""

    seconds: PhaseSeconds | None = None
    bytes_sent: SentBytes | None = None
    failure: Failure | None = None
    audited: Images | None = None
    """How many images got no answer, because their items were decoys, by which the model owner checks data owners."""


class SessionEvent(Strict):
    """Report what happened: `prepare`, `run`, `complete` or `fail`; a model owner also `turn-away`, `accuse` and
    `audit`.
    Cancelling is DELETE; expiry is the clock's.

    A session to prepare has no `run`: it goes from `prepare` to `complete`.
    """

    model_config = _example(
        event="complete",
        report={
            "seconds": {"offline": 3.1, "online": 1.2},
            "bytes_sent": {"data_owner": 7340032, "model_owner": 7340032, "crypto_provider": 2097152},
        },
    )

    event: SessionEventName
    report: SessionReport | None = None

    @model_validator(mode="after")
    def _only_a_failure_has_a_reason(self) -> Self:
        has_reason = self.report is not None and self.report.failure is not None
        if has_reason != (self.event in _WITH_REASON):
            raise ValueError("report.failure goes with the events `fail`, `turn-away` and `accuse`, and with no other")
        return self

    @model_validator(mode="after")
    def _only_an_audit_has_images(self) -> Self:
        if (self.report is not None and self.report.audited is not None) != (self.event is SessionEventName.AUDIT):
            raise ValueError("report.audited goes with the event `audit`, and with no other")
        return self


class SessionView(Strict):
    """One session as its parties may see it."""

    model_config = _example(
        id=_SESSION,
        state="opened",
        purpose="diagnose",
        model="pediatric-pneumonia-resnet18",
        version="1.0.0",
        plan_hash=_PLAN_HASH,
        engine="crypten",
        data_owner="st-mary",
        model_owner="north-lab",
        crypto_provider="trust-centre",
        created_at="2026-01-01T12:00:00Z",
        expires_at="2026-01-01T12:15:00Z",
        ticket="eyJhbGciOiJFZERTQSIsInR5cCI6ImluZmVyZW5jZS10aWNrZXQrand0In0.e30.c2lnbmF0dXJl",
    )

    id: UUID
    state: SessionState
    purpose: Purpose
    model: Name
    version: Version
    plan_hash: Sha256
    engine: Engine
    images: Images = 1
    data_owner: Name
    model_owner: Name
    crypto_provider: Name
    created_at: AwareDatetime
    expires_at: AwareDatetime
    ticket: str | None = Field(default=None, repr=False, max_length=8192)
    """Stands in the answer to POST /v2/sessions only; the front end does not keep it."""
    seconds: PhaseSeconds | None = None
    bytes_sent: SentBytes | None = None
    failure: Failure | None = None
    audited: Annotated[int, Field(ge=0, le=MAX_IMAGES)] = 0
    """Of its images, those by which the model owner checked the data owner: they got no answer, and do not count."""


class AuditHead(Strict):
    """How far a party's audit log had come at some moment: its last entry. The other side remembers it."""

    model_config = _example(number=17, hash=_PLAN_HASH)

    number: Annotated[int, Field(ge=1, lt=1 << 53)]
    hash: Sha256


class Problem(Strict):
    """An error, as RFC 9457 says (application/problem+json), with the stable code of our error tree."""

    model_config = _example(
        type="urn:encrypted-inference:problem:refused",
        title="Forbidden",
        status=403,
        detail="only a clinician's account may open sessions: use the data owner's key",
        instance="urn:uuid:0b6f6c0e-7f7f-4b8e-b6ad-37b2a5a6a1ce",
        code="refused",
    )

    type: str
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    """One line that says what happened and what to do."""
    instance: str
    """Names this occurrence; the front end's log line carries the same id."""
    code: str
    retry_after_seconds: Annotated[int, Field(ge=0)] | None = None
    """When the same may be asked for again, if that is known; also as the header Retry-After."""


class Unready(StrEnum):
    """What stops a server from serving a session."""

    DISK = "disk"
    """Its data folder cannot be written, or its disk is nearly full."""
    DATABASE = "database"
    """The front end's database takes no entries."""
    AUDIT_LOG = "audit-log"
    """The audit log takes no entries."""
    AUDIT_LOG_BROKEN = "audit-log-broken"
    """The audit log is not as it was written: `audit verify` says where."""
    BUDGETS = "budgets"
    """The book of what was used takes no entries."""
    CERTIFICATE = "certificate"
    """The server's own certificate is out of date or revoked, or the clock of its machine is off."""
    REVOCATIONS = "revocations"
    """Its list of revoked certificates has ended, or the clock of its machine is off."""
    CRYPTO_PROVIDER = "crypto-provider"
    """The crypto provider cannot be reached, or does not accept the server."""
    INFERENCE_SERVICE = "inference-service"
    """The front end cannot be reached."""


class Health(Strict):
    """GET /v2/health/live and /v2/health/ready, of the front end and of every party's server."""

    model_config = _example(status="ready", time="2026-01-01T12:00:00Z", reasons=[])

    status: Literal["live", "ready", "not-ready"]
    time: datetime
    reasons: tuple[Unready, ...] = ()
    """Of `not-ready` (HTTP 503): what is wrong. More stands in the server's log."""
