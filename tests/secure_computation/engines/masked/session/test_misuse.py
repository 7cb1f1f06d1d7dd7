"""Parties that fail, lie or mix things up: an error that names peer and step, or a useless result; never a leak."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from contract.errors import MaterialSpent, PeerViolation
from contract.identity import Party, Role
from secure_computation.channel.memory import DATA_OWNER, MODEL_OWNER, memory_pair
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights
from secure_computation.engines.masked.plan.steps import LinearStep
from secure_computation.engines.masked.session.in_process import MemoryStore
from secure_computation.engines.masked.session.weights import derive_model_seed
from secure_computation.material import ItemName
from secure_computation.protocols.draws import RingElements
from secure_computation.randomness import Seed
from secure_computation.wire import Phase
from tests.secure_computation.engines.masked.parties import VERSION, Model, lowered, network_of, parties_of
from tests.secure_computation.engines.masked.sessions import Body, Session

MODEL = lowered(network_of("conv", "relu", "max", "conv", seed=1), seed=1)
IMAGE = MODEL.images[0]
OTHER_VERSION = "f" * 32


def other_weights() -> Model:
    """Another version under the same plan."""
    tensors = {name: -tensor for name, tensor in MODEL.integers.items()}
    return replace(MODEL, integers=IntegerWeights(tensors))


# Messages

RECEIVERS = {
    "correction": (Role.MODEL_OWNER, "dealer"),
    "hidden share": (Role.MODEL_OWNER, "hospital"),
    "masked weights, conv": (Role.DATA_OWNER, "laboratory"),
    "masked image": (Role.MODEL_OWNER, "hospital"),
    "opening": (Role.DATA_OWNER, "laboratory"),
    "answer": (Role.MODEL_OWNER, "hospital"),
    "output share": (Role.DATA_OWNER, "laboratory"),
}

ALTERED: dict[str, Callable[[Body], Body]] = {
    "cut by a byte": lambda body: body[:-1],
    "empty": lambda body: body[:0],
    "a byte longer": lambda body: np.append(body, np.uint8(0)),
    "twice": lambda body: np.concatenate([body, body]),
}


@pytest.mark.parametrize("message", RECEIVERS)
@pytest.mark.parametrize("alteration", ALTERED)
def test_another_length_names_peer_and_step(message: str, alteration: str) -> None:
    altered: list[str] = []

    def change(step: str, body: Body) -> Body:
        if not step.startswith(message) or altered:
            return body
        altered.append(step)
        return ALTERED[alteration](body)

    session = Session(parties_of(MODEL), IMAGE, change=change).run()
    receiver, sender = RECEIVERS[message]
    error = session.errors[receiver]
    assert type(error) is PeerViolation
    assert sender in str(error)
    assert f"'{altered[0]}'" in str(error)
    assert "\n" not in str(error)
    assert session.logits is None


@pytest.mark.parametrize("message", RECEIVERS)
def test_garbage_of_the_right_length_gives_no_result_or_a_useless_one(message: str) -> None:
    """Uniform bytes pass for a message, as they must: nothing in a message can be told from a mask."""
    generator = np.random.default_rng(0)

    def change(step: str, body: Body) -> Body:
        if not step.startswith(message):
            return body
        return generator.integers(0, 256, body.size, dtype=np.uint8)

    session = Session(parties_of(MODEL), IMAGE, change=change).run()
    if session.logits is None:
        receiver, sender = RECEIVERS[message]
        error = session.errors[receiver]
        assert isinstance(error, PeerViolation)
        assert sender in str(error)
        assert "set behind the last" in str(error)
    else:
        assert not np.array_equal(session.logits, MODEL.expected_logits(IMAGE, session.seeds))


# Names of versions

MALFORMED: list[object] = [None, 5, "", "A" * 32, "0" * 31, "0" * 33, "../" * 11, f"{VERSION}\n", ["0" * 32]]


@pytest.mark.parametrize("step", ["weights version", "masked weights"])
@pytest.mark.parametrize("name", MALFORMED, ids=repr)
def test_a_malformed_version_name_is_refused(step: str, name: object) -> None:
    def change(sent_in: str, fields: Mapping[str, object]) -> Mapping[str, object]:
        return {"weights": name} if sent_in == step else fields

    store = MemoryStore()
    session = Session(parties_of(MODEL, store=store), IMAGE, change_hello=change).run()
    refuser = Role.CRYPTO_PROVIDER if step == "weights version" else Role.DATA_OWNER
    error = session.errors[refuser]
    assert type(error) is PeerViolation
    assert "laboratory" in str(error)
    assert session.logits is None
    if refuser is Role.DATA_OWNER:
        assert store.newest("laboratory", MODEL.lowering) is None


def test_a_missing_version_name_is_refused() -> None:
    session = Session(parties_of(MODEL), IMAGE, change_hello=lambda _step, _fields: {}).run()
    assert type(session.errors[Role.CRYPTO_PROVIDER]) is PeerViolation


# Versions of the weights


def test_a_new_version_is_fetched_and_an_old_one_never_used() -> None:
    store, changed = MemoryStore(), replace(other_weights(), key=MODEL.key, version=OTHER_VERSION)
    first = Session(parties_of(MODEL, store=store), IMAGE).run()
    np.testing.assert_array_equal(first.honest(), MODEL.expected_logits(IMAGE, first.seeds))
    kept = store.newest("laboratory", MODEL.lowering)
    second = Session(parties_of(changed, store=store), IMAGE).run()
    np.testing.assert_array_equal(second.honest(), changed.expected_logits(IMAGE, second.seeds))
    assert store.newest("laboratory", MODEL.lowering) not in (None, kept)
    again = Session(parties_of(changed, store=store), IMAGE).run()
    np.testing.assert_array_equal(again.honest(), changed.expected_logits(IMAGE, again.seeds))
    fetched = [
        any("masked weights, " in frame.step for frame in s.frames["data_owner_from_model_owner"])
        for s in (first, second, again)
    ]
    assert fetched == [True, True, False]


def test_weights_laid_out_before_a_session_are_not_read_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    Session(parties_of(MODEL, store=store), IMAGE).run().honest()
    parties = parties_of(MODEL, store=store)
    parties.data_owner.get_ready("laboratory")
    monkeypatch.setattr(MemoryStore, "newest", None)
    monkeypatch.setattr(MemoryStore, "load", None)
    parties.data_owner.get_ready("laboratory")  # once is enough
    session = Session(parties, IMAGE).run()
    np.testing.assert_array_equal(session.honest(), MODEL.expected_logits(IMAGE, session.seeds))


def test_weights_laid_out_for_what_a_model_owner_no_longer_serves_are_not_used() -> None:
    store, changed = MemoryStore(), replace(other_weights(), version=OTHER_VERSION)
    Session(parties_of(MODEL, store=store), IMAGE).run().honest()
    parties = parties_of(changed, store=store)
    parties.data_owner.get_ready("laboratory")
    session = Session(parties, IMAGE).run()
    np.testing.assert_array_equal(session.honest(), changed.expected_logits(IMAGE, session.seeds))


def test_getting_ready_for_a_model_owner_of_whom_nothing_is_kept_changes_nothing() -> None:
    parties = parties_of(MODEL)
    parties.data_owner.get_ready("laboratory")
    session = Session(parties, IMAGE).run()
    np.testing.assert_array_equal(session.honest(), MODEL.expected_logits(IMAGE, session.seeds))


def test_masked_weights_of_a_dealer_with_another_key_are_fetched_again() -> None:
    """Restored from a backup, or a second replica, for all parties: its corrections are of another mask."""
    store, other = MemoryStore(), replace(MODEL, key=Seed.fresh())
    Session(parties_of(MODEL, store=store), IMAGE).run().honest()
    session = Session(parties_of(other, store=store, toss=lambda _share: False), IMAGE).run()
    np.testing.assert_array_equal(session.honest(), other.expected_logits(IMAGE, session.seeds))
    checked = Session(parties_of(MODEL, store=store, toss=lambda _share: True), IMAGE).run()
    assert checked.audited  # and the honest data owner is not accused
    assert checked.errors == {}


def kept_of(store: MemoryStore, owner: str) -> dict[str, RingElements]:
    """The masked weights that are kept of a model owner."""
    name = store.newest(owner, MODEL.lowering)
    assert name is not None
    kept = store.load(owner, name, MODEL.lowering)
    assert kept is not None
    return kept


def test_two_versions_leave_nothing_of_their_difference() -> None:
    """Even the same weights, imported twice, have unrelated masks: A belongs to the version's name."""
    deltas = []
    for version in (VERSION, OTHER_VERSION):
        store = MemoryStore()
        Session(parties_of(replace(MODEL, version=version), store=store), IMAGE).run().honest()
        deltas.append(kept_of(store, "laboratory"))
    equal = sum(np.count_nonzero(deltas[0][name] == deltas[1][name]) for name in deltas[0])
    assert equal < 3


