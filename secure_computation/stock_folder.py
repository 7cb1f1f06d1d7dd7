"""Prepared material on disk: one sealed file (`at_rest`) for each item, used once.

The public header is the binding: JSON that says whose item this is and for what. The bodies, whose lengths follow from
the plan, are secret.

A file is written aside, synced and renamed: it is whole or absent. Whoever takes an item notes it in the durable ledger
first, then reads it, and deletes the file. A crash in between wastes the item; it cannot be taken again. Deleting
does not wipe the medium: see docs/threat-model.md for what a stolen disk means.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal, Self

from pydantic import BaseModel, Field, ValidationError

from contract.base import Name, Sha256, Strict, Version
from contract.errors import ConfigurationError, MaterialSpent
from contract.files import private_folder, remove_abandoned, replacing_file, sync_folder
from contract.model_card import OutputPolicy
from contract.ticket import TicketClaims
from secure_computation.at_rest import Body, DamagedFile, SealedFile, StorageKey, seal
from secure_computation.birth_mark import BirthMark, birth_mark
from secure_computation.material import ConsumptionLedger, ItemName

__all__ = ["Binding", "Body", "StockFolder", "Wanted"]

DAY_SECONDS: Final = 24 * 3600.0
_PURPOSE: Final = "stocked material"
_ITEM_FILE: Final = re.compile(r"[0-9a-f]{64}")
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

    def fits(self, session: "TicketClaims | Wanted") -> bool:
        """Whether such a session, or one with this ticket, may spend the item."""
        return all(getattr(self, one.name) == getattr(session, one.name) for one in fields(Wanted))

    @property
    def name(self) -> ItemName:
        """Name of the item, typed."""
        return ItemName(self.item)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a session will be: an item is for one like this. As in a ticket, before there is one."""

    model: str
    version: str
    plan_hash: str
    data_owner: str
    model_owner: str
    crypto_provider: str
    output_policy: OutputPolicy


_FORM: Final = 3
"""Of the material: goes up when the messages that it completes change. 1 were files that did not say their form; 2
had no deal tag."""


class _Form(BaseModel):
    """What a header of any version says of its form."""

    form: int = 1


class _Header(Strict):
    """What stands at the beginning of an item's file, authentic and readable."""

    form: Literal[3] = _FORM
    binding: Binding
    file: BirthMark
    """Of the file that it was written to: an item in any other file was restored or copied, and may have been used."""


class _OtherForm(DamagedFile):
    """The file is sound, and made by another version of this program."""


class _RestoredFile(DamagedFile):
    """The content is an item's, the file is not the one that it was written to."""


