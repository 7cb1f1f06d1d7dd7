"""A batch over a real connection: both sides send more than its buffers hold before the other one reads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from contract.identity import Role
from contract.model_card import Arithmetic
from secure_computation.channel.bridge import OUTBOUND_BYTES
from secure_computation.channel.channel import Channel
from secure_computation.channel.memory import CRYPTO_PROVIDER, memory_pair
from secure_computation.channel.websocket import WRITE_BUFFER_BYTES
from secure_computation.engines.interface import Answer, require_answers
from secure_computation.engines.masked.session.costs import declared_costs, total_cost
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.network import INPUT, Relu
from secure_computation.wire import Phase
from tests.secure_computation.channel.conftest import HOSPITAL, LABORATORY, Pair
from tests.secure_computation.engines.masked.parties import Model, lowered, parties_of
from tests.secure_computation.networks import classifier, convolution

SIDE, CHANNELS, IMAGES = 160, 16, 6
ITEMS = [ItemName(f"{index:064x}") for index in range(IMAGES)]
IN_BUFFERS = OUTBOUND_BYTES + WRITE_BUFFER_BYTES
"""What a sender is rid of without anybody reading, but for what the operating system holds."""


@pytest.fixture(scope="module")
def model() -> Model:
    """One wide ReLU layer, in the arithmetic that sends more."""
    shape = (CHANNELS, SIDE, SIDE)
    stem = convolution("c1", INPUT, (1, SIDE, SIDE), CHANNELS, 3, padding=(1, 1, 1, 1))
    return lowered(
        classifier((1, SIDE, SIDE), [stem, Relu(name="r1", inputs=("c1",), shape=shape)]), arithmetic=Arithmetic.EXACT
    )


def test_messages_of_a_batch_may_exceed_all_buffers(pair: Pair, model: Model) -> None:
    layer = declared_costs(model.lowering)["r1"]
    assert IMAGES * layer.model_owner_to_data_owner > IN_BUFFERS
    assert IMAGES * layer.data_owner_to_model_owner > IN_BUFFERS
    p0_p1, p1_p0 = pair
    p0_d, d_p0 = memory_pair(HOSPITAL, CRYPTO_PROVIDER)
    p1_d, d_p1 = memory_pair(LABORATORY, CRYPTO_PROVIDER)
    parties = parties_of(model)
    seeds = {item: DealtSeeds.fresh() for item in ITEMS}
    images = [model.images[index % len(model.images)] for index in range(IMAGES)]

    def deal(channel: Channel, to: Role) -> None:
        for item in ITEMS:
            parties.dealer.deal(channel, to=to, item=item, seeds=seeds[item])

    def data_owner() -> tuple[Answer, ...]:
        p0_p1.set_phase(Phase.OFFLINE)
        prepared = [
            parties.data_owner.prepare(item=item, dealer=p0_d, model_owner=p0_p1, patience_seconds=60) for item in ITEMS
        ]
        return require_answers(
            parties.data_owner.run(images, prepared, model_owner=p0_p1, on_layer=lambda _index, _total, _name: None)
        )

    def model_owner() -> None:
        p1_p0.set_phase(Phase.OFFLINE)
        prepared = [parties.model_owner.prepare(item=item, dealer=p1_d, data_owner=p1_p0) for item in ITEMS]
        parties.model_owner.run(prepared, data_owner=p1_p0)

    with ThreadPoolExecutor(max_workers=4) as pool:
        answered = pool.submit(data_owner)
        others = [
            pool.submit(deal, d_p0, Role.DATA_OWNER),
            pool.submit(deal, d_p1, Role.MODEL_OWNER),
            pool.submit(model_owner),
        ]
        answers = answered.result()
        for future in others:
            future.result()
    for image, item, logits in zip(images, ITEMS, answers, strict=True):
        np.testing.assert_array_equal(logits, model.expected_logits(image, seeds[item], item))
    traffic = p0_p1.traffic(Phase.ONLINE) + p0_p1.traffic(Phase.OUTPUT)
    assert traffic.one_way_trips == total_cost(model.lowering).trips
