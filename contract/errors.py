"""The one error tree of the project.

Every message is one line that says what happened and what to do. No message may carry an image, a share, a seed, a
weight or a key: messages are shown, logged and sent to peers.

A class names its code, and its HTTP and exit status if they are not those of the class above.
"""

from http import HTTPStatus
from typing import ClassVar

from contract.roles import OtherEnd


class EncryptedInferenceError(Exception):
    """Root of the tree. `code` is stable and may be matched by programs; the text may change."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    exit_status: ClassVar[int] = 1

    def __init_subclass__(
        cls, *, code: str = "", http_status: HTTPStatus | None = None, exit_status: int | None = None
    ) -> None:
        """What is left out is as for the class above."""
        cls.code = code or cls.code
        cls.http_status = http_status or cls.http_status
        cls.exit_status = exit_status or cls.exit_status


class CallerError(EncryptedInferenceError, code="caller", http_status=HTTPStatus.BAD_REQUEST, exit_status=2):
    """The input is wrong. Exit status 2, HTTP 400."""


class ImageError(CallerError, code="image"):
    """A file cannot be read as the image that the model card asks for."""


class ModelFileError(CallerError, code="model-file"):
    """A model file or card cannot be served as it is."""


class NeedsConfirmation(CallerError, code="needs-confirmation"):
    """Readable but doubtful for this model (say, another body part). `--force` proceeds."""


class Refused(CallerError, code="refused", http_status=HTTPStatus.FORBIDDEN):
    """Not allowed for this caller now: unknown account, unknown model, illegal state."""


class _RefusedForNow(Refused, http_status=HTTPStatus.TOO_MANY_REQUESTS):
    """Refused until some time has passed."""

    def __init__(self, message: str, *, retry_after_seconds: int | None = None) -> None:
        """`retry_after_seconds`: when the same may be asked for again; None if that is not known."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class BudgetSpent(_RefusedForNow, code="budget-spent"):
    """What was allowed for a period is used up. The message says whose, when it renews and whom to ask for more."""


class TooFast(_RefusedForNow, code="too-fast"):
    """More sessions in the last minute than are allowed. The message says how long to wait."""


class ItemsSeen(Refused, code="items-seen", http_status=HTTPStatus.CONFLICT):
    """A stocked item was named for an earlier session already. Open a session with others, or with none."""


class AccountStopped(Refused, code="account-stopped"):
    """A model owner serves this data owner no more: it found that its software did not follow the protocol. The message
    says when, in which session, and whom to ask.
    """


class ModelWithdrawn(Refused, code="model-withdrawn", http_status=HTTPStatus.GONE):
    """Its owner took this version of a model out of service for good. Choose another version."""


class Busy(Refused, code="busy", http_status=HTTPStatus.SERVICE_UNAVAILABLE):
    """Every place of a server is taken, or every one that a hospital may have. The session ends and is not counted."""


class PeerViolation(EncryptedInferenceError, code="peer-violation", http_status=HTTPStatus.BAD_REQUEST, exit_status=3):
    """The other side broke the protocol. The session ends; its material is spent."""


class TicketInvalid(PeerViolation, code="ticket-invalid", http_status=HTTPStatus.UNAUTHORIZED):
    """A ticket is forged, expired, replayed or made for somebody else."""


class DealMismatch(PeerViolation, code="deal-mismatch"):
    """The crypto provider dealt the two online parties material that does not belong together. Nothing was computed."""


class PeerReported(PeerViolation, code="peer-reported"):
    """The other side ended the session and said why (its words follow the colon)."""

    def __init__(self, message: str, *, reported: str = "", words: str = "", peer_uri: str = "") -> None:
        """`reported`: the other side's code, from outside, only to be compared. `words`: its own words, alone.

        `peer_uri`: its `Party.uri`.
        """
        super().__init__(message)
        self.words = words
        self.peer_uri = peer_uri
        self.reported = reported


class CertificateRefused(PeerViolation, code="certificate-refused"):
    """The other side holds a key that the authority signed, but its certificate is revoked or out of date."""

    def __init__(self, message: str, *, party_uri: str = "") -> None:
        """`party_uri`: whom the certificate names (`Party.uri`), so that the refusal can be sent there."""
        super().__init__(message)
        self.party_uri = party_uri


class NotVouchedFor(PeerViolation, code="not-vouched-for"):
    """What the front end shows of a model is not what the model's owner signed. Nothing was sent."""


class ReferenceMismatch(PeerViolation, code="reference-mismatch"):
    """A model answered a reference picture otherwise than its owner signed: it may not be the model of its card."""


class TransportError(EncryptedInferenceError, code="transport", http_status=HTTPStatus.BAD_GATEWAY, exit_status=4):
    """The link between two parties failed."""

    def __init__(self, message: str, *, peer: str = "", party: OtherEnd | None = None) -> None:
        """`peer`: the other end as messages name it, if it is known. `party`: who that is."""
        super().__init__(message)
        self.peer = peer
        self.party = party


class PeerUnreachable(TransportError, code="peer-unreachable"):
    """No connection could be made."""


class PeerDisconnected(TransportError, code="peer-disconnected"):
    """An open connection ended before the session did."""


class DeadlineExceeded(TransportError, code="deadline-exceeded"):
    """A wait reached its deadline. Names the peer, the step and the time waited."""

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


class SessionCancelled(TransportError, code="session-cancelled"):
    """This side gave up a running session: the user, the front end or a shutdown asked for it."""


class ConfigurationError(EncryptedInferenceError, code="configuration", exit_status=5):
    """This party's own settings, certificates or files are wrong."""


class SettingsWrong(ConfigurationError):
    """Settings are missing or wrong: its line tells all of them."""

    def __init__(self, *faults: str) -> None:
        """`faults`: a line for each."""
        super().__init__("; also ".join(faults))
        self.faults = faults


class MaterialSpent(ConfigurationError, code="material-spent"):
    """An item of correlated randomness was consumed before; using it twice would reveal secrets."""


class AuditLogBroken(ConfigurationError, code="audit-log-broken"):
    """An audit log is not what was written, or lacks entries that somebody else has seen."""


class ComputationFailed(EncryptedInferenceError, code="computation-failed", exit_status=6):
    """The protocol ran to its end, but the result is implausible and must not be shown."""


class AggregationAborted(ComputationFailed, code="aggregation-aborted"):
    """Too few hospitals are left in a training round. Nothing was unmasked; run it again with fresh keys and masks."""
