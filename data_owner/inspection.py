"""What a file is, and what would be submitted of it: read as `data-owner diagnose` reads it, without any network."""

import io
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from contract.base import Strict
from contract.errors import CallerError, ImageError
from contract.files import create
from contract.model_card import AgeRange, ColourChoice, FrameChoice, InputSpecification, Modality, ModelCard
from data_owner.diagnosis import Warned
from data_owner.submission import LOOK, list_ways_out
from imaging.formats import FileFormat, Polarity, PolaritySource
from imaging.preprocessing import to_model_input, to_picture
from imaging.reading import ImageFacts, Radiograph, read_image
from imaging.suitability import AGE_UNKNOWN, FIT_UNKNOWN, MISFIT, WRONG_AGE
from plumbing.output import path_bytes, path_text, printable, shown_path

_ANY_PICTURE = InputSpecification(
    modalities=tuple(Modality),
    height=8,
    width=8,
    mean=(0.0,),
    standard_deviation=(1.0,),
    frame=FrameChoice.MIDDLE,
    colour=ColourChoice.LUMINANCE,
)
"""For looking without a model: whatever can be read. Its size is never used."""

_OF_A_MODEL = FIT_UNKNOWN | MISFIT
"""Warnings that a picture may not be what a model was made for: without a model there is nothing to say."""

LABELS: Final = ("as it is: --as-is", "inverted: --invert")
_LEAST_WIDTH: Final = 240
"""Pixels of each picture: less would not hold its label."""
_GAP: Final = 16
_GROUND: Final = 24
"""Grey of what is no picture: neither picture's black or white."""


class AgeFit(StrEnum):
    """How the age that a file gives fits the ages that a model was made for. The age itself is the patient's."""

    FITS = "fits"
    OUTSIDE = "outside"
    NOT_NAMED = "not-named"


class Submitted(Strict):
    """The tensor that a model would be given, as shares."""

    model: str
    version: str
    channels: int
    height: int
    width: int
    ages: AgeRange | None
    """Ages of patients that the model was made for."""


class Inspection(Strict):
    """One line of `data-owner inspect --json`. Holds nothing of the patient but what the picture shows."""

    file: str
    """Its path. Of a name that is no UTF-8 the bytes that are none stand as \\xff, and `file_bytes` has it whole."""
    file_bytes: str | None = None
    """The path in hexadecimal, if it is no UTF-8."""
    readable: bool
    reason: str | None = None
    """Why it is refused, and what to do."""
    format: str | None = None
    encoding: str | None = None
    rows: int | None = None
    columns: int | None = None
    frames: int | None = None
    frame: int | None = None
    """Which of `frames` pictures is read, counted from 1."""
    modality: str | None = None
    body_part: str | None = None
    age: AgeFit | None = None
    """How the patient's age fits the model, whose ages `submitted` names; None without a card that names any."""
    warnings: tuple[Warned, ...] = ()
    polarity_told_by: PolaritySource | None = None
    """Who says whether the picture is a negative: its file, nobody, or tags of the file that contradict each other."""
    polarity: Polarity | None = None
    """What --as-is or --invert said about it."""
    needs_confirmation: bool = False
    """Whether `diagnose` would ask for --force, or for --as-is or --invert."""
    asked: tuple[str, ...] = ()
    """Codes of the warnings because of which it would."""
    submitted: Submitted | None = None
    """None without a card."""


def inspect_file(
    path: Path, card: ModelCard | None, preview: Path | None, polarity: Polarity | None = None
) -> Inspection:
    """Read one file as the model of `card` asks, or in any way at all without one; write what is seen to `preview`.

    The preview is what the model sees, at its size; without a card, the whole picture; if nobody says whether it is
    a negative, the whole picture both ways. A file that cannot be read is told of, not raised. Raises CallerError if
    the preview cannot be written.
    """
    specification = _ANY_PICTURE if card is None else card.input
    try:
        image = read_image(path, specification, polarity=polarity)
    except ImageError as error:
        return Inspection(
            file=path_text(path), file_bytes=path_bytes(path), readable=False, reason=printable(str(error))
        )
    if preview is not None:
        _write_preview(preview, _draw_preview(image, card))
    return _describe_image(path, image, card, polarity)


def _draw_preview(image: Radiograph, card: ModelCard | None) -> bytes:
    if image.asks_polarity:
        return draw_both_ways(to_picture(image.pixels))
    return encode_png(
        image.pixels if card is None else undo_normalisation(to_model_input(image.pixels, card.input), card)
    )


def undo_normalisation(tensor: NDArray[np.float32], card: ModelCard) -> NDArray[np.float32]:
    """The first channel of the model's tensor, shape (height, width), back in [0, 1]."""
    asked = card.input
    seen: NDArray[np.float32] = tensor[0] * np.float32(asked.standard_deviation[0]) + np.float32(asked.mean[0])
    return seen


