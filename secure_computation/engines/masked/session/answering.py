"""P0, online: the answers to P1's openings, in order. D runs the same to state the right answers of a decoy."""

from collections.abc import Sequence

from secure_computation.engines.interface import OnLayer
from secure_computation.engines.masked.session.activation import ActivationAsP0
from secure_computation.engines.masked.session.lines import Line
from secure_computation.engines.masked.session.roles import PreparedDataOwner
from secure_computation.engines.masked.session.walk import Move
from secure_computation.protocols.compared_layer import LayerAsP0
from secure_computation.protocols.dithered_truncation import DitheredTruncationAsP0
from secure_computation.protocols.label import LabelAsP0
from secure_computation.protocols.product import ProductAsP0


def answer_openings(
    lines: Sequence[Line], items: Sequence[PreparedDataOwner], on_layer: OnLayer
) -> tuple[LabelAsP0, ...]:
    """Answer everything that P1 opens, of each item on its own line, layer by layer.

    Where the output is a label: its parts, which only lack P1's share.
    """
    total = len(items[0].layers)
    for index, layers in enumerate(zip(*(item.layers for item in items), strict=True)):
        on_layer(index, total, layers[0][0].step)
        labels = []
        for line, (move, part) in zip(lines, layers, strict=True):  # in the order in which P1 opens them
            if isinstance(part, LabelAsP0):
                labels.append((move, part))
            else:
                _answer(line, move, part)
        if labels:
            return _answer_labels(lines, labels)
    return ()


def _answer(line: Line, move: Move, part: LayerAsP0 | DitheredTruncationAsP0 | ProductAsP0 | ActivationAsP0) -> None:
    """Receive P1's opening of one move of one image, and answer it; part by part, if the layer crosses in parts."""
    for shape in part.shape.shapes_of_parts if isinstance(part, LayerAsP0) else (part.shape,):
        opening = line.receive(shape.from_p1, step=f"opening, {move}")
        if isinstance(part, ActivationAsP0):
            answer = part.answer(opening, line, step_name=f"CrypTen, {move}")
        else:
            answer = part.answer(opening)
        line.send(shape.from_p0, answer, step=f"answer, {move}")
    if isinstance(part, LayerAsP0 | ProductAsP0):
        part.release()


def _answer_labels(lines: Sequence[Line], labels: Sequence[tuple[Move, LabelAsP0]]) -> tuple[LabelAsP0, ...]:
    """The products by which the label of each image is found."""
    move, first = labels[0]
    parts = tuple(part for _, part in labels)
    for line, part in zip(lines, parts, strict=True):
        part.open(line.receive(first.shape.opening, step=f"opening, {move}"))
    for index in range(len(first.shape.widths)):
        layout, step = first.shape.layer(index), f"products {index}, {move}"
        for line, part in zip(lines, parts, strict=True):
            line.send(layout, part.answer(line.receive(layout, step=step)), step=step)
    return parts
