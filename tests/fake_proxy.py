"""Proxies that do not let anybody through."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy", "socks_proxy", "no_proxy")


@contextmanager
def refusing_proxy(status: int) -> Iterator[str]:
    """A proxy at this URL that answers every CONNECT with this status."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    asked = b""
                    while b"\r\n\r\n" not in asked and (more := connection.recv(4096)):
                        asked += more
                    answer = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    connection.sendall(answer.encode() if asked.startswith(b"CONNECT ") else b"what?")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=10)


@contextmanager
def dead_proxy() -> Iterator[str]:
    """The URL of a proxy that nobody runs: its port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
