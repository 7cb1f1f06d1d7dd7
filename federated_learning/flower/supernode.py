"""A hospital's SuperNode process: Flower's own, which asks for messages sooner.

Flower 1.41 asks every 3 seconds, which five legs of secure aggregation would wait for. Here it asks after 50 ms at
first and then less and less often, up to every half second, and starts afresh with each message.

    python -m federated_learning.flower.supernode MAX_MESSAGE_BYTES [options of flower-supernode ...]
"""

import resource
import sys
import time
from types import SimpleNamespace

from federated_learning.flower.processes import end_with_parent

IDLE_SECONDS = 3
SHORTEST_SECONDS = 0.05
LONGEST_SECONDS = 0.5
GROWTH = 1.15
OWN_BYTES, COPIES = 8 << 30, 6
"""Address space of Flower and its threads, and how often it holds a message while it passes one on."""


class Pauses:
    """`sleep` of the SuperNode's loop: its 3 seconds mean that no message was there, anything else that one is."""

    def __init__(self) -> None:
        self._seconds = SHORTEST_SECONDS

    def __call__(self, seconds: float) -> None:
        """Sleep for what suits instead of for `seconds`."""
        if seconds < IDLE_SECONDS:
            self._seconds = SHORTEST_SECONDS
            time.sleep(min(seconds, SHORTEST_SECONDS))
            return
        time.sleep(self._seconds)
        self._seconds = min(self._seconds * GROWTH, LONGEST_SECONDS)


def bound_memory(most_bytes: int) -> None:
    """In this process: Flower takes in whatever the coordinator sends before anybody looks at it.

    A message beyond the bound is lost, or this process ends and a new one is started; the machine goes on.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def tell_no_durations() -> None:
    """In this process: send no seconds with an answer. Flower sends how long each took, which grows with the images."""
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    InMemoryNodeState.get_message_processing_duration = lambda _state, message_id: 0.0  # type: ignore[assignment,method-assign]  # noqa: ARG005  (Flower names it)


def main() -> None:
    """Run until a signal, the parent's end, or a refusal by the coordinator."""
    end_with_parent()
    bound_memory(OWN_BYTES + COPIES * int(sys.argv.pop(1)))
    import flwr.supernode.start_client_internal as loop
    from flwr.supernode.cli import flower_supernode

    from federated_learning.flower.tasks import fetch_parts_sooner

    fetch_parts_sooner()
    tell_no_durations()
    loop.time = SimpleNamespace(sleep=Pauses())  # type: ignore[attr-defined,assignment]  # all that this module takes from time
    flower_supernode()


if __name__ == "__main__":
    main()
