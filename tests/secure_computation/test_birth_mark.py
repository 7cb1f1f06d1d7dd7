"""A file has one mark for as long as it is the same file, and no other file has it."""

import os
import shutil
from pathlib import Path

import pytest

from secure_computation.birth_mark import BirthMark, birth_mark


def mark_of(path: Path) -> BirthMark:
    with path.open("rb") as file:
        return birth_mark(file.fileno())


def let_time_pass(folder: Path) -> None:
    """Until the kernel's clock, which births are taken from, has gone on: it moves every few milliseconds."""
    probe = folder / "probe"
    probe.touch()
    first = mark_of(probe).born
    while mark_of(probe).born == first:
        probe.unlink()
        probe.touch()
    probe.unlink()


def test_it_stays_through_writing_renaming_and_other_times(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    mark = mark_of(path)
    assert mark.number == path.stat().st_ino
    assert mark.born is not None
    path.write_bytes(b"22")
    os.utime(path, (1, 1))
    path.chmod(0o400)
    moved = path.rename(tmp_path / "b")
    assert mark_of(moved) == mark


def test_a_copy_has_another_also_where_it_takes_the_number_of_the_first(tmp_path: Path) -> None:
    path, aside = tmp_path / "a", tmp_path / "aside"
    path.write_bytes(b"1")
    shutil.copy2(path, aside)
    first = mark_of(path)
    path.unlink()
    let_time_pass(tmp_path)
    shutil.copy2(aside, path)
    assert len({first, mark_of(path), mark_of(aside)}) == 3


def test_a_descriptor_that_is_none(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        birth_mark(descriptor)
