"""The channel between two parties: typed frames over a byte stream, with deadlines and counters."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from contract.errors import PeerDisconnected, PeerReported, PeerViolation, TransportError
from contract.identity import Party
from plumbing.settings import Waiting
from secure_computation import wire
from secure_computation.channel.stream import ByteStream, Deadline, Piece
from secure_computation.channel.traffic import ChannelTraffic, new_meters
from secure_computation.wire import Expectation, Frame, Header, Kind, Phase

PIECE_BYTES = 1 << 20
"""Large bodies pass to the stream in pieces of this size."""

EXCHANGE_AHEAD_BYTES = 32 << 20
"""How far an exchange may write ahead of what it has read. Every transport takes in more than this without being read
(`websocket.INBOUND_BYTES`), so two parties that write to each other never wait for each other; and at 100 ms of
distance it still allows 320 MB/s."""

LOOK_STEP: Final = "look"
"""Of an END in place of a first message: whoever dialled asks whether it is accepted, and leaves."""

Recorder: TypeAlias = Callable[[Frame], None]
"""Sees every frame that a channel receives, for tests of what a party can see."""

Element = TypeVar("Element", np.int64, np.int32, np.uint8)


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long a party waits before it gives up."""

    connect_seconds: float = 10.0
    """For a connection and its TLS handshake."""
    step_seconds: float = 60.0
    """For the peer's next frame, which includes what it computes before."""
    slowest_bytes_per_second: float = 128 << 10
    """A body of n bytes may take n / this longer: a slow link passes, a peer that trickles does not."""

    @classmethod
    def of(cls, waiting: Waiting) -> Self:
        """What a party's settings say."""
        return cls(connect_seconds=waiting.connect, step_seconds=waiting.step)

    def for_body(self, length: int) -> float:
        """Seconds for a frame whose body has `length` bytes."""
        return self.step_seconds + length / self.slowest_bytes_per_second


