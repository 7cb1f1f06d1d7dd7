"""Reference pictures at the data owner: found in a folder by their hashes, and sent among its own images at random.

To the model owner a session with one looks like any other: engine, material, messages and their order are the same,
and the picture is masked as every picture is.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import SystemRandom
from typing import TYPE_CHECKING, Final, Self, TypeAlias, TypeVar

from contract.api import ModelEntry
from contract.errors import CallerError, EncryptedInferenceError, ImageError
from contract.references import MOST_REFERENCE_BYTES, ReferencePicture
from contract.ticket import Engine
from data_owner.settings import DataOwnerSettings
from data_owner.submission import Submission
from plumbing.output import shown_path

if TYPE_CHECKING:
    from data_owner.catalog import ModelCatalog
    from secure_computation.plan import Plan

MOST_FILES: Final = 256
"""That are looked through in a folder of reference pictures."""
_RANDOM: Final = SystemRandom()
Reader: TypeAlias = tuple[Path, Callable[[], Submission]]
"""A file, and what reads it when its turn has come."""
Own = TypeVar("Own")


@dataclass(frozen=True, kw_only=True)
class FoundReference:
    """A reference picture of a model, and its file here."""

    picture: ReferencePicture
    path: Path


def find_references(entry: ModelEntry, folder: Path) -> tuple[FoundReference, ...]:
    """Those of a model's reference pictures that lie in a folder, told by their hashes. Other files are left alone.

    Raises CallerError if the model has none or the folder holds none of them.
    """
    name, owner = f"{entry.card.name} {entry.version}", entry.model_owner.organisation
    if entry.card.references is None or Engine.MASKED not in entry.engines:
        raise CallerError(f"the card of {name} has no reference pictures: ask {owner} to import it with --references")
    wanted = {one.file_sha256: one for one in entry.card.references.pictures}
    found: dict[str, FoundReference] = {}
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        if len(files) > MOST_FILES:
            raise CallerError(f"{shown_path(folder)} holds more than {MOST_FILES} files: give the pictures a folder")
        for path in files:
            if path.stat().st_size <= MOST_REFERENCE_BYTES and len(found) < len(wanted):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest in wanted:
                    found.setdefault(digest, FoundReference(picture=wanted[digest], path=path))
    except OSError as error:
        raise CallerError(
            f"{shown_path(folder)}: cannot be read ({error.strerror}); give the folder of {owner}'s reference pictures"
        ) from error
    if not found:
        raise CallerError(
            f"{shown_path(folder)} holds none of the {len(wanted)} reference pictures of {name}: ask {owner} for those "
            "of this version, and keep the files as they are"
        )
    return tuple(found.values())


def read_reference(found: FoundReference, entry: ModelEntry, plan: "Plan") -> Submission:
    """Read a reference picture as the model's card asks. Raises ImageError unless its owner read the same numbers."""
    from imaging.reading import read_model_input
    from secure_computation.engines.masked.plan.whole_answers import hash_input

    image = read_model_input(found.path, entry.card.input)
    lowering = plan.engines.masked
    if lowering is None or hash_input(lowering, image.tensor) != found.picture.input_sha256:
        raise ImageError(
            f"{shown_path(found.path)}: read here as another tensor than at {entry.model_owner.organisation}, so no "
            "answer can be compared and nothing was sent: one of the two must update"
        )
    return Submission(path=found.path, image=image, reference=found.picture)


def _read_with_plan(found: FoundReference, entry: ModelEntry, catalog: "ModelCatalog") -> Submission:
    return read_reference(found, entry, catalog.fetch_plan(entry))


class ReferenceMixer:
    """Says when a reference picture goes along with an image of one's own."""

    def __init__(self, found: Sequence[FoundReference], share: float) -> None:
        """Add one of `found` to each image with odds of `share`."""
        self._found = found
        self._share = share

    @classmethod
    def of(cls, settings: DataOwnerSettings, entry: ModelEntry, engine: Engine, *, tell: Callable[[str], None]) -> Self:
        """As the settings say; without any if there are none of this model or engine, which `tell` is told why."""
        if settings.references is None or settings.reference_share == 0:
            return cls((), 0)
        try:
            if engine is not Engine.MASKED:
                raise CallerError(f"the engine '{engine.value}' cannot be checked by them")
            return cls(find_references(entry, settings.references), settings.reference_share)
        except EncryptedInferenceError as error:
            tell(f"no reference pictures are sent along: {error}")
            return cls((), 0)

    def mix(self, own: Sequence[Reader], entry: ModelEntry, catalog: "ModelCatalog") -> list[Reader]:
        """What reads images of one's own, with what reads the pictures that are sent along, in order."""
        queue: list[Reader] = []
        for one in (one for reader in own for one in self.surround(reader)):
            if isinstance(one, FoundReference):
                queue.append((one.path, partial(_read_with_plan, one, entry, catalog)))
            else:
                queue.append(one)
        return queue

    def surround(self, own: Own) -> "tuple[Own | FoundReference, ...]":
        """An image of one's own, or what stands for it, with what is sent along, in order."""
        before, after = self.draw()
        return tuple(one for one in (before, own, after) if one is not None)

    def draw(self) -> tuple[FoundReference | None, FoundReference | None]:
        """What is to go before the next image of one's own, and what after it: mostly nothing, never both.

        Either with equal odds, so that the order of sessions does not tell which is which.
        """
        if not self._found or _RANDOM.random() >= self._share:
            return None, None
        chosen = _RANDOM.choice(self._found)
        return (chosen, None) if _RANDOM.getrandbits(1) else (None, chosen)
