"""How a radiograph was taken and how it lies, as a file tells it, and what a model's card makes of that."""

from types import MappingProxyType
from typing import Final

from contract.model_card import InputSpecification, View
from imaging.formats import ImageWarning

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
"""All that a view which says no more may be."""
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


def view_warnings(told: tuple[str, ...], specification: InputSpecification) -> tuple[ImageWarning, ...]:
    """Ask where the view is not one of the card's or is told in two ways; remark where nobody can judge it.

    `told`: each view that the file names, once, in the words of `View` where there is one.
    """
    accepted = tuple(view.value for view in specification.views)
    names = ", ".join(view_words(view) for view in accepted)
    seen = " and ".join(view_words(view) for view in told)
    if told and not _possible(told):
        text = f"the file's tags contradict each other about the view: they say {seen}"
        return (ImageWarning(VIEW_CONTRADICTS, text, needs_confirmation=True),)
    if not accepted and set(told) - FRONTAL_VIEWS:
        text = f"the file's view is {seen}; the model's card names no views, so nobody can say whether it fits"
        return (ImageWarning(VIEW_NOT_JUDGED, text),)
    if accepted and not told:
        return (ImageWarning(VIEW_UNKNOWN, f"the file names no view; the model was made for {names}"),)
    if accepted and not _possible(told) & {*accepted}:
        text = f"the file's view is {seen}; the model was made for {names}"
        return (ImageWarning(WRONG_VIEW, text, needs_confirmation=True),)
    if accepted and _possible(told) - {*accepted, FRONTAL, LATERAL}:
        text = f"the file's view is {seen} and no more is said; the model was made for {names}"
        return (ImageWarning(VIEW_UNKNOWN, text),)
    return ()


def view_words(view: str) -> str:
    """A view as people say it."""
    return _WORDS.get(view, view)


def _possible(told: tuple[str, ...]) -> set[str]:
    """Views that are all that is told."""
    return set.intersection(*({*GROUPS.get(view, {view})} for view in told))
