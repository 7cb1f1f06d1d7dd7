"""The life of a session, in one table for each purpose.

A session is the front end's record that images are being diagnosed together (mostly one), or that material is being
stocked for a later one. It never sees the computation, so it learns what happens from the parties' accounts, and from
the clock when they fall silent:

    to diagnose
    opened --prepare--> preparing --run--> running --complete--> completed
       `-------------------run--------------^

    to prepare
    opened --prepare--> preparing --complete--> completed

    both
    opened, preparing, running --fail--> failed, --cancel--> cancelled, --expire--> expired
    opened, preparing, failed --turn-away--> turned-away
    any but turned-away --accuse--> accused

`opened` is entered when the session is made and its ticket signed. `prepare` says that the offline phase has begun; a
diagnosis skips it when material was in stock. `run` says that the image has been shared and the online phase has begun;
a session to prepare has none, and is completed when both parties have stocked their halves.

Who may cause what follows from who can know it. Only the data owner (the account that opened the session) knows that
it got its result, that it began a phase, or that it wants no result any more. That something broke, both the data
owner and the model owner can see, and the first to say so is believed: either could stop the session by hanging up
anyway. That time is over is the clock's to say and nobody else's: a process that died in `running` says nothing, and
its session must still end.

A session that is turned away counts for no budget, because every place was taken at the model owner or the crypto
provider. Only the model owner can know that, and that the ticket can no longer be used, so only its word gives a
session back. Both owners meet the refusal, and the data owner may be the first to report it, as a failure.

That the data owner did not follow the protocol, only the model owner can find, and the data owner may have reported
whatever it liked before. So the model owner's word for it is taken also after a session has ended. It costs the data
owner nothing here: what shows others that it is true stands in the model owner's record.

By `audit`, a model owner says of a running session that some of its images get no answer, because it checked the data
owner by them and all was right. They count for no budget. The session goes on.

The other states are final. No other event leads out of them, so a late `complete` after `expired` or `cancelled` is
refused instead of rewriting history. Two events that race for one session cannot both win: the store changes the
state only if it is still the one that was read.
"""

from dataclasses import dataclass
from enum import StrEnum

from contract.api import SessionEventName as Event
from contract.api import SessionState as State
from contract.errors import Refused
from contract.ticket import Purpose
from inference_service.problems import Conflict


class Actor(StrEnum):
    """Who causes an event."""

    DATA_OWNER = "data owner"
    MODEL_OWNER = "model owner"
    CLOCK = "clock"


@dataclass(frozen=True)
class Transition:
    """Where an event leads, and who may cause it."""

    state: State
    actors: frozenset[Actor]


_DATA_OWNER = frozenset({Actor.DATA_OWNER})
_BOTH_OWNERS = frozenset({Actor.DATA_OWNER, Actor.MODEL_OWNER})
_MODEL_OWNER = frozenset({Actor.MODEL_OWNER})
_CLOCK = frozenset({Actor.CLOCK})

_ENDED = (State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED)

Table = dict[tuple[State, Event], Transition]


def _list_endings(*live: State) -> Table:
    """How a session can end early, in any state that is not final."""
    ends = {
        Event.FAIL: Transition(State.FAILED, _BOTH_OWNERS),
        Event.CANCEL: Transition(State.CANCELLED, _DATA_OWNER),
        Event.EXPIRE: Transition(State.EXPIRED, _CLOCK),
    }
    early = {(state, event): end for state in live for event, end in ends.items()}
    away = Transition(State.TURNED_AWAY, _MODEL_OWNER)
    accused = Transition(State.ACCUSED, _MODEL_OWNER)
    return (
        early
        | {(state, Event.TURN_AWAY): away for state in (State.OPENED, State.PREPARING, State.FAILED)}
        | {(state, Event.ACCUSE): accused for state in (*live, *_ENDED)}
    )


TRANSITIONS: dict[Purpose, Table] = {
    Purpose.DIAGNOSE: {
        (State.OPENED, Event.PREPARE): Transition(State.PREPARING, _DATA_OWNER),
        (State.OPENED, Event.RUN): Transition(State.RUNNING, _DATA_OWNER),
        (State.PREPARING, Event.RUN): Transition(State.RUNNING, _DATA_OWNER),
        (State.RUNNING, Event.AUDIT): Transition(State.RUNNING, _MODEL_OWNER),
        (State.RUNNING, Event.COMPLETE): Transition(State.COMPLETED, _DATA_OWNER),
        **_list_endings(State.OPENED, State.PREPARING, State.RUNNING),
    },
    Purpose.PREPARE: {
        (State.OPENED, Event.PREPARE): Transition(State.PREPARING, _DATA_OWNER),
        (State.PREPARING, Event.COMPLETE): Transition(State.COMPLETED, _DATA_OWNER),
        **_list_endings(State.OPENED, State.PREPARING),
    },
}

LIVE = frozenset(state for table in TRANSITIONS.values() for state, event in table if event is Event.EXPIRE)
"""States in which a session goes on."""


def find_next_state(purpose: Purpose, state: State, event: Event, *, actor: Actor) -> State:
    """Where `event` leads from `state` in a session of this purpose.

    Raises:
        Conflict: it cannot happen in this state.
        Refused: it can, but not because of this actor.
    """
    transition = TRANSITIONS[purpose].get((state, event))
    if transition is None:
        raise Conflict(f"a session that is {state.value} cannot {event.value}: {_advise(purpose, state)}")
    if actor not in transition.actors:
        allowed = " or the ".join(sorted(transition.actors))
        raise Refused(f"only the {allowed} of a session may report '{event.value}': use that account's key")
    return transition.state


def _advise(purpose: Purpose, state: State) -> str:
    if state not in LIVE:
        return "it has ended; open a new session"
    return f"it is one to {purpose.value}; ask for its state and go on from there"
