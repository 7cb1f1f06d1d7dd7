"""The two long-lived processes: a hospital's, and the coordinator's."""

import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import torch
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from contract.errors import ConfigurationError, PeerDisconnected, PeerViolation
from federated_learning.flower.exchange import GridExchange
from federated_learning.flower.fleet import RunningSuperLink, superlink, supernode
from federated_learning.flower.processes import Child, hold_lock, repeating
from federated_learning.flower.records import from_records, to_records
from federated_learning.flower.tasks import run_server_app, serve_messages
from federated_learning.rounds.coordinator import Coordinator, RoundReport
from federated_learning.rounds.hospital_session import HospitalSession
from federated_learning.rounds.letters import Letter, Step
from federated_learning.rounds.participants import Participants, read_participants, read_signing_key
from federated_learning.rounds.recording import record_round, record_run
from federated_learning.torch_networks import find_shapes
from plumbing.settings import Address

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.serverapp import Grid

    from federated_learning.rounds.aggregating import Event
    from federated_learning.rounds.settings import CoordinatorSettings, HospitalSettings, RunSettings

PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 20.0
START_SECONDS = 120.0
LOCK_SECONDS = 3.0
FINISH_SECONDS = 20.0
MESSAGE_OVERHEAD = 1 << 21
"""Bytes beyond the weights that a message may have: Flower's frames, headers, shares of a hundred hospitals."""

LOOK_SECONDS, ANSWER_SECONDS = 10.0, 5.0

Say = Callable[[str], None]


def wrong_certificate(participants: Participants) -> str:
    """What to say where something else listens at the coordinator's address."""
    return f"{participants.coordinator} shows another certificate than federation.json: this is not the coordinator"


class Reachability:
    """Looks whether the coordinator answers with its certificate, and says so if that changes. Sends nothing."""

    def __init__(self, participants: Participants, *, say: Callable[[str], None]) -> None:
        self._participants, self._address = participants, Address.parse(participants.coordinator)
        certificate = x509.load_pem_x509_certificate(participants.certificate.encode())
        self._context = ssl.create_default_context(cadata=certificate.public_bytes(Encoding.DER))
        self._say, self._said = say, ""

    def look(self) -> None:
        """Connect once, and say a line if it went otherwise than the last time."""
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


def _quieten_flower() -> None:
    """Errors only: what goes on is shown in our own words."""
    logging.getLogger("flwr").setLevel(logging.ERROR)


@contextmanager
def end_in_order() -> Iterator[None]:
    """Make a request to terminate end this process like Ctrl-C: children are stopped, files closed."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_hospital(
    settings: "HospitalSettings",
    *,
    say: Say,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _all: None,
) -> None:
    """Take part until the run is finished, or for good errors of this hospital's own settings."""
    _quieten_flower()
    participants = read_participants(settings.federation)
    participants.require_certificate_in_time()
    own = next((hospital for hospital in participants.hospitals if hospital.name == settings.name), None)
    if own is None:
        names = ", ".join(participants.names)
        raise ConfigurationError(f"{settings.federation}: has no hospital '{settings.name}', only {names}")
    key = read_signing_key(settings.keys, own)
    torch.set_num_threads(settings.threads)
    with end_in_order(), hold_lock(settings.state / "lock", seconds=LOCK_SECONDS, what=f"hospital {settings.name}"):
        session = HospitalSession(settings, participants, key, say=say, progress=progress)
        session.check_data()
        for line in session.words():
            say(line)
        pause, began, max_bytes = PAUSE_SECONDS, False, _largest_message(settings, len(participants.hospitals))
        with watch_coordinator(participants, say=say):
            while not session.finished:
                started = time.monotonic()
                try:
                    _serve(session, participants, settings, say, max_bytes=max_bytes)
                except ConfigurationError as error:
                    if not began:
                        raise
                    say(f"{error}; trying again")  # it did run before: this machine is busy, or was asleep
                began = True
                pause = PAUSE_SECONDS if time.monotonic() - started > LONGEST_PAUSE_SECONDS else pause * 2
                time.sleep(min(pause, LONGEST_PAUSE_SECONDS))


def _serve(
    session: HospitalSession, participants: Participants, settings: "HospitalSettings", say: Say, *, max_bytes: int
) -> None:
    """One SuperNode's life: it ends when the coordinator restarts, and if that one does not know our key."""
    lost = ""
    node = supernode(participants, keys=settings.keys, folder=settings.state / "flower", max_message_bytes=max_bytes)
    with node as (child, runtime, secret):
        try:
            serve_messages(
                lambda message: _reply(session, message, max_bytes),
                runtime,
                secret=secret,
                goes_on=lambda: child.exit_status is None and not session.finished,
            )
        except PeerDisconnected as error:
            lost = "" if child.wait(2.0) is not None else str(error)
    if not session.finished:
        say(lost or _why(child, participants))