class Channel:
    """An open, ordered, counted connection to one peer.

    Both sides name the step of each frame; a frame of another kind, step, phase, length, shape or order raises
    PeerViolation, and an ERROR from the peer raises PeerReported. Waits end in DeadlineExceeded, PeerDisconnected or,
    after `cancel`, SessionCancelled. After any of these the session is over: `send_error` if it helps, then `close`.

    One thread may send while another receives; `cancel` and `close` may be called from anywhere.
    """

    def __init__(
        self, stream: ByteStream, *, peer: Party, deadlines: Deadlines, recorder: Recorder | None = None
    ) -> None:
        """Speak frames over `stream` with `peer`, whose identity the stream has checked."""
        self.peer = peer
        self.deadlines = deadlines
        self._stream = stream
        self._recorder = recorder
        self._phase = Phase.HANDSHAKE
        self._meters = new_meters()
        self._sent = 0
        self._received = 0
        self._looked_at = False
        self._sending = threading.Lock()
        self._receiving = threading.Lock()

    # Phases, counters, end

    def set_phase(self, phase: Phase) -> None:
        """Enter a phase; frames sent and expected from now on belong to it. Both sides do so at the same point."""
        self._phase = phase

    @property
    def has_begun(self) -> bool:
        """Whether this side has entered a phase: who dialled was admitted, and what it does costs a ticket."""
        return self._phase is not Phase.HANDSHAKE

    @property
    def is_looked_at(self) -> bool:
        """Whether the peer only asked by `ask_whether_accepted`."""
        return self._looked_at

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Spend a block in `phase`, then return to the one before."""
        before = self._phase
        self._phase = phase
        try:
            yield
        finally:
            self._phase = before

    def traffic(self, phase: Phase | None = None) -> ChannelTraffic:
        """What passed so far in `phase`, or in all phases together."""
        if phase is not None:
            return self._meters[phase].traffic()
        return sum((meter.traffic() for meter in self._meters.values()), start=ChannelTraffic())

    def cancel(self, reason: str) -> None:
        """Wake whoever waits on this channel, in whatever thread, with SessionCancelled. `reason` may be shown."""
        self._stream.interrupt(reason)

    def close(self) -> None:
        """End the connection. Never raises; closing twice is fine."""
        self._stream.close()

    @contextmanager
    def held_back(self, most: int) -> Iterator[None]:
        """In this block, take in at most about `most` bytes that nobody reads: beyond, the peer has to wait."""
        self._stream.hold_back(most)
        try:
            yield
        finally:
            self._stream.hold_back(None)

    # Tensors

    def send_tensor(self, tensor: NDArray[Element], *, step: str) -> None:
        """Send an int64, int32 or uint8 array of any shape. It must not change until this returns."""
        self._send(Kind.TENSOR, step, _tensor_body(tensor))

    def receive_tensor(
        self, shape: tuple[int, ...], dtype: type[Element], *, step: str, wait_seconds: float | None = None
    ) -> NDArray[Element]:
        """Receive an array of exactly this shape and dtype. `wait_seconds` replaces `step_seconds` for a slow step."""
        expectation = wire.expect_tensor(step, shape=shape, dtype=np.dtype(dtype))
        return _as_tensor(self._receive(expectation, wait_seconds), shape, dtype)

    def exchange_tensor(
        self, own: NDArray[Element], *, step: str, wait_seconds: float | None = None
    ) -> NDArray[Element]:
        """Send `own` and receive the peer's array of the same shape and dtype: one trip, at any size."""
        expectation = wire.expect_tensor(step, shape=own.shape, dtype=own.dtype)
        with self._sending:
            deadline = self._deadline(step, expectation.longest, wait_seconds)
            groups = _cut(self._begin(Kind.TENSOR, step, _tensor_body(own)))
            for group in islice(groups, EXCHANGE_AHEAD_BYTES // PIECE_BYTES):
                self._write(group, deadline)

            def write_next() -> None:
                for group in islice(groups, 1):
                    self._write(group, deadline)

            view = self._receive(expectation, wait_seconds, between=write_next)
            for group in groups:
                self._write(group, deadline)
        return _as_tensor(view, own.shape, own.dtype.type)

    # Bytes, seeds, words

    def send_bytes(self, data: Piece, *, step: str) -> None:
        """Send opaque bytes of any length."""
        self._send(Kind.BYTES, step, (memoryview(data).cast("B"),))

    def receive_bytes(self, length: int, *, step: str, wait_seconds: float | None = None) -> bytes:
        """Receive exactly `length` opaque bytes."""
        return self._receive_whole(Kind.BYTES, step, (length, length), wait_seconds)

    def receive_bytes_at_most(self, limit: int, *, step: str, wait_seconds: float | None = None) -> bytes:
        """Receive opaque bytes whose length the peer chooses, up to `limit`."""
        return self._receive_whole(Kind.BYTES, step, (0, limit), wait_seconds)

    def receive_into(self, view: memoryview, *, step: str, wait_seconds: float | None = None) -> None:
        """Receive opaque bytes that fill `view` (contiguous) exactly, without a second copy in memory."""
        flat = view.cast("B")
        expectation = Expectation(kind=Kind.BYTES, step=step, shortest=len(flat), longest=len(flat))
        self._receive(expectation, wait_seconds, prepare=lambda _: flat)

    def receive_into_or_end(self, view: memoryview, *, step: str, end_step: str) -> bool:
        """As `receive_into`; False if the peer says instead, in `end_step`, that nothing comes."""
        flat = view.cast("B")
        expectation = Expectation(kind=Kind.BYTES, step=step, shortest=len(flat), longest=len(flat), or_end=end_step)
        return len(self._receive(expectation, None, prepare=lambda length: flat[:length])) > 0

    def send_seed(self, seed: bytes, *, step: str) -> None:
        """Send 32 secret bytes."""
        if len(seed) != wire.SEED_BYTES:
            raise ValueError(f"a seed has {wire.SEED_BYTES} bytes, not {len(seed)}")
        self._send(Kind.SEED, step, (seed,))

    def receive_seed(self, *, step: str, wait_seconds: float | None = None) -> bytes:
        """Receive 32 secret bytes."""
        return self._receive_whole(Kind.SEED, step, (wire.SEED_BYTES, wire.SEED_BYTES), wait_seconds)

    def send_hello(self, fields: Mapping[str, object], *, step: str) -> None:
        """Send a JSON object of at most 64 KiB."""
        self._send(Kind.HELLO, step, (wire.encode_hello(fields),))

    def receive_hello(self, *, step: str, wait_seconds: float | None = None) -> dict[str, Any]:
        """Receive a JSON object. Its fields are the peer's claims: validate them."""
        body = self._receive_whole(Kind.HELLO, step, (2, wire.MAX_HELLO_BYTES), wait_seconds)
        return wire.parse_hello(body, peer=str(self.peer), step=step)

    def send_end(self, *, step: str) -> None:
        """Say that nothing follows."""
        self._send(Kind.END, step, ())

    def receive_end(self, *, step: str, wait_seconds: float | None = None) -> None:
        """Wait until the peer says that nothing follows."""
        self._receive_whole(Kind.END, step, (0, 0), wait_seconds)

    def ask_whether_accepted(self) -> None:
        """Raise what the peer says if it does not accept this party: TLS 1.3 tells a client no earlier.

        In place of a session's first message; `close` follows.
        """
        self.send_end(step=LOOK_STEP)
        self.receive_end(step=LOOK_STEP)

    def send_error(self, code: str, message: str, *, step: str) -> None:
        """Tell the peer why the session ends, before `close`. Never raises TransportError: the link may be what broke.

        `code` is the error's stable code; `message` its one line, which must carry no secret.
        """
        try:
            self._send(Kind.ERROR, step, (wire.encode_error(code, message),))
        except (TransportError, PeerReported):
            return

    # Sending

    def _deadline(self, step: str, length: int, wait_seconds: float | None) -> Deadline:
        seconds = self.deadlines.for_body(length)
        if wait_seconds is not None:
            seconds += wait_seconds - self.deadlines.step_seconds
        return Deadline(peer=str(self.peer), step=step, seconds=seconds, party=self.peer)

    def _begin(self, kind: Kind, step: str, body: Sequence[Piece]) -> list[Piece]:
        """Number and count the next frame; all of it must be written. Called under `_sending`."""
        meter = self._meters[self._phase]
        length = sum(len(piece) for piece in body)
        header = Header(
            kind=kind,
            phase=self._phase,
            step_digest=wire.step_digest(step),
            sequence=self._sent,
            depth=meter.next_depth(),
            length=length,
        )
        self._sent += 1
        meter.count_sent(wire.HEADER_BYTES + length, header.depth)
        return [header.pack(), *body]

    def _send(self, kind: Kind, step: str, body: Sequence[Piece]) -> None:
        with self._sending:
            pieces = self._begin(kind, step, body)
            deadline = self._deadline(step, sum(len(piece) for piece in body), None)
            for group in _cut(pieces):
                self._write(group, deadline)

    def _write(self, group: list[Piece], deadline: Deadline) -> None:
        try:
            self._stream.write(group, deadline)
        except PeerDisconnected:
            self._raise_last_words(deadline.step)
            raise

    def _raise_last_words(self, step: str) -> None:
        """A peer that hung up may have said why: then raise that, which helps more than the lost connection."""
        if not self._receiving.acquire(blocking=False):
            return  # the thread that receives will see it
        try:
            expectation = Expectation(kind=Kind.END, step=step, shortest=0, longest=0)
            deadline = Deadline(peer=str(self.peer), step=step, seconds=1.0, party=self.peer)
            self._receive_frame(expectation, deadline)
        except PeerReported:
            raise
        except (TransportError, PeerViolation):
            return
        finally:
            self._receiving.release()

    # Receiving

    def _receive_whole(self, kind: Kind, step: str, bounds: tuple[int, int], wait_seconds: float | None) -> bytes:
        """The body of a frame. `bounds`: its shortest and its longest length."""
        expectation = Expectation(kind=kind, step=step, shortest=bounds[0], longest=bounds[1])
        return bytes(self._receive(expectation, wait_seconds))

    def _receive(
        self,
        expectation: Expectation,
        wait_seconds: float | None,
        *,
        prepare: Callable[[int], memoryview] | None = None,
        between: Callable[[], None] | None = None,
    ) -> memoryview:
        deadline = self._deadline(expectation.step, expectation.longest, wait_seconds)
        with self._receiving:
            return self._receive_frame(expectation, deadline, prepare, between)

    def _receive_frame(
        self,
        expectation: Expectation,
        deadline: Deadline,
        prepare: Callable[[int], memoryview] | None = None,
        between: Callable[[], None] | None = None,
    ) -> memoryview:
        """Read one frame; `prepare` gives memory for its body once the header has been accepted; `between` runs after
        each piece.
        """
        step = expectation.step
        header = self._receive_header(expectation, deadline)
        if header.kind is Kind.ERROR:
            self._raise_report(header, step, deadline)
        prelude = self._read(len(expectation.prelude), deadline)
        if prelude != expectation.prelude:
            raise wire.violation(
                f"expected {expectation.words}, not one {wire.describe_prelude(bytes(prelude))}",
                peer=str(self.peer),
                step=step,
            )
        view = (prepare or _take_memory)(header.length - len(prelude))
        for start in range(0, len(view), PIECE_BYTES):
            self._stream.read_into(view[start : start + PIECE_BYTES], deadline)
            if between is not None:
                between()
        self._note(header, step, (prelude, view))
        return view

    def _receive_header(self, expectation: Expectation, deadline: Deadline) -> Header:
        peer, step = str(self.peer), expectation.step
        header = Header.parse(bytes(self._read(wire.HEADER_BYTES, deadline)), peer=peer, step=step)
        if self._is_look(header, step):
            self._looked_at = True
            raise deadline.disconnected("it only asked whether it is accepted")
        expectation.check(header, peer=peer, phase=self._phase, sequence=self._received)
        if not self._meters[header.phase].is_possible(header.depth):
            raise wire.violation(f"trip depth {header.depth} cannot be", peer=peer, step=step)
        return header

    def _is_look(self, header: Header, step: str) -> bool:
        is_first = self._received == self._sent == header.sequence == header.length == 0
        asks = header.kind is Kind.END and header.step_digest == wire.step_digest(LOOK_STEP)
        return is_first and asks and step != LOOK_STEP

    def _read(self, length: int, deadline: Deadline) -> memoryview:
        view = memoryview(bytearray(length))
        self._stream.read_into(view, deadline)
        return view

    def _raise_report(self, header: Header, step: str, deadline: Deadline) -> None:
        body = self._read(header.length, deadline)
        self._note(header, step, (body,))
        code, message = wire.parse_error(bytes(body), peer=str(self.peer), step=step)
        words = f"{self.peer} ended the session in step '{step}' ({code}): {message}"
        raise PeerReported(words, reported=code, words=message, peer_uri=self.peer.uri)

    def _note(self, header: Header, step: str, body: Sequence[memoryview]) -> None:
        self._received += 1
        self._meters[header.phase].count_received(wire.HEADER_BYTES + header.length, header.depth)
        if self._recorder is not None:
            self._recorder(Frame(header.kind, header.phase, step, b"".join(body)))


def _take_memory(length: int) -> memoryview:
    return np.empty(length, np.uint8).data


def _tensor_body(tensor: NDArray[Element]) -> tuple[bytes, memoryview]:
    """Prelude and elements of a TENSOR; the elements are the array's own memory if it is contiguous."""
    prelude = wire.tensor_prelude(tensor.shape, tensor.dtype)
    flat = np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<")).reshape(-1)
    return prelude, flat.view(np.uint8).data


def _as_tensor(view: memoryview, shape: tuple[int, ...], dtype: type[Element]) -> NDArray[Element]:
    little = np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(view, dtype=little).reshape(shape).astype(dtype, copy=False)


def _cut(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Groups of pieces of at most PIECE_BYTES together, so that a small frame is one write."""
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        rest = memoryview(piece)
        while len(rest) > 0:
            part = rest[: PIECE_BYTES - size]
            group.append(part)
            size += len(part)
            rest = rest[len(part) :]
            if size == PIECE_BYTES:
                yield group
                group, size = [], 0
    if group:
        yield group
