"""Whether the coordinator can be reached: a hospital's SuperNode keeps asking for it, and says nothing meanwhile."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from federated_learning.flower.processes import repeating
from federated_learning.rounds.participants import Participants
from plumbing.settings import Address

LOOK_SECONDS, ANSWER_SECONDS = 10.0, 5.0


def wrong_certificate(participants: Participants) -> str:
    """What to say where something else listens at the coordinator's address."""
    return f"{participants.coordinator} shows another certificate than federation.json: this is not the coordinator"


class Reachability:
    """Looks whether the coordinator answers with its certificate, and says so where that changes. Sends nothing."""

    def __init__(self, participants: Participants, *, say: Callable[[str], None]) -> None:
        """Nothing is said until something is wrong."""
        self._participants, self._address = participants, Address.parse(participants.coordinator)
        certificate = x509.load_pem_x509_certificate(participants.certificate.encode())
        self._context = ssl.create_default_context(cadata=certificate.public_bytes(Encoding.DER))
        self._say, self._said = say, ""

    def look(self) -> None:
        """Connect once, and say a line where it went otherwise than the last time."""
        wrong = self._wrong()
        if wrong != self._said:
            self._say(wrong or f"the coordinator at {self._participants.coordinator} answers now")
        self._said = wrong

    def _wrong(self) -> str:
        where = (self._address.host, self._address.port)
        try:
            with (
                socket.create_connection(where, timeout=ANSWER_SECONDS) as connection,
                self._context.wrap_socket(connection, server_hostname=where[0]),
            ):
                return ""
        except ssl.SSLCertVerificationError:
            return wrong_certificate(self._participants)
        except socket.gaierror:
            why = "this machine finds no address for that name"
        except ConnectionRefusedError:
            why = "nothing listens there: is the coordinator started?"
        except TimeoutError:
            why = f"no answer in {ANSWER_SECONDS:.0f} s: look at the firewalls between"
        except (ssl.SSLError, ConnectionError):
            why = "what listens there does not speak TLS, or ends the connection"
        except OSError as error:
            why = error.strerror or "the network refuses"
        return f"the coordinator at {self._participants.coordinator} cannot be reached ({why}); trying again"


@contextmanager
def watch_coordinator(participants: Participants, *, say: Callable[[str], None]) -> Iterator[None]:
    """Look every ten seconds, from a thread, while the block lasts."""
    reachability = Reachability(participants, say=say)
    with repeating(reachability.look, seconds=LOOK_SECONDS, at_once=True):
        yield
