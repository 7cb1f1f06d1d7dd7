"""The two long-lived processes: a hospital's, and the coordinator's."""

import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

import torch
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.app import Message

from contract.errors import ConfigurationError, PeerDisconnected, PeerViolation
from federated_learning.flower.exchange import GridExchange
from federated_learning.flower.fleet import RunningSuperLink, superlink, supernode
from federated_learning.flower.processes import Child, hold_lock, repeating
from federated_learning.flower.records import from_records, to_records
from federated_learning.flower.tasks import run_server_task, serve_messages
from federated_learning.rounds.aggregating import Event
from federated_learning.rounds.coordinator import Coordinator
from federated_learning.rounds.hospital_session import HospitalSession
from federated_learning.rounds.letters import Letter, Step
from federated_learning.rounds.participants import Participants, read_participants
from federated_learning.rounds.round_orders import count_elements
from federated_learning.rounds.settings import CoordinatorSettings, HospitalSettings, RunSettings
from federated_learning.run_records import RoundRecord, RoundTraffic, append_round
from federated_learning.torch_networks import find_shapes
from plumbing.settings import Address

PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 20.0
START_SECONDS = 120.0
LOCK_SECONDS = 3.0
FINISH_SECONDS = 20.0
MESSAGE_OVERHEAD = 1 << 21
"""Bytes beyond the weights that a message may have: Flower's frames, headers, shares of a hundred hospitals."""

LOOK_SECONDS, ANSWER_SECONDS = 10.0, 5.0

Say = Callable[[str], None]


def describe_wrong_certificate(participants: Participants) -> str:
    """What to say if something else listens at the coordinator's address."""
    return f"{participants.coordinator} shows another certificate than federation.json: this is not the coordinator"


def find_fault(participants: Participants) -> str:
    """Connect once, and say why the coordinator does not answer with its certificate; empty if it does."""
    address = Address.parse(participants.coordinator)
    certificate = x509.load_pem_x509_certificate(participants.certificate.encode())
    context = ssl.create_default_context(cadata=certificate.public_bytes(Encoding.DER))
    try:
        with (
            socket.create_connection((address.host, address.port), timeout=ANSWER_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=address.host),
        ):
            return ""
    except ssl.SSLCertVerificationError:
        return describe_wrong_certificate(participants)
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
    return f"the coordinator at {participants.coordinator} cannot be reached ({why}); trying again"


def make_look(participants: Participants, *, say: Say) -> Callable[[], None]:
    """Call it to look at the coordinator; it says a line if that went otherwise than the last time."""
    last = ""

    def look() -> None:
        nonlocal last
        fault, before = find_fault(participants), last
        last = fault
        if fault != before:
            say(fault or f"the coordinator at {participants.coordinator} answers now")

    return look


def watch_coordinator(participants: Participants, *, say: Say) -> AbstractContextManager[None]:
    """Look every ten seconds, from a thread, while the block lasts. Sends nothing."""
    return repeating(make_look(participants, say=say), seconds=LOOK_SECONDS, at_once=True)


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
    settings: HospitalSettings,
    *,
    say: Say,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _all: None,
) -> None:
    """Take part until the run is finished, or for good errors of this hospital's own settings."""
    _quieten_flower()
    participants = read_participants(settings.federation)
    participants.require_certificate_in_time()
    torch.set_num_threads(settings.threads)
    with end_in_order(), hold_lock(settings.state / "lock", seconds=LOCK_SECONDS, what=f"hospital {settings.name}"):
        session = HospitalSession(settings, participants, say=say, progress=progress)
        session.begin()
        pause, began, max_bytes = PAUSE_SECONDS, False, _bound_message(settings, len(participants.hospitals))
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
    session: HospitalSession, participants: Participants, settings: HospitalSettings, say: Say, *, max_bytes: int
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
                goes_on=lambda: not child.ended() and not session.finished,
            )
        except PeerDisconnected as error:
            lost = "" if child.ended(within_seconds=2.0) else str(error)
    if not session.finished:
        say(lost or _explain_end(child, participants))


