"""What one benchmark run is asked to do, checked before anything starts."""

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.variants import MAX_POOL
from contract.errors import CallerError
from contract.model_card import read_card

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
README: Final = ROOT / "README.md"
MODELS = {
    "resnet18": ROOT / "models" / "pediatric-pneumonia-resnet18",
    MAX_POOL: ROOT / "models" / "pediatric-pneumonia-resnet18",
}
"""Short names of the shipped models and of variants made from them. Any other model is named by its folder."""

THREADS = 1
"""Of one tensor operation, in every party and in the plaintext process."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One cell of a latency benchmark: a model, at one size and batch, by several engines."""

    model: str
    """How the results name the model: a name in MODELS, or the name on the card of a model given by its folder."""
    model_folder: Path
    """Holds model.onnx and card.json."""
    engines: tuple[str, ...]
    runs: int
    """Measured runs of each engine, after one that is not counted."""
    seed: int
    """Of the first phantom radiograph; those of later rounds follow."""
    timeout_seconds: float
    """For one run of one engine; what hangs longer ends the benchmark."""
    batch: int = 1
    """Images in one evaluation."""
    side: int | None = None
    """Of the square pictures, in pixels; None for the model's own."""


def configure(
    engines: Sequence[str],
    model: str,
    *,
    runs: int,
    timeout_seconds: float,
    seed: int = 1,
    batch: int = 1,
    side: int | None = None,
) -> Configuration:
    """A cell of a model that is asked for by a name in MODELS or by its folder. Raises CallerError if there is none."""
    folder = find_model(model)
    return Configuration(
        model=model if model in MODELS else read_card(folder / "card.json").name,
        model_folder=folder,
        engines=tuple(engines),
        runs=runs,
        seed=seed,
        timeout_seconds=timeout_seconds,
        batch=batch,
        side=side,
    )


def parse_names(text: str, known: Collection[str], *, noun: str, option: str) -> tuple[str, ...]:
    """Read `crypten,plaintext`. Raises CallerError for a `noun` that is not known or is named twice, and for none."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        what = f"unknown {noun} '{unknown[0][:60]}'" if unknown else f"no {noun} named"
        raise CallerError(f"{what}: give {option} some of {', '.join(known)}")
    if len(set(names)) != len(names):
        raise CallerError(f"{option} names one twice: name each {noun} once")
    return names


def parse_numbers(text: str, *, option: str, least: int, most: int) -> tuple[int, ...]:
    """Read `1,8`. Raises CallerError for anything but different whole numbers from `least` to `most`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and least <= int(part[:6]) <= most for part in parts):
        raise CallerError(f"give {option} numbers from {least} to {most}, separated by commas")
    numbers = tuple(int(part) for part in parts)
    if len(set(numbers)) != len(numbers):
        raise CallerError(f"{option} names a number twice: name each once")
    return numbers


def parse_sides(text: str) -> tuple[int, ...]:
    """Read `64,128`. Raises CallerError for anything but two or more sides of 32 to 1024 pixels."""
    numbers = parse_numbers(text, option="--sides", least=32, most=1024)
    if len(numbers) < 2:
        raise CallerError("give --sides two or more numbers of 32 to 1024 pixels, say 64,128,224")
    return numbers


def find_model(text: str) -> Path:
    """Folder of a model: a name in MODELS, else a path. Raises CallerError if there is none."""
    folder = MODELS.get(text) or Path(text).resolve()
    missing = [name for name in ("card.json", "model.onnx") if not (folder / name).is_file()]
    if not missing:
        return folder
    if text in MODELS:
        raise CallerError(f"model '{text}' is not complete: {missing[0]} is missing from models/{folder.name}")
    raise CallerError(
        f"unknown model '{text[:200]}': give --model one of {', '.join(MODELS)}, or a folder with model.onnx and "
        "card.json"
    )


def check_save_file(path: Path | None) -> None:
    """Raise CallerError, before minutes of measuring, if the result cannot be written."""
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise CallerError(f"{path}: is not a file in a folder that exists; give --save the path of a JSON file")


def check_save_folder(folder: Path) -> None:
    """Raise CallerError, before minutes of measuring, if results cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CallerError(f"{folder}: cannot be written ({error.strerror}); give --save another folder") from error
