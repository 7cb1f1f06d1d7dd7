"""What each party keeps on disk of a prepared item, and how the item is made again from it.

    P0  its seed, the deal tag, the hash of what    everything else is drawn from the seeds again
        it sent ahead, the seed of its second
        input mask, its output share
    P1  its seed, the deal tag, the hash of what    for each move in the order of the walk: corrections, hidden share
        P0 sent ahead, the model seed, what D
        said of the item, and all that D and P0
        sent it in the offline phase

Both are lists of bodies whose lengths follow from the plan, so that a file of another length is refused unread. Where
they are kept, and that they are used once, is `secure_computation.stock_folder`'s concern.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from contract.errors import Refused
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.session.decoys import (
    audit_bytes,
    count_layers,
    mask_twice,
    pack_audit,
    parse_audit,
)
from secure_computation.engines.masked.session.redrawing import redraw_data_owner
from secure_computation.engines.masked.session.roles import ModelOwnerItem, ModelOwnerOffline, output_layout
from secure_computation.engines.masked.session.sides import DataOwnerItem, PreparedModelOwner
from secure_computation.engines.masked.session.walk import Move
from secure_computation.material import ItemName
from secure_computation.plan import Plan
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.randomness import SEED_BYTES, Seed
from secure_computation.ring import reduce_to_ring
from secure_computation.stock_folder import Body
from secure_computation.wire import TAG_BYTES

_HASH_BYTES = 32
_SOURCE = "the stocked file"
_STEP = "stocked material"


def stockable(plan: Plan) -> MaskedLowering:
    """The lowering whose material can be stocked. Raises Refused for a plan without one."""
    if plan.engines.masked is None:
        raise Refused("this model cannot be evaluated by the masked engine, so no material can be prepared for it")
    return plan.engines.masked


def deal_tag_of(bodies: Sequence[Body]) -> bytes:
    """The deal tag, of what either party keeps."""
    return bodies[1].tobytes()


def _uploads_of(bodies: Sequence[Body]) -> str:
    """The hash of what P0 sent ahead, of what either party keeps."""
    return bodies[2].tobytes().hex()


# P0, the data owner


def data_owner_sizes(lowering: MaskedLowering) -> tuple[int, ...]:
    """Lengths in bytes of what P0 keeps."""
    return (SEED_BYTES, TAG_BYTES, _HASH_BYTES, SEED_BYTES, output_layout(lowering).body_bytes)


def data_owner_bodies(lowering: MaskedLowering, item: DataOwnerItem) -> Iterator[Body]:
    """What P0 keeps of an unused item."""
    yield _seed_body(item.seed)
    yield _body(item.deal_tag)
    yield _body(bytes.fromhex(item.uploads))
    yield _seed_body(item.second_mask)
    layout = output_layout(lowering)
    share = reduce_to_ring(item.prepared.output_share.reshape(-1), layout.ring_bits[0])
    yield layout.pack(Bundle(rings=(share,)))


def restore_data_owner(
    lowering: MaskedLowering, bodies: Sequence[Body], *, item: ItemName, weights_version: str
) -> DataOwnerItem:
    """P0's item from what it kept. Raises PeerViolation for bodies that do not fit the plan."""
    seed = Seed(bodies[0].tobytes())
    share = output_layout(lowering).unpack(bodies[4], peer=_SOURCE, step=_STEP).rings[0].values
    second_mask = Seed(bodies[3].tobytes())
    prepared = mask_twice(redraw_data_owner(lowering, seed=seed, item=item), lowering, second_mask, item)
    output_share = share.reshape(prepared.output_share.shape)
    return DataOwnerItem(
        item=item,
        prepared=replace(prepared, output_share=output_share),
        seed=seed,
        second_mask=second_mask,
        deal_tag=deal_tag_of(bodies),
        uploads=_uploads_of(bodies),
        weights_version=weights_version,
    )


# P1, the model owner


def model_owner_sizes(lowering: MaskedLowering) -> tuple[int, ...]:
    """Lengths in bytes of what P1 keeps."""
    audit = audit_bytes(count_layers(lowering))
    messages = (layout.body_bytes for _, layout, _ in _messages(lowering))
    return (SEED_BYTES, TAG_BYTES, _HASH_BYTES, SEED_BYTES, audit, *messages)


def model_owner_bodies(lowering: MaskedLowering, prepared: PreparedModelOwner) -> Iterator[Body]:
    """What P1 keeps of an unused item, one message at a time."""
    yield _seed_body(prepared.seed)
    yield _body(prepared.deal_tag)
    yield _body(bytes.fromhex(prepared.uploads))
    yield _seed_body(prepared.model_seed)
    yield _body(pack_audit(prepared.audit, layers=count_layers(lowering)))
    for move, layout, from_dealer in _messages(lowering):
        bundles = prepared.material.corrections if from_dealer else prepared.material.prepared
        yield layout.pack(bundles[move])


def restore_model_owner(lowering: MaskedLowering, bodies: Sequence[Body], *, item: ItemName) -> PreparedModelOwner:
    """P1's item from what it kept. Raises PeerViolation for bodies that do not fit the plan."""
    corrections: dict[Move, Bundle] = {}
    hidden: dict[Move, Bundle] = {}
    for (move, layout, from_dealer), body in zip(_messages(lowering), bodies[5:], strict=True):
        bundle = layout.unpack(body, peer=_SOURCE, step=_STEP)
        (corrections if from_dealer else hidden)[move] = bundle
    material = ModelOwnerItem(corrections=corrections, prepared=hidden)
    return PreparedModelOwner(
        item=item,
        seed=Seed(bodies[0].tobytes()),
        deal_tag=deal_tag_of(bodies),
        uploads=_uploads_of(bodies),
        model_seed=Seed(bodies[3].tobytes()),
        audit=parse_audit(bodies[4].tobytes(), source=_SOURCE),
        material=material,
    )


def _messages(lowering: MaskedLowering) -> list[tuple[Move, BundleLayout, bool]]:
    """What P1 receives offline, in the order of the walk; the last says whether the dealer sends it."""
    found: list[tuple[Move, BundleLayout, bool]] = []

    def note(move: Move, layout: BundleLayout, *, from_dealer: bool) -> Bundle:
        found.append((move, layout, from_dealer))
        return Bundle()

    ModelOwnerOffline(
        lowering,
        from_dealer=lambda move, layout: note(move, layout, from_dealer=True),
        from_data_owner=lambda move, layout: note(move, layout, from_dealer=False),
    ).collect()
    return found


def _seed_body(seed: Seed) -> Body:
    return np.frombuffer(seed.reveal_to_stock(), np.uint8)


def _body(content: bytes) -> Body:
    return np.frombuffer(content, np.uint8)