def _reply(session: HospitalSession, message: Message, max_bytes: int) -> Message:
    """Flower's view of a session."""

    def read() -> tuple[Step, Letter]:
        try:
            step = Step(message.metadata.message_type)
        except ValueError:
            raise PeerViolation("the coordinator asks for something unknown: run the same version everywhere") from None
        return step, from_records(message.content, max_bytes=max_bytes)

    return Message(to_records(session.respond(read)), reply_to=message)


def _explain_end(child: Child, participants: Participants) -> str:
    words = child.read_last_words()
    if "CERTIFICATE_VERIFY_FAILED" in words:
        participants.require_certificate_in_time()  # it may have ended since the run began
        return describe_wrong_certificate(participants)
    if "401" in words or "Failed to initialize the connection" in words:
        return (
            f"the coordinator at {participants.coordinator} does not know this hospital's key (yet): it restarts, or "
            "its federation.json is another one. Trying again"
        )
    return f"lost the coordinator at {participants.coordinator}; trying again"


MAX_MESSAGE_BYTES = (1 << 31) - 1
"""Of what a hospital takes in at once: the masked updates of one sum. No more fits into a message of Flower's."""


def run_coordinator(
    settings: CoordinatorSettings,
    *,
    show: Callable[[Event], None],
    finished: Callable[[Coordinator, RoundRecord, RoundTraffic], None],
) -> Coordinator:
    """Run the training to its end, or go on with one that was interrupted, and write its record after each round."""
    _quieten_flower()
    participants = read_participants(settings.federation)
    participants.require_certificate_in_time()
    max_bytes = _bound_message(settings, len(participants.hospitals))
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
        _end_with_superlink(link),
        run_server_task(link.runtime, secret=link.secret, wait_seconds=START_SECONDS) as grid,
    ):
        exchange = GridExchange(grid, link.nodes, waiting=settings.waiting, max_bytes=max_bytes)

        def record(line: RoundRecord, traffic: RoundTraffic) -> None:
            append_round(settings.output, line)
            append_round(settings.output, traffic)
            coordinator.write_record()
            finished(coordinator, line, traffic)

        coordinator = Coordinator(settings, participants, exchange, show=show, finished=record)
        coordinator.run()
        coordinator.write_record()
        exchange.say_goodbye(seconds=FINISH_SECONDS)
    return coordinator


@contextmanager
def _end_with_superlink(link: RunningSuperLink) -> Iterator[None]:
    """Interrupt this process when its SuperLink ends: Flower's client would try to reach it for ever."""

    def interrupt() -> bool:
        if ended := link.child.ended():
            os.kill(os.getpid(), signal.SIGINT)
        return ended

    try:
        with repeating(interrupt, seconds=0.5):
            yield
    except KeyboardInterrupt:
        if not link.child.ended():
            raise
        raise PeerDisconnected(
            f"the SuperLink ended: read {link.child.log}, and give the same command again to go on"
        ) from None


def _bound_message(settings: RunSettings, hospitals: int) -> int:
    """Of the weights, or of all hospitals' masked updates. Raises ConfigurationError for what no hospital takes in."""
    size, aggregation = count_elements(find_shapes(settings.training)), settings.aggregation
    largest = max(4 * size, hospitals * size * aggregation.ring_bits // 8 if aggregation.secure else 8 * size)
    if largest + MESSAGE_OVERHEAD > MAX_MESSAGE_BYTES:
        raise ConfigurationError(
            f"the masked updates of {hospitals} hospitals have {largest >> 20} MiB together, and every hospital gets "
            f"them all: at most {MAX_MESSAGE_BYTES >> 20} MiB are possible. Train a smaller network"
        )
    return largest + MESSAGE_OVERHEAD
