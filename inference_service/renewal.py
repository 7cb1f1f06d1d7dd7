"""The front end's certificate, renewed while it serves: connections that begin after the change see the new one."""

import logging
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from authority.certificates import require_file_in_time
from contract.errors import ConfigurationError

_LOG = logging.getLogger(__name__)
_Stamp: TypeAlias = tuple[tuple[int, int, int], ...] | None


def follow_renewals(context: ssl.SSLContext, *, certificate: Path, key: Path) -> None:
    """Have `context`, which serves this certificate, look at the files at each handshake.

    Files that cannot be used (half of them are replaced, say) leave the ones before in use, with a warning in the log.
    """
    # Called at each ClientHello, whether or not it names a server.
    context.sni_callback = _Following(context, certificate, key, _read_stamp((certificate, key))).choose


@dataclass
class _Following:
    current: ssl.SSLContext
    certificate: Path
    key: Path
    stamp: _Stamp
    lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, base: ssl.SSLContext) -> None:
        """OpenSSL's question which certificate to show."""
        del name, base
        with self.lock:
            stamp = _read_stamp((self.certificate, self.key))
            if stamp != self.stamp:
                self.stamp = stamp
                self._load()
            connection.context = self.current

    def _load(self) -> None:
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        fresh.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            fresh.load_cert_chain(self.certificate, self.key, password=_no_password)
            require_file_in_time(self.certificate)  # one that was valid yesterday serves no worse
        except (OSError, ssl.SSLError, ValueError, ConfigurationError) as error:
            reason = (
                error.reason.lower().replace("_", " ") if isinstance(error, ssl.SSLError) and error.reason else error
            )
            _LOG.warning("%s changed and cannot be used (%s): the one before stays in use", self.certificate, reason)
            return
        self.current = fresh
        _LOG.info("%s was read again", self.certificate)


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _read_stamp(files: tuple[Path, Path]) -> _Stamp:
    try:
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in (path.stat() for path in files))
    except OSError:
        return None
