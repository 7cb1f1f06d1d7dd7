"""Relays between the processes of a federation that do to one message what a fault asks.

A party's link is relayed by WebSocket message, the unit that the parties write; of what is inside, TLS, the relay can
read nothing. The front end's link is relayed by what one read of the socket brings.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.faults.fault import Fault, Kind, Link, Way

HOST = "127.0.0.1"
DELAY_SECONDS = 0.2
READ_BYTES = 1 << 16
OPTIONS: dict[str, Any] = {"compression": None, "ping_interval": None, "close_timeout": 1, "max_size": None}

Send = Callable[[bytes], Awaitable[None]]


class Cut(Exception):
    """The fault asks for the end of the connection."""


@dataclass
class FaultyLink:
    """A relay in front of one server; without a fault it only counts. Set `fault` before a scenario begins."""

    link: Link
    target_port: int
    port: int = 0
    fault: Fault | None = None
    struck: bool = False
    """Whether the fault's message has come."""
    passed: Counter[Way] = field(default_factory=Counter)
    relaying: set[asyncio.Task[None] | None] = field(default_factory=set)
    """A stalled relay whose sockets are both at their end is held by nothing else, and would be collected."""
    open: set[ServerConnection | ClientConnection] = field(default_factory=set)
    """Aborted at the end: an orderly close waits behind a message that the other side does not read."""

    def arm(self, fault: Fault | None) -> None:
        """Count anew, with this fault."""
        self.fault = fault if fault is not None and fault.link is self.link else None
        self.struck = False
        self.passed.clear()

    async def listen(self, started: threading.Event, ended: asyncio.Event) -> None:
        if self.link in {Link.FRONT_END, Link.REPORTS}:
            server = await asyncio.start_server(self._relay_bytes, HOST, 0)
            self.port = int(server.sockets[0].getsockname()[1])
            started.set()
            await ended.wait()
            server.close()
            return
        async with serve(self._relay_messages, HOST, 0, **OPTIONS) as messages:
            self.port = int(next(iter(messages.sockets)).getsockname()[1])
            started.set()
            await ended.wait()
            for connection in self.open:
                connection.transport.abort()

    async def _relay_messages(self, near: ServerConnection) -> None:
        assert near.request is not None
        url = f"ws://{HOST}:{self.target_port}{near.request.path}"
        with suppress(OSError, InvalidHandshake, ConnectionClosed):
            async with connect(url, proxy=None, **OPTIONS) as far:
                self.open |= {near, far}

                async def messages(source: Any, target: Any, way: Way) -> None:
                    passing = Passing(self, way, target.send)
                    async for message in source:
                        await passing.pass_on(message)

                if await _until_one_ends(messages(near, far, Way.OUT), messages(far, near, Way.BACK)):
                    near.transport.abort()
                    far.transport.abort()
                self.open -= {near, far}

    async def _relay_bytes(self, near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self.relaying.add(task)
        # Cancelled at the end of the tests: asyncio's server (of Python 3.11) would report that as an error.
        with suppress(asyncio.CancelledError, OSError):
            try:
                await self._relay_pieces(near_reader, near_writer)
            finally:
                near_writer.transport.abort()
                self.relaying.discard(task)

    async def _relay_pieces(self, near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(HOST, self.target_port)

        async def pieces(source: asyncio.StreamReader, target: asyncio.StreamWriter, way: Way) -> None:
            async def send(piece: bytes) -> None:
                target.write(piece)
                await target.drain()

            passing = Passing(self, way, send)
            while piece := await source.read(READ_BYTES):
                await passing.pass_on(piece)

        writers, cut = (near_writer, far_writer), True
        try:
            ways = pieces(near_reader, far_writer, Way.OUT), pieces(far_reader, near_writer, Way.BACK)
            cut = await _until_one_ends(*ways)
        finally:
            for writer in writers:
                if cut:
                    writer.transport.abort()
                writer.close()
        for writer in writers:
            with suppress(OSError):
                await writer.wait_closed()


async def _until_one_ends(*ways: Any) -> bool:
    """Run both ways until one of them ends; whether because it is to be cut."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    return any(isinstance(end, Cut) for end in ends)


class Passing:
    """One way of one connection."""

    def __init__(self, link: FaultyLink, way: Way, send: Send) -> None:
        self._link = link
        self._way = way
        self._send = send
        self._held: bytes | None = None

    async def pass_on(self, message: bytes) -> None:
        link, fault = self._link, self._link.fault
        number = link.passed[self._way]
        link.passed[self._way] += 1
        if fault is not None and (fault.way, fault.number) == (self._way, number) and not link.struck:
            link.struck = True
            await self._strike(fault.kind, message)
            return
        await self._send(message)
        if self._held is not None:
            held, self._held = self._held, None
            await self._send(held)

    async def _strike(self, kind: Kind, message: bytes) -> None:
        match kind:
            case Kind.CUT:
                raise Cut
            case Kind.STALL:
                await asyncio.get_running_loop().create_future()  # until the connection ends
            case Kind.DELAY:
                await asyncio.sleep(DELAY_SECONDS)
                await self._send(message)
            case Kind.DROP:
                return
            case Kind.DUPLICATE:
                await self._send(message)
                await self._send(message)
            case Kind.REORDER:
                self._held = message
            case Kind.CORRUPT:
                middle = len(message) // 2
                await self._send(message[:middle] + bytes([message[middle] ^ 1]) + message[middle + 1 :])


@contextmanager
def faulty_links(targets: dict[Link, int]) -> Iterator[dict[Link, FaultyLink]]:
    """Relays in front of these ports, all in one thread, until the block ends."""
    links = {link: FaultyLink(link, port) for link, port in targets.items()}
    loop, ended = asyncio.new_event_loop(), asyncio.Event()
    waiting = [threading.Event() for _ in links]

    async def listen() -> None:
        listening = zip(links.values(), waiting, strict=True)
        await asyncio.gather(*(link.listen(started, ended) for link, started in listening))
        quiet = False
        while not quiet:  # a connection that was accepted last becomes a task only now
            leftover = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            quiet = not leftover
            for task in leftover:
                task.cancel()
            await asyncio.gather(*leftover, return_exceptions=True)
            await asyncio.sleep(0.1)  # transports close in the loop's next rounds

    thread = threading.Thread(target=loop.run_until_complete, args=(listen(),), daemon=True)
    thread.start()
    assert all(started.wait(timeout=30) for started in waiting)
    try:
        yield links
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(timeout=30)
        assert not thread.is_alive(), [str(task) for task in asyncio.all_tasks(loop)]
        loop.close()
