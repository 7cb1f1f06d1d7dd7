"""Prepared material on disk: one file for each item, used once.

    offset    content
         0    "stocked material 1" and a line feed
        19    length of the binding, 4 bytes, little-endian
        23    the binding: JSON that says whose item this is and for what; public
              the bodies, whose lengths follow from the plan; secret
     last 32  SHA-256 of all that, so that a damaged file is dropped instead of giving a wrong answer

A file is written aside, synced and renamed: it is whole or absent. Whoever takes an item notes it in the durable ledger
first, then reads it, and deletes the file. A crash in between wastes the item; it cannot be taken again. Deleting
does not wipe the medium: see docs/threat-model.md for what a stolen disk means.
"""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from contract.errors import ConfigurationError
from contract.model_card import Name, OutputPolicy, Strict, Version
from contract.ticket import Sha256, TicketClaims
from secure_computation.material import ConsumptionLedger, ItemName, sync_folder

Body = NDArray[np.uint8]
"""One message or seed as it lies in a file, shape (bytes,)."""

DAY_SECONDS: Final = 24 * 3600.0
_FORMAT: Final = b"stocked material 1\n"
_DIGEST_BYTES: Final = 32
_MAX_BINDING_BYTES: Final = 4096
_ITEM_FILE: Final = re.compile(r"[0-9a-f]{64}")
_ASIDE: Final = ".incoming-"
_ABANDONED_SECONDS: Final = 3600.0
"""A file written aside that is older than this was left by a crash."""


class Binding(Strict):
    """Whose item this is and for what: it may be spent in a session of exactly these. Holds no secret."""

    item: Sha256
    """Name of the item: that of the session in which it was prepared."""
    model: Name
    version: Version
    plan_hash: Sha256
    data_owner: Name
    model_owner: Name
    crypto_provider: Name
    output_policy: OutputPolicy
    weights_version: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """The masked weights that it was prepared with."""
    stocked_at: Annotated[int, Field(ge=0, lt=1 << 53)]
    """In seconds since 1970 (UTC), by this party's clock."""

    @classmethod
    def of(cls, claims: TicketClaims, *, item: ItemName, weights_version: str, now: float) -> Self:
        """What an item is bound to that was prepared under this ticket."""
        return cls(
            item=item,
            model=claims.model,
            version=claims.version,
            plan_hash=claims.plan_hash,
            data_owner=claims.data_owner,
            model_owner=claims.model_owner,
            crypto_provider=claims.crypto_provider,
            output_policy=claims.output_policy,
            weights_version=weights_version,
            stocked_at=int(now),
        )

    def fits(self, claims: TicketClaims) -> bool:
        """Whether a session with this ticket may spend the item."""
        return all(getattr(self, name) == getattr(claims, name) for name in _BOUND_CLAIMS)

    @property
    def name(self) -> ItemName:
        """Name of the item, typed."""
        return ItemName(self.item)


_BOUND_CLAIMS: Final = (
    "model",
    "version",
    "plan_hash",
    "data_owner",
    "model_owner",
    "crypto_provider",
    "output_policy",
)