class StockFolder:
    """The items that one party keeps, for one peer or for all of them. For use by several threads and processes."""

    def __init__(
        self,
        folder: Path,
        *,
        key: StorageKey,
        days: float,
        ledger: ConsumptionLedger,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep files in `folder`, which is made (0700) if it is missing.

        Args:
            folder: for this stock alone.
            key: this party's, to seal files with.
            days: how long an item is kept.
            ledger: where items are noted as used, before they are.
            warn: told, in one line, of each file that was dropped because it is damaged.
            clock: seconds since 1970.
        """
        self._folder = folder
        self._key = key
        self._seconds = days * DAY_SECONDS
        self._ledger = ledger
        self._warn = warn
        self._clock = clock
        private_folder(folder)

    def put(self, binding: Binding, bodies: Iterable[Body]) -> None:
        """Keep an item. Raises ConfigurationError if the disk will not."""
        try:
            with replacing_file(self._folder / binding.item) as file:
                header = _Header(binding=binding, file=birth_mark(file.fileno())).model_dump_json().encode()
                seal(file, self._key, purpose=_PURPOSE, context=binding.item, header=header, bodies=bodies)
        except OSError as error:
            raise self._failed(error) from error

    def bindings(self) -> list[Binding]:
        """What is kept, the oldest first. Items that are too old, used before or damaged are dropped."""
        found: list[Binding] = []
        now = self._clock()
        try:
            remove_abandoned(self._folder)
            for path in list(self._folder.iterdir()):
                if _ITEM_FILE.fullmatch(path.name):
                    binding = self._binding(path)
                    if binding is not None and self._usable(binding, now):
                        found.append(binding)
        except OSError as error:
            raise self._failed(error) from error
        return sorted(found, key=lambda binding: (binding.stocked_at, binding.item))

    def discard(self, item: ItemName) -> None:
        """Note an item that no session will spend as consumed, if it is kept, and delete it."""
        if self._path(item).exists():
            with suppress(MaterialSpent):
                self._ledger.consume(item)
            self.drop(item)

    @contextmanager
    def reserved(self, session: Wanted, count: int) -> Iterator[tuple[Binding, ...]]:
        """The oldest items for such a session, `count` or none, which nobody else is given until the block ends."""
        found = list[Binding]()
        with ExitStack() as open_files:
            for binding in self.bindings():
                if len(found) < count and binding.fits(session) and self._reserve(binding, open_files):
                    found.append(binding)
            yield tuple(found) if len(found) == count else ()

    def find(self, item: ItemName) -> Binding | None:
        """What an item is bound to; None if it is not kept."""
        return next((binding for binding in self.bindings() if binding.item == item), None)

    def take(self, binding: Binding, sizes: Sequence[int]) -> list[Body] | None:
        """Consume an item, durably, and give its bodies; None if the file is gone or damaged.

        Args:
            binding: of the item, as `bindings` gave it.
            sizes: lengths in bytes of the bodies, by this party's own plan.

        Raises: MaterialSpent if it was used before; ConfigurationError if the disk fails.
        """
        path = self._folder / binding.item
        try:
            # Open first: whoever sees the item as consumed may delete the file, which does not take it from us.
            with path.open("r+b") as file:
                # Durable before anything of it is read: whoever comes second gets nothing.
                self._ledger.consume(binding.name)
                try:
                    return self._bodies(file, binding, sizes)
                except DamagedFile as damage:
                    self._drop_damaged(path, damage)
                    return None
                finally:
                    self._destroy(path, file)
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

    def _reserve(self, binding: Binding, open_files: ExitStack) -> bool:
        """Lock an item's file; the lock goes with the process, should that die."""
        path = self._folder / binding.item
        try:
            file = open_files.enter_context(path.open("rb"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (FileNotFoundError, BlockingIOError):
            return False
        except OSError as error:
            raise self._failed(error) from error
        return path.exists()  # else somebody took it before the lock was ours

    def _destroy(self, path: Path, file: BinaryIO) -> None:
        """Delete a consumed item so that no crash brings it back, and no other name of its file."""
        path.unlink(missing_ok=True)
        if os.fstat(file.fileno()).st_nlink:
            file.truncate(0)
            os.fsync(file.fileno())
        sync_folder(self._folder)

    def _path(self, item: ItemName) -> Path:
        if not _ITEM_FILE.fullmatch(item):
            raise ValueError("an item's name has 64 hexadecimal digits")
        return self._folder / item

    def _usable(self, binding: Binding, now: float) -> bool:
        """Whether an item may still be taken; deletes it if it may not."""
        if now - binding.stocked_at < self._seconds and not self._ledger.consumed(binding.name):
            return True
        self.drop(binding.name)
        return False

    def _binding(self, path: Path) -> Binding | None:
        try:
            with path.open("rb") as file:
                return self._opened(file, path.name)[1]
        except FileNotFoundError:
            return None  # somebody else took it
        except DamagedFile as damage:
            self._drop_damaged(path, damage)
            return None

    def _opened(self, file: BinaryIO, name: str) -> tuple[SealedFile, Binding]:
        sealed = SealedFile(file, self._key, purpose=_PURPOSE, context=name)
        try:
            form = _Form.model_validate_json(sealed.header).form
            if form != _FORM:
                raise _OtherForm(f"has form {form}, and this program uses form {_FORM}")
            header = _Header.model_validate_json(sealed.header)
        except ValidationError:
            raise DamagedFile("is of another version") from None
        if header.file != birth_mark(file.fileno()):
            raise _RestoredFile("is another file than the one that was written")
        return sealed, header.binding

    def _bodies(self, file: BinaryIO, binding: Binding, sizes: Sequence[int]) -> list[Body]:
        sealed, found = self._opened(file, binding.item)
        if found != binding:
            raise DamagedFile("was replaced")
        return sealed.read(sizes)

    def _drop_damaged(self, path: Path, damage: DamagedFile) -> None:
        path.unlink(missing_ok=True)
        item = path.name[:12]
        if isinstance(damage, _OtherForm):
            self._warn(
                f"stocked item {item} under {self._folder} was prepared by another version of this program, whose "
                "material this version cannot use, and is dropped; prepare material again"
            )
        elif isinstance(damage, _RestoredFile):
            self._warn(
                f"stocked item {item} under {self._folder} was restored or copied: it may have been used, and is "
                "dropped; prepare material again"
            )
        else:
            self._warn(
                f"stocked item {item} was damaged and is dropped; check the disk under {self._folder} (it {damage})"
            )

    def _failed(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"stocked material in {self._folder} cannot be read or written ({error.strerror}); "
            "free space or correct its permissions"
        )
