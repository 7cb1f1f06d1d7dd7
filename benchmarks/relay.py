"""Stands between two parties and makes their loopback connection as slow as a link: latency and rate, both ways.

It knows nothing of the protocol and runs in a process of its own, so that it takes neither the parties' interpreter
nor their threads. Each direction of a link is one line: bytes enter it in the order in which they arrive, leave it at
the rate of the link, and are delivered one latency later. All connections of a link share its two lines. What is
under way is bounded (bandwidth times latency, and a buffer), so that a fast sender feels the link. Opening a
connection costs a round trip, as TCP's handshake does.

    python -m benchmarks.relay --latency-ms 10 --mbit 100

prints the port where it takes orders, a line of JSON each: {"link": "a-b", "target": 8081} is answered by
{"port": 23456}, where connections to port 8081 may be opened over link a-b. It ends when its standard input does, and
with it everything it carried.
"""

import argparse
import asyncio
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from benchmarks.processes import started
from contract.errors import ComputationFailed, ConfigurationError
from demonstration.commands import make_quiet_environment
from model_owner.link_profiles import LinkProfile

HOST = "127.0.0.1"
PORTS: tuple[int, ...] = (*range(0x4E00, 0x7C00, 0x100), *range(20_000, 31_700))
"""Where it listens: below the ports that the system hands out by itself. The first ones are so in either byte order,
which is how gloo compares them (benchmarks/peers/relayed_gloo.py)."""
ROOT = Path(__file__).resolve().parent.parent
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
        """A port that leads to port `target` over the link of that name. Connections to it go one end to the other."""
        return order_route(self.control_port, link, target)


def order_route(control_port: int, link: str, target: int) -> int:
    """What `Relay.route` does, for other processes. Raises ComputationFailed if the relay does not answer."""
    try:
        with socket.create_connection((HOST, control_port), timeout=ANSWER_SECONDS) as control:
            control.sendall(json.dumps({"link": link, "target": target}).encode() + b"\n")
            with control.makefile() as answer:
                return int(json.loads(answer.readline())["port"])
    except (OSError, ValueError, KeyError) as error:
        raise ComputationFailed("the relay that emulates a network does not answer: run the benchmark again") from error


@contextmanager
def relayed(link: LinkProfile) -> Iterator[Relay]:
    """A relay of links that are all like `link`, until the block ends."""
    command = [sys.executable, "-m", "benchmarks.relay", "--latency-ms", str(link.one_way_milliseconds)]
    if link.megabits_per_second is not None:
        command += ["--mbit", str(link.megabits_per_second)]
    environment = make_quiet_environment() | {"PYTHONPATH": str(ROOT)}
    with started(command, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield Relay(_read_announced_port(process.stdout))


def _read_announced_port(output: IO[bytes]) -> int:
    line = output.readline()  # empty if the process ended
    if not line.strip().isdigit():
        raise ConfigurationError("the relay that emulates the network did not start: see what it wrote to stderr")
    return int(line)


# What follows runs in the relay's process.


class _Line:
    """One direction of one link."""

    def __init__(self, latency_seconds: float, bytes_per_second: float | None, lateness_seconds: float) -> None:
        self.latency_seconds = latency_seconds
        self._lateness_seconds = lateness_seconds
        self.watched_seconds = WATCHED_SECONDS if latency_seconds < SHORT_SECONDS else 0.0
        """Before bytes are due, the clock is watched for so long."""
        self._seconds_per_byte = 0.0 if bytes_per_second is None else 1.0 / bytes_per_second
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


class _Reader(asyncio.StreamReader):
    """Knows when its last bytes came, which is a little before who waits for them wakes up."""

    came = 0.0

    def feed_data(self, data: Any) -> None:
        """Take in what the socket had."""
        self.came = asyncio.get_running_loop().time()
        super().feed_data(data)


async def _listen_at(
    port: int, serve: Callable[[_Reader, asyncio.StreamWriter], Awaitable[None]], *, limit: int
) -> asyncio.Server:
    """`asyncio.start_server`, with readers that know when bytes came. Raises OSError if the port is taken."""
    loop = asyncio.get_running_loop()

    def factory() -> asyncio.StreamReaderProtocol:
        reader = _Reader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, lambda _reader, writer: serve(reader, writer), loop=loop)

    return await loop.create_server(factory, HOST, port)


