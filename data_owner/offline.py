"""What the offline phase leaves to the data owner, and what crossed the channels of a session."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from contract.errors import PeerViolation
from contract.identity import Role
from data_owner.diagnosis import Bytes, LinkBytes
from secure_computation.channel.channel import Channel
from secure_computation.channel.traffic import ChannelTraffic
from secure_computation.wire import Phase


@dataclass(frozen=True, kw_only=True)
class Offline:
    """Material for the images of a session, and whom it came from."""

    material: Sequence[Any] = field(repr=False)
    model_owner: Channel
    dealer: Channel | None
    """None if the items were in stock."""
    ready: dict[str, object]
    """The model owner's account of its traffic with the dealer."""

    @staticmethod
    def from_stock(material: Sequence[Any], model_owner: Channel) -> "Offline":
        """Material that cost nothing in this session."""
        return Offline(
            material=material, model_owner=model_owner, dealer=None, ready={"received_bytes": 0, "sent_bytes": 0}
        )

    def bytes(self) -> Bytes:
        """What has crossed the channels so far. What the model owner exchanged with the dealer is its own account."""
        dealt, asked = self._count("received_bytes"), self._count("sent_bytes")
        whole = self.model_owner.traffic()
        with_dealer = ChannelTraffic() if self.dealer is None else self.dealer.traffic()
        answered = self.model_owner.traffic(Phase.ONLINE) + self.model_owner.traffic(Phase.OUTPUT)
        online = answered.bytes_sent + answered.bytes_received
        both = whole + with_dealer
        return Bytes(
            online=online,
            offline=both.bytes_sent + both.bytes_received + dealt + asked - online,
            data_owner_sent=both.bytes_sent,
            model_owner_sent=whole.bytes_received + asked,
            crypto_provider_sent=with_dealer.bytes_received + dealt,
            links=(
                *_count_both_ways(Role.MODEL_OWNER, whole=whole, online=answered),
                *_count_both_ways(Role.CRYPTO_PROVIDER, whole=with_dealer, online=ChannelTraffic()),
                LinkBytes(sender=Role.MODEL_OWNER, receiver=Role.CRYPTO_PROVIDER, offline=asked, online=0),
                LinkBytes(sender=Role.CRYPTO_PROVIDER, receiver=Role.MODEL_OWNER, offline=dealt, online=0),
            ),
        )

    def _count(self, name: str) -> int:
        value = self.ready.get(name)
        if not isinstance(value, int) or not 0 <= value < 1 << 53:
            raise PeerViolation(
                f"{self.model_owner.peer} counted its bytes wrongly in step 'material ready'; start a new session"
            )
        return value


def _count_both_ways(peer: Role, *, whole: ChannelTraffic, online: ChannelTraffic) -> tuple[LinkBytes, LinkBytes]:
    """This party's link to a peer, in its two directions."""
    return (
        LinkBytes(
            sender=Role.DATA_OWNER,
            receiver=peer,
            offline=whole.bytes_sent - online.bytes_sent,
            online=online.bytes_sent,
        ),
        LinkBytes(
            sender=peer,
            receiver=Role.DATA_OWNER,
            offline=whole.bytes_received - online.bytes_received,
            online=online.bytes_received,
        ),
    )
