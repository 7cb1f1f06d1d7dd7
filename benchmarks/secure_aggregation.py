"""What secure aggregation costs a round of federated training, beside plain averaging in float32: seconds and bytes.

All sites run in one process, one after the other, each timed for itself. Two sums are formed: *apart* is what a round
takes when each hospital has a machine of its own (the slowest hospital, then the coordinator), *together* what it takes
when one core does everybody's work. Links are not part of it: bytes are counted instead.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final, Literal, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import OnStep, Step
from contract.base import Strict
from contract.errors import ComputationFailed
from federated_learning.secure_aggregation.coordinator_aggregation import CoordinatorAggregation
from federated_learning.secure_aggregation.encoding import ExactField, UpdateEncoding, VectorLayout, encode_exact
from federated_learning.secure_aggregation.history import RoundHistory
from federated_learning.secure_aggregation.hospital_aggregation import HospitalAggregation
from federated_learning.secure_aggregation.masking import RingVector
from federated_learning.secure_aggregation.terms import RoundTerms, least_threshold

Answer = TypeVar("Answer")
Update = dict[str, NDArray[np.float32]]
COORDINATOR: Final = "coordinator"
EXACT: Final = {"stopped": ExactField(()), "loss": ExactField((), 24)}


class AggregationCost(Strict):
    """Medians over the runs, in seconds and bytes. `plain` is averaging in float32 without any protection."""

    parameters: int
    hospitals: int
    ring_bits: int
    runs: int
    hospital_seconds: float
    """The slowest hospital: encoding with error feedback, keys, shares, masking, confirming, unmasking, and opening the
    sum again."""
    coordinator_seconds: float
    apart_seconds: float
    together_seconds: float
    plain_apart_seconds: float
    plain_together_seconds: float
    extra_apart_seconds: float
    extra_together_seconds: float
    extra_together_seconds_range: tuple[float, float]
    bytes_sent_by_a_hospital: int
    plain_bytes_sent_by_a_hospital: int
    bytes_against_plain: float
    machine: Machine
    versions: dict[str, str]


def list_resnet18_shapes(classes: int = 3, channels: int = 1) -> dict[str, tuple[int, ...]]:
    """Trained tensors of a ResNet-18 with biases instead of batch norm: 11.2 million parameters."""
    shapes: dict[str, tuple[int, ...]] = {"stem": (64, channels, 7, 7), "stem.bias": (64,)}
    before = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            name = f"stage{stage}.{block}"
            shapes |= {f"{name}.first": (width, before, 3, 3), f"{name}.first.bias": (width,)}
            shapes |= {f"{name}.second": (width, width, 3, 3), f"{name}.second.bias": (width,)}
            if before != width:
                shapes |= {f"{name}.short": (width, before, 1, 1), f"{name}.short.bias": (width,)}
            before = width
    return shapes | {"head": (classes, before), "head.bias": (classes,)}


class Clock:
    """Seconds by site."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, site: str) -> Iterator[None]:
        """Count what runs inside as `site`'s work."""
        start = perf_counter()
        yield
        self.seconds[site] += perf_counter() - start

    @property
    def slowest_hospital(self) -> float:
        """The slowest hospital's seconds."""
        return max(seconds for site, seconds in self.seconds.items() if site != COORDINATOR)

    @property
    def apart(self) -> float:
        """Each site on a machine of its own."""
        return self.slowest_hospital + self.seconds[COORDINATOR]

    @property
    def together(self) -> float:
        """One core for all."""
        return sum(self.seconds.values())


