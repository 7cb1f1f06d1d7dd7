"""Plans: one encoding, one hash, and nothing accepted from outside that the network does not give."""

import json
from typing import Any

import numpy as np
import pytest

from contract.api import MAX_PLAN_BYTES
from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.plan import Lowerings, Plan, hash_plan, make_plan, parse_plan, require_own_dealing_list
from tests.secure_computation.networks import random_weights, small_network

PLAN = make_plan(small_network())
BYTES = PLAN.canonical_bytes()
GOLDEN_HASH = "197b1130d6107de11baf9e2a834ce8db7e537672251648a059b313861f918038"
"""Of the plan of `small_network()`: changes only with the plan's format or the protocols' dealing lists."""


def altered(**changes: Any) -> bytes:
    """The plan's JSON with some of the crypten lowering's fields replaced, canonical again."""
    content = json.loads(BYTES)
    content["engines"]["crypten"] |= changes
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def test_round_trip() -> None:
    assert parse_plan(BYTES) == PLAN
    assert make_plan(small_network()).canonical_bytes() == BYTES


def test_hash_is_stable() -> None:
    assert hash_plan(BYTES) == PLAN.plan_hash() == GOLDEN_HASH
    assert make_plan(small_network(7)).plan_hash() != GOLDEN_HASH


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        BYTES[:-1],
        BYTES + b" ",
        b" " + BYTES,
        BYTES.replace(b'"format":3', b'"format":2', 1),
        BYTES.replace(b'"format":3', b'"format":"2"', 1),
        json.dumps(json.loads(BYTES)).encode(),
        altered(surprise=1),
        altered(requests=[{"kind": "pickle"}]),
    ],
    ids=range(13),
)
def test_what_is_not_exactly_one_plan_is_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError, match="import the model") as caught:
        parse_plan(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "data",
    [
        altered(requests=[]),
        altered(requests=[{"kind": "square", "output": [2**31, 2**31]}]),
        altered(requests=json.loads(BYTES)["engines"]["crypten"]["requests"][::-1]),
        altered(openings=1),
        altered(opened_bytes_each_way=0),
    ],
    ids=range(5),
)
def test_dealing_list_of_the_senders_choice_is_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"does not belong to its network|more than|GiB"):
        require_own_dealing_list(parse_plan(data))


def test_a_plan_of_an_earlier_version_is_refused_in_its_readers_terms() -> None:
    with pytest.raises(ModelFileError, match="made by another version of this program: update all parties"):
        parse_plan(BYTES.replace(b'"format":3', b'"format":2', 1))


def test_sizes_are_bounded() -> None:
    with pytest.raises(ModelFileError, match="exceeds"):
        parse_plan(bytes(MAX_PLAN_BYTES + 1))


def test_exact_and_dithered_plans_of_one_network_have_different_hashes() -> None:
    """A ticket carries the hash: parties that mean different forms stop before anything secret is sent."""
    network = small_network()
    images = np.random.default_rng(1).normal(size=(2, *network.input_shape)).astype(np.float32)
    lowerings = [lower_masked(network, random_weights(network), images, arithmetic=one) for one in Arithmetic]
    hashes = {Plan(network=network, engines=Lowerings(masked=one)).plan_hash() for one in lowerings}
    assert len(hashes) == 2
