"""How much of the masked engine's answers travels while the model owner still opens: from the network alone."""

from collections.abc import Iterator
from math import prod

from secure_computation.engines.masked.session.step_shapes import parts_of
from secure_computation.network import Clip, MaxPool, Network, Operation, Relu

Shape = tuple[int, ...]


def waited_share(network: Network) -> float:
    """Share of the answers' bytes that still has to come when the last opening of their layer has arrived.

    A large layer of comparisons crosses in parts: the data owner answers one while the model owner opens the next, so
    that the answer to the last part alone is waited for. 1 where every layer is one part.
    """
    counts = list(_comparisons(network))
    return sum(count / len(parts_of(count)) for count in counts) / sum(counts) if counts else 1.0


def _comparisons(network: Network) -> Iterator[int]:
    """Elements of each layer of comparisons, as `secure_computation.engines.masked.session.walk` takes them."""
    shapes = network.shapes()
    for operation in network.operations:
        yield from _of(operation, shapes[operation.inputs[0]], shapes[operation.output])


def _of(operation: Operation, given: Shape, output: Shape) -> Iterator[int]:
    match operation:
        case Relu():
            yield prod(output)
        case Clip():
            yield from (prod(output), prod(output))
        case MaxPool():
            channels, height, width = output
            padded_width = given[2] + operation.padding[1] + operation.padding[3]
            for cells, windows in zip(operation.kernel, (height * padded_width, height * width), strict=True):
                left = cells
                while left > 1:
                    pairs = left // 2
                    yield channels * windows * pairs
                    left -= pairs
        case _:
            return
