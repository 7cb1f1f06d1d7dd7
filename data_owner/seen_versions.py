"""The newest version of each model that this data owner has used, so that a front end cannot go back unnoticed.

A model owner serves several versions, all of them signed; which is the newest is the front end's word. `newest.json` in
the data folder remembers, and an answer of an older version says so. Its owner may have withdrawn the newer one for
good reasons: a warning, and no refusal.
"""

from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from contract.base import Strict, Version
from contract.errors import ConfigurationError
from contract.files import private_folder, read_bounded, try_to_replace
from contract.ticket import TicketClaims
from data_owner.diagnosis import Warned

FILE: Final = "newest.json"
CODE: Final = "older-version"
_MOST_MODELS: Final = 10_000
_MOST_BYTES: Final = 4 << 20


class _Newest(Strict):
    versions: dict[str, Version] = Field(default_factory=dict, max_length=_MOST_MODELS)
    """By owner and name of the model."""


class SeenVersions:
    """Those of one data folder."""

    def __init__(self, data_folder: Path) -> None:
        """Nothing is made in `data_folder` before it is needed."""
        self._path = data_folder / FILE

    def note(self, claims: TicketClaims) -> tuple[Warned, ...]:
        """Remember what a session was run with; a warning if a newer version was used before."""
        model, known = f"{claims.model_owner}/{claims.model}", self._read()
        newest = known.versions.get(model)
        if newest is None or _parse(claims.version) > _parse(newest):
            self._write(_Newest.model_construct(versions=known.versions | {model: claims.version}))
            return ()
        if claims.version == newest:
            return ()
        text = (
            f"this is version {claims.version}, and version {newest} of this model was used here before: unless "
            f"{claims.model_owner} has withdrawn that, the front end hides it"
        )
        return (Warned(code=CODE, text=text),)

    def _read(self) -> _Newest:
        try:
            return _Newest.model_validate_json(read_bounded(self._path, limit=_MOST_BYTES))
        except (ConfigurationError, ValidationError):  # none yet, or damaged: what is used now is remembered
            return _Newest()

    def _write(self, newest: _Newest) -> None:
        """As far as the disk takes it: an answer is not lost over it."""
        try:
            private_folder(self._path.parent, check=False)
        except (OSError, ConfigurationError):
            return
        try_to_replace(self._path, newest.model_dump_json(indent=2).encode())


def _parse(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
