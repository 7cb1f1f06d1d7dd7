"""What lies between the parties: links that are all alike, or a hospital's own link beside those of data centres."""

from collections.abc import Mapping
from typing import Final

from contract.errors import CallerError
from contract.identity import Role
from model_owner.link_profiles import LINKS, LOOPBACK, LinkProfile, find_link

DATA_CENTRES: Final[Mapping[str, LinkProfile]] = {
    link.name: link
    for link in (
        LinkProfile(name="1gbit", one_way_milliseconds=1.0, megabits_per_second=1_000.0),
        LinkProfile(name="10gbit", one_way_milliseconds=1.0, megabits_per_second=10_000.0),
    )
}
"""Links between data centres, where the model owner, the crypto provider and the front end stand."""


class Wiring(LinkProfile):
    """Between every two parties a link of this kind; or, with `others`, at the hospital alone."""

    others: LinkProfile | None = None
    """Every link that does not lead to the hospital. None: they are like the hospital's."""

    def words(self) -> str:
        """For people."""
        if self.name == LOOPBACK.name:
            return self.name
        if self.others is None:
            return super().words()
        return f"{super().words()} at the hospital, {self.others.words()} between the others"

    def choose_line(self, link: str) -> tuple[str, LinkProfile]:
        """Which lines the connections of a link `client/server` share, and what they are like.

        A hospital whose link is its own has one uplink for all that it does.
        """
        if self.others is None:
            return link, self
        at_hospital = Role.DATA_OWNER.value in link.split("/")
        return (Role.DATA_OWNER.value, self) if at_hospital else (link, self.others)


HOME: Final = Wiring(**dict(LOOPBACK))
WIRINGS: Final = tuple(link.name for link in LINKS) + tuple(f"hospital+{name}" for name in DATA_CENTRES)
"""What `networks` measures unless --networks names others."""


def find_wiring(text: str) -> Wiring:
    """A profile by its name or spelt out, alone or before `+1gbit`. Raises CallerError for anything else."""
    near, plus, far = text.partition("+")
    link = find_link(near)
    if not plus:
        return Wiring(**dict(link))
    if far not in DATA_CENTRES:
        raise CallerError(f"unknown network '{text[:60]}': after + give one of {', '.join(DATA_CENTRES)}")
    return Wiring(**dict(link) | {"name": f"{link.name}+{far}", "others": DATA_CENTRES[far]})


def parse_wirings(text: str) -> tuple[Wiring, ...]:
    """Read `loopback,lan,hospital+1gbit`, or with links spelt out `lan;latency_ms=15,mbit=50`.

    Raises CallerError for an unknown network, or one that is named twice.
    """
    separator = ";" if ";" in text or "=" in text else ","
    wirings = tuple(find_wiring(name.strip()) for name in text.split(separator) if name.strip())
    if not wirings:
        raise CallerError("no network named: give --networks some, say loopback,lan")
    if len(set(wirings)) != len(wirings):
        raise CallerError("--networks names a network twice: name each once, --runs repeats all of them")
    return wirings