class TrainingRounds:
    """Hospitals with updates of one size, drawn once, and the residuals that they keep between rounds."""

    def __init__(self, *, hospitals: int, ring_bits: Literal[16, 32], shapes: dict[str, tuple[int, ...]]) -> None:
        """Draw an update for each hospital: normal, 0.01 wide, which the limits do not clip."""
        generator = np.random.default_rng(1)
        self.keys = {f"hospital-{index:02}": Ed25519PrivateKey.generate() for index in range(hospitals)}
        self.weights = {name: 1000 + 100 * index for index, name in enumerate(self.keys)}
        self.layout = VectorLayout(update=shapes, exact=EXACT, ring_bits=ring_bits)
        self.encoding = UpdateEncoding(
            layout=self.layout,
            limits=dict.fromkeys(shapes, 0.1),
            weight_total=sum(self.weights.values()),
        )
        self.updates: dict[str, Update] = {
            name: {tensor: generator.normal(0, 0.01, shape).astype(np.float32) for tensor, shape in shapes.items()}
            for name in self.keys
        }
        self.residuals: dict[str, NDArray[np.float32]] = {}

    def terms(self, round_number: int) -> RoundTerms:
        """What all sites build for themselves."""
        return RoundTerms(
            training_id="benchmark",
            purpose="update",
            round_number=round_number,
            attempt=0,
            roster={name: key.public_key() for name, key in self.keys.items()},
            threshold=least_threshold(len(self.keys)),
            update_length=self.layout.update_length,
            ring_bits=self.layout.ring_bits,
            exact_length=self.layout.exact_length,
            subject=round_number.to_bytes(32, "little"),
            common_hash=bytes(32),
        )

    def secure_round(self, round_number: int, clock: Clock) -> tuple[Update, dict[str, int]]:
        """One round; the mean update and the bytes that each hospital sent."""
        terms = self.terms(round_number)
        sent: dict[str, int] = defaultdict(int)
        with clock.measure(COORDINATOR):
            coordinator = CoordinatorAggregation(terms)
        sites: dict[str, HospitalAggregation] = {}
        vectors: dict[str, RingVector] = {}
        for name, key in self.keys.items():
            with clock.measure(name):
                sites[name] = HospitalAggregation(terms, name=name, signing_key=key, history=RoundHistory())
                vectors[name] = self._encode(name)

        def exchange(answer: Callable[[str, HospitalAggregation], bytes], close: Callable[[], Answer]) -> Answer:
            """Every site's message to the coordinator, then what the coordinator makes of them."""
            for name, site in sites.items():
                with clock.measure(name):
                    message = answer(name, site)
                sent[name] += len(message)
                with clock.measure(COORDINATOR):
                    coordinator.receive(name, message)
            with clock.measure(COORDINATOR):
                return close()

        directory = exchange(lambda _name, site: site.advertise(), coordinator.directory)
        deliveries = exchange(lambda _name, site: site.share_keys(directory), coordinator.deliveries)
        survivors = exchange(lambda name, site: site.mask(vectors[name], deliveries[name]), coordinator.survivors)
        confirmations = exchange(lambda _name, site: site.confirm(survivors), coordinator.confirmations)
        opening = exchange(lambda _name, site: site.unmask(confirmations), coordinator.opening)
        with clock.measure(COORDINATOR):
            total, _ = opening.total(terms)
            mean = self.encoding.decode(total.update)
        for name in sites:
            with clock.measure(name):
                opening.total(terms)
        return mean, sent

    def plain_round(self, clock: Clock) -> tuple[Update, int]:
        """The same mean in float32: each hospital sends its update, the coordinator weighs and adds."""
        messages = {}
        for name, update in self.updates.items():
            with clock.measure(name):
                messages[name] = b"".join(value.tobytes() for value in update.values())
        with clock.measure(COORDINATOR):
            mean = np.zeros(self.layout.update_length, np.float32)
            for name, message in messages.items():
                share = np.float32(self.weights[name] / self.encoding.weight_total)
                mean += np.frombuffer(message, np.float32) * share
        slices = self.layout.slices()
        return {name: mean[where].reshape(self.layout.update[name]) for name, where in slices.items()}, len(message)

    def _encode(self, name: str) -> RingVector:
        weight = self.weights[name]
        encoded = self.encoding.encode(
            self.updates[name], hospital=name, weight=weight, residual=self.residuals.get(name)
        )
        self.residuals[name] = encoded.residual
        sums: dict[str, NDArray[np.int64] | NDArray[np.float64]] = {"stopped": np.array(0), "loss": np.array(0.5)}
        return RingVector(encoded.update, encode_exact(self.layout, sums, hospital=name))


def measure_aggregation(
    _folder: Path,
    on_step: OnStep,
    *,
    hospitals: int,
    ring_bits: Literal[16, 32],
    runs: int,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> AggregationCost:
    """Measure rounds with and without secure aggregation in turns, after one of each that does not count.

    Raises ComputationFailed if the two means differ by more than rounding allows.
    """
    machine = read_machine()
    rounds = TrainingRounds(hospitals=hospitals, ring_bits=ring_bits, shapes=shapes or list_resnet18_shapes())
    pairs: list[tuple[Clock, Clock]] = []
    for run in range(runs + 1):
        on_step(Step(words=f"arithmetic, round {run} of {runs}", done=run, total=runs + 1, seconds_left=None))
        secure, plain = Clock(), Clock()
        found, sent = rounds.secure_round(run, secure)
        expected, plain_bytes = rounds.plain_round(plain)
        # The residual of the round before is in this one: twice the rounding of one round.
        bound = 2 * rounds.layout.rounding_bound(0.1, hospitals=hospitals) + 1e-7
        if any(float(np.abs(found[name] - expected[name]).max()) > bound for name in found):
            raise ComputationFailed("the securely aggregated mean differs from the plain one by more than rounding")
        pairs.append((secure, plain))
    pairs = pairs[1:]
    extra = [secure.together - plain.together for secure, plain in pairs]
    return AggregationCost(
        parameters=rounds.layout.update_length,
        hospitals=hospitals,
        ring_bits=ring_bits,
        runs=runs,
        hospital_seconds=median(secure.slowest_hospital for secure, _ in pairs),
        coordinator_seconds=median(secure.seconds[COORDINATOR] for secure, _ in pairs),
        apart_seconds=median(secure.apart for secure, _ in pairs),
        together_seconds=median(secure.together for secure, _ in pairs),
        plain_apart_seconds=median(plain.apart for _, plain in pairs),
        plain_together_seconds=median(plain.together for _, plain in pairs),
        extra_apart_seconds=median(secure.apart - plain.apart for secure, plain in pairs),
        extra_together_seconds=median(extra),
        extra_together_seconds_range=(min(extra), max(extra)),
        bytes_sent_by_a_hospital=max(sent.values()),
        plain_bytes_sent_by_a_hospital=plain_bytes,
        bytes_against_plain=max(sent.values()) / plain_bytes,
        machine=machine,
        versions=read_versions(),
    )
