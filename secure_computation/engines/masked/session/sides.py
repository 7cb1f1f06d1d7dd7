"""The masked engine's sides of a session: the walk's roles, on channels.

D                          P0, data owner                         P1, model owner
------------------------   ------------------------------------   ---------------------------------------------
offline
                                                           <--    name of the weights' version
model seed, s1, tag                                        -->
s0, seed of rho_x,
tag                 -->
                           tag; name of the Delta it keeps -->
                                                           <--    tag; name of this Delta, and it, if P0 lacks it
corrections, by move; what
the item is                                                -->
                           hidden shares, by move          -->
online
                           masked image                    -->
                           for each comparison or product: <--    opening
                                                           -->    (answer)
                           where CrypTen computes: its     <->    openings, before the answer
                           signature over what crossed     -->    (session_statements)
output
                                                           <--    its share of the logits, cut to their ring

Some items are decoys, by which P1 checks P0 and which give no output: see `decoys`.

Online, a session may evaluate several images, each with an item of its own. Both sides take the images through the
same comparison one after the other before they go on to the next (see `turns`), so n images take the trips of one.

If the plan gives a label, no logits are opened; `protocols.label` says why it is private. In place of P1's share of the
logits:
                                                           <--    opening of all differences of logits
                           for each layer of products:     <->    masked factors
output
                                                           <--    its share of the label

If the plan has a heat map, P1 sends its share of that after its share of the logits.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.errors import PeerViolation
from contract.identity import Role
from contract.violation import Sender, hash_messages
from secure_computation.channel.channel import Channel
from secure_computation.deal_tag import derive_deal_tag, receive_deal_tag, require_same_deal, send_deal_tag
from secure_computation.engines.interface import Audited, Label, OnAudits, OnHeatMap, OnLayer, Reply, SignDecoy
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights, quantise_image, read_logits
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import LinearStep, Step, TruncateStep
from secure_computation.engines.masked.session.activation import ActivationAsP1
from secure_computation.engines.masked.session.answering import answer_openings
from secure_computation.engines.masked.session.decoys import (
    AUDIT_STEP,
    Audit,
    DecoyCheck,
    DecoyItem,
    DecoyLine,
    audit_bytes,
    checked,
    count_layers,
    deal_audit,
    draw_second_mask,
    mask_twice,
    parse_audit,
    read_audit_share,
    toss_coin,
)
from secure_computation.engines.masked.session.lines import ChannelLine, Line, receive_bundle, send_bundle
from secure_computation.engines.masked.session.roles import (
    DataOwnerOffline,
    DealerPass,
    Meanwhile,
    ModelOwnerItem,
    ModelOwnerOffline,
    ModelOwnerOnline,
    OpenedShape,
    PreparedDataOwner,
    PreparedMaps,
    find_input,
    input_layout,
    mask_image,
    output_layout,
)
from secure_computation.engines.masked.session.step_shapes import heat_map_shape
from secure_computation.engines.masked.session.turns import Pause, in_turns
from secure_computation.engines.masked.session.walk import Move
from secure_computation.engines.masked.session.weights import (
    derive_model_seed,
    draw_mask,
    held_small,
    linear_steps,
    mask_step,
    name_deltas,
    prepare_maps,
    receive_deltas,
    send_deltas,
    shape_bias,
)
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.compared_layer import LayerAsP0
from secure_computation.protocols.draws import RingElements
from secure_computation.protocols.heat_map import open_heat_map, share_heat_map
from secure_computation.protocols.label import LabelAsP0, LabelAsP1
from secure_computation.randomness import Seed
from secure_computation.ring import reduce_to_ring, signed
from secure_computation.session_statements import SessionSigning, SessionWitness, sum_up
from secure_computation.transcript import Transcript, transcripts
from secure_computation.wire import Phase

_MOST_UNREAD: Final = 16 << 20
"""Bytes of corrections that P1 takes in ahead of what it has read."""
VERSION_NAME: Final = re.compile(r"[0-9a-f]{32}")
"""Name of one version of a model owner's weights, drawn at random at import. Public."""


OnStep: TypeAlias = Callable[[Step], None]
"""Progress: called before each step of each image."""


