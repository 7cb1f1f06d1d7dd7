"""Errors in plain words: what happened, and what to do next."""

from dataclasses import dataclass

from contract import errors
from contract.command_line import one_line
from contract.errors import EncryptedInferenceError


@dataclass(frozen=True, kw_only=True)
class Told:
    """An error as the page shows it."""

    code: str
    title: str
    advice: str
    """The next step."""
    detail: str
    """The error's own line: for whoever has to look into it."""


_DOCTOR = "If it stays so, run data-owner doctor: it says what to tell the IT department."
_NOTHING_LOST = "Nothing is lost: the image is still here, and what was sent of it was masked."

_WORDS: dict[type[EncryptedInferenceError], tuple[str, str]] = {
    errors.ImageError: (
        "This file cannot be read as a picture for this model",
        "Export the image again from the archive, then drop the new file. Nothing was sent.",
    ),
    errors.NeedsConfirmation: ("This image needs your confirmation", "Look at the warnings, then submit it anyway."),
    errors.Refused: (
        "The request was refused",
        "The line below says why. Ask whoever runs the front end, then submit again.",
    ),
    errors.BudgetSpent: (
        "The budget is used up",
        f"No more answers now: the line below says why. {_NOTHING_LOST} Wait, or ask for a larger budget.",
    ),
    errors.CallerError: ("This was not possible", "The line below says why. Correct it, then submit again."),
    errors.TicketInvalid: (
        "The permission for this session was not accepted",
        f"Submit again. If it stays so, the clocks of two machines may differ. {_DOCTOR}",
    ),
    errors.PeerReported: (
        "The other side ended the session",
        f"The line below is what it said. {_NOTHING_LOST} Submit again, or ask its operator.",
    ),
    errors.PeerViolation: (
        "The other side did not follow the protocol",
        f"There is no result. {_NOTHING_LOST} Ask the model's owner before you submit again.",
    ),
    errors.PeerUnreachable: (
        "No connection",
        f"Check the network, then submit again. {_NOTHING_LOST} {_DOCTOR}",
    ),
    errors.DeadlineExceeded: (
        "The other side did not answer in time",
        f"Submit again in a moment. {_NOTHING_LOST} {_DOCTOR}",
    ),
    errors.SessionCancelled: ("Stopped", f"You stopped this session. {_NOTHING_LOST} Submit again whenever you like."),
    errors.TransportError: ("The connection was lost", f"Submit again. {_NOTHING_LOST} {_DOCTOR}"),
    errors.MaterialSpent: ("Prepared material was already used", "Submit again: new material is taken."),
    errors.ConfigurationError: (
        "This workstation is not set up right",
        "The line below names what to correct. Whoever looks after this workstation can run data-owner doctor.",
    ),
    errors.ComputationFailed: ("The result could not be trusted", f"It is not shown. {_NOTHING_LOST} Submit again."),
}


def told(error: EncryptedInferenceError) -> Told:
    """The words for an error: those of its class, else of the nearest one above it."""
    if isinstance(error, errors.PeerReported) and error.reported == errors.BudgetSpent.code:
        kinds: tuple[type, ...] = (errors.BudgetSpent,)  # the other side keeps budgets as the front end does
        code = errors.BudgetSpent.code
    else:
        kinds, code = type(error).__mro__, error.code
    for kind in kinds:
        if kind in _WORDS:
            title, advice = _WORDS[kind]
            return Told(code=code, title=title, advice=advice, detail=one_line(error))
    return told_unexpected(error)


def told_unexpected(error: BaseException) -> Told:
    """A defect of this program. Its own words are not shown: they may hold anything."""
    return Told(
        code="internal",
        title="Something went wrong in this program",
        advice=f"{_NOTHING_LOST} Submit again. If it stays so, report it as a defect, with the line below.",
        detail=f"unexpected {type(error).__name__}",
    )
