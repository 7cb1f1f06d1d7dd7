"""Lines that anybody can cause."""

import threading

from contract.tally import MOST_KINDS, Tally


def test_the_first_of_a_kind_is_written_and_the_others_are_counted() -> None:
    counts: list[tuple[str, int]] = []
    tally = Tally(lambda kind, count: counts.append((kind, count)))
    assert [tally.is_first("refused") for _ in range(1000)] == [True] + [False] * 999
    assert tally.is_first("rare")
    tally.flush()
    tally.flush()
    assert counts == [("refused", 999)]
    assert tally.is_first("refused")


def test_counts_are_written_when_the_time_is_over() -> None:
    written = threading.Event()
    tally = Tally(lambda _kind, _count: written.set(), seconds=0.2)
    for _ in range(1000):
        tally.is_first("refused")
    assert written.wait(30)


def test_kinds_are_bounded() -> None:
    tally = Tally(lambda _kind, _count: None)
    assert sum(tally.is_first(f"kind {number}") for number in range(10 * MOST_KINDS)) == MOST_KINDS
