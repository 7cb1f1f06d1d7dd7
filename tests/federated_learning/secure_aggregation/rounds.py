"""Runs whole rounds in memory, with hospitals that drop out where a test wants them to."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federated_learning.secure_aggregation.coordinator_aggregation import CoordinatorAggregation
from federated_learning.secure_aggregation.history import RoundHistory
from federated_learning.secure_aggregation.hospital_aggregation import HospitalAggregation
from federated_learning.secure_aggregation.masking import RingVector
from federated_learning.secure_aggregation.terms import RoundTerms, least_threshold

COMMON = hashlib.sha256(b"the same model for everybody").digest()
SUBJECT = hashlib.sha256(b"the global weights").digest()
STEPS = ("advertise", "share", "mask", "confirm", "unmask")
"""Where a hospital may drop out: it does not send the message of this step nor any later one."""


def signing_keys(count: int) -> dict[str, Ed25519PrivateKey]:
    """Keys that are the same in every run."""
    return {
        f"hospital-{chr(97 + index)}": Ed25519PrivateKey.from_private_bytes(bytes([index + 1]) * 32)
        for index in range(count)
    }


def make_terms(
    keys: Mapping[str, Ed25519PrivateKey],
    *,
    round_number: int = 3,
    attempt: int = 0,
    update_length: int = 5,
    exact_length: int = 2,
    ring_bits: Literal[16, 32] = 16,
    subject: bytes = SUBJECT,
    common: bytes = COMMON,
    purpose: str = "update",
    training_id: str = "pneumonia",
) -> RoundTerms:
    return RoundTerms(
        training_id=training_id,
        purpose=purpose,
        round_number=round_number,
        attempt=attempt,
        roster={name: key.public_key() for name, key in keys.items()},
        threshold=least_threshold(len(keys)),
        update_length=update_length,
        ring_bits=ring_bits,
        exact_length=exact_length,
        subject=subject,
        common_hash=common,
    )


def hospitals_for(
    terms: RoundTerms, keys: Mapping[str, Ed25519PrivateKey], histories: Mapping[str, RoundHistory] | None = None
) -> dict[str, HospitalAggregation]:
    return {
        name: HospitalAggregation(
            terms,
            name=name,
            signing_key=key,
            history=RoundHistory() if histories is None else histories[name],
        )
        for name, key in keys.items()
    }


def random_vector(terms: RoundTerms, seed: int) -> RingVector:
    generator = np.random.default_rng(seed)
    exact = generator.integers(0, 1 << 64, terms.exact_length, dtype=np.uint64)
    if terms.ring_bits == 16:
        return RingVector(generator.integers(0, 1 << 16, terms.update_length, dtype=np.uint16), exact)
    return RingVector(generator.integers(0, 1 << 32, terms.update_length, dtype=np.uint32), exact)


def plain_sum(terms: RoundTerms, vectors: Mapping[str, RingVector], names: frozenset[str]) -> RingVector:
    total = RingVector.zeros(terms)
    for name in names:
        total.add(vectors[name])
    return total


@dataclass
class View:
    """Everything that the coordinator saw of one round."""

    received: dict[str, list[tuple[str, bytes]]] = field(default_factory=lambda: {step: [] for step in STEPS})
    total: RingVector | None = None

    def of(self, step: str) -> dict[str, bytes]:
        return dict(self.received[step])


def run_round(
    terms: RoundTerms,
    hospitals: Mapping[str, HospitalAggregation],
    vectors: Mapping[str, RingVector],
    drops: Mapping[str, str] | None = None,
    view: View | None = None,
) -> tuple[RingVector, CoordinatorAggregation]:
    """One whole round; `drops`: hospital -> the step that it does not reach. Raises what the two sides raise."""
    view = View() if view is None else view
    coordinator = run_messages(terms, hospitals, vectors, drops, view)
    view.total = coordinator.opening().total(terms)[0]
    return view.total, coordinator


def run_messages(
    terms: RoundTerms,
    hospitals: Mapping[str, HospitalAggregation],
    vectors: Mapping[str, RingVector],
    drops: Mapping[str, str] | None = None,
    view: View | None = None,
) -> CoordinatorAggregation:
    """A round up to the point where the coordinator opens the sum."""
    view = View() if view is None else view
    alive = {name: STEPS.index((drops or {}).get(name, "")) if name in (drops or {}) else 99 for name in hospitals}
    coordinator = CoordinatorAggregation(terms)

    def collect(step: str, messages: Mapping[str, bytes]) -> None:
        for name, message in messages.items():
            view.received[step].append((name, message))
            coordinator.receive(name, message)

    def those(step: str, among: Mapping[str, object]) -> list[str]:
        return [name for name in among if alive[name] > STEPS.index(step)]

    collect("advertise", {name: hospitals[name].advertise() for name in those("advertise", hospitals)})
    directory = coordinator.directory()
    present = view.of("advertise")
    collect("share", {name: hospitals[name].share_keys(directory) for name in those("share", present)})
    deliveries = coordinator.deliveries()
    collect("mask", {name: hospitals[name].mask(vectors[name], deliveries[name]) for name in those("mask", deliveries)})
    survivors = coordinator.survivors()
    present = view.of("mask")
    collect("confirm", {name: hospitals[name].confirm(survivors) for name in those("confirm", present)})
    confirmations = coordinator.confirmations()
    present = view.of("confirm")
    collect("unmask", {name: hospitals[name].unmask(confirmations) for name in those("unmask", present)})
    return coordinator


ADVERTISE, SHARE, MASK, CONFIRM, UNMASK = range(5)


class Running:
    """A round of four hospitals (three must survive) that a test stops where it wants to interfere."""

    def __init__(self, count: int = 4) -> None:
        self.keys = signing_keys(count)
        self.terms = make_terms(self.keys)
        self.hospitals = hospitals_for(self.terms, self.keys)
        self.coordinator = CoordinatorAggregation(self.terms)
        self.vectors = {name: random_vector(self.terms, index) for index, name in enumerate(self.keys)}

    @property
    def first(self) -> HospitalAggregation:
        return self.hospitals["hospital-a"]

    def answer(self, step: int, name: str, told: bytes) -> bytes:
        """One hospital's message of a step, after the coordinator told it `told`."""
        hospital = self.hospitals[name]
        return (
            hospital.advertise,
            lambda: hospital.share_keys(told),
            lambda: hospital.mask(self.vectors[name], told),
            lambda: hospital.confirm(told),
            lambda: hospital.unmask(told),
        )[step]()

    def end(self, step: int) -> dict[str, bytes]:
        """What the coordinator tells each hospital after a step."""
        if step == SHARE:
            return self.coordinator.deliveries()
        c = self.coordinator
        told = (c.directory, None, c.survivors, c.confirmations)[step]
        assert told is not None
        message = told()
        return dict.fromkeys(self.hospitals, message)

    def before(self, step: int) -> dict[str, bytes]:
        """Run everything before a step; what the coordinator then tells each hospital."""
        told = dict.fromkeys(self.hospitals, b"")
        for earlier in range(step):
            for name in self.hospitals:
                self.coordinator.receive(name, self.answer(earlier, name, told[name]))
            told = self.end(earlier)
        return told

    def finish(self, step: int, told: dict[str, bytes]) -> RingVector:
        """Run this step and everything after it."""
        for later in range(step, 5):
            for name in self.hospitals:
                self.coordinator.receive(name, self.answer(later, name, told[name]))
            if later < UNMASK:
                told = self.end(later)
        return self.total()

    def total(self) -> RingVector:
        """Opens the sum, once everybody has unmasked it."""
        return self.coordinator.opening().total(self.terms)[0]
