"""Several images walked at once over one channel: one walk has the turn, and passes it on where it would wait.

The model owner's walk sends an opening in the middle of a layer and needs the answer before it goes on. So each image
has its own walk in its own thread, of which one runs at a time, in a fixed order:

    P1   open 1,    open 2,    ...  open n,    answer 1, compute, open 1,   answer 2, compute, open 2,   ...
    P0              answer 1,  answer 2,  ...  answer n,                    answer 1,                    ...

All openings of a move leave before the first answer to it is read, so a move of n images takes as many one-way trips
as that of one, and while P1 computes on one image, P0 answers for another. As every walk follows the same public plan,
all pause equally often, and what crosses the channel comes in the same order at both ends.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias, TypeVar

Result = TypeVar("Result")
Pause: TypeAlias = Callable[[], None]
"""Lets every other walk run until it pauses, too; then returns."""


class _StoppedError(Exception):
    """Another walk failed: this one ends where it paused."""


class _Turns:
    """Who may run: one of `count`, round and round."""

    def __init__(self, count: int) -> None:
        """Nobody may run yet."""
        self._gates = [threading.Semaphore(0) for _ in range(count)]
        self._stopped = False

    def give(self, index: int) -> None:
        """Let one run."""
        self._gates[index % len(self._gates)].release()

    def wait(self, index: int) -> None:
        """Return when it is this one's turn."""
        self._gates[index].acquire()
        if self._stopped:
            raise _StoppedError

    def pause(self, index: int) -> None:
        """Let the next one run, and wait for the turn to come round."""
        self.give(index + 1)
        self.wait(index)

    def stop(self) -> None:
        """Wake everybody, to end."""
        self._stopped = True
        for gate in self._gates:
            gate.release()


def in_turns(walks: Sequence[Callable[[Pause], Result]]) -> list[Result]:
    """Run all walks, one at a time, each until it pauses; return what they return, in order.

    The first runs in the caller's thread, so that a single one is an ordinary call. Where one raises, the others end
    where they paused and the error is raised here.
    """
    turns = _Turns(len(walks))

    def run(index: int) -> Result:
        turns.wait(index)
        try:
            result = walks[index](partial(turns.pause, index))
        except BaseException:
            turns.stop()
            raise
        turns.give(index + 1)
        return result

    results: list[Result] = []
    with ThreadPoolExecutor(max_workers=len(walks), thread_name_prefix="image") as pool:  # starts threads as needed
        try:
            others = [pool.submit(run, index) for index in range(1, len(walks))]
            turns.give(0)
            results.append(run(0))
        except _StoppedError:
            pass  # one of the others has the error
        except BaseException:
            turns.stop()  # also where a thread could not be started
            raise
    for future in others:
        error = future.exception()
        if error is not None and not isinstance(error, _StoppedError):
            raise error
    return results + [future.result() for future in others]
