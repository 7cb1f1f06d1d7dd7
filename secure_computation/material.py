"""Material: the correlated randomness of one inference, numbered, and used once.

An *item* is the material of one image. It has a name that is never given twice, and each party notes in durable storage
that it was consumed, before the first online message. A session that dies takes its items with it: using a correlation
for two different inputs reveals their difference.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NewType

from contract.errors import ConfigurationError, MaterialSpent
from contract.files import private_folder
from secure_computation.randomness import Seed

ItemName = NewType("ItemName", str)
"""64 hexadecimal digits, as `item_name` makes them."""

_ITEM_NAME = re.compile(r"[0-9a-f]{64}")


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
    """What the dealer draws for one item: a seed for each online party."""

    data_owner: Seed
    model_owner: Seed

    @staticmethod
    def fresh() -> "DealtSeeds":
        """Draw both from the operating system."""
        return DealtSeeds(data_owner=Seed.fresh(), model_owner=Seed.fresh())


class ConsumptionLedger:
    """Which items this party has consumed: one empty file for each, created exclusively and synced to disk.

    The file system gives what is needed and nothing more: creation is atomic between processes, and an entry that was
    synced survives a crash.
    """

    def __init__(self, folder: Path) -> None:
        """Keep the ledger in `folder`, which is made (0700) where it is missing."""
        self._folder = folder
        try:
            private_folder(folder, check=False)  # names of items are no secrets
            sync_folder(folder.parent)
        except OSError as error:
            raise self._unwritable(error) from error

    def consume(self, item: ItemName) -> None:
        """Note that `item` is used now. Raises MaterialSpent where it was before."""
        try:
            descriptor = os.open(self._file(item), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(self._folder)
        except FileExistsError:
            raise MaterialSpent(
                f"material {item[:12]} was consumed before and is never used twice; start a new session"
            ) from None
        except OSError as error:
            raise self._unwritable(error) from error

    def consumed(self, item: ItemName) -> bool:
        """Whether `item` was used before."""
        return self._file(item).exists()

    def _file(self, item: ItemName) -> Path:
        if not _ITEM_NAME.fullmatch(item):
            raise ValueError("an item's name has 64 hexadecimal digits")
        return self._folder / item

    def _unwritable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"the ledger of consumed material in {self._folder} cannot be written ({error.strerror}); "
            "free space or correct its permissions"
        )


def sync_folder(folder: Path) -> None:
    """Make what was created or renamed in `folder` survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
