"""Which of a picture's values are bright: what its file says, else a person who has looked, else a question."""

from dataclasses import replace
from typing import Final, assert_never

import numpy as np

from imaging.formats import DecodedFile, FileFormat, ImageWarning, Polarity, PolaritySource

POLARITY_UNKNOWN: Final = "polarity-unknown"
POLARITY_CONTRADICTS: Final = "polarity-contradicts"
TAKEN_AS_IT_IS: Final = "polarity-as-read"
INVERTED: Final = "inverted"
"""Codes of warnings."""

POLARITY_QUESTIONS: Final = frozenset({POLARITY_UNKNOWN, POLARITY_CONTRADICTS})
"""Codes of warnings that ask which way round the picture is."""


def settle(decoded: DecodedFile, file_format: FileFormat, polarity: Polarity | None) -> DecodedFile:
    """Do as a person says; ask if neither file nor person says which values are bright.

    What the person decided stays with the picture as a remark, unless the file alone says the same.
    """
    question = _ask(decoded.polarity, file_format)
    match polarity:
        case Polarity.INVERTED:
            return _invert(decoded)
        case Polarity.AS_READ if question is not None:
            return _add_warning(decoded, ImageWarning(TAKEN_AS_IT_IS, f"{question.text}; it was taken as it is"))
        case None if question is not None:
            return _add_warning(decoded, question)
        case Polarity.AS_READ | None:
            return decoded
        case _:
            assert_never(polarity)


def _invert(decoded: DecodedFile) -> DecodedFile:
    before = decoded.values
    values = None if before is None else replace(before, inverted=not before.inverted)
    exchanged = replace(decoded, pixels=np.float32(1) - decoded.pixels, values=values)
    return _add_warning(exchanged, ImageWarning(INVERTED, "bright and dark were exchanged, as you asked"))


def _add_warning(decoded: DecodedFile, warning: ImageWarning) -> DecodedFile:
    return replace(decoded, warnings=(*decoded.warnings, warning))


def _ask(told_by: PolaritySource, file_format: FileFormat) -> ImageWarning | None:
    match told_by:
        case PolaritySource.FILE:
            return None
        case PolaritySource.NOBODY:
            never = file_format in (FileFormat.PNG, FileFormat.JPEG)
            who = f"{file_format} files do" if never else "the file does"
            text = f"{who} not say whether the picture is a negative"
            return ImageWarning(POLARITY_UNKNOWN, text, needs_confirmation=True)
        case PolaritySource.CONTRADICTION:
            text = "the file's tags contradict each other about whether the picture is a negative"
            return ImageWarning(POLARITY_CONTRADICTS, text, needs_confirmation=True)
        case _:
            assert_never(told_by)