def test_another_model_owner_has_weights_of_its_own() -> None:
    """The same name of a version at two organisations: neither Delta nor masks are mixed up."""
    rival = Party(role=Role.MODEL_OWNER, organisation="rival")
    store, changed = MemoryStore(), replace(other_weights(), key=MODEL.key, owner=rival.organisation)
    ours, theirs = parties_of(MODEL, store=store), parties_of(changed, store=store)
    theirs = replace(theirs, data_owner=ours.data_owner, dealer=ours.dealer)
    for _ in range(2):
        session = Session(ours, IMAGE).run()
        np.testing.assert_array_equal(session.honest(), MODEL.expected_logits(IMAGE, session.seeds))
        session = Session(theirs, IMAGE, model_owner=rival).run()
        np.testing.assert_array_equal(session.honest(), changed.expected_logits(IMAGE, session.seeds))
    first, second = (kept_of(store, name) for name in ("laboratory", "rival"))
    masks = {name: first[name] - _own(MODEL, name) for name in first}
    assert all(not np.array_equal(masks[name], second[name] - _own(changed, name)) for name in masks)


def _own(model: Model, name: str) -> RingElements:
    step = model.lowering.step(name)
    assert isinstance(step, LinearStep)
    weights: RingElements = model.integers[step.weight_name].astype(np.uint32)
    return weights


