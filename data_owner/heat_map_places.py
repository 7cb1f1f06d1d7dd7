"""What arguments must say before anything is sent: where heat maps go, and one word about bright and dark.

Standard library only: the demonstration asks before anything is installed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contract.errors import CallerError

SUFFIX: Final = ".heat-map.png"


def choose_places(files: Sequence[Path], target: Path) -> tuple[Path, ...]:
    """Where the heat map of each file goes: `target` for a single one, else a folder, which is made.

    Raises CallerError if one exists already or cannot be written: asked before anything is sent.
    """
    folder, places = target, tuple(target / f"{file.name}{SUFFIX}" for file in files)
    if len(set(places)) != len(places):
        raise CallerError("two of the files have one name, and so would their heat maps; submit them one by one")
    if len(files) == 1 and not target.is_dir():
        if target.suffix.lower() != ".png":
            raise CallerError(f"{target}: a heat map is written as PNG; give a name that ends in .png, or a folder")
        folder, places = target.parent, (target,)
    else:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise CallerError(f"{folder}: cannot be made a folder ({error.strerror}); name another one") from error
    for place in places:
        _require_new(place)
    if not os.access(folder, os.W_OK):
        raise CallerError(f"{folder}: not a folder that can be written; name another place for the heat map")
    return places


def _require_new(place: Path) -> None:
    """Raise CallerError if a file exists, or cannot by its name."""
    try:
        place.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise CallerError(
            f"{place}: no heat map can be written there ({error.strerror}); name another place"
        ) from error
    raise CallerError(f"{place} exists already; name another place for the heat map")


def require_one_polarity(*, as_is: bool, invert: bool) -> None:
    """Raise CallerError for both."""
    if as_is and invert:
        raise CallerError(
            "--as-is and --invert exclude each other: give one for all FILEs, and submit other images in another call"
        )