def _read_version_name(fields: Mapping[str, object], channel: Channel) -> str:
    name = fields.get("weights")
    if not isinstance(name, str) or not VERSION_NAME.fullmatch(name):
        raise PeerViolation(f"{channel.peer} did not name its weights; update it to the same version")
    return name


# D, the dealer


class MaskedDealer:
    """D's side of one plan."""

    def __init__(
        self, lowering: MaskedLowering, *, key: Seed, threads: int = 1, toss: Callable[[float], bool] = toss_coin
    ) -> None:
        """Deal for `lowering`; `key` is the dealer's own, from which the seeds of weight masks come.

        `threads`, at each party: most that one product of weights may use. `toss`: whether an item is a decoy.
        """
        self._lowering = lowering
        self._key = key
        self._threads = threads
        self._toss = toss
        self._masks: tuple[tuple[str, str], PreparedMaps] | None = None

    def deal(
        self, channel: Channel, *, to: Role, item: ItemName, seeds: DealtSeeds, sign: SignDecoy | None = None
    ) -> None:
        """See DealerSide."""
        if to is Role.DATA_OWNER:
            channel.send_seed(seeds.data_owner.reveal_to_channel(), step="seed")
            channel.send_seed(seeds.second_mask.reveal_to_channel(), step="seed of the second mask")
            send_deal_tag(channel, derive_deal_tag(seeds, item))
            return
        hello = channel.receive_hello(step="weights version")
        version, share = _read_version_name(hello, channel), read_audit_share(hello, peer=str(channel.peer))
        organisation = channel.peer.organisation
        model_seed = derive_model_seed(
            self._key, model_owner=organisation, version_name=version, lowering=self._lowering
        )
        channel.send_seed(model_seed.reveal_to_channel(), step="model seed")
        channel.send_seed(seeds.model_owner.reveal_to_channel(), step="seed")
        send_deal_tag(channel, derive_deal_tag(seeds, item))

        def send(move: Move, layout: BundleLayout, bundle: Bundle) -> None:
            send_bundle(channel, layout, bundle, step=f"correction, {move}")

        masks = self._prepared((organisation, version), model_seed)
        decoy = self._toss(share) if share else None
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit") as beside:  # P1 waits for both
            audit = beside.submit(deal_audit, self._lowering, seeds, item, decoy=decoy, sign=sign)
            DealerPass(self._lowering, masks, p0=seeds.data_owner, p1=seeds.model_owner, item=item, send=send).run()
            channel.send_bytes(audit.result(), step=AUDIT_STEP)

    def _prepared(self, version: tuple[str, str], model_seed: Seed) -> PreparedMaps:
        """A, laid out; kept for the version served last, since laying out takes longer than dealing."""
        kept = self._masks
        if kept is None or kept[0] != version:
            maps = prepare_maps(self._lowering, partial(draw_mask, model_seed), threads=self._threads)
            kept = (version, maps)
            self._masks = kept
        return kept[1]


# P0, the data owner


class DeltaStore(Protocol):
    """Where the data owner keeps masked weights. What it keeps is uniform without the dealer's seed."""

    def load(self, model_owner: str, version: str, lowering: MaskedLowering) -> dict[str, RingElements] | None:
        """Delta of each linear step, or None. The caller may empty what it is given."""
        ...

    def save(
        self, model_owner: str, version: str, lowering: MaskedLowering, deltas: Mapping[str, RingElements]
    ) -> None:
        """Keep Delta."""
        ...

    def newest(self, model_owner: str, lowering: MaskedLowering) -> str | None:
        """Name of the version that is kept for a model owner and plan, if any."""
        ...


@dataclass(frozen=True, kw_only=True)
class DataOwnerItem:
    """P0's material of one item."""

    item: ItemName
    prepared: PreparedDataOwner = field(repr=False)
    seed: Seed
    second_mask: Seed
    """As dealt, both: all of `prepared` but the output share follows from them (see `stock`)."""
    deal_tag: bytes = field(repr=False)
    uploads: str = field(repr=False)
    """`hash_messages` of the hidden shares that were sent."""
    weights_version: str
    """Which masked weights it was prepared with (`name_deltas`)."""


