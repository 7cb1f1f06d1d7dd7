"""Decoys: an honest data owner is told that it was one, whatever a data owner changes is found, and nothing tells."""

import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from contract.api import Voucher
from contract.deviation import DeviationError
from contract.errors import ConfigurationError, PeerDisconnected, PeerViolation, Refused
from contract.identity import Role
from contract.model_card import Arithmetic
from contract.violation import Found
from secure_computation.engines.interface import Audited
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.session import decoys
from secure_computation.engines.masked.session.decoys import (
    DecoyItem,
    audit_bytes,
    count_layers,
    deal_audit,
    hash_layers,
    pack_audit,
    parse_audit,
    read_audit_share,
    state_messages,
    toss_coin,
)
from secure_computation.engines.masked.session.in_process import run_batch_in_process
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.protocols.bundle import Bundle
from secure_computation.protocols.label import LabelAsP0
from secure_computation.ring import reduce_to_bits
from secure_computation.wire import Frame, Kind
from tests.secure_computation.engines.masked import test_heat_map
from tests.secure_computation.engines.masked.parties import ITEM, Model, lowered, network_of, parties_of
from tests.secure_computation.engines.masked.sessions import LINKS, Body, Session
from tests.secure_computation.networks import random_weights, small_network

BLOCKS = ("conv", "relu", "max", "residual", "clip", "squeeze", "average")


def always(_share: float) -> bool:
    return True


def never(_share: float) -> bool:
    return False


def labelled() -> Model:
    network = small_network(8)
    images = np.random.default_rng(6).normal(size=(4, *network.input_shape)).astype(np.float32)
    lowering = lower_masked(network, random_weights(network), images, label_only=True)
    return Model(network, lowering, round_weights(lowering, random_weights(network)), images)


MODELS: dict[str, Callable[[], Model]] = {
    "dithered": lambda: lowered(network_of(*BLOCKS, seed=3)),
    "exact": lambda: lowered(network_of(*BLOCKS, seed=3), arithmetic=Arithmetic.EXACT),
    "label": labelled,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]()


def played(model: Model, toss: Callable[[float], bool] = always, **changes: object) -> Session:
    return replace(Session(parties_of(model, toss=toss), model.images[0]), **changes).run()  # type: ignore[arg-type]


def outline(frames: list[Frame]) -> list[tuple[Kind, str, int]]:
    return [(frame.kind, frame.step, len(frame.body)) for frame in frames]


def test_an_honest_data_owner_is_told_that_the_item_was_a_decoy(model: Model) -> None:
    session = played(model)
    assert session.errors == {}
    assert session.audited
    assert session.logits is None
    assert session.label is None


def test_a_real_item_gives_the_answer_as_if_there_were_no_decoys(model: Model) -> None:
    session = played(model, never)
    assert session.errors == {}
    if session.label is None:
        np.testing.assert_array_equal(session.logits, model.expected_logits(model.images[0], session.seeds))


def test_until_its_last_message_a_data_owner_sees_the_same_of_both_kinds(model: Model) -> None:
    """Lengths, order and kinds of all that it receives; and as many bytes reach the model owner from the dealer."""
    decoy, real = played(model), played(model, never)
    for link in LINKS:
        seen, other = outline(decoy.frames[link]), outline(real.frames[link])
        if link == "data_owner_from_model_owner":
            assert seen[-1] == (Kind.END, other[-1][1], 0)  # in place of the output
            seen, other = seen[:-1], other[: len(seen) - 1]
        assert seen == other, link


def test_the_model_owner_is_given_one_of_two_seeds_and_never_both(model: Model) -> None:
    for toss, index in ((always, 0), (never, 1)):
        session = played(model, toss)
        secret = [session.seeds.data_owner, session.seeds.second_mask]
        received = b"".join(frame.body for frame in session.frames["model_owner_from_dealer"])
        assert [seed.reveal_to_stock() in received for seed in secret] == [index == 0, index == 1]


