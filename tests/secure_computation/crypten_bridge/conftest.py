"""A pair of channels, and two parties that act at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from secure_computation.channel.channel import Channel
from secure_computation.channel.memory import DATA_OWNER, MODEL_OWNER, memory_pair


@pytest.fixture
def parties() -> tuple[Channel, Channel]:
    """P0's and P1's ends of one channel."""
    return memory_pair(DATA_OWNER, MODEL_OWNER)


@pytest.fixture
def both() -> Callable[[Callable[[], Any], Callable[[], Any]], tuple[Any, Any]]:
    """Run what P0 does and what P1 does at the same time; both results."""

    def run(data_owner: Callable[[], Any], model_owner: Callable[[], Any]) -> tuple[Any, Any]:
        with ThreadPoolExecutor(max_workers=2) as pool:
            futures = pool.submit(data_owner), pool.submit(model_owner)
            return futures[0].result(), futures[1].result()

    return run