class StockFolder:
    """The items that one party keeps, for one peer or for all of them. For use by several threads and processes."""

    def __init__(
        self,
        folder: Path,
        *,
        days: float,
        ledger: ConsumptionLedger,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep files in `folder`, which is made (0700) where it is missing.

        Args:
            folder: for this stock alone.
            days: how long an item is kept.
            ledger: where items are noted as used, before they are.
            warn: told, in one line, of each file that was dropped because it is damaged.
            clock: seconds since 1970.
        """
        self._folder = folder
        self._seconds = days * DAY_SECONDS
        self._ledger = ledger
        self._warn = warn
        self._clock = clock
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(error) from error

    def put(self, binding: Binding, bodies: Iterable[Body]) -> None:
        """Keep an item. Raises ConfigurationError where the disk will not."""
        name = ""
        try:
            descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=_ASIDE)  # 0600
            with os.fdopen(descriptor, "wb") as file:
                _write(file, binding, bodies)
                file.flush()
                os.fsync(file.fileno())
            Path(name).rename(self._folder / binding.item)
            sync_folder(self._folder)
        except OSError as error:
            if name:
                Path(name).unlink(missing_ok=True)
            raise self._failed(error) from error

    def bindings(self) -> list[Binding]:
        """What is kept, the oldest first. Items that are too old, used before or damaged are dropped."""
        found: list[Binding] = []
        now = self._clock()
        try:
            for path in list(self._folder.iterdir()):
                if _ITEM_FILE.fullmatch(path.name):
                    binding = self._binding(path)
                    if binding is not None and self._usable(binding, now):
                        found.append(binding)
                elif path.name.startswith(_ASIDE) and _age(path, now) > _ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from error
        return sorted(found, key=lambda binding: (binding.stocked_at, binding.item))

    def find(self, item: ItemName) -> Binding | None:
        """What an item is bound to; None where it is not kept."""
        return next((binding for binding in self.bindings() if binding.item == item), None)

    def take(self, binding: Binding, sizes: Sequence[int]) -> list[Body] | None:
        """Consume an item, durably, and give its bodies; None where the file is gone or damaged.

        Args:
            binding: of the item, as `bindings` gave it.
            sizes: lengths in bytes of the bodies, by this party's own plan.

        Raises: MaterialSpent where it was used before; ConfigurationError where the disk fails.
        """
        path = self._folder / binding.item
        try:
            # Open first: whoever sees the item as consumed may delete the file, which does not take it from us.
            with path.open("rb") as file:
                # Durable before anything of it is read: whoever comes second gets nothing.
                self._ledger.consume(binding.name)
                try:
                    return _read_bodies(file, binding, sizes)
                except _DamagedError:
                    self._drop_damaged(path)
                    return None
                finally:
                    path.unlink(missing_ok=True)
        except FileNotFoundError:
            return None  # somebody else took it
        except OSError as error:
            raise self._failed(error) from error

    def drop(self, item: ItemName) -> None:
        """Forget an item unused, if it is kept."""
        try:
            self._path(item).unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from error

    def _path(self, item: ItemName) -> Path:
        if not _ITEM_FILE.fullmatch(item):
            raise ValueError("an item's name has 64 hexadecimal digits")
        return self._folder / item

    def _usable(self, binding: Binding, now: float) -> bool:
        """Whether an item may still be taken; deletes it where it may not."""
        if now - binding.stocked_at < self._seconds and not self._ledger.consumed(binding.name):
            return True
        self.drop(binding.name)
        return False

    def _binding(self, path: Path) -> Binding | None:
        try:
            with path.open("rb") as file:
                binding = _read_binding(file)
            if binding.item == path.name:
                return binding
        except FileNotFoundError:
            return None  # somebody else took it
        except _DamagedError:
            pass
        self._drop_damaged(path)
        return None

    def _drop_damaged(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._warn(f"stocked item {path.name[:12]} was damaged and is dropped; check the disk under {self._folder}")

    def _failed(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"stocked material in {self._folder} cannot be read or written ({error.strerror}); "
            "free space or correct its permissions"
        )


class _DamagedError(Exception):
    """A file is not what was written."""


@dataclass
class _Hashing:
    """A file, and the digest of what was read from it."""

    file: BufferedReader

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256()

    def read(self, size: int) -> Body:
        body = np.empty(size, np.uint8)
        if self.file.readinto(body.data) != size:
            raise _DamagedError
        self.digest.update(body.data)
        return body


def _write(file: BufferedWriter, binding: Binding, bodies: Iterable[Body]) -> None:
    digest = hashlib.sha256()
    header = binding.model_dump_json().encode()
    for piece in (_FORMAT, len(header).to_bytes(4, "little"), header):
        file.write(piece)
        digest.update(piece)
    for body in bodies:
        file.write(body.data)
        digest.update(body.data)
    file.write(digest.digest())


def _read_binding(file: BufferedReader) -> Binding:
    return _read_header(_Hashing(file))


def _read_header(source: _Hashing) -> Binding:
    if source.read(len(_FORMAT)).tobytes() != _FORMAT:
        raise _DamagedError
    length = int.from_bytes(source.read(4).tobytes(), "little")
    if length > _MAX_BINDING_BYTES:
        raise _DamagedError
    try:
        return Binding.model_validate_json(source.read(length).tobytes())
    except ValidationError:
        raise _DamagedError from None


def _read_bodies(file: BufferedReader, binding: Binding, sizes: Sequence[int]) -> list[Body]:
    source = _Hashing(file)
    if _read_header(source) != binding:
        raise _DamagedError
    if os.fstat(file.fileno()).st_size != file.tell() + sum(sizes) + _DIGEST_BYTES:
        raise _DamagedError
    bodies = [source.read(size) for size in sizes]
    if file.read() != source.digest.digest():
        raise _DamagedError
    return bodies


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