def messages_of(model: Model) -> list[str]:
    """The steps of all that a data owner sends to the model owner and that a decoy can check."""
    frames = played(model).frames["model_owner_from_data_owner"]
    return [frame.step for frame in frames if frame.step.startswith(("hidden share", "answer", "products"))]


def flip(wanted: str, step: str, body: Body) -> Body:
    """Change the lowest bit of a data owner's message, and of no other."""
    if step != wanted:
        return body
    changed = body.copy()
    changed[0] ^= 1
    return changed


def test_every_message_of_a_data_owner_that_differs_by_a_bit_is_found(model: Model) -> None:
    steps = [step for step in messages_of(model) if not step.startswith("products")]  # those are changed below
    if model.lowering.arithmetic is Arithmetic.EXACT:
        steps = steps[:2] + steps[-2:]
    for step in steps:
        session = played(model, change=partial(flip, step))
        error = session.errors[Role.MODEL_OWNER]
        assert isinstance(error, DeviationError)
        deviation = error.deviation
        assert deviation.wrong.step == step
        assert deviation.found is (Found.UPLOAD if step.startswith("hidden") else Found.ANSWER)
        assert deviation.wrong.sha256 != deviation.expected
        assert deviation.item == ITEM
        if deviation.found is Found.ANSWER:
            stated = deviation.stated.messages
            assert stated[: deviation.position] == deviation.messages[: deviation.position]
            assert stated[deviation.position].sha256 == deviation.expected
        assert Role.DATA_OWNER in session.errors
        assert not session.audited


def test_a_wrong_product_on_the_way_to_a_label_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages have one name in both directions: those of the data owner's own thread are changed."""
    right, states = LabelAsP0.answer, decoys.state_messages
    stating = threading.local()

    def state(*arguments: Any) -> Any:
        stating.on = True
        try:
            return states(*arguments)
        finally:
            del stating.on  # the data owner may have this thread next

    def answer(self: LabelAsP0, received: Bundle) -> Bundle:
        e, f = right(self, received).bits
        return Bundle(bits=(e, f if hasattr(stating, "on") else reduce_to_bits(f.values ^ np.uint8(1))))

    monkeypatch.setattr(decoys, "state_messages", state)
    monkeypatch.setattr(LabelAsP0, "answer", answer)
    error = played(MODELS["label"]()).errors[Role.MODEL_OWNER]
    assert isinstance(error, DeviationError)
    assert error.deviation.wrong.step.startswith("products 0")


def test_a_real_item_finds_nothing(model: Model) -> None:
    """The attack that decoys are for: the answer is wrong, and nobody sees it."""
    step = next(step for step in messages_of(model) if step.startswith("answer"))
    session = played(model, never, change=partial(flip, step))
    assert session.errors == {}


def test_the_messages_that_the_dealer_states_are_those_of_an_honest_session(model: Model) -> None:
    session = played(model)
    stated = state_messages(model.lowering, session.seeds, ITEM)
    sent = [
        (frame.kind, frame.step)
        for frame in session.frames["model_owner_from_data_owner"]
        if frame.step.startswith(("answer", "products"))
    ]
    answers = [message for message in stated if message.sender.value == "data-owner"]
    assert [message.step for message in answers] == [step for _, step in sent]
    assert len(hash_layers(stated)) == count_layers(model.lowering)


def test_a_batch_of_decoys_and_real_items() -> None:
    model = MODELS["dithered"]()
    kinds = iter([True, False, True])
    items = [ItemName(f"{index:064x}") for index in range(3)]
    parties = parties_of(model, toss=lambda _: next(kinds))
    result = run_batch_in_process(parties, list(model.images[:3]), items=items)
    assert [isinstance(answer, Audited) for answer in result.replies] == [True, False, True]
    expected = model.expected_logits(model.images[1], result.seeds[items[1]], items[1])
    np.testing.assert_array_equal(result.replies[1], expected)


