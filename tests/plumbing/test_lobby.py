"""Who makes room for whom."""

import pytest

from plumbing.lobby import Lobby, find_origin


def enter(lobby: Lobby, left: list[str], *names: str) -> None:
    """Guests of the origin that their first letter names."""
    for name in names:
        lobby.enter(name, name[0], lambda name=name: left.append(name))  # type: ignore[misc]


def test_the_oldest_of_an_origin_makes_room_for_the_next_of_it() -> None:
    lobby, left = Lobby(seats=10, seats_each=2), list[str]()
    enter(lobby, left, "a1", "b1", "a2", "a3", "a4")
    assert left == ["a1", "a2"]
    assert len(lobby) == 3


def test_the_oldest_of_the_busiest_origin_makes_room_where_all_seats_are_taken() -> None:
    lobby, left = Lobby(seats=4, seats_each=3), list[str]()
    enter(lobby, left, "a1", "b1", "b2", "b3", "c1")
    assert left == ["b1"]


def test_who_left_makes_room_for_nobody() -> None:
    lobby, left = Lobby(seats=2, seats_each=2), list[str]()
    enter(lobby, left, "a1", "a2")
    lobby.let_go("a1")
    lobby.let_go("a1")
    enter(lobby, left, "a3")
    assert left == []
    assert len(lobby) == 2


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("no address", ""),
        (None, ""),
    ],
)
def test_a_network_that_one_customer_has_is_one_origin(host: str | None, origin: str) -> None:
    assert find_origin(host) == origin
