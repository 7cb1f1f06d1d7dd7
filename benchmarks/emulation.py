"""The product, and what lies between its parties: relays if a link is asked for. The parties notice nothing."""

import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.configuration import THREADS
from benchmarks.relay import ANSWER_SECONDS, HOST, Relay, start_relay
from benchmarks.wiring import HOME, Wiring
from contract.base import Strict
from contract.identity import Role
from demonstration.deployment import Deployment, deploy, free_ports
from model_owner.link_profiles import LinkProfile

BETWEEN: Final = (
    (Role.DATA_OWNER, Role.MODEL_OWNER),
    (Role.DATA_OWNER, Role.CRYPTO_PROVIDER),
    (Role.MODEL_OWNER, Role.CRYPTO_PROVIDER),
    (Role.DATA_OWNER, Role.INFERENCE_SERVICE),
    (Role.MODEL_OWNER, Role.INFERENCE_SERVICE),
    (Role.CRYPTO_PROVIDER, Role.INFERENCE_SERVICE),
)
"""Who dials whom."""


@contextmanager
def deploy_over(folder: Path, model_folders: Sequence[Path], wiring: Wiring) -> Iterator[Deployment]:
    """`deploy`, with such links between the parties."""
    if wiring == HOME:
        with deploy(folder, model_folders, threads=THREADS) as deployment:
            yield deployment
        return
    ports = free_ports()
    with start_relay(wiring) as relay:
        routes = {
            (client, server): relay.route(f"{client.value}/{server.value}", ports.of(server))
            for client, server in BETWEEN
        }
        with deploy(folder, model_folders, threads=THREADS, ports=ports, routes=routes) as deployment:
            yield deployment


class MeasuredLink(Strict):
    """What a relay really does on this machine, seen by a client and a server of plain sockets."""

    round_trip_milliseconds: float
    """Smallest of several: what other work adds is not the relay's."""
    median_round_trip_milliseconds: float
    megabits_per_second: float | None
    """Largest of several transfers, from the first byte sent to the last one received; None for an unlimited link."""


def measure_link(
    relay: Relay, link: LinkProfile, *, name: str = "measured", round_trips: int = 20, transfers: int = 2
) -> MeasuredLink:
    """Send single bytes to and fro, then many in one direction, over the relay's link of that name."""
    rate = None
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(ANSWER_SECONDS)
        port = relay.route(name, server.getsockname()[1])
        with _opened(port, server, echoes=True) as connection:
            trips = sorted(_time_answer(connection, b"?") for _ in range(round_trips))
        if link.bytes_per_second is not None:
            content = bytes(int(min(link.bytes_per_second * TRANSFER_SECONDS, MAX_TRANSFER_BYTES)))
            found = []
            for _ in range(transfers):
                with _opened(port, server, echoes=False) as connection:
                    found.append(_time_answer(connection, content, ends=True))
            # Besides the transfer: one latency for the last byte, one for the word that it is there.
            rate = len(content) * 8 / 1e6 / (min(found) - 2 * link.latency_seconds)
    return MeasuredLink(
        round_trip_milliseconds=trips[0] * 1e3,
        median_round_trip_milliseconds=trips[len(trips) // 2] * 1e3,
        megabits_per_second=rate,
    )


TRANSFER_SECONDS = 1.0
MAX_TRANSFER_BYTES = 125_000_000


@contextmanager
def _opened(port: int, server: socket.socket, *, echoes: bool) -> Iterator[socket.socket]:
    """A connection to `port` that has arrived at `server`, which answers in a thread."""
    with ThreadPoolExecutor(1) as pool, socket.create_connection((HOST, port)) as connection:
        pool.submit(_answer, server, echoes=echoes)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(1)
        yield connection


def _answer(server: socket.socket, *, echoes: bool) -> None:
    """Send back what comes, or one byte when everything has come."""
    connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"!")
        while data := connection.recv(1 << 18):
            if echoes:
                connection.sendall(data)
        if not echoes:
            connection.sendall(b".")


def _time_answer(connection: socket.socket, content: bytes, *, ends: bool = False) -> float:
    """Seconds from sending to the first byte of the answer."""
    started = time.perf_counter()
    connection.sendall(content)
    if ends:
        connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
    return time.perf_counter() - started