def test_a_session_that_breaks_off_is_checked_as_far_as_it_came() -> None:
    model = MODELS["dithered"]()
    answers = [step for step in messages_of(model) if step.startswith("answer")]
    wrong, last = answers[1], answers[3]

    def change(step: str, body: Body) -> Body:
        if step == last:
            raise PeerDisconnected("the data owner leaves")
        return flip(wrong, step, body)

    error = played(model, change=change).errors[Role.MODEL_OWNER]
    assert isinstance(error, DeviationError)
    assert error.deviation.wrong.step == wrong


def test_an_honest_data_owner_that_breaks_off_anywhere_is_not_accused() -> None:
    model = MODELS["dithered"]()
    for last in messages_of(model):

        def change(step: str, body: Body, last: str = last) -> Body:
            if step == last:
                raise PeerDisconnected("the data owner leaves")
            return body

        error = played(model, change=change).errors[Role.MODEL_OWNER]
        assert isinstance(error, PeerDisconnected)


def test_a_heat_map_is_withheld_with_the_answer() -> None:
    mapped = test_heat_map.MODEL
    session = Session(parties_of(mapped, toss=always), mapped.images[0]).run()
    assert session.audited
    assert session.heat_maps == []
    assert not any(frame.step == "heat map share" for frame in session.frames["data_owner_from_model_owner"])


@pytest.mark.parametrize("share", [-0.1, 0.6, 1, True, "0.1", None, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(share: object) -> None:
    with pytest.raises(PeerViolation, match="which share of its items"):
        read_audit_share({"audit_share": share}, peer="model-owner x")


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_coin_falls_as_often_as_it_should(share: float) -> None:
    """Within six standard deviations: fails once in 500 million runs."""
    tosses = 20_000
    heads = sum(toss_coin(share) for _ in range(tosses))
    assert abs(heads - share * tosses) < 6 * (tosses * share * (1 - share)) ** 0.5


def test_what_is_said_of_an_item_is_read_as_it_was_written_and_of_one_length() -> None:
    session = played(MODELS["dithered"]())
    (frame,) = [one for one in session.frames["model_owner_from_dealer"] if one.step == "audit"]
    decoy = parse_audit(frame.body, source="D")
    assert isinstance(decoy, DecoyItem)
    again = parse_audit(pack_audit(decoy, layers=len(decoy.layers)), source="D")
    assert isinstance(again, DecoyItem)
    assert (again.layers, again.at, again.voucher) == (decoy.layers, decoy.at, decoy.voucher)
    assert again.data_owner.reveal_to_stock() == session.seeds.data_owner.reveal_to_stock()
    assert len(frame.body) == audit_bytes(len(decoy.layers)) < 2000
    assert session.seeds.data_owner.reveal_to_stock().hex() not in repr(decoy)
    with pytest.raises(PeerViolation, match="neither that it is real nor that it is a decoy"):
        parse_audit(b"\x02" + frame.body[1:], source="D")


@pytest.mark.parametrize("decoy", [True, False])
def test_a_dealer_that_cannot_sign_decoys_deals_neither_kind(decoy: bool) -> None:
    """Whichever kind it is: if only decoys failed, every session that goes on would be a real one."""
    voucher = Voucher(certificate=ssl.DER_cert_to_PEM_cert(bytes(1281)), signature="00" * 70)
    model = MODELS["dithered"]()
    with pytest.raises(ConfigurationError, match="have room beside a decoy"):
        deal_audit(model.lowering, DealtSeeds.fresh(), ITEM, decoy=decoy, sign=lambda _stated: (0, voucher))


def test_a_plan_of_more_messages_than_a_record_holds_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoys, "MAX_MESSAGES", 3)
    with pytest.raises(Refused, match="and 3 fit a record of them: its owner sets audit_share to 0"):
        state_messages(MODELS["dithered"]().lowering, DealtSeeds.fresh(), ITEM)
