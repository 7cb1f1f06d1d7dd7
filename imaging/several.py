"""The pictures of a data set: in their order for whoever takes them, several beside each other on the machine."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from contract.errors import ImageError
from contract.model_card import InputSpecification
from imaging.isolation.processes import SHARED
from imaging.isolation.reader import BatchReader
from imaging.reading import ModelInput, read_model_input

MOST_AT_ONCE: Final = 4
"""Files: each takes memory in proportion to its picture."""


def read_several(files: Sequence[Path], specification: InputSpecification) -> Iterator[ModelInput | ImageError]:
    """`read_model_input` of each file, in their order, or the ImageError that it raises; all else is raised here."""
    at_once = min(MOST_AT_ONCE, len(os.sched_getaffinity(0)))
    idle: SimpleQueue[BatchReader] = SimpleQueue()
    begun: deque[Future[ModelInput | ImageError]] = deque()

    def read(path: Path) -> ModelInput | ImageError:
        reader = idle.get()
        try:
            return read_model_input(path, specification, reader=reader)
        except ImageError as error:
            return error
        finally:
            idle.put(reader)

    with ExitStack() as stack:
        for _ in range(at_once):
            idle.put(stack.enter_context(BatchReader(SHARED)))
        pool = ThreadPoolExecutor(at_once, thread_name_prefix="reading")
        stack.callback(pool.shutdown, cancel_futures=True)
        for path in files:
            begun.append(pool.submit(read, path))
            if len(begun) > at_once:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
