"""When a server says that it is ready, and what it says to strangers when it is not."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contract.api import Health, Unready
from contract.errors import AuditLogBroken, ConfigurationError
from plumbing.readiness import Readiness, make_health, require_writable
from tests.full_disk import no_file_beyond


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def fail() -> None:
    raise ConfigurationError("/var/lib/secret/place: is full; free space")


def test_whoever_asks_reads_a_code_and_the_operator_reads_the_words() -> None:
    told: list[str] = []
    readiness = Readiness({Unready.DISK: fail, Unready.DATABASE: lambda: None}, tell=told.append)
    health = make_health(readiness.lacks(), now=datetime.now(UTC))
    assert (health.status, health.reasons) == ("not-ready", (Unready.DISK,))
    assert "secret" not in health.model_dump_json()
    assert told == ["not ready (disk): /var/lib/secret/place: is full; free space"]


def test_an_altered_audit_log_is_told_from_a_full_disk() -> None:
    def broken() -> None:
        raise AuditLogBroken("a line was altered")

    assert Readiness({Unready.AUDIT_LOG: broken}, tell=lambda _: None).lacks() == (Unready.AUDIT_LOG_BROKEN,)


def test_changes_are_told_once_and_answers_are_kept_for_a_while() -> None:
    clock, looked, well = Clock(), [0], [False]
    told: list[str] = []

    def look() -> None:
        looked[0] += 1
        if not well[0]:
            fail()

    readiness = Readiness({Unready.DISK: look}, tell=told.append, seconds=5, clock=clock)
    for moment, expected, looks in ((0.0, 1, 1), (4.9, 1, 1), (5.0, 1, 2)):
        clock.now = moment
        assert (len(readiness.lacks()), looked[0]) == (expected, looks)
    well[0] = True
    clock.now = 10.0
    assert readiness.lacks() == ()
    assert [words.partition(":")[0] for words in told] == ["not ready (disk)", "ready again"]


def test_who_asks_while_somebody_looks_does_not_wait() -> None:
    """A party that does not answer holds up one caller, not all."""
    clock, begun, go_on = Clock(), threading.Event(), threading.Event()
    go_on.set()

    def look() -> None:
        begun.set()
        assert go_on.wait(20)

    readiness = Readiness({Unready.CRYPTO_PROVIDER: look}, tell=lambda _: None, clock=clock)
    assert readiness.lacks() == ()
    clock.now = 9.0
    begun.clear()
    go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(readiness.lacks)
        assert begun.wait(20)
        assert readiness.lacks() == ()
        assert not first.done()
        go_on.set()
        assert first.result(20) == ()


def test_a_disk_that_is_full_or_nearly_so(tmp_path: Path) -> None:
    require_writable(tmp_path)
    with no_file_beyond(100), pytest.raises(ConfigurationError, match="cannot be written"):
        require_writable(tmp_path)
    with pytest.raises(ConfigurationError, match="free space"):
        require_writable(tmp_path, room_bytes=1 << 60)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        require_writable(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_health_page_can_hold_codes_alone() -> None:
    with pytest.raises(ValueError, match="reasons"):
        Health.model_validate({"status": "not-ready", "time": datetime.now(UTC), "reasons": ["/var/lib/secret"]})
