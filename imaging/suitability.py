"""Whether a file says that it shows what the model was made for: modality, part of the body, view, age."""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Final

from contract.model_card import AgeRange, InputSpecification, View
from imaging.formats import DecodedFile, FileFormat, ImageWarning, ImageWarnings

FRONTAL: Final = "FRONTAL"
LATERAL: Final = "LATERAL"
"""Views that a file names without saying which of two."""

VIEW_UNKNOWN: Final = "view-unknown"
WRONG_VIEW: Final = "wrong-view"
VIEW_CONTRADICTS: Final = "view-contradicts"
VIEW_NOT_JUDGED: Final = "view-not-judged"
"""Codes of warnings."""

FRONTAL_VIEWS: Final = frozenset({View.AP.value, View.PA.value, FRONTAL})
LATERAL_VIEWS: Final = frozenset({View.LEFT_LATERAL.value, View.RIGHT_LATERAL.value, LATERAL})
GROUPS = MappingProxyType({FRONTAL: FRONTAL_VIEWS, LATERAL: LATERAL_VIEWS})
"""All that a view may be that says nothing else."""
_WORDS = MappingProxyType(
    {
        "AP": "AP (front to back)",
        "PA": "PA (back to front)",
        "LL": "LL (left lateral)",
        "RL": "RL (right lateral)",
        "LLD": "LLD (lying on the left side)",
        "RLD": "RLD (lying on the right side)",
        "LLO": "LLO (left oblique)",
        "RLO": "RLO (right oblique)",
        FRONTAL: "frontal",
        LATERAL: "lateral",
    }
)


def check_view(named: tuple[str, ...], specification: InputSpecification) -> ImageWarnings:
    """Ask if the view is not one of the card's or is named in two ways; remark if nobody can judge it.

    `named`: each view that the file names, once, in the words of `View` if there is one.
    """
    accepted = tuple(view.value for view in specification.views)
    names = ", ".join(describe_view(view) for view in accepted)
    seen = " and ".join(describe_view(view) for view in named)
    if named and not _list_possible(named):
        text = f"the file's tags contradict each other about the view: they say {seen}"
        return (ImageWarning(VIEW_CONTRADICTS, text, needs_confirmation=True),)
    if not accepted and set(named) - FRONTAL_VIEWS:
        text = f"the file's view is {seen}; the model's card names no views, so nobody can say whether it fits"
        return (ImageWarning(VIEW_NOT_JUDGED, text),)
    if accepted and not named:
        return (ImageWarning(VIEW_UNKNOWN, f"the file names no view; the model was made for {names}"),)
    if accepted and not _list_possible(named) & {*accepted}:
        text = f"the file's view is {seen}; the model was made for {names}"
        return (ImageWarning(WRONG_VIEW, text, needs_confirmation=True),)
    if accepted and _list_possible(named) - {*accepted, FRONTAL, LATERAL}:
        text = f"the file's view is {seen} and nothing else is said; the model was made for {names}"
        return (ImageWarning(VIEW_UNKNOWN, text),)
    return ()


def describe_view(view: str) -> str:
    """A view as people say it."""
    return _WORDS.get(view, view)


def _list_possible(named: tuple[str, ...]) -> set[str]:
    """Views that are all that the file names."""
    return set.intersection(*({*GROUPS.get(view, {view})} for view in named))


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


def check_suitability(
    decoded: DecodedFile, file_format: FileFormat, specification: InputSpecification
) -> ImageWarnings:
    """Warnings about a file that says it is not what the model was made for, or does not say what it is."""
    if file_format is not FileFormat.DICOM:
        text = f"{file_format} files do not say what they show: make sure that this is what the model reads"
        return (ImageWarning(MODALITY_UNKNOWN, f"{text} ({_describe_model(specification)})"),)
    return (
        *_check_modality(decoded.modality, specification),
        *_check_body_part(decoded, specification),
        *check_view(decoded.views, specification),
        *(() if specification.ages is None else _check_age(decoded.years, specification.ages)),
    )


def _describe_model(specification: InputSpecification) -> str:
    """What the model was made for, as far as one can say it of a picture without tags."""
    named = ", ".join(specification.modalities)
    if specification.views:
        named += "; views " + ", ".join(describe_view(view) for view in specification.views)
    return named if specification.ages is None else f"{named}; ages {specification.ages}"


def _check_modality(modality: str | None, specification: InputSpecification) -> Iterator[ImageWarning]:
    accepted = ", ".join(specification.modalities)
    if modality is None:
        text = f"the file does not name its modality; the model was made for {accepted}"
        yield ImageWarning(MODALITY_UNKNOWN, text, needs_confirmation=True)
    elif modality not in specification.modalities:
        text = f"the file's modality is {modality}; the model was made for {accepted}"
        yield ImageWarning(WRONG_MODALITY, text, needs_confirmation=True)


def _check_body_part(decoded: DecodedFile, specification: InputSpecification) -> Iterator[ImageWarning]:
    if not specification.body_parts:
        return
    parts = ", ".join(specification.body_parts)
    if decoded.body_part is None:
        yield ImageWarning(BODY_PART_UNKNOWN, f"the file names no body part; the model reads {parts}")
        return
    named = (decoded.body_part, *decoded.other_body_parts)
    fitting = {part.upper() for part in specification.body_parts} & {*named}
    if not fitting:
        text = f"the file's body part is {' and '.join(named)}; the model was made for {parts}"
        yield ImageWarning(WRONG_BODY_PART, text, needs_confirmation=True)
    elif len(fitting) < len(named):
        text = f"the file's tags contradict each other about the body part: they say {' and '.join(named)}"
        yield ImageWarning(BODY_PART_CONTRADICTS, text, needs_confirmation=True)


def _check_age(years: frozenset[int], ages: AgeRange) -> Iterator[ImageWarning]:
    """What the clinician should know of the patient's age. The age itself is the patient's, and is not repeated."""
    if not years:
        yield ImageWarning(AGE_UNKNOWN, f"the file names no age; the model was made for patients of {ages}")
    elif max(years) > ages.oldest:
        text = f"by the file, the patient is older than the model was made for ({ages})"
        yield ImageWarning(WRONG_AGE, text, needs_confirmation=True)
    elif min(years) < ages.youngest:
        text = f"by the file, the patient is younger than the model was made for ({ages})"
        yield ImageWarning(WRONG_AGE, text, needs_confirmation=True)