class MaskedDataOwner:
    """P0's side of one plan."""

    def __init__(self, lowering: MaskedLowering, *, store: DeltaStore, threads: int = 1) -> None:
        """Evaluate `lowering`, keeping masked weights in `store`."""
        self._lowering = lowering
        self._store = store
        self._threads = threads
        self._deltas: tuple[tuple[str, str], PreparedMaps] | None = None

    def get_ready(self, model_owner: str) -> None:
        """See DataOwnerSide: lay out the masked weights that are kept."""
        if self._deltas is None or self._deltas[0][0] != model_owner:
            version = self._store.newest(model_owner, self._lowering)
            if version is not None:
                self._lay_out(model_owner, version)

    def _lay_out(self, model_owner: str, version: str) -> PreparedMaps | None:
        """Delta of a version that is kept, or None if it is not, laid out. Kept for the next image."""
        loaded = self._store.load(model_owner, version, self._lowering)
        if loaded is None:
            return None
        # Each leaves the memory to the next: fresh memory takes longer than what is computed in it.
        maps = prepare_maps(self._lowering, lambda _, step: loaded.pop(step.name), threads=self._threads)
        self._deltas = ((model_owner, version), maps)
        return maps

    def prepare(
        self, *, item: ItemName, dealer: Channel, model_owner: Channel, patience_seconds: float
    ) -> DataOwnerItem:
        """See DataOwnerSide."""
        seed = Seed(dealer.receive_seed(step="seed"))
        second_mask = Seed(dealer.receive_seed(step="seed of the second mask"))
        tag = receive_deal_tag(dealer)
        version, deltas = self._fetch_deltas(model_owner, patience_seconds, tag)

        line = ChannelLine(model_owner, sent := Transcript(Sender.DATA_OWNER))

        def send(move: Move, layout: BundleLayout, bundle: Bundle) -> None:
            line.send(layout, bundle, step=f"hidden share, {move}")

        prepared = DataOwnerOffline(self._lowering, deltas, seed=seed, item=item, send=send).prepare()
        return DataOwnerItem(
            item=item,
            prepared=mask_twice(prepared, self._lowering, second_mask, item),
            seed=seed,
            second_mask=second_mask,
            deal_tag=tag,
            uploads=hash_messages(sent.messages()),
            weights_version=version,
        )

    def _fetch_deltas(self, channel: Channel, patience_seconds: float, tag: bytes) -> tuple[str, PreparedMaps]:
        owner = channel.peer.organisation
        # What is laid out in memory is not read from the store again for each image.
        known_owner, known_version = self._deltas[0] if self._deltas else (None, None)
        kept = known_version if known_owner == owner else self._store.newest(owner, self._lowering)
        send_deal_tag(channel, tag)
        channel.send_hello({"weights": kept}, step="masked weights kept")
        # The model owner may still collect the item before this one from the dealer.
        hello = channel.receive_hello(step="masked weights", wait_seconds=patience_seconds)
        require_same_deal(tag, receive_deal_tag(channel), channel)
        version = _read_version_name(hello, channel)
        if version != kept:
            received = receive_deltas(
                self._lowering,
                lambda step, layout: receive_bundle(channel, layout, step=f"masked weights, {step.name}"),
            )
            self._store.save(owner, version, self._lowering, received)
        laid_out = self._deltas[1] if self._deltas and self._deltas[0] == (owner, version) else None
        laid_out = laid_out or self._lay_out(owner, version)
        if laid_out is None:
            raise PeerViolation(f"the masked weights of {channel.peer} were not kept; start a new session")
        return version, laid_out

    def draw_ahead(self, prepared: DataOwnerItem) -> None:
        """See DataOwnerSide. Takes some 50 bytes of memory a comparison until its layer is answered."""
        for _, part in prepared.prepared.layers:
            if isinstance(part, LayerAsP0):
                part.expand()

    def run(
        self,
        images: Sequence[NDArray[np.float32]],
        prepared: Sequence[DataOwnerItem],
        *,
        model_owner: Channel,
        on_layer: OnLayer,
        on_heat_map: OnHeatMap | None = None,
        signing: SessionSigning | None = None,
    ) -> tuple[Reply, ...]:
        """See DataOwnerSide."""
        channel, items = model_owner, [item.prepared for item in prepared]
        channel.set_phase(Phase.ONLINE)
        step = find_input(self._lowering)
        integers = [quantise_image(self._lowering, image) for image in images]
        masked = [mask_image(step, image, item) for image, item in zip(integers, items, strict=True)]
        for bundle in masked:
            send_bundle(channel, input_layout(step), bundle, step="masked image")
        with transcripts(Sender.DATA_OWNER, len(items), kept=signing is not None) as noted:
            labels = answer_openings([ChannelLine(channel, one) for one in noted], items, on_layer)
            if signing is not None:
                signing.send(channel, [sum_up(item, one) for item, one in zip(prepared, noted, strict=True)])
        channel.set_phase(Phase.OUTPUT)
        if labels:
            return tuple(_open_label(part, channel) for part in labels)
        return tuple(self._open(item, channel, on_heat_map) for item in items)

    def _open(
        self, mine: PreparedDataOwner, channel: Channel, on_heat_map: OnHeatMap | None
    ) -> NDArray[np.float64] | Audited:
        # reveal: the data owner, and nobody else, learns the logits. That is the purpose of the computation.
        opened = _receive_output(channel, output_layout(self._lowering), step="output share")
        if opened is None:
            return Audited()
        other = opened.rings[0]
        total_share = reduce_to_ring(other.values + mine.output_share.reshape(-1), other.bits)
        if self._lowering.heat_map is not None and mine.heat_map_share is not None:
            heat_map = self._open_heat_map(self._lowering.heat_map, mine.heat_map_share, channel)
            if on_heat_map is not None:
                on_heat_map(heat_map)
        return read_logits(self._lowering, signed(total_share).astype(np.int64))

    def _open_heat_map(self, step: TruncateStep, mine: RingElements, channel: Channel) -> NDArray[np.float64]:
        shape = heat_map_shape(step, self._lowering.arithmetic)
        other = receive_bundle(channel, shape.opened, step="heat map share")
        # reveal: the data owner, and nobody else, learns the truncated map, because the model's owner allows it.
        return open_heat_map(shape, other, mine) / step.value.scale


