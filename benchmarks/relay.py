"""Stands between parties and makes their loopback connections as slow as links are: latency and rate, both ways.

It knows nothing of the protocol and runs in a process of its own, so that it takes neither the parties' interpreter
nor their threads. Each direction of a link is one line: bytes enter it in the order in which they arrive, leave it at
the rate of the link, and are delivered one latency later. All connections of a link share its two lines. What is
under way is bounded (bandwidth times latency, and a buffer), so that a fast sender feels the link. Opening a
connection costs a round trip, as TCP's handshake does.

    python -m benchmarks.relay '{"name": "hospital", "one_way_milliseconds": 10, "megabits_per_second": 100}'

prints the port where it takes orders, a line of JSON each: {"link": "a/b", "target": 8081} is answered by
{"port": 23456}, where connections to port 8081 may be opened over link a/b. It ends when its standard input does, and
with it everything it carried.
"""

import asyncio
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from benchmarks.configuration import ROOT
from benchmarks.processes import started
from benchmarks.wiring import Wiring
from contract.errors import ComputationFailed, ConfigurationError
from demonstration.commands import make_quiet_environment
from model_owner.link_profiles import LinkProfile

HOST = "127.0.0.1"
PORTS: tuple[int, ...] = (*range(0x4E00, 0x7C00, 0x100), *range(20_000, 31_700))
"""Where it listens: below the ports that the system hands out by itself. The first ones are so in either byte order,
which is how gloo compares them (benchmarks/peers/relayed_gloo.py)."""
MIN_CHUNK, MAX_CHUNK = 1_500, 65_536
CHUNK_SECONDS = 0.0005
"""Bytes travel in pieces of this much time on the line: what is delivered at once was not sent over longer."""
BUFFER_BYTES = 262_144
"""What may wait before the line, besides what is on it; routers and TCP stacks hold about as much."""
CATCH_UP_SECONDS = 0.002
"""What a sender that fills the line may catch up if this process was late to read: the bytes were there."""
WATCHED_SECONDS = 0.000_15
SHORT_SECONDS = 0.005
"""On links of less latency than this, the relay wakes up too early and watches the clock: who sleeps wakes up late."""
PROBES = 41
MAX_LATENESS_SECONDS = 0.000_05
"""What the relay takes off a short link's latency for its own waking up, at most: what it measured when it started."""
ANSWER_SECONDS = 20.0


class Relay:
    """A running relay, seen by who started it."""

    def __init__(self, control_port: int) -> None:
        """Speak to the relay that takes orders on `control_port`."""
        self.control_port = control_port

    def route(self, link: str, target: int) -> int:
        """A port that leads to port `target` over the link of that name. Connections to it go one end to the other.

        Raises ComputationFailed if the relay does not answer.
        """
        try:
            with socket.create_connection((HOST, self.control_port), timeout=ANSWER_SECONDS) as control:
                control.sendall(json.dumps({"link": link, "target": target}).encode() + b"\n")
                with control.makefile() as answer:
                    return int(json.loads(answer.readline())["port"])
        except (OSError, ValueError, KeyError) as error:
            raise ComputationFailed(
                "the relay that emulates a network does not answer: run the benchmark again"
            ) from error


