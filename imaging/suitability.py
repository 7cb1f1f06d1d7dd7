"""Whether a file says that it shows what the model was made for: modality, part of the body, view, age."""

from collections.abc import Iterator
from typing import Final

from contract.model_card import AgeRange, InputSpecification
from imaging.formats import DecodedFile, FileFormat, ImageWarning
from imaging.views import VIEW_NOT_JUDGED, VIEW_UNKNOWN, WRONG_VIEW, view_warnings, view_words

MODALITY_UNKNOWN: Final = "modality-unknown"
WRONG_MODALITY: Final = "wrong-modality"
BODY_PART_UNKNOWN: Final = "body-part-unknown"
WRONG_BODY_PART: Final = "wrong-body-part"
BODY_PART_CONTRADICTS: Final = "body-part-contradicts"
AGE_UNKNOWN: Final = "age-unknown"
WRONG_AGE: Final = "wrong-age"
"""Codes of warnings."""

FIT_UNKNOWN: Final = frozenset({MODALITY_UNKNOWN, BODY_PART_UNKNOWN, VIEW_UNKNOWN, VIEW_NOT_JUDGED, AGE_UNKNOWN})
"""Codes of warnings that nobody can say whether a file shows what the model was made for."""
MISFIT: Final = frozenset({WRONG_MODALITY, WRONG_BODY_PART, BODY_PART_CONTRADICTS, WRONG_VIEW, WRONG_AGE})
"""Codes of warnings that it says itself that it does not."""


def suitability(
    decoded: DecodedFile, file_format: FileFormat, specification: InputSpecification
) -> tuple[ImageWarning, ...]:
    """Warnings about a file that says it is not what the model was made for, or does not say what it is."""
    if file_format is not FileFormat.DICOM:
        text = f"{file_format} files do not say what they show: make sure that this is what the model reads"
        return (ImageWarning(MODALITY_UNKNOWN, f"{text} ({_reads(specification)})"),)
    return (
        *_modality(decoded.modality, specification),
        *_body_part(decoded, specification),
        *view_warnings(decoded.views, specification),
        *(() if specification.ages is None else _age(decoded.years, specification.ages)),
    )


def _reads(specification: InputSpecification) -> str:
    """What the model was made for, as far as a picture without tags may be told."""
    named = ", ".join(specification.modalities)
    if specification.views:
        named += "; views " + ", ".join(view_words(view) for view in specification.views)
    return named if specification.ages is None else f"{named}; ages {specification.ages}"


def _modality(modality: str | None, specification: InputSpecification) -> Iterator[ImageWarning]:
    accepted = ", ".join(specification.modalities)
    if modality is None:
        text = f"the file does not name its modality; the model was made for {accepted}"
        yield ImageWarning(MODALITY_UNKNOWN, text, needs_confirmation=True)
    elif modality not in specification.modalities:
        text = f"the file's modality is {modality}; the model was made for {accepted}"
        yield ImageWarning(WRONG_MODALITY, text, needs_confirmation=True)


def _body_part(decoded: DecodedFile, specification: InputSpecification) -> Iterator[ImageWarning]:
    if not specification.body_parts:
        return
    parts = ", ".join(specification.body_parts)
    if decoded.body_part is None:
        yield ImageWarning(BODY_PART_UNKNOWN, f"the file names no body part; the model reads {parts}")
        return
    told = (decoded.body_part, *decoded.other_body_parts)
    fitting = {part.upper() for part in specification.body_parts} & {*told}
    if not fitting:
        text = f"the file's body part is {' and '.join(told)}; the model was made for {parts}"
        yield ImageWarning(WRONG_BODY_PART, text, needs_confirmation=True)
    elif len(fitting) < len(told):
        text = f"the file's tags contradict each other about the body part: they say {' and '.join(told)}"
        yield ImageWarning(BODY_PART_CONTRADICTS, text, needs_confirmation=True)


def _age(years: frozenset[int], ages: AgeRange) -> Iterator[ImageWarning]:
    """What the clinician should know of the patient's age. The age itself is the patient's, and is not repeated."""
    if not years:
        yield ImageWarning(AGE_UNKNOWN, f"the file names no age; the model was made for patients of {ages}")
    elif max(years) > ages.oldest:
        text = f"by the file, the patient is older than the model was made for ({ages})"
        yield ImageWarning(WRONG_AGE, text, needs_confirmation=True)
    elif min(years) < ages.youngest:
        text = f"by the file, the patient is younger than the model was made for ({ages})"
        yield ImageWarning(WRONG_AGE, text, needs_confirmation=True)