def _reply(session: HospitalSession, message: "Message", max_bytes: int) -> "Message":
    """Flower's view of a session."""
    from flwr.app import Message

    def read() -> tuple[Step, Letter]:
        try:
            step = Step(message.metadata.message_type)
        except ValueError:
            raise PeerViolation("the coordinator asks for something unknown: run the same version everywhere") from None
        return step, from_records(message.content, max_bytes=max_bytes)

    return Message(to_records(session.respond(read)), reply_to=message)


def _why(child: Child, participants: Participants) -> str:
    words = child.last_words()
    if "CERTIFICATE_VERIFY_FAILED" in words:
        participants.require_certificate_in_time()  # it may have ended since the run began
        return wrong_certificate(participants)
    if "401" in words or "Failed to initialize the connection" in words:
        return (
            f"the coordinator at {participants.coordinator} does not know this hospital's key (yet): it restarts, or "
            "its federation.json is another one. Trying again"
        )
    return f"lost the coordinator at {participants.coordinator}; trying again"


MAX_MESSAGE_BYTES = (1 << 31) - 1
"""Of what a hospital takes in at once: the masked updates of one sum. No more fits into a message of Flower's."""


def run_coordinator(
    settings: "CoordinatorSettings",
    *,
    show: "Callable[[Event], None]",
    finished: Callable[[Coordinator, RoundReport], None],
) -> Coordinator:
    """Run the training to its end, or go on with one that was interrupted, and write its record after each round."""
    from flwr.serverapp import ServerApp

    _quieten_flower()
    participants = read_participants(settings.federation)
    participants.require_certificate_in_time()
    app, coordinators = ServerApp(), list[Coordinator]()
    max_bytes = _largest_message(settings, len(participants.hospitals))

    with (
        end_in_order(),
        hold_lock(settings.output / "lock", seconds=LOCK_SECONDS, what="a coordinator"),
        superlink(
            participants,
            listen=settings.listen,
            keys=settings.keys,
            folder=settings.output / "flower",
            max_body_bytes=max_bytes,
        ) as link,
    ):

        @app.main()
        def main(grid: "Grid", _context: "Context") -> None:
            exchange = GridExchange(grid, link.nodes, waiting=settings.waiting, max_bytes=max_bytes)

            def record(report: RoundReport) -> None:
                record_round(settings, report)
                record_run(settings, participants, coordinator)
                finished(coordinator, report)

            coordinator = Coordinator(settings, participants, exchange, show=show, finished=record)
            coordinators.append(coordinator)
            coordinator.run()
            record_run(settings, participants, coordinator)
            exchange.say_goodbye(seconds=FINISH_SECONDS)

        with _end_with_superlink(link):
            run_server_app(app, link.runtime, secret=link.secret, wait_seconds=START_SECONDS)
    return coordinators[0]


@contextmanager
def _end_with_superlink(link: RunningSuperLink) -> Iterator[None]:
    """Interrupt this process when its SuperLink ends: Flower's client would try to reach it for ever."""

    def interrupt() -> bool:
        if link.child.exit_status is None:
            return False
        os.kill(os.getpid(), signal.SIGINT)
        return True

    try:
        with repeating(interrupt, seconds=0.5):
            yield
    except KeyboardInterrupt:
        if link.child.exit_status is None:
            raise
        raise PeerDisconnected(
            f"the SuperLink ended: read {link.child.log}, and give the same command again to go on"
        ) from None


def _largest_message(settings: "RunSettings", hospitals: int) -> int:
    """Of the weights, or of all hospitals' masked updates. Raises ConfigurationError for what no hospital takes in."""
    from federated_learning.rounds.round_orders import count_elements

    size, aggregation = count_elements(find_shapes(settings.training)), settings.aggregation
    largest = max(4 * size, hospitals * size * aggregation.ring_bits // 8 if aggregation.secure else 8 * size)
    if largest + MESSAGE_OVERHEAD > MAX_MESSAGE_BYTES:
        raise ConfigurationError(
            f"the masked updates of {hospitals} hospitals have {largest >> 20} MiB together, and every hospital gets "
            f"them all: at most {MAX_MESSAGE_BYTES >> 20} MiB are possible. Train a smaller network"
        )
    return largest + MESSAGE_OVERHEAD
