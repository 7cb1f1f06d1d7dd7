"""What a decoder can do to us that a hostile file has taken over: lie about the picture, and nothing else."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from contract.errors import ConfigurationError, ImageError
from imaging.formats import DecodedFile, Limits
from imaging.isolation.processes import Bounds, Processes
from imaging.isolation.reader import IsolatedReader
from tests.imaging.isolation.taken_over import ATTEMPTS, COLUMNS, DOES, ROWS
from tests.imaging.samples import specification

ANSWERING = "tests.imaging.isolation.taken_over:answer_requests"
MAKES_NO_SENSE = (
    "talk rubbish",
    "promise a long header",
    "say what is no JSON",
    "nest",
    "be another kind",
    "say more",
    "promise many pixels",
    "promise no pixels",
    "promise negative pixels",
    "send more",
    "send values unasked",
    "send what is no number",
    "send endless pixels",
    "send pixels that are too bright",
    "speak for a patient",
    "write to the terminal",
    "turn the text",
    "break the line",
    "say much",
    "name a code",
    "warn for ever",
    "know many ages",
    "know an old patient",
)


@contextmanager
def reading(bounds: Bounds, answering: str = ANSWERING) -> Iterator[tuple[IsolatedReader, Processes]]:
    processes = Processes(bounds, answering=answering)
    try:
        yield IsolatedReader(processes), processes
    finally:
        processes.close()


@pytest.fixture(scope="module")
def reader() -> Iterator[IsolatedReader]:
    with reading(Bounds(cpu_seconds=1, address_space=1 << 30)) as (made, processes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("API_KEY", "canary")
            processes.start()
        yield made


def read(reader: IsolatedReader, folder: Path, order: str) -> DecodedFile:
    path = folder / "file"
    path.write_text(order)
    return reader.read_picture(path, specification(), Limits(), with_values=False)[1]


def refusal(reader: IsolatedReader, folder: Path, order: str) -> str:
    with pytest.raises(ImageError) as caught:
        read(reader, folder, order)
    return str(caught.value)


def test_it_can_lie_about_the_picture(reader: IsolatedReader, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(reader, tmp_path, "lie").pixels, np.full((ROWS, COLUMNS), 0.5))


@pytest.mark.parametrize("order", MAKES_NO_SENSE)
def test_what_no_decoder_answers_is_refused(reader: IsolatedReader, tmp_path: Path, order: str) -> None:
    assert "makes no sense" in refusal(reader, tmp_path, order)


@pytest.mark.parametrize("order", ["crash", "abort", "give up", "say nothing", "send less", "take memory"])
def test_the_end_of_its_process_is_told_as_damage(reader: IsolatedReader, tmp_path: Path, order: str) -> None:
    assert "the file is damaged, or made to do harm" in refusal(reader, tmp_path, order)


def test_every_behaviour_is_tried() -> None:
    elsewhere = {"lie", "crash", "abort", "give up", "say nothing", "send less", "take memory", "report"}
    assert {*DOES} == {*MAKES_NO_SENSE} | elsewhere | {"wait", "work", "work on"}


def test_it_holds_nothing_and_reaches_nothing(reader: IsolatedReader, tmp_path: Path) -> None:
    found = json.loads(refusal(reader, tmp_path, "report"))
    assert found["environment"] == {}
    assert found["held"] == [0, 1, 2, 3]  # its socket, nowhere, and the pipe of its own standard error
    assert {*found["attempts"]} == {*ATTEMPTS}
    assert [name for name, outcome in found["attempts"].items() if outcome == "done"] == []


def test_one_that_refuses_to_end_is_killed(reader: IsolatedReader, tmp_path: Path) -> None:
    assert "time to read" in refusal(reader, tmp_path, "work on")


def test_one_that_waits_for_ever_is_killed_at_the_deadline(tmp_path: Path) -> None:
    with reading(Bounds(wall_seconds=2.0)) as (reader, _):
        assert "longer than 2 s" in refusal(reader, tmp_path, "wait")


def test_work_without_end_is_ended_and_other_files_are_read_meanwhile(reader: IsolatedReader, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(refusal, reader, elsewhere, "work")
        assert read(reader, tmp_path, "lie").pixels.shape == (ROWS, COLUMNS)
        assert not stuck.done()
        assert "this picture takes longer than 1 s to read: export it as" in stuck.result()


def test_a_warm_process_that_was_killed_is_started_anew(tmp_path: Path) -> None:
    with reading(Bounds()) as (reader, processes):
        read(reader, tmp_path, "lie")
        assert processes.warm is not None
        os.kill(processes.warm, signal.SIGKILL)
        os.waitid(os.P_PID, processes.warm, os.WEXITED | os.WNOWAIT)
        read(reader, tmp_path, "lie")


def test_one_that_ends_as_it_starts_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    with (
        reading(Bounds(), answering="tests.imaging.isolation.taken_over:not_there") as (reader, _),
        pytest.raises(ConfigurationError, match="process that reads pictures"),
    ):
        read(reader, tmp_path, "lie")
