"""The one error tree of the project.

    EncryptedInferenceError
    +-- CallerError            the person or program calling us made a mistake: fix the input and try again
    |   +-- ImageError         a file cannot be read as the image that the model asks for
    |   +-- ModelFileError     model.onnx or card.json cannot be served as they are
    |   +-- NeedsConfirmation  readable, but doubtful: proceed with --force
    |   +-- Refused            the front end or a party will not do this for this caller
    |       +-- BudgetSpent    so many images or items were allowed for a period, and are used up
    |       +-- TooFast        more sessions a minute than are allowed
    |       +-- ModelWithdrawn its owner took this version out of service
    |       +-- Busy           every place is taken at the moment: nothing was begun, and nothing is counted
    +-- PeerViolation          the other side broke the protocol: wrong frame, step, length, identity or ticket
    |   +-- TicketInvalid      forged, expired, replayed or made for somebody else
    |   +-- PeerReported       the other side ended the session and said why
    |   +-- CertificateRefused the other side's certificate is revoked, or not valid by this side's clock
    |   +-- NotVouchedFor      what the catalog says of a model is not what its owner signed
    +-- TransportError         the link failed
    |   +-- PeerUnreachable    no connection could be made
    |   +-- PeerDisconnected   an open connection ended
    |   +-- DeadlineExceeded   a wait reached its deadline
    |   +-- SessionCancelled   this side gave the session up while it waited
    +-- ConfigurationError     settings, certificates or files of this party are wrong
    |   +-- MaterialSpent      an item of correlated randomness was used before: start a new session
    |   +-- AuditLogBroken     entries of an audit log were removed, altered or moved
    +-- ComputationFailed      the protocol ran but its result cannot be trusted: run it again
        +-- AggregationAborted a training round ended before anything was unmasked: it is run again with fresh keys

Every message is one line that says what happened and what to do. No message may carry an image, a share, a seed, a
weight or a key: messages are shown, logged and sent to peers.
"""

from http import HTTPStatus
from typing import ClassVar

from contract.roles import OtherEnd


class EncryptedInferenceError(Exception):
    """Root of the tree. `code` is stable and may be matched by programs; the text may change."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    exit_status: ClassVar[int] = 1


class CallerError(EncryptedInferenceError):
    """The input is wrong. Exit status 2, HTTP 400."""

    code = "caller"
    http_status = HTTPStatus.BAD_REQUEST
    exit_status = 2


class ImageError(CallerError):
    """A file cannot be read as the image that the model card asks for."""

    code = "image"


class ModelFileError(CallerError):
    """A model file or card cannot be served as it is."""

    code = "model-file"


class NeedsConfirmation(CallerError):
    """Readable but doubtful for this model (say, another body part). `--force` proceeds."""

    code = "needs-confirmation"


class Refused(CallerError):
    """Not allowed for this caller now: unknown account, unknown model, illegal state."""

    code = "refused"
    http_status = HTTPStatus.FORBIDDEN


class _RefusedForNow(Refused):
    """Refused until some time has passed."""

    http_status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, message: str, *, retry_after_seconds: int | None = None) -> None:
        """`retry_after_seconds`: when the same may be asked for again; None where that is not known."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class BudgetSpent(_RefusedForNow):
    """What was allowed for a period is used up. The message says whose, when it renews and whom to ask for more."""

    code = "budget-spent"


class TooFast(_RefusedForNow):
    """More sessions in the last minute than are allowed. The message says how long to wait."""

    code = "too-fast"


class ItemsSeen(Refused):
    """A stocked item was named for an earlier session already. Open a session with others, or with none."""

    code = "items-seen"
    http_status = HTTPStatus.CONFLICT


class ModelWithdrawn(Refused):
    """Its owner took this version of a model out of service for good. Choose another version."""

    code = "model-withdrawn"
    http_status = HTTPStatus.GONE


class Busy(Refused):
    """Every place of a server is taken, or every one that a hospital may have. The session ends and is not counted."""

    code = "busy"
    http_status = HTTPStatus.SERVICE_UNAVAILABLE


class PeerViolation(EncryptedInferenceError):
    """The other side broke the protocol. The session ends; its material is spent."""

    code = "peer-violation"
    http_status = HTTPStatus.BAD_REQUEST
    exit_status = 3


class TicketInvalid(PeerViolation):
    """A ticket is forged, expired, replayed or made for somebody else."""

    code = "ticket-invalid"
    http_status = HTTPStatus.UNAUTHORIZED


class PeerReported(PeerViolation):
    """The other side ended the session and said why (its words follow the colon)."""

    code = "peer-reported"

    def __init__(self, message: str, *, reported: str = "", peer_uri: str = "") -> None:
        """`reported`: the other side's code, words from outside, only to be compared. `peer_uri`: its `Party.uri`."""
        super().__init__(message)
        self.peer_uri = peer_uri
        self.reported = reported


class CertificateRefused(PeerViolation):
    """The other side holds a key of this federation, but its certificate is revoked or out of date."""

    code = "certificate-refused"

    def __init__(self, message: str, *, party_uri: str = "") -> None:
        """`party_uri`: whom the certificate names (`Party.uri`), so that the refusal can be sent there."""
        super().__init__(message)
        self.party_uri = party_uri


class NotVouchedFor(PeerViolation):
    """What the front end shows of a model is not what the model's owner signed. Nothing was sent."""

    code = "not-vouched-for"


class TransportError(EncryptedInferenceError):
    """The link between two parties failed."""

    code = "transport"
    http_status = HTTPStatus.BAD_GATEWAY
    exit_status = 4

    def __init__(self, message: str, *, peer: str = "", party: OtherEnd | None = None) -> None:
        """`peer`: the other end as messages name it, where it is known. `party`: who that is."""
        super().__init__(message)
        self.peer = peer
        self.party = party


class PeerUnreachable(TransportError):
    """No connection could be made."""

    code = "peer-unreachable"


class PeerDisconnected(TransportError):
    """An open connection ended before the session did."""

    code = "peer-disconnected"


class DeadlineExceeded(TransportError):
    """A wait reached its deadline. Names the peer, the step and the time waited."""

    code = "deadline-exceeded"

    def __init__(self, *, peer: str, step: str, waited_seconds: float, party: OtherEnd | None = None) -> None:
        """Build the message from who was waited for, in which step, for how long (seconds)."""
        super().__init__(
            f"{peer} did not answer within {waited_seconds:.1f} s in step '{step}': check that it runs and is "
            "reachable, then start a new session",
            peer=peer,
            party=party,
        )
        self.step = step
        self.waited_seconds = waited_seconds


class SessionCancelled(TransportError):
    """This side gave up a running session: the user, the front end or a shutdown asked for it."""

    code = "session-cancelled"


class ConfigurationError(EncryptedInferenceError):
    """This party's own settings, certificates or files are wrong."""

    code = "configuration"
    exit_status = 5


class MaterialSpent(ConfigurationError):
    """An item of correlated randomness was consumed before; using it twice would reveal secrets."""

    code = "material-spent"


class AuditLogBroken(ConfigurationError):
    """An audit log is not what was written, or lacks entries that somebody else has seen."""

    code = "audit-log-broken"


class ComputationFailed(EncryptedInferenceError):
    """The protocol ran to its end, but the result is implausible and must not be shown."""

    code = "computation-failed"
    exit_status = 6


class AggregationAborted(ComputationFailed):
    """Too few hospitals are left in a training round. Nothing was unmasked; run it again with fresh keys and masks."""

    code = "aggregation-aborted"
