"""Leads gloo's connections through a relay. Neither gloo nor what runs on it is changed or told.

gloo's processes tell each other where they listen through a store: one entry for each process of a group. The store
here hands entries on as they are, except that of a peer which this process is going to dial: there it puts the port
of a relay. Of two processes gloo lets the one with the larger address dial, and compares ports as they stand in memory.
The relay listens at ports that are smaller than any of gloo's in either byte order, so who dials stays as it was.

    RENDEZVOUS=relayed:///folder/file?control=PORT
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from torch._C._distributed_c10d import FileStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler

from benchmarks.relay import Relay
from contract.errors import ComputationFailed
from contract.identity import Role

SCHEME = "relayed"
PARTIES = (Role.DATA_OWNER.value, Role.MODEL_OWNER.value, "third-party")
"""By the number of the process."""
_BEFORE_PORT, _AFTER_PORT = b"\x02\x00", b"\x7f\x00\x00\x01"
"""AF_INET and 127.0.0.1, as they stand around the port in a sockaddr."""


def rendezvous_url(file: str, relay: Relay) -> str:
    """Address where processes meet: `file` does not exist yet, `relay` stands between them."""
    return f"{SCHEME}://{file}?control={relay.control_port}"


def register() -> None:
    """Make torch.distributed of this process know the scheme. Once in a process."""
    alive: list[RelayedStore] = []  # torch keeps the C++ half only; without the other, methods of this class are lost

    def meet(url: str, **_timeout: Any) -> Iterator[tuple[Store, int, int]]:
        parts = urlsplit(url)
        query = {name: int(values[-1]) for name, values in parse_qs(parts.query).items()}
        file = FileStore(parts.path, query["world_size"])
        alive.append(RelayedStore(file, process=query["rank"], control_port=query["control"]))
        yield alive[-1], query["rank"], query["world_size"]

    register_rendezvous_handler(SCHEME, meet)  # type: ignore[no-untyped-call]


class RelayedStore(Store):
    """A store that names the relay's port where the peer's own would be dialled."""

    def __init__(self, store: Store, *, process: int, control_port: int) -> None:
        """Stand before `store` for the process of that number."""
        super().__init__()
        self._store = store
        self._process = process
        self._relay = Relay(control_port)
        self._own: dict[str, bytes] = {}
        """Entry of this process, by its key."""

    def set(self, key: str, value: Any) -> None:
        """Hand on; note where this process listens, and for the others which process this is."""
        self._store.set(key, value)
        if isinstance(value, bytes) and _port_at(value) is not None:
            self._own[key] = value
            self._store.set(f"{key}/process", str(self._process))

    def get(self, key: str) -> bytes:
        """Hand on; with the relay's port if this process is going to dial."""
        value = bytes(self._store.get(key))
        at = _port_at(value)
        mine = next((one for name, one in self._own.items() if _group(name) == _group(key) and name != key), None)
        if at is None or key in self._own or mine is None:
            return value
        own_at = _port_at(mine)
        assert own_at is not None
        if _as_gloo_compares(mine, own_at) < _as_gloo_compares(value, at):
            return value  # the other side dials
        other = int(self._store.get(f"{key}/process"))
        link = "/".join(PARTIES[one] for one in sorted((self._process, other)))
        relay = self._relay.route(link, int.from_bytes(value[at : at + 2], "big"))
        if relay % 256 != 0 or relay >= 0x8000:
            raise ComputationFailed("the relay has no port left that gloo would dial: run the benchmark again")
        return value[:at] + relay.to_bytes(2, "big") + value[at + 2 :]

    def add(self, key: str, amount: int) -> int:
        """Hand on."""
        return int(self._store.add(key, amount))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Hand on."""
        if timeout is None:
            self._store.wait(list(keys))
        else:
            self._store.wait(list(keys), timeout)

    def check(self, keys: Sequence[str]) -> bool:
        """Hand on."""
        return bool(self._store.check(list(keys)))

    def delete_key(self, key: str) -> bool:
        """Hand on."""
        return bool(self._store.delete_key(key))

    def clone(self) -> "RelayedStore":
        """Itself: it keeps no connection of its own."""
        return self


def _group(key: str) -> str:
    return key.rpartition("/")[0]


def _port_at(value: bytes) -> int | None:
    """Where the port stands in an entry; None in anything else."""
    at = value.find(_AFTER_PORT) - 2
    return at if at >= 2 and value[at - 2 : at] == _BEFORE_PORT else None


def _as_gloo_compares(value: bytes, at: int) -> int:
    """The port as a number in the byte order of this processor's memory, not of the network."""
    return int.from_bytes(value[at : at + 2], "little")
