"""The dealer's own key: 256 bits, made once, from which the seeds of weight masks are derived.

Whoever has it and the masked weights that data owners keep has the models, so it lies sealed on the dealer's disk
(secure_computation/at_rest.py), readable by its account only. Losing it costs nothing but time: every data owner
fetches masked weights anew.
"""

from pathlib import Path
from typing import Final

from contract.errors import ConfigurationError
from contract.files import private_folder
from secure_computation.at_rest import DamagedFile, StorageKey, read_sealed, write_sealed
from secure_computation.randomness import SEED_BYTES, Seed

KEY_FILE: Final = "dealer.key.sealed"
_PURPOSE: Final = "dealer's key"


def load_or_make_key(folder: Path, storage_key: StorageKey) -> Seed:
    """Read the key in `folder`, or make it there (0600). Raises ConfigurationError where the file is wrong."""
    private_folder(folder)
    path = folder / KEY_FILE
    key = Seed.fresh()
    try:
        write_sealed(path, storage_key, key.reveal_to_stock(), purpose=_PURPOSE, context=KEY_FILE)
    except FileExistsError:
        return _load(path, storage_key)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made ({error.strerror}); check the data folder") from error
    return key


def _load(path: Path, storage_key: StorageKey) -> Seed:
    if path.stat().st_mode & 0o077:
        raise ConfigurationError(f"{path}: others can read this key; run `chmod 600` on it")
    try:
        content = read_sealed(path, storage_key, purpose=_PURPOSE, context=KEY_FILE, limit=SEED_BYTES)
    except DamagedFile as damage:
        raise ConfigurationError(f"{path} {damage}; move it away, and a new key is made") from None
    return Seed(content.tobytes())
