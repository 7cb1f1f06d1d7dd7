"""Errors in plain words: what happened, and what to do next."""

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract import errors
from contract.errors import EncryptedInferenceError
from contract.roles import OtherEnd, Role
from plumbing.command_line import one_line


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An error as the page shows it."""

    code: str
    title: str
    advice: str
    """The next step."""
    detail: str
    """The error's own line: for whoever has to look into it."""
    lost: str = ""
    """The party to which there is no way, as `name_party` names it."""


_ROLES: Final = {
    Role.INFERENCE_SERVICE: "the front end",
    Role.MODEL_OWNER: "the model owner",
    Role.CRYPTO_PROVIDER: "the crypto provider",
    Role.DATA_OWNER: "this workstation",
}

_ROOT: Final = f"{Path(__file__).resolve().parents[2]}/"
_ROOMS: Final = (
    *("contract", "authority", "plumbing", "bookkeeping"),
    *("data_owner", "imaging", "inference_service", "secure_computation"),
)

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
        f"No answers for now: the line below says why. {_NOTHING_LOST} Wait, or ask for a larger budget.",
    ),
    errors.TooFast: (
        "Too many sessions at once",
        f"The line below says how long to wait. {_NOTHING_LOST} Submit again then.",
    ),
    errors.Busy: (
        "Every place is taken",
        f"Others are being served. {_NOTHING_LOST} Submit again in a moment; this time counts for no budget.",
    ),
    errors.ModelWithdrawn: (
        "This model is out of service",
        f"Its owner withdrew this version. {_NOTHING_LOST} Reload the page to see which models there are now.",
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
    errors.CertificateRefused: (
        "The other side could not prove who it is",
        f"Nothing was computed with it. {_NOTHING_LOST} Give the line below to whoever looks after this workstation.",
    ),
    errors.ReferenceMismatch: (
        "The model may not be the one on its card",
        "It answered a reference picture otherwise than its owner signed. Do not rely on it, and ask its owner.",
    ),
    errors.NotVouchedFor: (
        "The front end shows another model than its owner signed",
        "Nothing was sent. Do not use this model until its owner and whoever runs the front end have looked into it.",
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


_KEPT_BY_BOTH: dict[str, type[EncryptedInferenceError]] = {
    kind.code: kind for kind in (errors.BudgetSpent, errors.TooFast, errors.ModelWithdrawn, errors.Busy)
}
"""What the front end refuses and the model's owner too, who reports it over the channel: it reads alike."""


_FIRST: dict[type[EncryptedInferenceError], str] = {
    errors.PeerUnreachable: "It may be down, or the network does not let this workstation through to it.",
    errors.DeadlineExceeded: "It was {} that did not answer.",
    errors.TransportError: "It was the connection to {}.",
}
"""Said first if the other end is known."""


def name_party(party: OtherEnd) -> str:
    """A party as the page names it."""
    return ", ".join(filter(None, (_ROLES[party.role], party.organisation)))


def _find_lost_party(error: EncryptedInferenceError) -> str:
    """The party to which the way failed, as the page names it; empty for any other error."""
    if not isinstance(error, errors.TransportError) or isinstance(error, errors.SessionCancelled):
        return ""
    return "" if error.party is None else name_party(error.party)


def describe_error(error: EncryptedInferenceError) -> Problem:
    """The words for an error: those of its class, else of the nearest one above it."""
    kinds, code = type(error).__mro__, error.code
    if isinstance(error, errors.PeerReported) and error.reported in _KEPT_BY_BOTH:
        kinds, code = (_KEPT_BY_BOTH[error.reported],), error.reported
    lost = _find_lost_party(error)
    for kind in kinds:
        if kind in _WORDS:
            title, advice = _WORDS[kind]
            if lost:
                title = f"{title} to {lost}" if kind is errors.PeerUnreachable else title
                advice = f"{_FIRST.get(kind, _FIRST[errors.TransportError]).format(lost)} {advice}"
            return Problem(lost=lost, code=code, title=title, advice=advice, detail=one_line(error))
    return describe_defect(error)


def describe_defect(error: BaseException) -> Problem:
    """A defect of this program. Its own words are not shown: they may hold anything."""
    return Problem(
        code="internal",
        title="Something went wrong in this program",
        advice=f"{_NOTHING_LOST} Submit again. If it stays so, report it as a defect, with the line below.",
        detail=f"a defect{_locate(error)}",
    )


def _locate(error: BaseException) -> str:
    """The last line of this program on the way to an error: it says where to look, and nothing of any image."""
    places = [f"{frame.filename.removeprefix(_ROOT)}, line {frame.lineno}" for frame in _list_own_frames(error)]
    return f" at {places[-1]}" if places else ""


def _list_own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    rooms = tuple(f"{_ROOT}{room}/" for room in _ROOMS)
    return [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(rooms)]
