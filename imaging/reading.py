"""A file -> a grey radiograph in [0, 1], with what the user should know about it -> the tensor for a model.

One file, or the pictures of a data set: in their order, several read at the same time.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import ImageError
from contract.model_card import InputSpecification
from imaging.formats import (
    DecodedFile,
    FileFormat,
    ImageWarning,
    ImageWarnings,
    Limits,
    Polarity,
    PolaritySource,
)
from imaging.isolation.messages import PatientWords
from imaging.isolation.processes import SHARED
from imaging.isolation.reader import BatchReader, IsolatedReader
from imaging.polarity import POLARITY_QUESTIONS, settle
from imaging.preprocessing import Viewing, to_model_input, to_picture, to_viewing
from imaging.suitability import check_suitability

APART: Final = IsolatedReader(SHARED)
"""Reads every file of this process."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFacts:
    """What may be shown about a file that was read. Holds nothing about the patient."""

    format: FileFormat
    encoding: str
    """How the file holds the picture: compression, colours, bits."""
    frames: int
    frame: int
    """Which of `frames` pictures of the file was read, counted from 1."""
    modality: str | None
    """DICOM Modality; None if the format or the file does not say."""
    body_part: str | None
    """DICOM BodyPartExamined in capital letters; None if the format or the file does not say."""
    original_size: tuple[int, int]
    """(rows, columns) of the file."""
    polarity_told_by: PolaritySource
    """Whether the file says which of its values are bright."""
    warnings: ImageWarnings

    @property
    def needs_confirmation(self) -> bool:
        """Whether any warning asks the user to confirm before the image is used."""
        return any(warning.needs_confirmation for warning in self.warnings)

    @property
    def asks_polarity(self) -> bool:
        """Whether one of them asks which way round the picture is."""
        return any(warning.code in POLARITY_QUESTIONS for warning in self.warnings)


@dataclass(frozen=True, kw_only=True, eq=False)
class Radiograph(ImageFacts):
    """A grey image: float32, shape (rows, columns), values in [0, 1], larger is brighter on the screen."""

    pixels: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelInput(ImageFacts):
    """The tensor of the card, and the same picture for people."""

    tensor: NDArray[np.float32] = field(repr=False)
    """float32, shape (channels, height, width)."""
    picture: NDArray[np.uint8] = field(repr=False)
    """All that the model sees, in the file's proportions: see `to_picture`."""


def read_image(
    path: Path, specification: InputSpecification, *, limits: Limits | None = None, polarity: Polarity | None = None
) -> Radiograph:
    """Decode a PNG, JPEG, TIFF, DICOM or NIfTI file, told by its content, for a model with this input.

    That happens in a confined process of its own, see `imaging.isolation`.

    The specification gives the window for files that carry none, the frame of files with several, what becomes of
    colours, and the modalities, body parts and ages to warn about. `polarity`: what a person says who has looked at the
    picture; None: nobody has, and if the file does not tell, a warning asks. Raises ImageError, in one line that
    says what happened and what to do, for every other file, and for any beyond `limits` or `isolation.reader.Bounds`;
    ConfigurationError if no process can be had.
    """
    file_format, decoded = _decode(path, specification, limits, polarity, with_values=False)
    return _make_radiograph(file_format, decoded, specification)


def _decode(
    path: Path,
    specification: InputSpecification,
    limits: Limits | None,
    polarity: Polarity | None,
    *,
    with_values: bool,
    reader: IsolatedReader | BatchReader | None = None,
) -> tuple[FileFormat, DecodedFile]:
    file_format, decoded = (reader or APART).read_picture(
        path, specification, limits or Limits(), with_values=with_values
    )
    return file_format, settle(decoded, file_format, polarity)


def _make_radiograph(file_format: FileFormat, decoded: DecodedFile, specification: InputSpecification) -> Radiograph:
    return Radiograph(
        pixels=decoded.pixels,
        format=file_format,
        encoding=decoded.encoding,
        frames=decoded.frames,
        frame=decoded.frame,
        modality=decoded.modality,
        body_part=decoded.body_part,
        original_size=(decoded.pixels.shape[0], decoded.pixels.shape[1]),
        polarity_told_by=decoded.polarity,
        warnings=(
            *decoded.warnings,
            *check_suitability(decoded, file_format, specification),
            *_question_blank(decoded.pixels),
        ),
    )


def read_model_input(
    path: Path,
    specification: InputSpecification,
    *,
    limits: Limits | None = None,
    polarity: Polarity | None = None,
    reader: IsolatedReader | BatchReader | None = None,
) -> ModelInput:
    """`read_image`, then `to_model_input`: a file to exactly the tensor that the card asks for. Raises as `read_image`.

    `reader`: what decodes the file; None: a process for this file alone.
    """
    file_format, decoded = _decode(path, specification, limits, polarity, with_values=False, reader=reader)
    return _make_model_input(_make_radiograph(file_format, decoded, specification), specification)


def read_for_viewing(
    path: Path, specification: InputSpecification, *, polarity: Polarity | None = None
) -> tuple[ModelInput, Viewing]:
    """`read_model_input`, and the values behind the picture, for somebody who wants to look through another window."""
    file_format, decoded = _decode(path, specification, None, polarity, with_values=True)
    image = _make_model_input(_make_radiograph(file_format, decoded, specification), specification)
    return image, to_viewing(decoded)


def read_patient_words(path: Path) -> PatientWords:
    """Who the patient is, as a DICOM file says; nothing of another file. Raises as `read_image`."""
    return APART.read_patient(path, Limits())


def _make_model_input(image: Radiograph, specification: InputSpecification) -> ModelInput:
    return ModelInput(
        tensor=to_model_input(image.pixels, specification),
        picture=to_picture(image.pixels),
        **{fact.name: getattr(image, fact.name) for fact in fields(ImageFacts)},
    )


def _question_blank(pixels: NDArray[np.float32]) -> ImageWarnings:
    if pixels.min() < pixels.max():
        return ()
    return (ImageWarning("blank", "every pixel of the image has the same value", needs_confirmation=True),)


MOST_AT_ONCE: Final = 4
"""Files: each takes memory in proportion to its picture."""


def read_several(files: Sequence[Path], specification: InputSpecification) -> Iterator[ModelInput | ImageError]:
    """`read_model_input` of each file, in their order, or the ImageError that it raises; all else is raised here."""
    at_once = min(MOST_AT_ONCE, len(os.sched_getaffinity(0)))
    idle: SimpleQueue[BatchReader] = SimpleQueue()
    begun: deque[Future[ModelInput | ImageError]] = deque()

    def read(path: Path) -> ModelInput | ImageError:
        reader = idle.get()
        try:
            return read_model_input(path, specification, reader=reader)
        except ImageError as error:
            return error
        finally:
            idle.put(reader)

    with ExitStack() as stack:
        for _ in range(at_once):
            idle.put(stack.enter_context(BatchReader(SHARED)))
        pool = ThreadPoolExecutor(at_once, thread_name_prefix="reading")
        stack.callback(pool.shutdown, cancel_futures=True)
        for path in files:
            begun.append(pool.submit(read, path))
            if len(begun) > at_once:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
