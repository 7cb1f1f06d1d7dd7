"""Resampled pictures in one file on the disk, found again by what they were made of."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

import imaging
from contract.base import Strict
from contract.errors import ConfigurationError, ImageError
from contract.files import replacing_file
from contract.model_card import InputSpecification
from imaging.polarity import POLARITY_UNKNOWN
from imaging.reading import ModelInput, read_several

FORMAT: Final = 1
READERS: Final = ("numpy", "pillow", "pydicom", "pyjpegls", "python-gdcm", "nibabel", "imagecodecs")
"""Libraries whose version may change a pixel."""
CHUNK: Final = 1 << 20
BATCH: Final = 64
"""Pictures that are shrunk at a time."""
MARGIN: Final = 1 << 28
"""Bytes that must stay free on the disk."""


Pixels = np.memmap[Any, np.dtype[np.float32]]
"""Pictures in a store's file, mapped into memory, read-only: (images, height, width)."""


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    path: Path
    reason: str


class _Index(Strict):
    """Stands beside the pictures; written last, so that what it stands beside is whole."""

    format: int
    kept: tuple[int, ...]
    skipped: dict[int, str]


def read_into_store(
    files: Sequence[Path],
    specification: InputSpecification,
    *,
    folder: Path,
    label: str,
    whose: str,
    skip_unusable: bool,
    progress: Callable[[int, int], None],
) -> tuple[Pixels, tuple[int, ...], tuple[Skipped, ...]]:
    """Read `files`, or find them read before in `folder`; pictures of other content under the same label are removed.

    Gives pictures (grey in [0, 1]), the file of each, and what was left out. `whose` begins error messages. Raises
    ConfigurationError.
    """
    picture = specification.model_copy(update={"channels": 1, "mean": (0.0,), "standard_deviation": (1.0,)})
    key = _make_key(files, picture, skip_unusable=skip_unusable)
    prefix = hashlib.sha256(label.encode()).hexdigest()[:8]
    data, index = folder / f"{prefix}-{key}.pixels", folder / f"{prefix}-{key}.json"
    if (found := _read_index(index)) is None or not (
        data.is_file() and data.stat().st_size == _count_bytes(len(found.kept), picture)
    ):
        for old in (*folder.glob(f"{prefix}-*.pixels"), *folder.glob(f"{prefix}-*.json")):
            old.unlink(missing_ok=True)
        found = _write_pictures(files, picture, data, whose=whose, skip_unusable=skip_unusable, progress=progress)
        with _explaining_failure(index.parent), replacing_file(index) as output:
            output.write(found.model_dump_json().encode())
    pixels = np.memmap(data, np.float32, mode="r", shape=(len(found.kept), picture.height, picture.width))
    skipped = tuple(Skipped(files[number], reason) for number, reason in found.skipped.items())
    return pixels, found.kept, skipped


def shrink_stored(pixels: Pixels, size: int) -> Pixels:
    """Pictures of a store at (size, size), in a file beside it that is made once: (kept, size, size), read-only.

    Raises ConfigurationError.
    """
    import torch

    from federated_learning.augmentation import resize

    whole = Path(str(pixels.filename))
    path = whole.with_name(f"{whole.stem}.{size}.pixels")
    shape = (len(pixels), size, size)
    if not path.is_file() or path.stat().st_size != len(pixels) * size * size * np.dtype(np.float32).itemsize:
        with _explaining_failure(path.parent), replacing_file(path) as output:
            for start in range(0, len(pixels), BATCH):
                part = torch.from_numpy(np.array(pixels[start : start + BATCH, np.newaxis]))
                output.write(resize(part, size).numpy().tobytes())
    return np.memmap(path, np.float32, mode="r", shape=shape)


@contextmanager
def _explaining_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: pictures cannot be kept there ({error.strerror}); give another folder"
        ) from error


def _make_key(files: Sequence[Path], picture: InputSpecification, *, skip_unusable: bool) -> str:
    """SHA-256 of all that decides the pictures: contents of the files in order, specification, and what reads them."""
    digest = hashlib.sha256()
    digest.update(json.dumps([FORMAT, skip_unusable, {name: version(name) for name in READERS}]).encode())
    digest.update(picture.model_dump_json().encode())
    for source in sorted(Path(imaging.__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    for path in files:
        digest.update(_digest_file(path))
    return digest.hexdigest()[:32]


def _digest_file(path: Path) -> bytes:
    if not path.is_file():  # never wait for a pipe; whoever reads the picture says what is wrong
        return bytes(32)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(CHUNK):
                digest.update(block)
    except OSError:
        return bytes(32)
    return digest.digest()


def _find_obstacle(image: ModelInput | ImageError) -> str | None:
    """Why a picture cannot be used, also if serving would ask whether the file is meant.

    Whoever made a data set of PNG or JPEG files says by that which values are bright: a clinician would be asked.
    """
    if isinstance(image, ImageError):
        return str(image)
    doubts = (one.text for one in image.warnings if one.needs_confirmation and one.code != POLARITY_UNKNOWN)
    return next(doubts, None)


def _count_bytes(count: int, picture: InputSpecification) -> int:
    return count * picture.height * picture.width * np.dtype(np.float32).itemsize


def _read_index(path: Path) -> _Index | None:
    try:
        found = _Index.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.format == FORMAT else None


def _write_pictures(
    files: Sequence[Path],
    picture: InputSpecification,
    data: Path,
    *,
    whose: str,
    skip_unusable: bool,
    progress: Callable[[int, int], None],
) -> _Index:
    """Read files in their order and append their pictures; only a few are in memory at a time.

    Raises ConfigurationError for a file that cannot be used, unless it shall be skipped, and for a full disk.
    """
    kept: list[int] = []
    skipped: dict[int, str] = {}
    _require_room(len(files), picture, data.parent)
    with _explaining_failure(data.parent), replacing_file(data) as output:
        for number, image in enumerate(read_several(files, picture)):
            obstacle = _find_obstacle(image)
            if not isinstance(image, ImageError) and obstacle is None:
                output.write(image.tensor[0].tobytes())
                kept.append(number)
            elif skip_unusable:
                skipped[number] = str(obstacle)
            else:
                way_out = "set skip_unusable in the hospital's settings" if whose else "take it out of the data"
                raise ConfigurationError(f"{whose}{files[number]}: {obstacle}; or {way_out}")
            progress(number + 1, len(files))
        if not kept:
            raise ConfigurationError(f"{whose}none of {len(files)} files can be used; give others")
    return _Index(format=FORMAT, kept=tuple(kept), skipped=skipped)


def _require_room(count: int, picture: InputSpecification, folder: Path) -> None:
    needed = _count_bytes(count, picture)
    with _explaining_failure(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise ConfigurationError(
            f"{folder}: {count} pictures take {needed / 1e6:,.0f} MB there, which are not free; give another folder"
        )
