"""Uploading to Flower what Flower drops in the middle, as it does on a machine that stands still."""

from collections.abc import Callable
from typing import TypeVar

UPLOADS = 3
"""How often the same thing is uploaded."""
Answer = TypeVar("Answer")


def upload(push: Callable[[], Answer]) -> Answer:
    """Push until nothing was dropped. Raises Flower's ObjectPushError where something is dropped every time."""
    from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

    for _ in range(UPLOADS - 1):
        try:
            return push()
        except ObjectPushError:
            continue
    return push()
