"""Files are read as they arrive, several beside each other."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from contract.api import ModelEntry
from contract.model_card import ModelCard
from data_owner.ui import reading
from data_owner.ui.entries import Entry, Facts, State
from data_owner.ui.folders import Folders
from data_owner.ui.intake import read_file, read_waiting, receive_file
from data_owner.ui.workplace import Workplace
from imaging.reading import ModelInput
from tests.data_owner.ui.conftest import PATIENCE, Page
from tests.imaging.samples import picture, png_bytes


def test_a_file_that_takes_long_holds_up_no_other(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = tmp_path / "slow.png", tmp_path / "quick.png"
    for number, path in enumerate((slow, quick)):
        path.write_bytes(png_bytes(picture(seed=number).astype(np.uint8)))
    begun, released, read_entry = threading.Event(), threading.Event(), reading.read_entry

    def read_slowly(entry: Entry, card: ModelCard) -> tuple[ModelInput, Facts]:
        if entry.file_name == slow.name:
            begun.set()
            assert released.wait(PATIENCE)
        return read_entry(entry, card)

    monkeypatch.setattr(reading, "read_entry", read_slowly)
    page.ready()
    with ThreadPoolExecutor(1) as pool:
        dropped = pool.submit(page.drop, slow)
        try:
            assert begun.wait(PATIENCE)
            (other,) = page.drop(quick, drop="two")
            assert page.state(other) == "ready"
        finally:
            released.set()
        (first,) = dropped.result()
    assert page.state(first) == "ready"


class LockLeftLate:
    """A lock; whoever leaves it does something before others may take it."""

    def __init__(self, last: Callable[[], None]) -> None:
        self._lock, self._last = threading.Lock(), last

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        last, self._last = self._last, lambda: None
        last()
        self._lock.release()


@pytest.fixture
def offline(page: Page, tmp_path: Path) -> Iterator[tuple[Workplace, ModelEntry]]:
    """What a page knows whose front end has not answered yet, and the model that it will name."""
    model = page.ready().workplace.model
    assert model is not None
    folders = Folders(tmp_path / "other")
    yield Workplace(folders, stock_days=1), model
    folders.close()


def test_a_file_is_read_whose_model_comes_when_its_reader_leaves(offline: tuple[Workplace, ModelEntry]) -> None:
    workplace, model = offline
    entry = workplace.new_entry(drop="one", file_name="chest.png")
    entry.file.write_bytes(png_bytes(picture().astype(np.uint8)))
    entry.digest = "there"

    def model_comes() -> None:
        workplace.adopt(model)
        read_waiting(workplace)

    entry.reading = cast("threading.Lock", LockLeftLate(model_comes))
    read_file(workplace, entry)
    assert entry.state is State.READY


def test_a_file_on_its_way_is_not_read_when_the_model_comes(offline: tuple[Workplace, ModelEntry]) -> None:
    workplace, model = offline
    content = png_bytes(picture().astype(np.uint8))
    entry = workplace.new_entry(drop="one", file_name="chest.png")

    async def chunks() -> AsyncIterator[bytes]:
        yield content[:100]
        workplace.adopt(model)
        read_waiting(workplace)
        for thread in threading.enumerate():
            if thread.name == "reading":
                thread.join(PATIENCE)
        yield content[100:]

    asyncio.run(receive_file(entry, chunks(), most_bytes=1 << 20))
    before = entry.state
    read_file(workplace, entry)
    assert (before, entry.state) == (State.WAITING, State.READY)
