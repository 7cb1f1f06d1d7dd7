"""Images whose item was a decoy are evaluated again, in a further session, until each has its answer.

A decoy is how the model owner checks this party (`engines.masked.session.decoys`): the session is as any other until
its end, where the model owner says so in place of an answer. That costs a session and nothing else; no budget counts
it. How often it happens is the crypto provider's coin, so a model owner that says it without end is lying.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from contract.errors import PeerViolation
from data_owner.diagnosis import Bytes, Seconds, Warned
from data_owner.results import Outcome
from secure_computation.engines.interface import Answer, Audited, Reply

MOST_SESSIONS: Final = 40
"""Of one submission: at the largest share of decoys, a half, an honest model owner gets here once in 10^12."""

Image = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SessionOutcome:
    """What one session brought."""

    session: UUID
    """By which front end and model owner know it."""
    replies: tuple[Reply, ...]
    heat_maps: tuple[NDArray[np.float64], ...] = field(repr=False)
    """Of each image that has an answer; empty if none are opened."""
    seconds: Seconds
    bytes: Bytes
    one_way_trips: int
    stocked: bool
    warnings: tuple[Warned, ...]


def evaluate_all(images: Sequence[Image], evaluate: Callable[[Sequence[Image]], SessionOutcome], owner: str) -> Outcome:
    """Evaluate images together, and those again that were checks. `owner`: the model's, for messages.

    Raises what `evaluate` does; PeerViolation if the model owner goes on checking beyond all chance.
    """
    waiting = list(range(len(images)))
    answers: dict[int, Answer] = {}
    answered_in: dict[int, UUID] = {}
    heat_maps: dict[int, NDArray[np.float64]] = {}
    sessions = list[SessionOutcome]()
    while waiting:
        if len(sessions) == MOST_SESSIONS:
            raise PeerViolation(
                f"the model owner {owner} said {MOST_SESSIONS} times in a row that it only checked this program, which "
                "is no chance: it does not follow the protocol; ask it, or use another model"
            )
        session = evaluate([images[index] for index in waiting])
        sessions.append(session)
        answered = [
            (index, reply)
            for index, reply in zip(waiting, session.replies, strict=True)
            if not isinstance(reply, Audited)
        ]
        answers |= dict(answered)
        answered_in |= dict.fromkeys(dict(answered), session.session)
        heat_maps |= dict(zip((index for index, _ in answered), session.heat_maps, strict=bool(session.heat_maps)))
        waiting = [index for index in waiting if index not in answers]
    return _put_together(sessions, answers, heat_maps, answered_in)


def _put_together(
    sessions: Sequence[SessionOutcome],
    answers: dict[int, Answer],
    heat_maps: dict[int, NDArray[np.float64]],
    answered_in: dict[int, UUID],
) -> Outcome:
    """As one session's; what several took is added up."""
    seconds, sent = sessions[0].seconds, sessions[0].bytes
    for session in sessions[1:]:
        seconds, sent = seconds + session.seconds, sent + session.bytes
    return Outcome(
        sessions=tuple(answered_in[index] for index in sorted(answered_in)),
        answers=tuple(answers[index] for index in sorted(answers)),
        heat_maps=tuple(heat_maps[index] for index in sorted(heat_maps)),
        seconds=seconds,
        bytes=sent,
        one_way_trips=sum(session.one_way_trips for session in sessions),
        stocked=all(session.stocked for session in sessions),
        repeats=len(sessions) - 1,
        warnings=tuple(dict.fromkeys(warned for session in sessions for warned in session.warnings)),
    )
