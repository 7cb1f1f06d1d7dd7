"""A restored item is the item: the same answers from seed, output share and packed messages alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from contract.errors import MaterialSpent, PeerViolation
from contract.identity import Role
from secure_computation.channel.memory import CRYPTO_PROVIDER, DATA_OWNER, MODEL_OWNER, memory_pair
from secure_computation.engines.interface import Label
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.session.in_process import InProcessParties
from secure_computation.engines.masked.session.sides import DataOwnerItem, PreparedModelOwner
from secure_computation.engines.masked.session.stock import (
    data_owner_bodies,
    data_owner_sizes,
    model_owner_bodies,
    model_owner_sizes,
    restore_data_owner,
    restore_model_owner,
)
from secure_computation.engines.masked.session.weights import name_deltas
from secure_computation.material import DealtSeeds
from secure_computation.wire import Phase
from tests.secure_computation.engines.masked.parties import ITEM, VERSION, Image, Model, lowered, network_of, parties_of
from tests.secure_computation.networks import random_weights


def prepared(parties: InProcessParties) -> tuple[DataOwnerItem, PreparedModelOwner]:
    """Both halves of one item."""
    p0_p1, p1_p0 = memory_pair(DATA_OWNER, MODEL_OWNER)
    p0_d, d_p0 = memory_pair(DATA_OWNER, CRYPTO_PROVIDER)
    p1_d, d_p1 = memory_pair(MODEL_OWNER, CRYPTO_PROVIDER)
    seeds = DealtSeeds.fresh()
    for channel in (p0_p1, p1_p0):
        channel.set_phase(Phase.OFFLINE)
    with ThreadPoolExecutor(max_workers=3) as pool:
        dealt = [
            pool.submit(parties.dealer.deal, channel, to=to, item=ITEM, seeds=seeds)
            for channel, to in ((d_p0, Role.DATA_OWNER), (d_p1, Role.MODEL_OWNER))
        ]
        p1 = pool.submit(parties.model_owner.prepare, item=ITEM, dealer=p1_d, data_owner=p1_p0)
        p0 = parties.data_owner.prepare(item=ITEM, dealer=p0_d, model_owner=p0_p1, patience_seconds=20)
        for future in dealt:
            future.result()
        return p0, p1.result()


def seeds_of(p0: DataOwnerItem, p1: PreparedModelOwner) -> DealtSeeds:
    return DealtSeeds(data_owner=p0.seed, model_owner=p1.seed)


def answer(parties: InProcessParties, image: Image, p0: DataOwnerItem, p1: PreparedModelOwner) -> object:
    p0_p1, p1_p0 = memory_pair(DATA_OWNER, MODEL_OWNER)
    with ThreadPoolExecutor(max_workers=1) as pool:
        other = pool.submit(parties.model_owner.run, [p1], data_owner=p1_p0)
        (result,) = parties.data_owner.run(
            [image], [p0], model_owner=p0_p1, on_layer=lambda _index, _total, _name: None
        )
        other.result()
    return result


@pytest.fixture(scope="module")
def model() -> Model:
    """Every kind of move: maps, residuals, truncations, max, clip, products."""
    return lowered(
        network_of("conv", "relu", "max", "residual", "shortcut", "clip", "branches", "squeeze", "average", seed=3)
    )


def test_a_restored_item_gives_the_references_logits(model: Model) -> None:
    parties = parties_of(model)
    p0, p1 = prepared(parties)
    own, other = list(data_owner_bodies(model.lowering, p0)), list(model_owner_bodies(model.lowering, p1))
    assert tuple(body.size for body in own) == data_owner_sizes(model.lowering)
    assert tuple(body.size for body in other) == model_owner_sizes(model.lowering)
    assert sum(body.size for body in own) < 150  # two seeds, a tag, a hash and a few logits
    assert p0.weights_version == name_deltas(p1.model_seed, VERSION)
    again = restore_data_owner(model.lowering, own, item=ITEM, weights_version=p0.weights_version)
    theirs = restore_model_owner(model.lowering, other, item=ITEM)
    result = answer(parties, model.images[0], again, theirs)
    np.testing.assert_array_equal(result, model.expected_logits(model.images[0], seeds_of(p0, p1)))
    with pytest.raises(MaterialSpent):
        again.prepared.spend_input_mask()


def test_a_restored_item_gives_the_references_label(model: Model) -> None:
    lowering = lower_masked(model.network, random_weights(model.network, 0), model.images, label_only=True)
    integers = round_weights(lowering, random_weights(model.network, 0))
    labelled = Model(model.network, lowering, integers, model.images)
    parties = parties_of(labelled)
    for image in labelled.images[:2]:
        p0, p1 = prepared(parties)
        again = restore_data_owner(lowering, list(data_owner_bodies(lowering, p0)), item=ITEM, weights_version=VERSION)
        theirs = restore_model_owner(lowering, list(model_owner_bodies(lowering, p1)), item=ITEM)
        logits = labelled.expected(image, seeds_of(p0, p1))[lowering.steps[-1].inputs[0]]
        assert answer(parties, image, again, theirs) == Label(reference.find_label(logits))


def test_bodies_with_bits_behind_their_end_are_refused(model: Model) -> None:
    p0, p1 = prepared(parties_of(model))
    own, other = list(data_owner_bodies(model.lowering, p0)), list(model_owner_bodies(model.lowering, p1))
    with pytest.raises(PeerViolation, match="the stocked file broke the protocol in step 'stocked material'"):
        restore_data_owner(model.lowering, [*own[:-1], own[-1][:-1]], item=ITEM, weights_version=VERSION)
    with pytest.raises(PeerViolation, match="the stocked file broke the protocol in step 'stocked material'"):
        restore_model_owner(model.lowering, [*other[:-1], other[-1][:-1]], item=ITEM)
    with pytest.raises(ValueError, match="zip"):
        restore_model_owner(model.lowering, other[:-1], item=ITEM)


def test_items_show_nothing_of_their_seeds(model: Model) -> None:
    p0, p1 = prepared(parties_of(model))
    for item, seed in ((p0, p0.seed), (p1, p1.seed)):
        assert seed.reveal_to_stock().hex() not in repr(item)
        assert repr(seed.reveal_to_stock()) not in repr(item)
        assert len(repr(item)) < 250
