"""Asking Flower sooner than it asks by itself.

Flower 1.41 looks for messages every 3 seconds, and for a part of a message that is still on its way after 1, 2, 4, ...
seconds. Each leg of secure aggregation would wait for both. The version is pinned, and tests see that both are there.
"""

from flwr.supercore.inflatable.inflatable_utils import pull_objects

FIRST_SECONDS, LONGEST_SECONDS = 0.05, 0.5


def fetch_parts_sooner() -> None:
    """In this process: ask for a part of a message again after 50 ms at first, and at least every half second."""
    defaults = pull_objects.__kwdefaults__ or {}
    if not {"initial_backoff", "backoff_cap"} <= set(defaults):
        raise RuntimeError("this is another Flower than 1.41: see federated_learning/flower/polling.py")
    defaults.update(initial_backoff=FIRST_SECONDS, backoff_cap=LONGEST_SECONDS)
