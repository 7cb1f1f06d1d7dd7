"""The pictures of a data set come in their order, each as it is read by itself, whatever stands among them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contract.errors import ConfigurationError, ImageError
from imaging import reading
from imaging.formats import Limits
from imaging.isolation.processes import Bounds, Processes
from imaging.isolation.reader import BatchReader
from imaging.reading import read_model_input, read_several
from tests.imaging.samples import picture, png_bytes, specification


@pytest.fixture(autouse=True)
def _two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 1})


@pytest.fixture(scope="module")
def taken_over() -> Iterator[Processes]:
    processes = Processes(Bounds(), answering="tests.imaging.isolation.taken_over:answer_requests")
    yield processes
    processes.close()


def test_pictures_come_in_their_order_with_refusals_among_them(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(40)]
    for number, path in enumerate(files):
        path.write_bytes(b"no picture" if number % 7 == 3 else png_bytes(picture(seed=number).astype(np.uint8)))
    files.append(tmp_path / "not there")
    found = list(read_several(files, specification()))
    assert [number for number, one in enumerate(found) if isinstance(one, ImageError)] == [3, 10, 17, 24, 31, 38, 40]
    for number in (0, 20, 39):
        image = found[number]
        assert not isinstance(image, ImageError)
        np.testing.assert_array_equal(image.tensor, read_model_input(files[number], specification()).tensor)


def test_what_else_than_a_picture_comes_is_asked_for_again_alone(
    taken_over: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ended, or answered what makes no sense, says nothing about the files that it has not read."""
    monkeypatch.setattr(reading, "SHARED", taken_over)
    orders = ["lie", "crash", "lie", "talk rubbish", "lie", "give up", "lie"]
    files = []
    for number, order in enumerate(orders):
        files.append(tmp_path / str(number))
        files[-1].write_text(order)
    told = [str(one) if isinstance(one, ImageError) else "picture" for one in read_several(files, specification())]
    assert told[::2] == ["picture"] * 4
    assert [text.partition(":")[0] for text in told[1::2]] == [
        "the file is damaged, or made to do harm",
        "reading this file gave an answer that makes no sense",
        "the file is damaged, or made to do harm",
    ]


def test_a_process_reads_a_bounded_number_of_files(tmp_path: Path, taken_over: Processes) -> None:
    path = tmp_path / "file"
    path.write_text("count")
    with BatchReader(taken_over) as reader:
        counted = [reader.read_picture(path, specification(), Limits(), with_values=False)[1].frames for _ in range(34)]
    assert counted == [*range(1, 17), *range(1, 17), 1, 2]


def test_another_error_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refuse(path: Path, *_: object, **__: object) -> None:
        tried.append(path)
        raise ConfigurationError("no process can be had")

    monkeypatch.setattr(reading, "read_model_input", refuse)
    with pytest.raises(ConfigurationError):
        list(read_several([tmp_path] * 100, specification()))
    assert len(tried) < 10
