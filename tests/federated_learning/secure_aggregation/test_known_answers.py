"""Two sites with different releases must agree on every byte: the protocol's known answers."""

import hashlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federated_learning.secure_aggregation.coordinator_aggregation import CoordinatorAggregation
from federated_learning.secure_aggregation.history import RoundHistory
from federated_learning.secure_aggregation.hospital_aggregation import HospitalAggregation
from federated_learning.secure_aggregation.keys import PairwiseKeys, RoundSecrets, Transcript
from federated_learning.secure_aggregation.masking import RingVector
from federated_learning.secure_aggregation.sharing import combine, recover, split
from tests.federated_learning.secure_aggregation import derivation
from tests.federated_learning.secure_aggregation.rounds import make_terms, signing_keys


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    found = json.loads((Path(__file__).parent / "known_answers.json").read_text())
    assert isinstance(found, dict)
    return found


def own_secrets(name: str) -> RoundSecrets:
    return RoundSecrets(
        sealing_key=X25519PrivateKey.from_private_bytes(derivation.secret(name, "sealing")),
        mask_key=X25519PrivateKey.from_private_bytes(derivation.secret(name, "mask")),
        self_seed=derivation.secret(name, "self"),
    )


def test_the_answers_follow_from_the_text_of_the_protocol(answers: dict[str, Any]) -> None:
    assert derivation.known_answers() == answers


def test_a_round_gives_the_known_bytes(answers: dict[str, Any]) -> None:
    keys = signing_keys(3)
    terms = make_terms(keys)
    assert terms.session.hex() == answers["session"]
    hospitals = {
        name: HospitalAggregation(
            terms, name=name, signing_key=key, history=RoundHistory(), round_secrets=own_secrets(name)
        )
        for name, key in keys.items()
    }
    coordinator = CoordinatorAggregation(terms)
    for name, hospital in hospitals.items():
        message = hospital.advertise()
        assert message.hex() == answers["advertisements"][name]
        coordinator.receive(name, message)
    directory = coordinator.directory()
    for name, hospital in hospitals.items():
        coordinator.receive(name, hospital.share_keys(directory))
    deliveries = coordinator.deliveries()
    for name, hospital in hospitals.items():
        vector = RingVector(
            np.array(derivation.VECTORS[name]["update"], np.uint16),
            np.array(derivation.VECTORS[name]["exact"], np.uint64),
        )
        message = hospital.mask(vector, deliveries[name])
        assert message.hex() == answers["masked"][name]
        coordinator.receive(name, message)
    survivors = coordinator.survivors()
    for name, hospital in hospitals.items():
        message = hospital.confirm(survivors)
        assert message.hex() == answers["confirmations"][name]
        coordinator.receive(name, message)
    confirmations = coordinator.confirmations()
    for name, hospital in hospitals.items():
        coordinator.receive(name, hospital.unmask(confirmations))
    total = coordinator.opening().total(terms)[0]
    assert total.update.tolist() == [0, 2, 1, 5, 12]
    assert total.exact.tolist() == [9, 25]


def test_sealed_shares_are_the_known_bytes(answers: dict[str, Any]) -> None:
    pairwise = PairwiseKeys(make_terms(signing_keys(3)), Transcript(derivation.transcript()))
    names: dict[str, str] = {"sender": "hospital-a", "recipient": "hospital-b"}
    sealed = pairwise.seal(
        own_secrets("hospital-a").sealing_key,
        bytes(range(64)),
        peer_key=derivation.public("hospital-b", "sealing"),
        **names,
    )
    assert sealed.hex() == answers["sealed"]
    opened = pairwise.unseal(
        own_secrets("hospital-b").sealing_key,
        sealed,
        peer_key=derivation.public("hospital-a", "sealing"),
        **names,
    )
    assert opened == bytes(range(64))


def test_any_three_known_shares_recover_the_known_secret(answers: dict[str, Any]) -> None:
    shares = [bytes.fromhex(share) for share in answers["shamir"]["shares"]]
    secret = bytes.fromhex(answers["shamir"]["secret"])
    for holders in combinations(range(5), 3):
        assert combine({holder: shares[holder] for holder in holders}) == secret
    for pair in combinations(range(5), 2):
        assert combine({holder: shares[holder] for holder in pair}) != secret


def test_fresh_shares_recover_and_differ_each_time() -> None:
    secret = hashlib.sha256(b"secret").digest()
    first, second = (split(secret, threshold=3, count=5) for _ in range(2))
    assert not set(first) & set(second)
    assert recover(dict(enumerate(first[2:], start=2)), threshold=3, accept=secret.__eq__) == secret
    assert recover(dict(enumerate(first[:2])), threshold=3, accept=secret.__eq__) is None
    spoilt = {**dict(enumerate(first)), 0: bytes(32), 1: bytes(32)}
    assert recover(spoilt, threshold=3, accept=secret.__eq__) == secret
    many = dict(enumerate(split(secret, threshold=8, count=14)))  # 3003 choices: not all are tried
    assert recover({**many, 0: bytes(32)}, threshold=8, accept=secret.__eq__) == secret
    with pytest.raises(ValueError, match="32 bytes"):
        split(b"short", threshold=3, count=5)
