"""The deal tag: both online parties compare, before the first online message, that they were dealt the same item.

Two dealers with one certificate (a second replica, a restored backup) deal the parties seeds that do not belong
together: the protocol would run to its end and give a wrong answer. So D sends each party, with its seed,

    tag = the first 16 bytes of HMAC-SHA-256(s0 || s1, domain || item's name)

and the parties exchange it. The item's name is a hash over session, plan, parties and version (`material.item_name`),
so the tag differs for any of these as well. A party cannot compute it: it lacks the other's seed. It tells neither
party anything of that seed, and opens nothing: it is no secret between the three.
"""

import hmac
import re
from collections.abc import Sequence
from typing import Final

from contract.errors import DealMismatch, PeerViolation
from secure_computation.channel.channel import Channel
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.wire import TAG_BYTES

TAG_STEP: Final = "deal tag"
_HEXADECIMAL: Final = re.compile(r"[0-9a-f]{32}")
_DOMAIN: Final = b"encrypted-medical-inference/deal-tag/1"


def derive_deal_tag(seeds: DealtSeeds, item: ItemName) -> bytes:
    """D: the tag of one item, which both parties are sent."""
    key = seeds.data_owner.reveal_to_channel() + seeds.model_owner.reveal_to_channel()
    return hmac.digest(key, _DOMAIN + item.encode(), "sha256")[:TAG_BYTES]


def send_deal_tag(channel: Channel, tag: bytes) -> None:
    """D to a party, after its seed; then each party to the other."""
    channel.send_bytes(tag, step=TAG_STEP)


def receive_deal_tag(channel: Channel) -> bytes:
    """Of D, or what the other party says that D sent it."""
    return channel.receive_bytes(TAG_BYTES, step=TAG_STEP)


def require_same_deal(own: bytes, other: bytes, channel: Channel) -> None:
    """Compare this party's tag with that of the peer at the other end of `channel`. Raises DealMismatch."""
    if not hmac.compare_digest(own, other):
        raise DealMismatch(
            f"the crypto provider dealt different material to this party and to {channel.peer}, and no answer can come "
            "of it: it probably runs twice, or was restored from a backup; tell its operator, and start a new session "
            "when it runs once"
        )


def require_same_deals(own: Sequence[bytes], named: object, channel: Channel) -> None:
    """As `require_same_deal`, for stocked items. `named`: the tags as the peer's HELLO names them (`name_tags`).

    Raises PeerViolation for what is no list of tags, one for each item.
    """
    if not (isinstance(named, list) and len(named) == len(own) and all(map(_is_tag, named))):
        raise PeerViolation(f"{channel.peer} named no deal tags of the stocked items; update it to the same version")
    require_same_deal(b"".join(own), bytes.fromhex("".join(named)), channel)


def name_tags(tags: Sequence[bytes]) -> list[str]:
    """For a HELLO."""
    return [tag.hex() for tag in tags]


def _is_tag(named: object) -> bool:
    return isinstance(named, str) and _HEXADECIMAL.fullmatch(named) is not None