def _receive_output(channel: Channel, layout: BundleLayout, *, step: str) -> Bundle | None:
    """P1's share of an output; None if it says that the item was a decoy."""
    body = np.empty(layout.body_bytes, np.uint8)
    if not channel.receive_into_or_end(body.data, step=step, end_step=AUDIT_STEP):
        return None
    return layout.unpack(body, peer=str(channel.peer), step=step)


def _open_label(part: LabelAsP0, channel: Channel) -> Label | Audited:
    opened = _receive_output(channel, part.shape.label, step="label share")
    return Audited() if opened is None else Label(part.finish(opened))


# P1, the model owner


class MaskedModelOwner:
    """P1's side of one plan."""

    def __init__(
        self,
        lowering: MaskedLowering,
        weights: IntegerWeights,
        *,
        version: str,
        threads: int = 1,
        audit_share: float = 0.0,
    ) -> None:
        """Evaluate `lowering` with private integer weights; `version` names them.

        `audit_share`: of the items, this share are decoys; 0 to 0.5.
        """
        self._lowering = lowering
        self._threads = threads
        self._audit_share = audit_share
        self._weights = held_small(weights)
        self._version = version
        self._maps = prepare_maps(lowering, lambda _, step: weights[step.weight_name], threads=threads)
        self._biases = {step.name: shape_bias(step, weights) for _, step in linear_steps(lowering)}

    def prepare(self, *, item: ItemName, dealer: Channel, data_owner: Channel) -> "PreparedModelOwner":
        """See ModelOwnerSide."""
        dealer.send_hello({"weights": self._version, "audit_share": self._audit_share}, step="weights version")
        model_seed = Seed(dealer.receive_seed(step="model seed"))
        seed, tag = Seed(dealer.receive_seed(step="seed")), receive_deal_tag(dealer)
        self._serve_deltas(data_owner, model_seed, tag)

        def from_dealer(move: Move, layout: BundleLayout) -> Bundle:
            return receive_bundle(dealer, layout, step=f"correction, {move}")

        line = ChannelLine(data_owner, came := Transcript(Sender.MODEL_OWNER))

        def from_data_owner(move: Move, layout: BundleLayout) -> Bundle:
            return line.receive(layout, step=f"hidden share, {move}")

        collected = ModelOwnerOffline(self._lowering, from_dealer=from_dealer, from_data_owner=from_data_owner)
        with dealer.held_back(_MOST_UNREAD):  # D deals faster than P0 prepares: an item would wait here whole
            material = collected.collect()
        told = dealer.receive_bytes(audit_bytes(count_layers(self._lowering)), step=AUDIT_STEP)
        return PreparedModelOwner(
            item=item,
            seed=seed,
            deal_tag=tag,
            uploads=hash_messages(came.messages()),
            model_seed=model_seed,
            audit=parse_audit(told, source=str(dealer.peer)),
            material=material,
        )

    def _serve_deltas(self, channel: Channel, model_seed: Seed, tag: bytes) -> None:
        other = receive_deal_tag(channel)
        kept = channel.receive_hello(step="masked weights kept").get("weights")
        name = name_deltas(model_seed, self._version)
        channel.send_hello({"weights": name}, step="masked weights")
        send_deal_tag(channel, tag)  # before it is compared: each party says by itself what is wrong
        require_same_deal(tag, other, channel)
        if kept == name:
            return

        def send(step: LinearStep, layout: BundleLayout, bundle: Bundle) -> None:
            send_bundle(channel, layout, bundle, step=f"masked weights, {step.name}")

        send_deltas(self._lowering, self._weights, model_seed, send)

    def run(
        self,
        prepared: Sequence["PreparedModelOwner"],
        *,
        data_owner: Channel,
        on_audits: OnAudits | None = None,
        on_step: OnStep | None = None,
        witness: SessionWitness | None = None,
    ) -> None:
        """See ModelOwnerSide."""
        channel = data_owner
        channel.set_phase(Phase.ONLINE)
        layout = input_layout(find_input(self._lowering))
        images = [self._unmask(item, receive_bundle(channel, layout, step="masked image")) for item in prepared]
        with transcripts(Sender.MODEL_OWNER, len(prepared), kept=witness is not None) as noted:
            checks = [self._check(item, channel, one) for item, one in zip(prepared, noted, strict=True)]
            lines = [
                ChannelLine(channel, one) if check is None else check.line
                for check, one in zip(checks, noted, strict=True)
            ]
            decoys = [check for check in checks if check is not None]
            with checked(decoys, peer=str(channel.peer), on_audits=on_audits):
                walked = in_turns(
                    [
                        partial(self._walk, item, image, line, on_step)
                        for item, image, line in zip(prepared, images, lines, strict=True)
                    ]
                )
                labels = [(*walk.label_to_open, share) for walk, share in walked if walk.label_to_open is not None]
                if labels:
                    _multiply_labels(lines, labels)
                if witness is not None:
                    witness.receive(channel, [sum_up(item, one) for item, one in zip(prepared, noted, strict=True)])
        channel.set_phase(Phase.OUTPUT)
        for index, (walk, share) in enumerate(walked):
            if checks[index] is not None:
                channel.send_end(step=AUDIT_STEP)
            elif labels:
                _give_label(channel, labels[index][1])
            else:
                self._give_output(channel, share, walk.heat_map)

    def _unmask(self, item: "PreparedModelOwner", image: Bundle) -> Bundle:
        """V = v' + rho_x. For a decoy P1 lacks rho_x, and computes on with v' so that it takes the same time."""
        if isinstance(item.audit, DecoyItem):
            return image
        step = find_input(self._lowering)
        second_mask = draw_second_mask(step, item.audit.second_mask, item.item).reshape(-1)
        return Bundle(rings=(reduce_to_ring(image.rings[0].values + second_mask, step.value.ring_bits),))

    def _check(self, item: "PreparedModelOwner", channel: Channel, noted: Transcript | None) -> DecoyCheck | None:
        """What is needed to check the data owner, if the item is a decoy."""
        if not isinstance(item.audit, DecoyItem):
            return None

        def prepare_deltas() -> PreparedMaps:
            def find(number: int, step: LinearStep) -> NDArray[np.uint32]:
                return mask_step(self._weights, item.model_seed, number, step).values

            return prepare_maps(self._lowering, find, threads=self._threads)

        return DecoyCheck(
            lowering=self._lowering,
            item=item.item,
            decoy=item.audit,
            line=DecoyLine(channel, seed=item.seed, item=item.item, noted=noted),
            uploads=dict(item.material.prepared),
            prepare_deltas=prepare_deltas,
        )

    def _walk(
        self,
        item: "PreparedModelOwner",
        image: Bundle,
        line: Line,
        on_step: OnStep | None,
        pause: Pause,
    ) -> tuple[ModelOwnerOnline, RingElements]:
        """Evaluate on one masked image; other images have their turn while this one's answer is on its way."""

        def exchange(openings: Iterable[tuple[Move, OpenedShape, Bundle]], meanwhile: Meanwhile) -> Iterator[Bundle]:
            sent = []
            for move, shape, opening in openings:
                line.send(shape.from_p1, opening, step=f"opening, {move}")
                sent.append((move, shape))
            meanwhile()
            pause()
            return (line.receive(shape.from_p0, step=f"answer, {move}") for move, shape in sent)

        def activate(move: Move, part: ActivationAsP1, half: RingElements) -> RingElements:
            pause()  # CrypTen's own messages go to and fro: first, every image has its last answer
            line.send(part.shape.from_p1, part.open(half), step=f"opening, {move}", answered=False)
            part.compute(line, step_name=f"CrypTen, {move}")
            result = part.finish(line.receive(part.shape.from_p0, step=f"answer, {move}"))
            pause()
            return result

        walk = ModelOwnerOnline(
            self._lowering,
            self._maps,
            self._biases,
            item.material,
            seed=item.seed,
            name=item.item,
            image=image,
            exchange=exchange,
            activate=activate,
        )
        return walk, walk.run(on_step)

    def _give_output(self, channel: Channel, share: RingElements, heat_map: RingElements | None) -> None:
        layout = output_layout(self._lowering)
        # reveal: to the data owner only, and cut to its ring: an uncut share would tell row sums of the weights.
        cut = reduce_to_ring(share.reshape(-1), layout.ring_bits[0])
        send_bundle(channel, layout, Bundle(rings=(cut,)), step="output share")
        if heat_map is not None and self._lowering.heat_map is not None:
            shape = heat_map_shape(self._lowering.heat_map, self._lowering.arithmetic)
            # reveal: to the data owner only, cut to its ring, after truncation.
            send_bundle(channel, shape.opened, share_heat_map(shape, heat_map), step="heat map share")


