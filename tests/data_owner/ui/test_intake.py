"""Files are read as they arrive, several beside each other."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from contract.model_card import ModelCard
from data_owner.ui import reading
from data_owner.ui.entries import Entry, Facts
from imaging import ModelInput
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