def encode_png(pixels: NDArray[np.float32]) -> bytes:
    """A grey picture in [0, 1] as an 8-bit PNG."""
    target = io.BytesIO()
    Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)).save(target, "PNG")
    return target.getvalue()


def _write_preview(path: Path, png: bytes) -> None:
    try:
        create(path, png)
    except FileExistsError:
        raise CallerError(f"{path}: exists already and is not overwritten; give the preview another name") from None
    except OSError as error:
        raise CallerError(f"{path}: the preview cannot be written ({error.strerror}); name another place") from error


def _describe_image(path: Path, image: ImageFacts, card: ModelCard | None, polarity: Polarity | None) -> Inspection:
    warnings = tuple(one for one in image.warnings if card is not None or one.code not in _OF_A_MODEL)
    rows, columns = image.original_size
    submitted = None
    if card is not None:
        asked = card.input
        submitted = Submitted(
            model=card.name,
            version=card.version,
            channels=asked.channels,
            height=asked.height,
            width=asked.width,
            ages=asked.ages,
        )
    return Inspection(
        file=path_text(path),
        file_bytes=path_bytes(path),
        readable=True,
        format=image.format.value,
        encoding=image.encoding,
        rows=rows,
        columns=columns,
        frames=image.frames,
        frame=image.frame,
        modality=image.modality,
        body_part=image.body_part,
        age=None if submitted is None or submitted.ages is None else _judge_age(image),
        warnings=tuple(Warned.from_image(warning) for warning in warnings),
        polarity_told_by=image.polarity_told_by,
        polarity=polarity,
        needs_confirmation=any(warning.needs_confirmation for warning in warnings),
        asked=tuple(warning.code for warning in warnings if warning.needs_confirmation),
        submitted=submitted,
    )


def _judge_age(image: ImageFacts) -> AgeFit:
    codes = {warning.code for warning in image.warnings}
    if WRONG_AGE in codes:
        return AgeFit.OUTSIDE
    return AgeFit.FITS if image.format is FileFormat.DICOM and AGE_UNKNOWN not in codes else AgeFit.NOT_NAMED


_AGE_WORDS = {
    AgeFit.FITS: "within the model's {ages}",
    AgeFit.OUTSIDE: "outside the model's {ages}",
    AgeFit.NOT_NAMED: "not named; the model was made for {ages}",
}


def format_inspection(inspection: Inspection, preview: Path | None = None) -> str:
    """The same for people, some lines of text. `preview`: where it was written."""
    facts = {
        "file": f"{inspection.format}, {inspection.encoding}",
        "picture": f"{inspection.columns} x {inspection.rows} pixels",
        "read": "the only picture" if inspection.frames == 1 else f"picture {inspection.frame} of {inspection.frames}",
        "modality": inspection.modality or "not named",
        "body part": inspection.body_part or "not named",
    }
    asked = inspection.submitted
    if asked is not None and asked.ages is not None and inspection.age is not None:
        facts["age"] = _AGE_WORDS[inspection.age].format(ages=asked.ages)
    if asked is None:
        facts["submitted"] = "nothing yet: give --card card.json to see what its model would be given"
    else:
        facts["submitted"] = (
            f"{asked.channels} x {asked.height} x {asked.width} values in [0, 1], normalised, as shares, "
            f"to {asked.model} {asked.version}"
        )
    facts["stays here"] = "the file, the patient's name and everything else that it says"
    lines = [f"{name + ':':12}{printable(value)}" for name, value in facts.items()]
    lines += [f"Warning: {printable(warning.text)}" for warning in inspection.warnings]
    if inspection.needs_confirmation:
        look = LOOK if preview is None else f"in {shown_path(preview)}"
        lines.append(f"data-owner diagnose asks about it: {list_ways_out(set(inspection.asked), look=look)}.")
    return "\n".join(lines)


def draw_both_ways(picture: NDArray[np.uint8]) -> bytes:
    """PNG of both, each under the option that says so. `picture`: grey, shape (rows, columns)."""
    enlarged = -(-_LEAST_WIDTH // picture.shape[1])
    shown = Image.fromarray(picture.repeat(enlarged, axis=0).repeat(enlarged, axis=1))
    size = max(16, shown.width // 24)
    font, top = ImageFont.load_default(size), 2 * size
    sheet = Image.new("L", (2 * shown.width + 3 * _GAP, top + shown.height + _GAP), _GROUND)
    pen = ImageDraw.Draw(sheet)
    for index, (label, one) in enumerate(zip(LABELS, (shown, shown.point(lambda value: 255 - value)), strict=True)):
        left = _GAP + index * (shown.width + _GAP)
        pen.text((left, size // 2), label, fill=255, font=font)
        sheet.paste(one, (left, top))
    target = io.BytesIO()
    sheet.save(target, "PNG")
    return target.getvalue()
