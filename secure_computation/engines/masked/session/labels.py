"""The end of a session where the plan gives a label: no logits are opened. `protocols.label` says why it is private.

P0, data owner                         P1, model owner
-----------------------------------    -------------------------------------------
                                  <--  opening of all differences of logits
for each layer of products:       <->  masked factors
                                  <--  its share of the label
"""

from collections.abc import Sequence

from secure_computation.channel.channel import Channel
from secure_computation.engines.interface import Label
from secure_computation.engines.masked.session.bundles import receive_bundle, send_bundle
from secure_computation.engines.masked.session.walk import Move
from secure_computation.protocols.draws import RingElements
from secure_computation.protocols.label import LabelAsP0, LabelAsP1
from secure_computation.wire import Phase


def labels_as_p0(channel: Channel, move: Move, parts: Sequence[LabelAsP0]) -> tuple[Label, ...]:
    """P0's end: the label of each image, from its parts in order."""
    shape = parts[0].shape
    for part in parts:
        part.open(receive_bundle(channel, shape.opening, step=f"opening, {move}"))
    for index in range(len(shape.widths)):
        layout, step = shape.layer(index), f"products {index}, {move}"
        for part in parts:
            send_bundle(channel, layout, part.answer(receive_bundle(channel, layout, step=step)), step=step)
    channel.set_phase(Phase.OUTPUT)
    return tuple(Label(part.finish(receive_bundle(channel, shape.label, step="label share"))) for part in parts)


def labels_as_p1(channel: Channel, labels: Sequence[tuple[Move, LabelAsP1, RingElements]]) -> None:
    """P1's end. Of each image: where its label is opened, P1's part of it, its half of the logits."""
    (move, first, _), parts = labels[0], [part for _, part, _ in labels]
    shape = first.shape
    for _, part, logits_half in labels:
        send_bundle(channel, shape.opening, part.open(logits_half), step=f"opening, {move}")
    for index in range(len(shape.widths)):
        layout, step = shape.layer(index), f"products {index}, {move}"
        for part in parts:
            send_bundle(channel, layout, part.mask(), step=step)
        for part in parts:
            part.multiply(receive_bundle(channel, layout, step=step))
    channel.set_phase(Phase.OUTPUT)
    for part in parts:
        # reveal: to the data owner only: with its own share, the label and nothing else.
        send_bundle(channel, shape.label, part.label(), step="label share")
