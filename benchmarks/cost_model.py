"""From what an engine counted on loopback to what it would take over another link; see `model_owner.link_profiles`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.configuration import RESULTS
from benchmarks.latency import read_newest
from benchmarks.measuring import Measurement
from benchmarks.wiring import Wiring
from contract.base import Strict
from contract.ticket import Engine
from model_owner.cost_prediction import OFFLINE_TRIPS
from model_owner.link_profiles import PhaseCost

GLOO_TRIPS_OF_ROUND: Final = 4
"""Of one of CrypTen's openings, over gloo. Its all-reduce first reduces one half of the tensor at each party, then
hands the halves on; and gloo sends a message only when word has come that the receiver waits for it. So word and
message, twice."""
GLOO_TRIPS_OF_REQUEST: Final = 8
"""Of one of CrypTen's questions to the third party, over gloo: the question's length, word that the question is waited
for, the question, the length of the answer's shape, word, the shape, word, the answer."""


class EngineCost(Strict):
    """One engine's phases, computing included."""

    engine: str
    online: PhaseCost
    offline: PhaseCost
    hospital_offline_bytes: int
    """What crosses the hospital's own link meanwhile, in the direction that has more to carry."""


class Prediction(Strict):
    """Seconds of one image over one link."""

    engine: str
    link: Wiring
    online_seconds: float
    offline_seconds: float


class Predictions(Strict):
    """What `scripts/bench predict` prints."""

    model: str
    source: str
    """The saved result, measured on loopback, that they come from."""
    predictions: tuple[Prediction, ...]


def estimate_cost(engine: str, measurements: Sequence[Measurement]) -> EngineCost:
    """Cost of an engine from its runs on loopback: medians of its seconds and counts.

    Which bytes pass one after another is known for the engines here. Of any other all are counted, which is at most
    twice too many.
    """

    def middle(figure: Callable[[Measurement], float]) -> float:
        return median(figure(one) for one in measurements)

    def detail(name: str) -> int:
        return int(middle(lambda one: one.details[name]))

    online, offline = int(middle(lambda one: one.online_bytes)), int(middle(lambda one: one.offline_bytes))
    online_trips, offline_trips = int(middle(lambda one: one.one_way_trips)), 0
    if engine in {"masked", "masked-stocked", "crypten"}:
        online_trips -= 1  # the last message says that the result arrived: nobody waits for it
    match engine:
        case "masked" | "masked-stocked":  # online in turns, except in large layers
            answered = middle(_answered_bytes)
            waited = min(one.details.get("waited_share", 1.0) for one in measurements)
            online -= int((1 - waited) * min(answered, online - answered))
            if engine == "masked":  # offline the dealer's link is the busiest of three
                offline, offline_trips = detail("crypto_provider_sent_bytes"), OFFLINE_TRIPS[Engine.MASKED]
            else:
                offline_trips = 0  # over links of 10 ms it was no slower than on loopback (hospital.json)
        case "crypten":  # both send at once; offline, masked weights follow what the dealer sends
            online //= 2
            dealt = detail("crypto_provider_sent_bytes")
            offline, offline_trips = dealt + (offline - dealt) // 2, OFFLINE_TRIPS[Engine.CRYPTEN]
        case "stock-crypten":  # both send at once, between answers of the third party
            dealt = detail("third_party_bytes")
            online = dealt + (online - dealt) // 2
            online_trips = GLOO_TRIPS_OF_ROUND * detail("rounds")
            online_trips += GLOO_TRIPS_OF_REQUEST * detail("third_party_requests")
    computing = middle(lambda one: one.online_seconds), middle(lambda one: one.offline_seconds)
    return EngineCost(
        engine=engine,
        online=PhaseCost(trips=online_trips, bytes_in_line=online, computing_seconds=computing[0]),
        offline=PhaseCost(trips=offline_trips, bytes_in_line=offline, computing_seconds=computing[1]),
        hospital_offline_bytes=int(middle(_hospital_offline_bytes)),
    )


def _answered_bytes(measurement: Measurement) -> int:
    """From the data owner to the model owner while the image waits."""
    pair = ("data_owner", "model_owner")
    return sum(link.online_bytes for link in measurement.links if (link.sender, link.receiver) == pair)


def _hospital_offline_bytes(measurement: Measurement) -> int:
    sent = sum(link.offline_bytes for link in measurement.links if link.sender == "data_owner")
    received = sum(link.offline_bytes for link in measurement.links if link.receiver == "data_owner")
    return max(sent, received)


def predict(cost: EngineCost, wiring: Wiring) -> Prediction:
    """Seconds over links. Online, everything crosses the hospital's own."""
    offline = cost.offline.seconds_over(wiring)
    if wiring.others is not None:
        elsewhere = cost.offline.model_copy(update={"trips": 0}).seconds_over(wiring.others)
        at_hospital = cost.offline.model_copy(update={"trips": 0, "bytes_in_line": cost.hospital_offline_bytes})
        trips = cost.offline.trips * wiring.latency_seconds
        offline = trips + max(elsewhere, at_hospital.seconds_over(wiring))
    return Prediction(
        engine=cost.engine,
        link=wiring,
        online_seconds=cost.online.seconds_over(wiring),
        offline_seconds=offline,
    )


def predict_from_saved(model: str, wirings: Sequence[Wiring], folder: Path = RESULTS) -> Predictions:
    """Every engine of the newest saved latency result over each network.

    Raises CallerError if there is none, or it is of a version that is not known here.
    """
    path, summary = read_newest(folder, model)
    counted = [run for run in summary.runs if run.round > 0]
    costs = [
        estimate_cost(engine, [run.measurement for run in counted if run.engine == engine])
        for engine in dict.fromkeys(run.engine for run in counted)
    ]
    return Predictions(
        model=model,
        source=path.name,
        predictions=tuple(predict(cost, wiring) for wiring in wirings for cost in costs),
    )
