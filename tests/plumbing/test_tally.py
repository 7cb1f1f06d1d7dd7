"""Lines that anybody can cause."""

import threading

from plumbing.tally import MOST_KINDS, SECONDS, Tally


def test_the_first_of_a_kind_is_written_and_the_others_are_counted() -> None:
    counts: list[tuple[str, int]] = []
    tally = Tally(lambda kind, count: counts.append((kind, count)))
    assert [tally.is_first("refused") for _ in range(1000)] == [True] + [False] * 999
    assert tally.is_first("rare")
    tally.flush()
    tally.flush()
    assert counts == [("refused", 999)]
    assert tally.is_first("refused")


def test_counts_are_written_with_the_first_event_after_their_minute() -> None:
    counts: list[tuple[str, int]] = []
    now = [0.0]
    tally = Tally(lambda kind, count: counts.append((kind, count)), clock=lambda: now[0])
    for _ in range(1000):
        tally.is_first("refused")
    now[0] = SECONDS - 1
    assert not tally.is_first("refused")
    assert counts == []
    now[0] = SECONDS
    assert tally.is_first("refused")
    assert counts == [("refused", 1000)]


def test_no_thread_waits_to_write_a_count() -> None:
    before = threading.active_count()
    tally = Tally(lambda _kind, _count: None)
    tally.is_first("refused")
    assert threading.active_count() == before


def test_kinds_are_bounded() -> None:
    tally = Tally(lambda _kind, _count: None)
    assert sum(tally.is_first(f"kind {number}") for number in range(10 * MOST_KINDS)) == MOST_KINDS
