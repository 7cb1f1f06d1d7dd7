"""Two parties that shake hands in memory, and what they make of each other."""

import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from contract.errors import EncryptedInferenceError
from contract.identity import Credentials, Party, Role
from secure_computation.channel.identity import open_channel
from secure_computation.channel.memory import MemoryStream
from secure_computation.channel.stream import Deadline
from secure_computation.channel.tls import TlsContext, TlsStream, tls_context
from secure_computation.channel.trust import Trust
from tests.secure_computation.channel.conftest import DEADLINES


def run(stream: TlsStream, name: str) -> Party | EncryptedInferenceError:
    """Handshake and, as TLS 1.3 needs it for a client to learn its fate, one read."""
    try:
        deadline = Deadline(peer=name, step="handshake", seconds=5)
        channel = open_channel(stream, expect=tuple(Role), found_at=name, deadline=deadline, deadlines=DEADLINES)
        channel.send_end(step="hello")
        channel.receive_end(step="hello")
    except EncryptedInferenceError as error:
        stream.close()
        return error
    return channel.peer


class Bare(TlsContext):
    """A client with TLS of its own."""

    def __init__(self, own: TlsContext, bare: ssl.SSLContext) -> None:
        self._bare = replace(own.trust(), ssl_context=bare)

    def trust(self) -> Trust:
        return self._bare


def meet(client: TlsContext, server: TlsContext) -> tuple[object, object]:
    """What the client and the server make of each other."""
    left, right = MemoryStream.pair()
    ends = (TlsStream(left, client, server_side=False), TlsStream(right, server, server_side=True))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(run, ends[0], "the server"), pool.submit(run, ends[1], "the client")
        return first.result(10), second.result(10)


def contexts(client: Credentials, server: Credentials) -> tuple[TlsContext, TlsContext]:
    return tls_context(client, server_side=False), tls_context(server, server_side=True)


def at(credentials: Credentials, *, server_side: bool, **ahead: float) -> TlsContext:
    """A party whose clock is this far ahead of ours."""
    return TlsContext(credentials, server_side=server_side, clock=lambda: datetime.now(UTC) + timedelta(**ahead))
