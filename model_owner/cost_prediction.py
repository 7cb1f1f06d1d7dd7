"""What a model will cost over a link, from what its plan declares: for the model owner, before anybody computes.

Trips and bytes are exact. Computing is an estimate, calibrated on the shipped ResNet-18 on the machine of the reference
measurement: of the masked engine it grows with the number of products; of CrypTen, whose comparisons work on all that
they send, with the bytes. Others are faster or slower; the network's part is the same.
"""

from typing import Final

from contract.base import Strict
from contract.ticket import Engine
from model_owner.link_profiles import LINKS, LinkProfile, PhaseCost
from secure_computation.engines.choosing import offered_engines
from secure_computation.engines.crypten.lowering import predict_cost
from secure_computation.engines.masked.session.costs import total_cost
from secure_computation.plan import Plan

OFFLINE_TRIPS: Final = {Engine.MASKED: 24, Engine.CRYPTEN: 25}
"""Of a session without stock, from its opening at the front end to the material at both parties: TCP, TLS and
WebSocket handshakes, tickets, and dealing. Counted with a tiny model on slow relays; no model changes it. If the
link is so slow that idle connections to the front end close in between, five more are needed."""

REFERENCE: Final = "2 cores of an AMD EPYC, one thread a party (benchmarks/results)"


class Speed(Strict):
    """Seconds of computing in one phase: a start, and a part that grows with products or bytes."""

    start_seconds: float
    seconds_per_million: float
    """Products, or with CrypTen bytes in line."""

    def seconds(self, amount: int) -> float:
        """Estimate for so many products or bytes."""
        return self.start_seconds + self.seconds_per_million * amount / 1e6


SPEEDS: Final = {
    # growth.json, 64 to 448 pixels a side: a straight line through both ends.
    Engine.MASKED: (
        Speed(start_seconds=0.04, seconds_per_million=0.000_068),
        Speed(start_seconds=0.19, seconds_per_million=0.000_168),
    ),
    # latency-resnet18.json, one size only: all of it is taken to grow.
    Engine.CRYPTEN: (
        Speed(start_seconds=0.0, seconds_per_million=0.003_56),
        Speed(start_seconds=0.0, seconds_per_million=0.004_66),
    ),
}
"""Online and offline, on the machine of the reference measurement. Taken from results of the shipped model: measure and
put them down again if another one is shipped."""


class LinkPrediction(Strict):
    """Seconds of one diagnosis over one link."""

    engine: Engine
    link: LinkProfile
    online_seconds: float
    offline_seconds: float
    """Nothing of it is waited for if material was stocked ahead."""


def predict_over_links(plan: Plan, links: tuple[LinkProfile, ...] = LINKS) -> tuple[LinkPrediction, ...]:
    """Every engine that the plan offers over every link."""
    offered = offered_engines(plan)
    return tuple(
        LinkPrediction(
            engine=engine,
            link=link,
            online_seconds=online.seconds_over(link),
            offline_seconds=offline.seconds_over(link),
        )
        for engine, (online, offline) in predict_phases(plan).items()
        for link in links
        if engine in offered
    )


def predict_phases(plan: Plan) -> dict[Engine, tuple[PhaseCost, PhaseCost]]:
    """Online and offline cost by engine, as the lowerings declare them."""
    products = sum(operation.multiplications() for operation in plan.network.operations)
    found = {}
    if plan.engines.masked is not None:
        masked = total_cost(plan.engines.masked)
        # The parties take turns online. Offline the dealer and the data owner send to the model owner at once.
        line = max(masked.dealer_to_model_owner, masked.data_owner_to_model_owner_offline)
        found[Engine.MASKED] = _estimate_phases(
            Engine.MASKED, masked.trips, masked.online_bytes, line, (products, products)
        )
    if plan.engines.crypten is not None:
        crypten = predict_cost(plan.network, plan.engines.crypten)
        # Openings go both ways at once. Offline, masked weights follow the dealer's corrections.
        line = crypten.dealer_bytes + crypten.masked_weights_bytes_each_way
        online = crypten.online_bytes_each_way
        found[Engine.CRYPTEN] = _estimate_phases(Engine.CRYPTEN, crypten.online_trips, online, line, (online, line))
    return found


def _estimate_phases(
    engine: Engine, trips: int, online: int, offline: int, amounts: tuple[int, int]
) -> tuple[PhaseCost, PhaseCost]:
    """Both phases; `amounts` is what computing grows with in each."""
    speed_online, speed_offline = SPEEDS[engine]
    return (
        PhaseCost(trips=trips, bytes_in_line=online, computing_seconds=speed_online.seconds(amounts[0])),
        PhaseCost(
            trips=OFFLINE_TRIPS[engine], bytes_in_line=offline, computing_seconds=speed_offline.seconds(amounts[1])
        ),
    )