@contextmanager
def start_relay(wiring: Wiring) -> Iterator[Relay]:
    """A relay of links as in `wiring`, until the block ends."""
    command = [sys.executable, "-m", "benchmarks.relay", wiring.model_dump_json()]
    environment = make_quiet_environment() | {"PYTHONPATH": str(ROOT)}
    with started(command, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()  # empty if the process ended
        if not line.strip().isdigit():
            raise ConfigurationError("the relay that emulates the network did not start: see what it wrote to stderr")
        yield Relay(int(line))


# What follows runs in the relay's process.


class _Line:
    """One direction of one link."""

    def __init__(self, link: LinkProfile, lateness_seconds: float) -> None:
        self.latency_seconds = link.latency_seconds
        short = link.latency_seconds < SHORT_SECONDS
        self._lateness_seconds = lateness_seconds if short else 0.0
        self.watched_seconds = WATCHED_SECONDS if short else 0.0
        """Before bytes are due, the clock is watched for so long."""
        rate = link.bytes_per_second
        self._seconds_per_byte = 0.0 if rate is None else 1.0 / rate
        self.chunk = MAX_CHUNK if rate is None else int(min(MAX_CHUNK, max(MIN_CHUNK, rate * CHUNK_SECONDS)))
        on_the_line = MAX_CHUNK * 64 if rate is None else int(rate * link.latency_seconds)
        self.limit = on_the_line + BUFFER_BYTES
        self._free_at = 0.0

    def enter(self, size: int, now: float, *, had_waited: bool) -> float:
        """When `size` bytes that came at `now` will be delivered: behind all that came before, at the line's rate.

        Never sooner than one latency after `now`, even if bytes had waited to be read and may catch up; except for how
        late this process learns of them.
        """
        now -= self._lateness_seconds
        arrived = now - CATCH_UP_SECONDS if had_waited else now
        self._free_at = max(self._free_at, arrived) + size * self._seconds_per_byte
        return max(self._free_at, now) + self.latency_seconds


class _End(asyncio.BufferedProtocol):
    """One end of a connection: what comes in here goes over a line and out at the other end."""

    other: "_End"
    transport: asyncio.Transport

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(BUFFER_BYTES)
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        """When it is due, and what: bytes, b"" for the end, None if the sender broke off."""
        self._held = 0
        self._more_waits = False
        self._delivering = False
        self.ended = False
        self.writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self._line.chunk)
        self.transport.pause_reading()  # until both ends are there

    def get_buffer(self, _size: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        self._held += size
        for start in range(0, size, self._line.chunk):
            self._enter(bytes(memoryview(self._buffer)[start : min(start + self._line.chunk, size)]))
            self._more_waits = True
        self._more_waits = size == len(self._buffer)
        if self._held > self._line.limit:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Stay open: the other direction may go on."""
        self._enter(b"")
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self._enter(None)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.other.deliver_next()

    def _enter(self, data: bytes | None) -> None:
        due = self._line.enter(len(data or b""), self._loop.time(), had_waited=self._more_waits)
        self._under_way.append((due, data))
        self.deliver_next()

    def deliver_next(self) -> None:
        """Wait for the first of what is under way, if there is any and the other end takes it."""
        if self._under_way and self.other.writable and not self._delivering:
            self._delivering = True
            # If more follows, an exact moment would be of no use, and watching for each piece would cost much time.
            watched = self._line.watched_seconds if len(self._under_way) == 1 else 0.0
            self._loop.call_at(self._under_way[0][0] - watched, self._deliver)

    def _deliver(self) -> None:
        due, data = self._under_way[0]
        self._delivering = False
        if self._loop.time() < due and len(self._under_way) > 1:
            self.deliver_next()  # more came meanwhile
            return
        while self._loop.time() < due:
            pass
        self._under_way.popleft()
        if data:
            self._write(data)
        elif data is None:
            _break_off(self.other.transport)
        else:
            self._end()
        self.deliver_next()

    def _write(self, data: bytes) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.write(data)
        self._held -= len(data)
        if self._held <= self._line.limit:
            self.transport.resume_reading()

    def _end(self) -> None:
        self.ended = True
        if self.other.ended:
            for end in (self, self.other):
                end.transport.close()  # after what still waits to be written
        elif not self.other.transport.is_closing():
            self.other.transport.write_eof()


class _Program:
    """Listens where it is told to, and carries."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._lines: dict[str, tuple[_Line, _Line]] = {}
        self._kept: list[asyncio.Server | asyncio.Task[None]] = []
        self._lateness_seconds = 0.0

    async def run(self) -> None:
        """Take orders until standard input ends."""
        self._lateness_seconds = await _measure_lateness()
        control = await asyncio.start_server(self._obey, HOST, 0)
        print(control.sockets[0].getsockname()[1], flush=True)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), lambda: None if os.read(0, 4096) else ended.set())
        await ended.wait()

    async def _obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        order = json.loads(await reader.readline())
        port = await self._listen(str(order["link"]), int(order["target"]))
        writer.write(json.dumps({"port": port}).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def _listen(self, link: str, target: int) -> int:
        name, profile = self._wiring.choose_line(link)
        if name not in self._lines:
            self._lines[name] = (_Line(profile, self._lateness_seconds), _Line(profile, self._lateness_seconds))
        there, back = self._lines[name]
        loop = asyncio.get_running_loop()

        def accept() -> _End:
            near, far = _End(there), _End(back)
            near.other, far.other = far, near
            self._kept.append(loop.create_task(_connect(near, far, target, 2 * profile.latency_seconds)))
            return near

        for port in PORTS:
            with suppress(OSError):
                self._kept.append(await loop.create_server(accept, HOST, port))
                return port
        raise OSError("no free port")


async def _connect(near: _End, far: _End, target: int, handshake_seconds: float) -> None:
    """Open the far end once the near end's handshake went and returned."""
    await asyncio.sleep(handshake_seconds)
    try:
        await asyncio.get_running_loop().create_connection(lambda: far, HOST, target)
    except OSError:
        _break_off(near.transport)
        return
    for end in (near, far):
        end.transport.resume_reading()


async def _measure_lateness() -> float:
    """Seconds from bytes being sent to this process knowing of them, in the quieter half of some attempts."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    known: list[float] = []

    def learn() -> None:
        known.append(loop.time())
        near.recv(1)

    def send() -> list[float]:
        sent = []
        for _ in range(PROBES):
            time.sleep(0.001)
            sent.append(time.monotonic())
            far.send(b"?")
        time.sleep(0.001)
        return sent

    with near, far:
        loop.add_reader(near.fileno(), learn)
        sent = await asyncio.to_thread(send)
        loop.remove_reader(near.fileno())
    late = sorted(knew - was_sent for was_sent, knew in zip(sent, known, strict=False))
    return min(max(late[len(late) // 4], 0.0), MAX_LATENESS_SECONDS) if late else 0.0


def _break_off(transport: asyncio.Transport) -> None:
    """Reset the connection, so that nobody takes what came so far for all there is."""
    with suppress(OSError):  # it may be closed already
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _event_loop() -> asyncio.AbstractEventLoop:
    """Waits with select(), which counts microseconds. The usual epoll counts milliseconds: too coarse for a LAN."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    """Entry point of the relay's process."""
    program = _Program(Wiring.model_validate_json(sys.argv[1]))
    with suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1")  # wake up when asked to, not up to 50 us later
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=_event_loop) as runner:
        runner.run(program.run())


if __name__ == "__main__":
    main()
