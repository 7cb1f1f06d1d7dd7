"""What the demonstration asks of its arguments before anything is installed or started. Standard library only."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contract.errors import CallerError
from data_owner.heat_map_places import choose_places, require_one_polarity
from plumbing.listening import require_free_port

PAGE_HOST: Final = "127.0.0.1"
MODEL_FILES: Final = ("model.onnx", "card.json")


def check_demo(
    files: Sequence[Path],
    *,
    model: Path | None,
    as_is: bool,
    invert: bool,
    heat_map: Path | None,
    as_json: bool,
    ui: bool,
    port: int,
) -> None:
    """Raise CallerError, or ConfigurationError for a busy port, if the demonstration cannot do what is asked."""
    if ui and (files or as_json or heat_map or as_is or invert):
        raise CallerError(
            "with --ui images are dropped on the page: leave out FILE, --json, --heat-map, --as-is and --invert"
        )
    require_one_polarity(as_is=as_is, invert=invert)
    if port and not ui:
        raise CallerError("--port is the page's: add --ui, or leave it out")
    for file in files:
        _require_file(file, advice="check the path")
    if model is not None:
        for name in MODEL_FILES:
            _require_file(model / name, advice="--model takes a folder with model.onnx and card.json")
    if heat_map is not None:
        choose_places(files or [Path("phantom.dcm")], heat_map.absolute())
    if port:
        require_free_port(PAGE_HOST, port, setting="--port, or leave it out for any free one")


def _require_file(path: Path, *, advice: str) -> None:
    """Raise CallerError if a path is not a file that this account can read."""
    try:
        if path.is_dir():
            raise CallerError(f"{path}: this is a folder; give the files in it, one by one")
        with path.open("rb"):
            return
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "no file can have this name"
        raise CallerError(f"{path}: cannot be opened ({why}): {advice}") from error
