"""A file is put in place whole and durably, whatever ends its writer, and a private one is private from the start."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from contract import files
from contract.errors import ConfigurationError
from contract.files import INCOMING
from data_owner.ui.timings import Run, Timings
from federated_learning.checkpoints import read, save
from plumbing.settings import AtRest
from secure_computation.at_rest import StorageKey, write_sealed
from secure_computation.material import ConsumptionLedger, ItemName
from tests.full_disk import is_limited, no_file_beyond

KEY = StorageKey.of(AtRest.model_validate({"key": "ab" * 32}))
ITEM = ItemName("ab" * 32)
SYNCED, NAMED = "synced", "named"


@dataclass
class Disk:
    """What the system was asked for, in order: (what, path)."""

    asked: list[tuple[str, Path]] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    """Of each file that was made, at that moment."""

    def is_durable(self, path: Path) -> bool:
        """Whether a power cut now leaves what was written to `path` last: bytes, then name, then folder."""
        named = max(index for index, one in enumerate(self.asked) if one == (NAMED, path))
        before, after = self.asked[:named], self.asked[named + 1 :]
        wrote_bytes = any(what == SYNCED and (place == path or INCOMING in place.name) for what, place in before)
        return wrote_bytes and (SYNCED, path.parent) in after


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Disk]:
    """A umask that forbids nothing, and a record of the calls that order what is on the disk."""
    assert tmp_path.exists()  # made before it begins
    seen, fsync, opened, link, replace = Disk(), os.fsync, os.open, os.link, os.replace

    def open_file(path: Path, flags: int, mode: int = 0o777, **more: int) -> int:
        descriptor = opened(path, flags, mode, **more)
        if flags & os.O_CREAT:
            seen.modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        if flags & os.O_EXCL and INCOMING not in Path(path).name:
            seen.asked += [(SYNCED, Path(path)), (NAMED, Path(path))]  # empty: its name is all there is
        return descriptor

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        seen.asked.append((SYNCED, Path(f"/proc/self/fd/{descriptor}").readlink()))

    def name_by(call: Callable[..., None]) -> Callable[[Path, Path], None]:
        def name(source: Path, target: Path) -> None:
            call(source, target)
            seen.asked.append((NAMED, Path(target)))

        return name

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", name_by(link))
    monkeypatch.setattr(os, "replace", name_by(replace))
    before = os.umask(0)
    yield seen
    os.umask(before)


def finish_run(path: Path) -> None:
    Timings(path).finish("any", Run(expected=None), total=1.0)


def copy_to(path: Path) -> None:
    source = path.parent.parent / "key"
    source.write_bytes(b"secret")
    source.chmod(files.PRIVATE)
    files.copy_new(source, path)


WRITERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "new": (lambda folder: files.write_new(folder / "file", b"new"), "file"),
    "replaced": (lambda folder: files.replace(folder / "file", b"new"), "file"),
    "sealed": (lambda folder: write_sealed(folder / "file", KEY, b"new", purpose="test", context="file"), "file"),
    "a page's": (lambda folder: finish_run(folder / "file"), "file"),
    "copied": (lambda folder: copy_to(folder / "file"), "file"),
    "claimed": (lambda folder: ConsumptionLedger(folder).consume(ITEM), ITEM),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_file_is_on_the_disk_and_has_been_private_all_along(disk: Disk, tmp_path: Path, what: str) -> None:
    write, name = WRITERS[what]
    folder = tmp_path / "kept"
    folder.mkdir()
    write(folder)
    assert disk.is_durable(folder / name)
    assert set(disk.modes) == {files.PRIVATE}
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_checkpoint_is_on_the_disk_before_training_goes_on(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    save({"round": np.array(1)}, path)
    assert disk.is_durable(path)


def test_a_file_for_all_becomes_readable_only_with_its_mode(disk: Disk, tmp_path: Path) -> None:
    files.write_new(tmp_path / "certificate", b"public", mode=files.PUBLIC)
    assert disk.modes == [files.PRIVATE]
    assert stat.S_IMODE((tmp_path / "certificate").stat().st_mode) == files.PUBLIC
    os.umask(0o027)
    files.replace(tmp_path / "report", b"anybody's", mode=None)
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == 0o640


def test_files_that_grow_are_private_from_the_start(disk: Disk, tmp_path: Path) -> None:
    files.append(tmp_path / "log", b"one\n")
    files.append(tmp_path / "log", b"two\n")
    files.ensure_file(tmp_path / "database")
    os.close(files.open_lock(tmp_path / "lock"))
    files.open_new(tmp_path / "upload").close()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    assert set(disk.modes) == {files.PRIVATE}


def test_a_folder_that_was_made_survives_with_those_above_it(disk: Disk, tmp_path: Path) -> None:
    files.private_folder(tmp_path / "a" / "b")
    assert disk.asked == [(SYNCED, tmp_path), (SYNCED, tmp_path / "a")]


def test_what_is_moved_keeps_its_new_name(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    files.move(tmp_path / "old", tmp_path / "new")
    assert disk.asked == [(NAMED, tmp_path / "new"), (SYNCED, tmp_path)]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt(), ValueError("wrong")])
def test_a_writer_that_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(block: AbstractContextManager[BinaryIO]) -> None:
        with block as file:
            file.write(b"half")
            raise error

    for block in (files.replacing_file(path), files.new_file(tmp_path / "another")):
        with pytest.raises(type(error)):
            write(block)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"file": b"old"}


def test_a_checkpoint_that_a_full_disk_cuts_off_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    save({"round": np.array(1)}, path)
    assert is_limited(10, str(tmp_path.parent / "probe"))
    with no_file_beyond(300), pytest.raises(ConfigurationError, match="cannot be written"):
        save({"round": np.array(2), "weights": np.zeros(1000)}, path)
    assert read(path)["round"] == 1
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import sys
from pathlib import Path
from contract.files import replacing_file
with replacing_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("half", flush=True)
    sys.stdin.read()
"""


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_of_one_that_lives(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        files.replace(tmp_path / "another", b"whole")
        assert len(list(tmp_path.iterdir())) == 3
        process.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
    files.replace(path, b"new")
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"file": b"new", "another": b"whole"}


def test_of_many_writers_at_once_each_leaves_a_whole_file(tmp_path: Path) -> None:
    """Each looks for what others left while they write."""
    path, contents = tmp_path / "file", [bytes([number]) * 10_000 for number in range(8)]
    failures: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(10):
                files.replace(path, content)
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_who_claim_a_name_one_has_it(tmp_path: Path) -> None:
    files.claim(tmp_path / "name")
    with pytest.raises(FileExistsError):
        files.claim(tmp_path / "name")
    with pytest.raises(FileExistsError), files.new_file(tmp_path / "name") as file:
        file.write(b"mine")
    assert (tmp_path / "name").read_bytes() == b""
    assert len(list(tmp_path.iterdir())) == 1


def test_what_only_looks_unfinished_is_left_alone(tmp_path: Path) -> None:
    """A pipe that nobody writes must hold nobody up; a file of somebody else's by nearly that name is not ours."""
    pipe = tmp_path / f"{INCOMING}{'a' * 16}"
    os.mkfifo(pipe)
    (tmp_path / f"{INCOMING}notes").write_text("kept")
    files.replace(tmp_path / "file", b"new")
    assert (tmp_path / f"{INCOMING}notes").exists()
    assert not files.try_to_replace(tmp_path / "no folder" / "file", b"new")
