"""The dealer's own key: 256 bits, made once, from which the seeds of weight masks are derived.

Whoever has it and the masked weights that data owners keep has the models, so it stays on the dealer's disk, readable
by its account only. Losing it costs nothing but time: every data owner fetches masked weights anew.
"""

import os
from pathlib import Path
from typing import Final

from contract.errors import ConfigurationError
from secure_computation.randomness import SEED_BYTES, Seed

KEY_FILE: Final = "dealer.key"


def load_or_make_key(folder: Path) -> Seed:
    """Read the key in `folder`, or make it there (0600). Raises ConfigurationError where the file is wrong."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / KEY_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _load(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made ({error.strerror}); check the data folder") from error
    key = Seed.fresh()
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.reveal_to_channel())
        file.flush()
        os.fsync(file.fileno())
    return key


def _load(path: Path) -> Seed:
    if path.stat().st_mode & 0o077:
        raise ConfigurationError(f"{path}: others can read this key; run `chmod 600` on it")
    content = path.read_bytes()
    if len(content) != SEED_BYTES:
        raise ConfigurationError(f"{path} does not hold {SEED_BYTES} bytes; move it away, and a new key is made")
    return Seed(content)