async def _dial(port: int, *, limit: int) -> tuple[_Reader, asyncio.StreamWriter]:
    """`asyncio.open_connection`, with such a reader."""
    loop = asyncio.get_running_loop()
    reader = _Reader(limit=limit, loop=loop)
    transport, protocol = await loop.create_connection(
        lambda: asyncio.StreamReaderProtocol(reader, loop=loop), HOST, port
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class _Direction:
    """One direction of one connection: reads, lets the line say when, writes."""

    def __init__(self, line: _Line, reader: _Reader, writer: asyncio.StreamWriter, *, chunk: int, limit: int) -> None:
        self._line = line
        self._reader = reader
        self._writer = writer
        self._chunk = chunk
        self._limit = limit
        self._under_way: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()
        """When it is due, and what: bytes, b"" for the end, None if the sender broke off."""
        self._held = 0
        self._room = asyncio.Event()

    async def take(self) -> None:
        """Read until the sender ends or breaks off."""
        now = asyncio.get_running_loop().time
        opened = now()  # what came before waited for the handshake
        data: bytes | None = b"?"
        full = False
        while data:
            try:
                data = await self._reader.read(self._chunk)
            except OSError:
                data = None
            size = len(data or b"")
            self._held += size
            came = max(self._reader.came, opened) if data else now()
            self._under_way.put_nowait((self._line.enter(size, came, had_waited=full), data))
            full = size == self._chunk
            while self._held > self._limit:
                self._room.clear()
                await self._room.wait()

    async def deliver(self) -> None:
        """Write until the sender's end has arrived. Raises OSError if the receiver broke off."""
        now = asyncio.get_running_loop().time
        while True:
            due, data = await self._under_way.get()
            # If more follows, an exact moment would be of no use, and watching for each piece would cost much time.
            watched = self._line.watched_seconds if self._under_way.empty() else 0.0
            await asyncio.sleep(due - now() - watched)
            while watched and now() < due:
                pass
            if data is None:
                _break_off(self._writer)
                return
            if not data:
                self._writer.write_eof()
                return
            self._writer.write(data)
            await self._writer.drain()
            self._held -= len(data)
            self._room.set()


class _Program:
    """Listens where it is told to, and carries."""

    def __init__(self, *, latency_seconds: float, bytes_per_second: float | None) -> None:
        self._latency_seconds = latency_seconds
        self._bytes_per_second = bytes_per_second
        rate = float("inf") if bytes_per_second is None else bytes_per_second
        self._chunk = int(min(MAX_CHUNK, max(MIN_CHUNK, rate * CHUNK_SECONDS)))
        on_the_line = MAX_CHUNK * 64 if bytes_per_second is None else int(bytes_per_second * latency_seconds)
        self._limit = on_the_line + BUFFER_BYTES
        self._links: dict[str, tuple[_Line, _Line]] = {}
        self._servers: list[asyncio.Server] = []
        self._lateness_seconds = 0.0

    async def run(self) -> None:
        """Take orders until standard input ends."""
        if self._latency_seconds < SHORT_SECONDS:
            self._lateness_seconds = await _measured_lateness()
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

    def _line(self) -> _Line:
        return _Line(self._latency_seconds, self._bytes_per_second, self._lateness_seconds)

    async def _listen(self, link: str, target: int) -> int:
        if link not in self._links:
            self._links[link] = (self._line(), self._line())
        there, back = self._links[link]

        async def serve(reader: _Reader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(2 * self._latency_seconds)  # before a client may send, its handshake goes and returns
            try:
                far_reader, far_writer = await _dial(target, limit=self._chunk)
            except OSError:
                _break_off(writer)
                return
            await self._carry((reader, writer), (far_reader, far_writer), there, back)

        for port in PORTS:
            with suppress(OSError):
                self._servers.append(await _listen_at(port, serve, limit=self._chunk))
                return port
        raise OSError("no free port")

    async def _carry(
        self,
        near: tuple[_Reader, asyncio.StreamWriter],
        far: tuple[_Reader, asyncio.StreamWriter],
        there: _Line,
        back: _Line,
    ) -> None:
        directions = [
            _Direction(there, near[0], far[1], chunk=self._chunk, limit=self._limit),
            _Direction(back, far[0], near[1], chunk=self._chunk, limit=self._limit),
        ]
        for _, writer in (near, far):
            writer.transport.set_write_buffer_limits(high=self._chunk)
        tasks = [asyncio.ensure_future(work) for one in directions for work in (one.take(), one.deliver())]
        try:
            await asyncio.gather(*tasks)
            for _, writer in (near, far):
                writer.close()  # after what still waits to be written
        except OSError:
            for _, writer in (near, far):
                _break_off(writer)
        finally:
            for task in tasks:
                task.cancel()


async def _measured_lateness() -> float:
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


def _break_off(writer: asyncio.StreamWriter) -> None:
    """Reset the connection, so that nobody takes what came so far for all there is."""
    with suppress(OSError):  # it may be closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _event_loop() -> asyncio.AbstractEventLoop:
    """Waits with select(), which counts microseconds. The usual epoll counts milliseconds: too coarse for a LAN."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    """Entry point of the relay's process."""
    parser = argparse.ArgumentParser(prog="relay", description="Emulates links between parties on this machine.")
    parser.add_argument("--latency-ms", type=float, required=True, help="one way")
    parser.add_argument("--mbit", type=float, help="rate of each direction in Mbit/s; without: no limit")
    arguments = parser.parse_args()
    with suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1")  # wake up when asked to, not up to 50 us later
    program = _Program(
        latency_seconds=arguments.latency_ms / 1e3,
        bytes_per_second=None if arguments.mbit is None else arguments.mbit * 1e6 / 8,
    )
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=_event_loop) as runner:
        runner.run(program.run())


if __name__ == "__main__":
    main()
