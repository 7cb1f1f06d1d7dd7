"""Material: the correlated randomness of one inference, numbered, and used once.

An *item* is the material of one image. It has a name that is never given twice, and each party notes in durable storage
that it was consumed, before the first online message. A session that dies takes its items with it: using a correlation
for two different inputs reveals their difference.
"""

import hashlib
import json
import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import NewType

from contract.errors import ConfigurationError, MaterialSpent
from contract.files import claim, private_folder
from secure_computation.randomness import Seed

ItemName = NewType("ItemName", str)
"""64 hexadecimal digits, as `item_name` makes them."""

_ITEM_NAME = re.compile(r"[0-9a-f]{64}")
_LOG = logging.getLogger(__name__)


def item_name(
    *, session: str, plan_hash: str, data_owner: str, model_owner: str, version: str, index: int = 0
) -> ItemName:
    """Name the item of a session's image number `index`, from 0.

    Bound to parties, model version and plan, so that a mix-up changes every stream.
    """
    fields = json.dumps([session, plan_hash, data_owner, model_owner, version, index])
    return ItemName(hashlib.sha256(fields.encode()).hexdigest())


@dataclass(frozen=True, kw_only=True)
class DealtSeeds:
    """What the dealer draws for one item: a seed for each online party, and one for a second mask of the image.

    The last is one of its own: the model owner may learn it or the data owner's, never both
    (`engines.masked.session.decoys`). The engine `crypten` has no use for it.
    """

    data_owner: Seed
    model_owner: Seed
    second_mask: Seed = field(default_factory=Seed.fresh)

    @staticmethod
    def fresh() -> "DealtSeeds":
        """Draw all from the operating system."""
        return DealtSeeds(data_owner=Seed.fresh(), model_owner=Seed.fresh())


class ConsumptionLedger:
    """Which stocked items this party has consumed: one empty file for each, created exclusively and synced to disk.

    The file system gives what is needed and nothing more: creation is atomic between processes, and an entry that was
    synced survives a crash. What the folder held when it was opened, and all that was added here, is remembered beside
    it: entries that disappear under a running process, say because a backup is restored, are missed and noted again.
    For use by several threads and processes.
    """

    def __init__(self, folder: Path) -> None:
        """Keep the ledger in `folder`, which is made (0700) if it is missing."""
        self._folder = folder
        self._lock = Lock()
        try:
            private_folder(folder, check=False)  # names of items are no secrets
            with os.scandir(folder) as entries:
                found = {entry.name: entry.stat().st_mtime_ns for entry in entries if _ITEM_NAME.fullmatch(entry.name)}
        except OSError as error:
            raise self._unwritable(error) from error
        self._known = set(found)
        self._latest = max(found, key=found.__getitem__, default=None)
        """What a ledger that is set back to any earlier state lacks."""

    def consume(self, item: ItemName) -> None:
        """Note that `item` is used now. Raises MaterialSpent if it was before."""
        path = self._file(item)
        with self._lock:
            try:
                self._mend()
                if item in self._known:
                    raise _spent(item)
                claim(path)
            except FileExistsError:
                raise _spent(item) from None
            except OSError as error:
                raise self._unwritable(error) from error
            self._known.add(item)
            self._latest = item

    def consumed(self, item: ItemName) -> bool:
        """Whether `item` was used before."""
        return self._file(item).exists() or item in self._known

    def _mend(self) -> None:
        """Note again what this process knows of and the folder has lost."""
        if self._latest is None or (self._folder / self._latest).exists():
            return
        lost = self._known.difference(path.name for path in self._folder.iterdir())
        for name in lost:
            with suppress(FileExistsError):  # another process mends it too
                claim(self._folder / name)
        _LOG.warning(
            "the ledger of consumed material in %s was set back while this program ran: %d entries were missing and "
            "are noted again; never restore a ledger",
            self._folder,
            len(lost),
        )

    def _file(self, item: ItemName) -> Path:
        if not _ITEM_NAME.fullmatch(item):
            raise ValueError("an item's name has 64 hexadecimal digits")
        return self._folder / item

    def _unwritable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"the ledger of consumed material in {self._folder} cannot be written ({error.strerror}); "
            "free space or correct its permissions"
        )


def _spent(item: ItemName) -> MaterialSpent:
    return MaterialSpent(f"material {item[:12]} was consumed before and is never used twice; start a new session")
