"""What passes between P0 and P1 for an item of material, by hashes, so that it can be signed.

Both keep the same list, in P0's order: each opening stands before its answer. Hashing all messages of a session takes
some milliseconds, and nobody waits for more than the last: a thread hashes beside the computation.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.violation import Message, Sender


class Transcript:
    """The messages of one item, as one of the two parties has them. For use by one thread at a time."""

    def __init__(self, own: Sender, hasher: ThreadPoolExecutor | None = None) -> None:
        """`own`: whose. `hasher`: hashes bodies in its thread, and they must not change then; None: at once."""
        self._own = own
        self._hasher = hasher
        self._noted: list[tuple[Sender, str, Future[str] | str]] = []
        self._unanswered: list[tuple[Sender, str, Future[str] | str]] = []

    def note_sent(self, step: str, body: NDArray[Any], *, answered: bool = True) -> None:
        """Note what this party sent. `answered`: of an opening, by what P0 sends for it and for none before it."""
        noted = (self._own, step, self._hash(body))
        if self._own is Sender.MODEL_OWNER and answered:
            self._unanswered.append(noted)  # P0 has it in its turn, when it answers
        else:
            self._noted.append(noted)

    def note_received(self, step: str, body: NDArray[Any]) -> None:
        """Note what came from the other party."""
        other = Sender.MODEL_OWNER if self._own is Sender.DATA_OWNER else Sender.DATA_OWNER
        self._noted += [*self._unanswered[:1], (other, step, self._hash(body))]
        del self._unanswered[:1]

    def note_exchange(self, step: str, own: NDArray[Any], other: NDArray[Any]) -> None:
        """Note two messages that cross each other: P0's stands first."""
        pair = [(Sender.DATA_OWNER, own), (Sender.MODEL_OWNER, other)]
        if self._own is Sender.MODEL_OWNER:
            pair = [(Sender.DATA_OWNER, other), (Sender.MODEL_OWNER, own)]
        self._noted += [(sender, step, self._hash(body)) for sender, body in pair]

    def _hash(self, body: NDArray[Any]) -> Future[str] | str:
        return hash_body(body) if self._hasher is None else self._hasher.submit(hash_body, body)

    def messages(self) -> tuple[Message, ...]:
        """All so far; without openings that were not answered."""
        return tuple(
            Message(sender=sender, step=step, sha256=digest if isinstance(digest, str) else digest.result())
            for sender, step, digest in self._noted
        )


def hash_body(body: NDArray[Any]) -> str:
    """SHA-256 of a message's body, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(body).data).hexdigest()


@contextmanager
def transcripts(own: Sender, count: int, *, kept: bool) -> Iterator[tuple[Transcript | None, ...]]:
    """One for each image of a session, to be read within the block; `kept`: or none, if nobody signs."""
    if not kept:
        yield (None,) * count
        return
    with ThreadPoolExecutor(1, thread_name_prefix="transcript") as hasher:  # the thread begins with the first message
        yield tuple(Transcript(own, hasher) for _ in range(count))
