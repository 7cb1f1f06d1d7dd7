"""What passes between this process and the confined one that reads a file. The answer is hostile until it is parsed.

Asked: the length of a `Request` (32 bits, most significant byte first), the request as JSON, then the file.
Answered: the length of an `Answer`, the answer as JSON, then as many arrays of float32 as it says, little endian, row
after row: the pixels, and the values behind them if they were asked for. A decoder that a hostile file has taken
over can answer what it likes about that file, within these types and lengths.
"""

from enum import StrEnum
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter

from contract.base import Strict
from contract.model_card import InputSpecification, Window
from imaging.formats import MAX_LINE, MOST_YEARS, DecodedFile, FileFormat, ImageWarning, Line, PolaritySource, Values
from imaging.grey_scale import LARGEST

MAX_HEADER_BYTES: Final = 256 << 10
"""Of the JSON that begins an answer."""
MAX_LISTED: Final = 100
"""Texts of one of its lists."""
LENGTH_BYTES: Final = 4


Arrays = tuple[NDArray[np.float32], ...]
"""Those that follow an answer, (rows, columns) each."""
Secret = Annotated[str, Field(max_length=MAX_LINE, repr=False)]
"""What must not be logged, as it stands in the file."""
Years = Annotated[frozenset[Annotated[int, Field(ge=0, lt=MOST_YEARS)]], Field(max_length=2)]
"""An age in completed years; two if the file contradicts itself."""
Count = Annotated[int, Field(ge=1, le=1 << 40)]


class Task(StrEnum):
    """What is wanted of a file."""

    PICTURE = "picture"
    PATIENT = "patient"
    """Who the patient is, by a DICOM file's own words."""


class Request(Strict):
    """One file to read."""

    task: Task
    specification: InputSpecification | None = None
    """What the picture is read for; None if no picture is wanted."""
    with_values: bool = False
    """Whether the values behind the picture are wanted, too."""
    file_bytes: int
    """How many bytes of the file follow."""
    max_pixels: int
    max_file_bytes: int
    """That the file may have, also inflated."""


_SHARED: Final = (
    *("encoding", "frames", "frame", "modality", "body_part", "other_body_parts", "views", "polarity", "years"),
    "warnings",
)
"""Fields that `Picture` and `DecodedFile` have alike."""


class Picture(Strict):
    """The picture that a file holds: as `imaging.formats.DecodedFile`, without its arrays, which follow."""

    model_config = ConfigDict(allow_inf_nan=False)

    kind: Literal["picture"] = "picture"
    format: FileFormat
    rows: Count
    columns: Count
    encoding: Line
    frames: Count
    frame: Count
    modality: Line | None
    body_part: Line | None
    other_body_parts: Annotated[tuple[Line, ...], Field(max_length=MAX_LISTED)]
    views: Annotated[tuple[Line, ...], Field(max_length=MAX_LISTED)]
    polarity: PolaritySource
    years: Years = Field(repr=False)
    warnings: Annotated[tuple[ImageWarning, ...], Field(max_length=MAX_LISTED)]
    has_values: bool
    inverted: bool
    window: Window | None

    @property
    def arrays(self) -> int:
        """How many follow."""
        return 2 if self.has_values else 1

    @classmethod
    def of(cls, file_format: FileFormat, decoded: DecodedFile, *, with_values: bool) -> "Picture":
        """What is answered about a file that was decoded; its values only if they are wanted."""
        values = decoded.values if with_values else None
        return cls(
            format=file_format,
            rows=decoded.pixels.shape[0],
            columns=decoded.pixels.shape[1],
            **{name: getattr(decoded, name) for name in _SHARED},
            has_values=values is not None,
            inverted=values is not None and values.inverted,
            window=None if values is None else values.window,
        )

    def decoded(self, arrays: Arrays) -> DecodedFile:
        """The file with its arrays, (rows, columns) each. Raises ValueError for pixels or values that cannot be."""
        pixels, values = arrays[0], None
        _check_within(pixels, 0, 1)
        if self.has_values:
            _check_within(arrays[1], -LARGEST, LARGEST)
            values = Values(values=arrays[1], inverted=self.inverted, window=self.window)
        return DecodedFile(
            pixels=pixels,
            **{name: getattr(self, name) for name in _SHARED},
            values=values,
        )


class PatientWords(Strict):
    """What a DICOM file says of its patient; empty if it does not say, and for other files."""

    kind: Literal["patient"] = "patient"
    name: Secret = ""
    identifier: Secret = ""
    born: Secret = ""
    study: Secret = ""
    accession: Secret = ""
    years: Years = Field(default=frozenset(), repr=False)


class Refusal(Strict):
    """The file is not read, and why."""

    kind: Literal["refusal"] = "refusal"
    text: Line


Answer = Picture | PatientWords | Refusal
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="kind")])


def parse_answer(header: bytes) -> Answer:
    """Read the JSON of an answer. Raises ValueError for anything else."""
    return _ANSWER.validate_json(header)


def _check_within(array: NDArray[np.float32], low: float, high: float) -> None:
    """Raise ValueError for values outside, and for what is no number: comparisons with that are false."""
    if not (array.min() >= low and array.max() <= high):
        raise ValueError("values out of range")
