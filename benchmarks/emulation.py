"""The product, and what lies between its parties: relays if a link is asked for. The parties notice nothing."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from benchmarks.configuration import THREADS
from benchmarks.relay import HOST, Relay, relayed
from contract.base import Strict
from contract.identity import Role
from demonstration.deployment import Deployment, deploy, free_ports
from model_owner.link_profiles import LOOPBACK, LinkProfile

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
def deployed_over(
    folder: Path,
    model_folders: Sequence[Path],
    link: LinkProfile,
    *,
    threads: int = THREADS,
    overrides: dict[str, dict[str, object]] | None = None,
) -> Iterator[Deployment]:
    """`deployed`, with a link of this kind between every two parties: six links, none of which slows another down."""
    if link == LOOPBACK:
        with deploy(folder, model_folders, threads=threads, overrides=overrides) as deployment:
            yield deployment
        return
    ports = free_ports()
    with relayed(link) as relay:
        routes = {
            (client, server): relay.route(f"{client.value}/{server.value}", ports.of(server))
            for client, server in BETWEEN
        }
        with deploy(
            folder, model_folders, threads=threads, overrides=overrides, ports=ports, routes=routes
        ) as deployment:
            yield deployment


class MeasuredLink(Strict):
    """What a relay really does on this machine, seen by a client and a server of plain sockets."""

    round_trip_milliseconds: float
    """Smallest of several: what other work adds is not the relay's."""
    median_round_trip_milliseconds: float
    megabits_per_second: float | None
    """Largest of several transfers, from the first byte sent to the last one received; None for an unlimited link."""


def measure_link(relay: Relay, link: LinkProfile, *, round_trips: int = 20, transfers: int = 2) -> MeasuredLink:
    """Send single bytes to and fro, then many in one direction."""
    with socket.create_server((HOST, 0)) as server:
        thread = threading.Thread(target=_answer, args=(server,), daemon=True)
        thread.start()
        port = relay.route("measured", server.getsockname()[1])
        trips = sorted(_round_trips(port, round_trips))
        rate = None
        if link.bytes_per_second is not None:
            size = int(min(link.bytes_per_second * TRANSFER_SECONDS, MAX_TRANSFER_BYTES))
            seconds = min(_transfer_seconds(port, size) for _ in range(transfers))
            # Besides the transfer: one latency for the last byte, one for the word that it is there.
            rate = size * 8 / 1e6 / (seconds - 2 * link.latency_seconds)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join()
    return MeasuredLink(
        round_trip_milliseconds=trips[0] * 1e3,
        median_round_trip_milliseconds=trips[len(trips) // 2] * 1e3,
        megabits_per_second=rate,
    )


TRANSFER_SECONDS = 1.0
MAX_TRANSFER_BYTES = 125_000_000
_ECHO, _SWALLOW = b"e", b"s"


def _answer(server: socket.socket) -> None:
    """Serve one connection after another until the socket is shut down."""
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                echo = connection.recv(1) == _ECHO
                connection.sendall(b"!")
                while data := connection.recv(1 << 18):
                    if echo:
                        connection.sendall(data)
                if not echo:
                    connection.sendall(b".")


def _round_trips(port: int, count: int) -> list[float]:
    found = []
    with _opened(port, _ECHO) as connection:
        for _ in range(count):
            started = time.perf_counter()
            connection.sendall(b"?")
            connection.recv(1)
            found.append(time.perf_counter() - started)
    return found


def _transfer_seconds(port: int, size: int) -> float:
    with _opened(port, _SWALLOW) as connection:
        content = bytes(size)
        started = time.perf_counter()
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        return time.perf_counter() - started


def _opened(port: int, what: bytes) -> socket.socket:
    connection = socket.create_connection((HOST, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(what)
    connection.recv(1)
    return connection
