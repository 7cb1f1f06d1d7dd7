"""Links and what a computation costs over them, against figures worked out by hand."""

import pytest

from contract.errors import CallerError
from model_owner.link_profiles import LINKS, LOOPBACK, LinkProfile, PhaseCost, find_link


def test_cost_by_hand() -> None:
    link = LinkProfile(name="x", one_way_milliseconds=10.0, megabits_per_second=100.0)
    # 37 trips of 10 ms; 18 MB at 12.5 MB/s; 0.2 s of computing.
    cost = PhaseCost(trips=37, bytes_in_line=18_000_000, computing_seconds=0.2)
    assert cost.seconds_over(link) == pytest.approx(0.37 + 1.44 + 0.2)


def test_loopback_costs_computing_only() -> None:
    cost = PhaseCost(trips=1000, bytes_in_line=10**12, computing_seconds=0.25)
    assert cost.seconds_over(LOOPBACK) == 0.25


def test_profiles_are_found_by_name() -> None:
    assert [find_link(link.name) for link in LINKS] == list(LINKS)
    assert find_link("lan").bytes_per_second == 125e6
    assert find_link("wan").latency_seconds == 0.02


def test_a_link_may_be_spelt_out() -> None:
    link = find_link("mbit=50, latency_ms=1.5")
    assert (link.one_way_milliseconds, link.megabits_per_second) == (1.5, 50.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("moon", "unknown network 'moon'"),
        ("", "unknown network ''"),
        ("latency=5,mbit=3", "unknown network"),
        ("latency_ms=5", "both"),
        ("latency_ms=5,latency_ms=6,mbit=1", "unknown network"),
        ("latency_ms=five,mbit=1", "not a number"),
        ("latency_ms=-1,mbit=1", "from 0 to 2000"),
        ("latency_ms=1e9,mbit=1", "from 0 to 2000"),
        ("latency_ms=nan,mbit=1", "from 0 to 2000"),
        ("latency_ms=5,mbit=0", "mbit must be"),
        ("latency_ms=5,mbit=inf", "mbit must be"),
    ],
)
def test_mistakes_are_told_in_plain_words(text: str, words: str) -> None:
    with pytest.raises(CallerError, match=words):
        find_link(text)