def _multiply_labels(lines: Sequence[Line], labels: Sequence[tuple[Move, LabelAsP1, RingElements]]) -> None:
    """`labels`: of each image, the move that opens its label, P1's part of it, its half of the logits."""
    (move, first, _), parts = labels[0], [part for _, part, _ in labels]
    shape = first.shape
    for line, (_, part, logits_half) in zip(lines, labels, strict=True):
        line.send(shape.opening, part.open(logits_half), step=f"opening, {move}", answered=False)
    for index in range(len(shape.widths)):
        layout, step = shape.layer(index), f"products {index}, {move}"
        for line, part in zip(lines, parts, strict=True):
            line.send(layout, part.mask(), step=step)
        for line, part in zip(lines, parts, strict=True):
            part.multiply(line.receive(layout, step=step))


def _give_label(channel: Channel, part: LabelAsP1) -> None:
    # reveal: to the data owner only: with its own share, the label and nothing else.
    send_bundle(channel, part.shape.label, part.label(), step="label share")


@dataclass(frozen=True, kw_only=True)
class PreparedModelOwner:
    """P1's material of one item."""

    item: ItemName
    seed: Seed
    deal_tag: bytes = field(repr=False)
    uploads: str = field(repr=False)
    """`hash_messages` of the hidden shares that came."""
    model_seed: Seed
    """Of A: with the weights it gives the data owner's Delta."""
    audit: Audit = field(repr=False)
    """What D said of the item."""
    material: ModelOwnerItem = field(repr=False)
