"""Mutually authenticated TLS 1.3 inside any byte stream, so that identity never depends on who carries the bytes.

A load balancer or inspecting proxy that ends an outer TLS connection sees only ciphertext of this one.
"""

import ssl
import threading
from collections.abc import Sequence

from authority.tls_refusal import find_cause
from contract.errors import ConfigurationError, EncryptedInferenceError, PeerViolation, TransportError
from contract.identity import Party
from secure_computation.channel.stream import ByteStream, Deadline, Piece
from secure_computation.channel.trust import TlsContext, tls_context

__all__ = ["CIPHERTEXT_BYTES", "TlsContext", "TlsStream", "tls_context"]

CIPHERTEXT_BYTES = 256 << 10
"""Plaintext is encrypted and handed on in pieces of this size: one message each, the fastest size on WebSocket."""

RECORD_BYTES = 16 << 10


class TlsStream(ByteStream):
    """TLS over `inner`. Call `handshake` first."""

    def __init__(self, inner: ByteStream, context: TlsContext, *, server_side: bool) -> None:
        """Wrap `inner`, which this stream owns from now on. What `context` holds now holds for the whole connection."""
        self._inner = inner
        self._trust = context.trust()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = self._trust.ssl_context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._state = threading.Lock()  # OpenSSL's connection object is not for two threads at once
        self._writing = threading.Lock()  # keeps ciphertext in order; held while waiting, unlike _state

    def handshake(self, deadline: Deadline) -> Party:
        """Authenticate both ends; return who the peer is. Raises PeerViolation for a certificate not of this
        federation, ConfigurationError if the peer refuses ours.

        CertificateRefused is raised after TLS stands, so that the peer can be told why: `identity.open_channel`
        does. A client returns before the server has judged its certificate: a refusal shows at its first read.
        """
        while True:
            try:
                self._tls.do_handshake()
                self._flush(deadline)
                break
            except ssl.SSLWantReadError:
                self._flush(deadline)
                self._incoming.write(self._inner.read_some(deadline))
            except ssl.SSLError as error:
                self._send_alert(deadline)
                raise _translated(error, deadline) from error
        shown = self._tls.getpeercert(binary_form=True)
        if shown is None:
            raise PeerViolation(f"{deadline.peer} showed no certificate: it must enrol with `federation enroll`")
        return self._trust.judge(shown, found_at=deadline.peer)

    def write(self, pieces: Sequence[Piece], deadline: Deadline) -> None:
        with self._writing:
            pending = 0
            for piece in pieces:
                view = memoryview(piece)
                for start in range(0, len(view), CIPHERTEXT_BYTES):
                    part = view[start : start + CIPHERTEXT_BYTES]
                    if pending + len(part) > CIPHERTEXT_BYTES:
                        self._flush(deadline)
                        pending = 0
                    self._encrypt(part, deadline)
                    pending += len(part)
            self._flush(deadline)

    def read_some(self, deadline: Deadline) -> memoryview:
        view = memoryview(bytearray(RECORD_BYTES))
        return view[: self._decrypt(view, deadline)]

    def read_into(self, view: memoryview, deadline: Deadline) -> None:
        filled = 0
        while filled < len(view):
            filled += self._decrypt(view[filled:], deadline)

    def hold_back(self, most: int | None) -> None:
        self._inner.hold_back(most)

    def interrupt(self, reason: str) -> None:
        self._inner.interrupt(reason)

    def close(self) -> None:
        """See ByteStream. No close_notify: a channel's END frame says what it would say, and earlier."""
        self._inner.close()

    def _encrypt(self, part: memoryview, deadline: Deadline) -> None:
        if len(part) == 0:
            return
        try:
            with self._state:
                self._tls.write(part)
        except ssl.SSLError as error:
            raise _translated(error, deadline) from error

    def _flush(self, deadline: Deadline) -> None:
        with self._state:
            ciphertext = self._outgoing.read()
        if ciphertext:
            self._inner.write((ciphertext,), deadline)

    def _send_alert(self, deadline: Deadline) -> None:
        try:
            self._flush(deadline)
        except TransportError:
            return  # the error behind the alert is the one to raise

    def _decrypt(self, view: memoryview, deadline: Deadline) -> int:
        """Fill the beginning of `view` with at least one byte; return how many."""
        while True:
            filled = 0
            try:
                with self._state:
                    while filled < len(view):
                        count = self._tls.read(len(view) - filled, view[filled:])
                        if not count:
                            raise deadline.disconnected("TLS connection closed")
                        filled += int(count)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self._send_alert(deadline)
                raise _translated(error, deadline) from error
            if filled:
                return filled
            chunk = self._inner.read_some(deadline)
            with self._state:
                self._incoming.write(chunk)


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "no reason given").lower().replace("_", " ")


def _translated(error: ssl.SSLError, deadline: Deadline) -> EncryptedInferenceError:
    """The project's error for OpenSSL's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return PeerViolation(
            f"{deadline.peer} has a certificate that this party does not accept ({find_cause(error)}): it must be "
            "enrolled with the same federation"
        )
    reason = _reason(error)
    if "did not return a certificate" in reason:
        return PeerViolation(f"{deadline.peer} showed no certificate: it must enrol with `federation enroll`")
    _, _, alert = reason.partition(" alert ")
    if "certificate" in alert or alert in {"unknown ca", "decrypt error"}:
        return ConfigurationError(
            f"{deadline.peer} refuses the certificate of this party ({alert}): it must be valid today and enrolled "
            "with the same federation"
        )
    return PeerViolation(
        f"{deadline.peer} broke the protocol in step '{deadline.step}': what it sent is not valid TLS 1.3 ({reason}); "
        "check the address"
    )
