"""Taking the port of a server before anything slow is done, so that a busy one is said at once.

Standard library only: a script asks before anything is installed.
"""

import errno
import os
import socket

from contract.errors import ConfigurationError

LISTEN = "'listen' of the settings"
"""The setting of every server but the page."""
BACKLOG = 2048
"""Connections that may wait to be accepted; the kernel may allow fewer."""

_WHY = {
    errno.EADDRINUSE: "another program listens there already",
    errno.EACCES: "ports below 1024 need more rights than this account has",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}


def is_host_name(text: str) -> bool:
    """Whether a name, or an address without brackets, can be looked up: labels are of 1 to 63 characters (RFC 1035)."""
    try:
        return bool(text.encode("idna"))
    except UnicodeError:
        return False


def with_port(host: str, port: int) -> str:
    """As people and URLs write it: `127.0.0.1:8443`, `[::1]:8443`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def take_port(host: str, port: int, *, setting: str) -> socket.socket:
    """A socket that is bound and does not listen yet: whoever dials before the server is ready is refused, as before.

    Args:
        host: name or address of one of this machine's interfaces.
        port: 0 for any free one.
        setting: where the reader chooses the port, say `--port` or `'listen' of the settings`.

    Raises:
        ConfigurationError: the port cannot be had; names the port and the setting.
    """
    taken: socket.socket | None = None
    if not is_host_name(host):
        raise ConfigurationError(f"'{host[:200]}' can be no host's name; choose another with {setting}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server may be started again at once
        if family == socket.AF_INET6:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(address)
    except OSError as error:
        if taken is not None:
            taken.close()
        raise _cannot_listen(with_port(host, port), error, setting=setting) from error
    return taken


def require_free_port(host: str, port: int, *, setting: str) -> None:
    """Raise ConfigurationError if `take_port` would. For a server that is another process and binds by itself."""
    take_port(host, port, setting=setting).close()


def start_listening(taken: socket.socket, *, setting: str) -> None:
    """Answer on a port that `take_port` bound. Raises ConfigurationError if another program was quicker."""
    try:
        taken.listen(BACKLOG)
    except OSError as error:
        host, port = taken.getsockname()[:2]
        raise _cannot_listen(with_port(host, port), error, setting=setting) from error


def _cannot_listen(where: str, error: OSError, *, setting: str) -> ConfigurationError:
    # Of a host name that nobody knows, the error's number is not one of the operating system's.
    unknown = isinstance(error, socket.gaierror)
    why = "no such host name" if unknown else _WHY.get(error.errno or 0, os.strerror(error.errno or 0))
    return ConfigurationError(f"cannot listen on {where}: {why}; choose another with {setting}, or free this one")
