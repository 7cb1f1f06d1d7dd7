"""The audit log: what its chain shows, what only others' memory shows, and what survives a crash."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bookkeeping import audit_segments
from bookkeeping.audit_log import DAY_SECONDS, AuditLog, read_log, verify_log
from contract.api import AuditHead
from contract.errors import AuditLogBroken, ConfigurationError
from tests.full_disk import is_limited, no_file_beyond

NOW = 1_770_000_000.0
SMALL = 900
"""Bytes of a segment: three or four entries."""


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def new_log(
    folder: Path, *, keep_days: float = 10, segment_bytes: int = 4 << 20, clock: Clock | None = None
) -> AuditLog:
    return AuditLog(folder, keep_days=keep_days, segment_bytes=segment_bytes, clock=clock or Clock())


def fill(log: AuditLog, entries: int) -> list[AuditHead]:
    return [log.record("session-begun", session=uuid4(), organisation="st-mary", images=1) for _ in range(entries)]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def lines_of(folder: Path) -> list[bytes]:
    return [line for path in segments(folder) for line in path.read_bytes().splitlines(keepends=True)]


def rechained(folder: Path, change: Callable[[list[dict[str, object]]], None]) -> None:
    """Write a one-segment log anew with every hash right: what somebody does who owns the disk and knows the format."""
    (path,) = segments(folder)
    entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    for entry in entries:
        del entry["hash"], entry["previous"]
    change(entries)
    path.unlink()
    log = new_log(folder)
    for entry in entries:
        log.record(entry["event"], **{name: entry[name] for name in ("session", "organisation", "images")})


class TestWriting:
    def test_entries_are_numbered_chained_and_read_back(self, tmp_path: Path) -> None:
        session = uuid4()
        log = new_log(tmp_path / "audit")
        log.record("session-begun", session=session, organisation="st-mary", model="resnet", version="1.0.0", images=3)
        head = log.record("session-ended", session=session, state="served")
        first, second = read_log(tmp_path / "audit")
        assert (first.number, first.event, first.session, first.images) == (1, "session-begun", session, 3)
        assert (second.number, second.state, second.previous) == (
            2,
            "served",
            json.loads(lines_of(tmp_path / "audit")[0])["hash"],
        )
        assert log.head() == head
        assert verify_log(tmp_path / "audit", [head]).heads_found == 1

    def test_several_writers_share_one_chain(self, tmp_path: Path) -> None:
        logs = [new_log(tmp_path / "audit", segment_bytes=SMALL) for _ in range(4)]
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(lambda log: fill(log, 10), logs))
        assert verify_log(tmp_path / "audit").head == logs[0].head()
        assert [entry.number for entry in read_log(tmp_path / "audit")] == list(range(1, 41))

    @pytest.mark.parametrize(
        "details",
        [{"organisation": "Jane Doe"}, {"patient": "x"}, {"state": "a free text"}, {"model": "../.."}, {"images": 0}],
    )
    def test_no_field_could_hold_a_patients_name(self, tmp_path: Path, details: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            new_log(tmp_path / "audit").record("session-begun", **details)
        assert lines_of(tmp_path / "audit") == []

    def test_it_is_private(self, tmp_path: Path) -> None:
        fill(new_log(tmp_path / "audit"), 1)
        assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700
        assert [path.stat().st_mode & 0o777 for path in segments(tmp_path / "audit")] == [0o600]

    def test_what_cannot_be_recorded_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "audit").write_text("a file in the folder's place")
        with pytest.raises(ConfigurationError, match="cannot be written"):
            new_log(tmp_path / "audit")


class TestTornLine:
    """What a full disk or a power cut leaves of a line is told from tampering, and mended with a note."""

    @pytest.mark.parametrize("left", [1, 100, 250])
    def test_a_line_without_an_end_is_mended_with_a_note(self, tmp_path: Path, left: int) -> None:
        log = new_log(tmp_path / "audit")
        kept = fill(log, 2)[-1]
        fill(log, 1)
        (path,) = segments(tmp_path / "audit")
        whole = path.read_bytes()
        start = whole.rindex(b"\n", 0, -1) + 1
        path.write_bytes(whole[: start + left])
        verified = verify_log(tmp_path / "audit", [kept])
        assert (verified.head, verified.torn) == (kept, True)
        assert log.head() == kept
        fill(log, 1)
        entries = list(read_log(tmp_path / "audit"))
        assert [entry.event for entry in entries] == ["session-begun"] * 2 + ["mended", "session-begun"]
        assert entries[2].torn_bytes == left
        assert not verify_log(tmp_path / "audit", [kept]).torn

    def test_a_disk_that_fills_up_in_a_line_stops_nothing_once_it_has_room(self, tmp_path: Path) -> None:
        """In one process, that is never started again."""
        assert is_limited(10, str(tmp_path / "probe"))
        log = new_log(tmp_path / "audit")
        fill(log, 2)
        (path,) = segments(tmp_path / "audit")
        with no_file_beyond(path.stat().st_size + 40):
            for _ in range(3):
                with pytest.raises(ConfigurationError, match="cannot be written"):
                    fill(log, 1)
        assert not path.read_bytes().endswith(b"\n")
        fill(log, 1)
        assert [entry.event for entry in read_log(tmp_path / "audit")][2:] == ["mended", "session-begun"]
        assert verify_log(tmp_path / "audit").head == log.head()

    def test_a_disk_that_is_full_when_a_segment_begins(self, tmp_path: Path) -> None:
        log = new_log(tmp_path / "audit", segment_bytes=1)
        fill(log, 2)
        with no_file_beyond(0), pytest.raises(ConfigurationError, match="cannot be written"):
            fill(log, 1)
        assert segments(tmp_path / "audit")[-1].stat().st_size == 0
        assert verify_log(tmp_path / "audit").torn
        fill(log, 1)
        assert [entry.torn_bytes for entry in read_log(tmp_path / "audit")] == [None, None, 0, None]

    def test_a_crash_in_the_very_first_line(self, tmp_path: Path) -> None:
        fill(new_log(tmp_path / "audit"), 1)
        (path,) = segments(tmp_path / "audit")
        os.truncate(path, 10)
        assert verify_log(tmp_path / "audit").head is None
        fill(new_log(tmp_path / "audit"), 1)
        assert [entry.event for entry in read_log(tmp_path / "audit")] == ["mended", "session-begun"]

    def test_an_entry_that_lacks_its_line_end_alone_is_kept(self, tmp_path: Path) -> None:
        log = new_log(tmp_path / "audit")
        head = fill(log, 3)[-1]
        (path,) = segments(tmp_path / "audit")
        os.truncate(path, path.stat().st_size - 1)
        fill(log, 1)
        assert verify_log(tmp_path / "audit", [head]).heads_found == 1
        assert [entry.event for entry in read_log(tmp_path / "audit")][3:] == ["mended", "session-begun"]

    @pytest.mark.parametrize("left", [bytes(1), bytes(4096), b"\r\xff{", b"  "], ids=repr)
    def test_what_a_power_cut_leaves_may_be_anything(self, tmp_path: Path, left: bytes) -> None:
        log = new_log(tmp_path / "audit")
        fill(log, 2)
        (path,) = segments(tmp_path / "audit")
        path.write_bytes(path.read_bytes() + left)
        assert verify_log(tmp_path / "audit").torn
        fill(log, 1)
        assert [entry.torn_bytes for entry in read_log(tmp_path / "audit")] == [None, None, len(left), None]

    def test_more_than_a_line_without_an_end_is_tampering(self, tmp_path: Path) -> None:
        log = new_log(tmp_path / "audit")
        fill(log, 2)
        (path,) = segments(tmp_path / "audit")
        path.write_bytes(path.read_bytes() + bytes(4097))
        for look in (lambda: verify_log(tmp_path / "audit"), lambda: fill(log, 1)):
            with pytest.raises(AuditLogBroken, match="altered or cut"):
                look()

    def test_a_torn_line_excuses_nothing_before_it(self, tmp_path: Path) -> None:
        log = new_log(tmp_path / "audit")
        fill(log, 3)
        (path,) = segments(tmp_path / "audit")
        torn = path.read_bytes().replace(b'"images":1', b'"images":2', 1)[:-30]
        path.write_bytes(torn)
        with pytest.raises(AuditLogBroken, match="its last line is torn, and lines before it were altered"):
            fill(log, 1)
        assert path.read_bytes() == torn

    def test_an_end_that_is_cut_off_to_look_torn_is_found_by_what_others_remember(self, tmp_path: Path) -> None:
        log = new_log(tmp_path / "audit")
        heads = fill(log, 4)
        (path,) = segments(tmp_path / "audit")
        os.truncate(path, path.stat().st_size - 50)
        fill(log, 3)
        with pytest.raises(AuditLogBroken, match="entry 4 is another one than was seen by others"):
            verify_log(tmp_path / "audit", heads[-1:])

    def test_a_check_leaves_nothing_and_finds_a_full_disk(self, tmp_path: Path) -> None:
        log = new_log(tmp_path / "audit")
        log.check()
        assert segments(tmp_path / "audit") == []
        fill(log, 2)
        (path,) = segments(tmp_path / "audit")
        before = path.read_bytes()
        with no_file_beyond(len(before) + 40), pytest.raises(ConfigurationError, match="cannot be written"):
            log.check()
        log.check()
        assert path.read_bytes() == before


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[AuditHead]]:
    folder = tmp_path_factory.mktemp("audit") / "template"
    heads = fill(new_log(folder, segment_bytes=SMALL), 12)
    assert len(segments(folder)) > 3
    return folder, heads


@pytest.fixture
def written(tmp_path: Path, template: tuple[Path, list[AuditHead]]) -> tuple[Path, list[AuditHead]]:
    """Twelve entries in several segments."""
    folder, heads = template
    shutil.copytree(folder, tmp_path / "audit")
    return tmp_path / "audit", heads


class TestTampering:
    @settings(max_examples=40)
    @given(data=st.data())
    def test_any_byte_that_is_changed_is_found(
        self, written: tuple[Path, list[AuditHead]], data: st.DataObject
    ) -> None:
        folder, heads = written
        path = data.draw(st.sampled_from(segments(folder)))
        whole = path.read_bytes()
        position = data.draw(st.integers(0, len(whole) - 1))
        wrong = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[position]))
        path.write_bytes(whole[:position] + bytes([wrong]) + whole[position + 1 :])
        try:
            with pytest.raises(AuditLogBroken):
                verify_log(folder, heads[-1:])
        finally:
            path.write_bytes(whole)

    @settings(max_examples=40)
    @given(data=st.data())
    def test_any_line_that_is_removed_doubled_or_moved_is_found(
        self, written: tuple[Path, list[AuditHead]], data: st.DataObject
    ) -> None:
        folder, _ = written
        before = {path: path.read_bytes() for path in segments(folder)}
        path = data.draw(st.sampled_from(segments(folder)[:-1]))
        lines = before[path].splitlines(keepends=True)
        index = data.draw(st.integers(0, len(lines) - 1))
        line = lines.pop(index)
        match data.draw(st.sampled_from(["remove", "double", "move"])):
            case "double":
                lines[index:index] = [line, line]
            case "move":
                lines.insert((index + 1) % (len(lines) + 1) or 1, line)
        path.write_bytes(b"".join(lines))
        try:
            with pytest.raises(AuditLogBroken):
                verify_log(folder)
        finally:
            for one, content in before.items():
                one.write_bytes(content)

    @pytest.mark.parametrize("which", [0, 1, 2])
    def test_a_segment_that_is_gone_is_found(self, written: tuple[Path, list[AuditHead]], which: int) -> None:
        folder, _ = written
        segments(folder)[which].unlink()
        with pytest.raises(AuditLogBroken, match="are missing" if which == 0 else "does not follow"):
            verify_log(folder)

    def test_segments_that_changed_names_are_found(self, written: tuple[Path, list[AuditHead]]) -> None:
        folder, _ = written
        first, second, *_ = segments(folder)
        first.rename(folder / "aside")
        second.rename(first)
        (folder / "aside").rename(second)
        with pytest.raises(AuditLogBroken, match="renamed"):
            verify_log(folder)

    @pytest.mark.parametrize("cut", [1, 2, 5, 12])
    def test_a_cut_end_is_found_by_what_others_remember(self, written: tuple[Path, list[AuditHead]], cut: int) -> None:
        folder, heads = written
        left = lines_of(folder)[: 12 - cut]
        for path in segments(folder):
            mine, left = left[: len(path.read_bytes().splitlines())], left[len(path.read_bytes().splitlines()) :]
            path.write_bytes(b"".join(mine)) if mine else path.unlink()
        verify_log(folder)  # by itself it cannot be seen: this is why heads are exchanged
        with pytest.raises(AuditLogBroken, match="others have seen entry 12: its end was cut off"):
            verify_log(folder, [heads[3], heads[-1]])

    def test_a_log_that_was_written_anew_is_found_by_what_others_remember(self, tmp_path: Path) -> None:
        folder = tmp_path / "audit"
        heads = fill(new_log(folder), 6)

        def hide(entries: list[dict[str, object]]) -> None:
            entries[2]["organisation"] = "elsewhere"

        rechained(folder, hide)
        verify_log(folder, heads[:2])  # its beginning is as it was
        with pytest.raises(AuditLogBroken, match="entry 5 is another one than was seen by others"):
            verify_log(folder, [heads[4]])

    def test_two_memories_that_contradict_each_other(self, written: tuple[Path, list[AuditHead]]) -> None:
        folder, heads = written
        with pytest.raises(AuditLogBroken, match="two different entries under one number"):
            verify_log(folder, [heads[4], AuditHead(number=5, hash="0" * 64)])

    def test_an_empty_log_of_which_others_know(self, tmp_path: Path) -> None:
        with pytest.raises(AuditLogBroken, match="is empty, but others have seen entry 4"):
            verify_log(tmp_path / "absent", [AuditHead(number=4, hash="0" * 64)])
        assert verify_log(tmp_path / "absent").head is None


class TestRetention:
    def test_old_segments_go_and_the_rest_is_still_checked(self, tmp_path: Path) -> None:
        folder, clock = tmp_path / "audit", Clock()
        log = new_log(folder, keep_days=10, segment_bytes=SMALL, clock=clock)
        old = fill(log, 8)
        clock.now += 9 * DAY_SECONDS
        fill(log, 4)
        assert verify_log(folder).first == 1
        clock.now += 2 * DAY_SECONDS
        latest = fill(log, 1)[-1]
        verified = verify_log(folder, [old[2], latest])
        assert verified.first > 3
        assert verified.heads_found == 1  # one of the two was retired
        retired = [entry for entry in read_log(folder) if entry.event == "retired"]
        assert [entry.entry for entry in retired] == [verified.first - 1]
        clock.now += 30 * DAY_SECONDS
        fill(log, 20)
        assert verify_log(folder).first > verified.first

    def test_more_than_was_retired_is_missed(self, tmp_path: Path) -> None:
        folder, clock = tmp_path / "audit", Clock()
        log = new_log(folder, keep_days=10, segment_bytes=SMALL, clock=clock)
        fill(log, 8)
        clock.now += 11 * DAY_SECONDS
        fill(log, 8)
        first = verify_log(folder).first
        assert first > 1
        segments(folder)[0].unlink()
        with pytest.raises(AuditLogBroken, match="no later entry says that they were retired"):
            verify_log(folder)

    def test_a_crash_between_the_entry_and_the_removal_does_no_harm(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, clock = tmp_path / "audit", Clock()
        log = new_log(folder, keep_days=10, segment_bytes=SMALL, clock=clock)
        fill(log, 8)
        clock.now += 11 * DAY_SECONDS

        def crash(path: Path) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", crash)
            with pytest.raises(KeyboardInterrupt):
                fill(log, 1)
        assert verify_log(folder).first == 1
        fill(new_log(folder, keep_days=10, segment_bytes=SMALL, clock=clock), 2)
        assert verify_log(folder).first > 1


def test_a_log_that_another_program_keeps_locked_is_given_up_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(tmp_path / "audit", keep_days=30)
    log.record("began")
    monkeypatch.setattr(audit_segments, "LOCK_SECONDS", 0.0)
    descriptor = os.open(tmp_path / "audit" / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ConfigurationError, match=r"cannot be written \(another program has kept it locked for 0 s\)"):
        log.record("kept-away")
    os.close(descriptor)
    log.record("went-on")


def test_a_process_that_was_forked_amid_an_entry_keeps_nobody_away(tmp_path: Path) -> None:
    """Of a file that both have open, closing it in one of them leaves the lock."""
    log = AuditLog(tmp_path / "audit", keep_days=30)
    lock = tmp_path / "audit" / "lock"
    with audit_segments.locked(lock.parent):
        (held,) = [int(path.name) for path in Path("/proc/self/fd").iterdir() if path.resolve() == lock.resolve()]
        forked = os.dup(held)
    log.record("went-on")
    os.close(forked)
