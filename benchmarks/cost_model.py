"""From what an engine counted on loopback to what it would take over another link; see `model_owner.link_profiles`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.figures import READABLE, RESULTS, newest
from contract.base import Strict
from contract.errors import CallerError
from contract.ticket import Engine
from model_owner.cost_prediction import OFFLINE_TRIPS
from model_owner.link_profiles import LinkProfile, PhaseCost
from secure_computation.engines.masked.session.step_shapes import parts_of
from secure_computation.network import Clip, MaxPool, Network, Operation, Relu


class EngineCost(Strict):
    """One engine's phases, computing included."""

    engine: str
    online: PhaseCost
    offline: PhaseCost


class Prediction(Strict):
    """Seconds of one image over one link."""

    engine: str
    link: LinkProfile
    online_seconds: float
    offline_seconds: float


class Predictions(Strict):
    """What `scripts/bench predict` prints."""

    model: str
    source: str
    """The saved result, measured on loopback, that they come from."""
    predictions: tuple[Prediction, ...]


GLOO_TRIPS_OF_ROUND: Final = 4
"""Of one of CrypTen's openings, over gloo. Its all-reduce first reduces one half of the tensor at each party, then
hands the halves on; and gloo sends a message only when word has come that the receiver waits for it. So word and
message, twice."""
GLOO_TRIPS_OF_REQUEST: Final = 8
"""Of one of CrypTen's questions to the third party, over gloo: the question's length, word that the question is waited
for, the question, the length of the answer's shape, word, the shape, word, the answer."""


def cost_of(engine: str, measurements: Sequence[Mapping[str, Any]]) -> EngineCost:
    """Cost of an engine from its runs on loopback, each a `Measurement` as saved: medians of its seconds and counts.

    Which bytes pass one after another is known for the engines here. Of any other all are counted, which is at most
    twice too many.
    """

    def middle(name: str) -> float:
        return median(float(one[name]) for one in measurements)

    def detail(name: str) -> int:
        return int(median(float(one["details"][name]) for one in measurements))

    online, offline = int(middle("online_bytes")), int(middle("offline_bytes"))
    online_trips, offline_trips = int(middle("one_way_trips")), 0
    if engine in {"masked", "crypten"}:
        online_trips -= 1  # the last message says that the result arrived: nobody waits for it
    match engine:
        case "masked":  # online in turns, but for large layers; offline the dealer's link is the busiest of three
            answered = median(_answered(one) for one in measurements)
            online -= int((1 - _waited_share_of_runs(measurements)) * min(answered, online - answered))
            offline, offline_trips = detail("crypto_provider_sent_bytes"), OFFLINE_TRIPS[Engine.MASKED]
        case "crypten":  # both send at once; offline, masked weights follow what the dealer sends
            online //= 2
            dealt = detail("crypto_provider_sent_bytes")
            offline, offline_trips = dealt + (offline - dealt) // 2, OFFLINE_TRIPS[Engine.CRYPTEN]
        case "stock-crypten":  # both send at once, between answers of the third party
            dealt = detail("third_party_bytes")
            online = dealt + (online - dealt) // 2
            online_trips = GLOO_TRIPS_OF_ROUND * detail("rounds")
            online_trips += GLOO_TRIPS_OF_REQUEST * detail("third_party_requests")
    return EngineCost(
        engine=engine,
        online=PhaseCost(trips=online_trips, bytes_in_line=online, computing_seconds=middle("online_seconds")),
        offline=PhaseCost(trips=offline_trips, bytes_in_line=offline, computing_seconds=middle("offline_seconds")),
    )


def _waited_share_of_runs(measurements: Sequence[Mapping[str, Any]]) -> float:
    """`waited_share` of what was measured; 1 in files from before it was kept there."""
    return min(float(one["details"].get("waited_share", 1.0)) for one in measurements)


def _answered(measurement: Mapping[str, Any]) -> int:
    """Bytes from the data owner to the model owner while the image waits."""
    return sum(
        int(link["online_bytes"])
        for link in measurement["links"]
        if (link["sender"], link["receiver"]) == ("data_owner", "model_owner")
    )


def predict(cost: EngineCost, link: LinkProfile) -> Prediction:
    """Seconds over a link."""
    return Prediction(
        engine=cost.engine,
        link=link,
        online_seconds=cost.online.seconds_over(link),
        offline_seconds=cost.offline.seconds_over(link),
    )


def predict_from_saved(model: str, links: Sequence[LinkProfile], folder: Path = RESULTS) -> Predictions:
    """Every engine of the newest saved latency result over each link.

    Raises CallerError if there is none, or it is of a version that is not known here.
    """
    path = newest(folder, model)
    costs = [cost_of(engine, runs) for engine, runs in _saved_runs(path).items()]
    return Predictions(
        model=model,
        source=path.name,
        predictions=tuple(predict(cost, link) for link in links for cost in costs),
    )


def _saved_runs(path: Path) -> dict[str, list[Mapping[str, Any]]]:
    """Measurements by engine, the warm-up left out."""
    try:
        content = json.loads(path.read_text())
        version = content["format"]
        content = content.get("result", content)  # as `report` keeps it
        runs = [(run["engine"], run["round"], run["measurement"]) for run in content["runs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CallerError(f"{path}: not a result of scripts/bench latency; delete it or give another") from error
    if version not in READABLE:
        raise CallerError(f"{path}: a result of version {version}, which is not known here; measure again")
    found: dict[str, list[Mapping[str, Any]]] = {}
    for engine, turn, measurement in runs:
        if turn > 0:
            found.setdefault(engine, []).append(measurement)
    return found


def waited_share(network: Network) -> float:
    """Share of the answers' bytes that still has to come when the last opening of their layer has arrived.

    A large layer of comparisons crosses in parts: the data owner answers one while the model owner opens the next, so
    that the answer to the last part alone is waited for. 1 if every layer is one part.
    """
    counts = list(_comparisons(network))
    return sum(count / len(parts_of(count)) for count in counts) / sum(counts) if counts else 1.0


def _comparisons(network: Network) -> Iterator[int]:
    """Elements of each layer of comparisons, as `secure_computation.engines.masked.session.walk` takes them."""
    shapes = network.shapes()
    for operation in network.operations:
        yield from _comparisons_of(operation, shapes[operation.inputs[0]], shapes[operation.output])


def _comparisons_of(operation: Operation, given: tuple[int, ...], output: tuple[int, ...]) -> Iterator[int]:
    match operation:
        case Relu():
            yield prod(output)
        case Clip():
            yield from (prod(output), prod(output))
        case MaxPool():
            channels, height, width = output
            padded_width = given[2] + operation.padding[1] + operation.padding[3]
            for cells, windows in zip(operation.kernel, (height * padded_width, height * width), strict=True):
                left = cells
                while left > 1:
                    pairs = left // 2
                    yield channels * windows * pairs
                    left -= pairs
        case _:
            return