def test_model_seeds_belong_to_dealer_owner_version_and_plan() -> None:
    key = Seed.fresh()
    plan = other_weights().lowering
    other_plan = plan.model_copy(update={"output": plan.steps[0].name})
    seeds = {
        derive_model_seed(used, model_owner=owner, version_name=version, lowering=lowering).reveal_to_channel()
        for used in (key, Seed.fresh())
        for owner in ("laboratory", "rival")
        for version in (VERSION, OTHER_VERSION)
        for lowering in (plan, other_plan)
    }
    assert len(seeds) == 16
    again = derive_model_seed(key, model_owner="rival", version_name=VERSION, lowering=plan)
    assert again.reveal_to_channel() in seeds


# Items

ROLES = [Role.CRYPTO_PROVIDER, Role.DATA_OWNER, Role.MODEL_OWNER]


@pytest.mark.parametrize("role", ROLES)
def test_parties_with_different_items_compute_garbage(role: Role) -> None:
    """An item's name is part of every stream, so a mix-up cannot use one party's masks with another's."""
    session = Session(parties_of(MODEL), IMAGE, items={role: ItemName("1" * 64)}).run()
    assert not np.array_equal(session.honest(), MODEL.expected_logits(IMAGE, session.seeds))


def test_material_masks_one_image_only() -> None:
    """The second image never leaves: under the same mask P1 would see the difference of the two."""
    parties = parties_of(MODEL)
    session = Session(parties, IMAGE).run()
    session.honest()
    received: list[object] = []
    left, _ = memory_pair(DATA_OWNER, MODEL_OWNER, right_recorder=received.append)
    with pytest.raises(MaterialSpent, match="start a new session"):
        parties.data_owner.run(
            [MODEL.images[1]],
            [session.prepared[Role.DATA_OWNER]],
            model_owner=left,
            on_layer=lambda _index, _total, _name: None,
        )
    assert left.traffic().frames_sent == 0


def test_material_opens_one_image_only() -> None:
    """P1 gives nothing for a second masked image, whatever the data owner sends."""
    parties = parties_of(MODEL)
    session = Session(parties, IMAGE).run()
    session.honest()
    data_owner, model_owner = memory_pair(DATA_OWNER, MODEL_OWNER)
    data_owner.set_phase(Phase.ONLINE)
    masked = next(frame for frame in session.frames["model_owner_from_data_owner"] if frame.step == "masked image")
    data_owner.send_bytes(masked.body, step="masked image")
    with pytest.raises(MaterialSpent, match="start a new session"):
        parties.model_owner.run([session.prepared[Role.MODEL_OWNER]], data_owner=model_owner)
    assert model_owner.traffic().frames_sent == 0


def test_what_is_held_shows_nothing() -> None:
    session = Session(parties_of(MODEL), IMAGE).run()
    session.honest()
    for prepared in session.prepared.values():
        text = repr(prepared)
        assert "array" not in text
        assert len(text) < 400
