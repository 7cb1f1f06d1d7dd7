"""Tuples for a script that nobody knows beforehand: each is asked for at the moment it is needed.

    D                             P0, rank 0                  P1, rank 1
    ---------------------------   -------------------------   -----------------------------------
    a fresh seed to each
    for each tuple:
                                  names it                    names it
    goes on if both are the same
    the correction to P1          draws its shares            draws its shares, takes the correction

D learns the script's operations and shapes, and nothing else: no party sends it a value. If the two scripts part ways,
D ends the session before either party computes with tuples that do not belong together. A step of the parties' seeds
belongs to one tuple, so a correlation is used once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from contract.errors import EncryptedInferenceError, PeerViolation
from secure_computation.channel.channel import Channel
from secure_computation.crypten_bridge.communicator import DATA_OWNER_RANK
from secure_computation.crypten_bridge.dealing import (
    PartyRandomness,
    Product,
    Request,
    Share,
    TripleRequest,
    deal,
    describe,
    expand,
)
from secure_computation.crypten_bridge.provider import TupleSource
from secure_computation.randomness import Seed
from secure_computation.wire import MAX_DIMENSIONS

ITEM: Final = "crypten script"
"""Name of a session's material. Both seeds are fresh for each session, so one name serves all."""
MOST_TUPLES: Final = 1 << 22
"""Of one session."""
MOST_ELEMENTS: Final = 1 << 27
"""Of one tuple, all its tensors together: 1 GiB."""
MOST_PRODUCTS: Final = 1 << 36
"""Multiplications of ring elements for one tuple: about a minute of D's time."""
_REQUEST: TypeAdapter[Request] = TypeAdapter(Request)


@dataclass(frozen=True)
class DealerEnds:
    """D's channels to both parties, by rank."""

    data_owner: Channel
    model_owner: Channel

    def both(self) -> tuple[Channel, Channel]:
        """In the order of ranks."""
        return self.data_owner, self.model_owner


def deal_on_request(ends: DealerEnds) -> int:
    """D: serve one session until both parties end it. Returns how many tuples were dealt.

    Raises PeerViolation if a party asks for what cannot be dealt or the two ask for different tuples; both parties
    are told.
    """
    try:
        return _deal(ends)
    except EncryptedInferenceError as error:
        for channel in ends.both():
            channel.send_error(error.code, str(error), step="end of session")
        raise


def _deal(ends: DealerEnds) -> int:
    seeds = [Seed.fresh(), Seed.fresh()]
    for channel, seed in zip(ends.both(), seeds, strict=True):
        channel.send_seed(seed.reveal_to_channel(), step="seed")
    for step in range(MOST_TUPLES):
        first, second = (_receive_request(channel, step) for channel in ends.both())
        if first != second:
            raise PeerViolation(
                f"the two parties' scripts part ways at tuple {step}: rank 0 asks for {_name(first)}, rank 1 for "
                f"{_name(second)}; run the same script on both sides"
            )
        if first is None:
            return step
        parties = [PartyRandomness(seed, item=ITEM, step=step) for seed in seeds]
        with torch.inference_mode():
            correction = deal(first, *parties)
        ends.model_owner.send_tensor(correction.numpy(), step=f"correction {step}")
    raise PeerViolation(f"a session may use {MOST_TUPLES} tuples: begin a new one for the rest of the script")


def _receive_request(channel: Channel, step: int) -> Request | None:
    """The tuple that a party asks for next; None: it has ended. Raises PeerViolation for what D will not deal."""
    asked = channel.receive_hello(step=f"tuple {step}").get("tuple")
    if asked is None:
        return None
    try:
        request = _REQUEST.validate_python(asked)
    except ValidationError:
        raise PeerViolation(f"{channel.peer} asked for something that is no tuple: run the same version") from None
    return require_dealable(request)


def require_dealable(request: Request) -> Request:
    """The request itself. Raises PeerViolation if its shapes do not fit each other, or it takes too much to deal."""
    shapes: Sequence[tuple[int, ...]] = [request.output]
    products = math.prod(request.output)
    if isinstance(request, TripleRequest):
        shapes = [request.left, request.right, request.output]
        products = _count_products(request)
    if any(len(shape) > MAX_DIMENSIONS for shape in shapes):
        raise PeerViolation(f"CrypTen's tensors have at most {MAX_DIMENSIONS} dimensions here: reshape to fewer")
    elements = sum(math.prod(shape) for shape in shapes)
    if elements > MOST_ELEMENTS or products > MOST_PRODUCTS:
        raise PeerViolation(
            f"a tuple of {elements} elements and {products} products is more than one request may ask for "
            f"({MOST_ELEMENTS} and {MOST_PRODUCTS}): compute on smaller parts"
        )
    if isinstance(request, TripleRequest) and _output_shape(request) != request.output:
        raise PeerViolation(f"the shapes of a product do not fit each other: {describe(request)}")
    return request


def _output_shape(request: TripleRequest) -> tuple[int, ...] | None:
    """What the product's shape is; None if the factors do not fit each other."""
    left, right = (torch.empty(shape, dtype=torch.int64, device="meta") for shape in (request.left, request.right))
    try:
        return tuple(request.multiply(left, right).shape)
    except (RuntimeError, ValueError):  # torch's, for shapes and options that do not fit
        return None


def _count_products(request: TripleRequest) -> int:
    """Multiplications that the bilinear map takes, at most."""
    outputs, per_output = math.prod(request.output), 1
    match request.product:
        case Product.MUL:
            pass
        case Product.MATMUL:
            per_output = request.left[-1] if request.left else 1
        case Product.CONV2D:
            per_output = math.prod(request.right[1:])
        case Product.CONV_TRANSPOSE2D:
            outputs, per_output = math.prod(request.left), math.prod(request.right[1:])
    return outputs * per_output


def _name(request: Request | None) -> str:
    return "the end" if request is None else describe(request)


class AskingProvider(TupleSource):
    """P0 or P1: CrypTen's tuple provider in a script's session."""

    def __init__(self, *, rank: int, dealer: Channel) -> None:
        """Receive this party's seed from D."""
        super().__init__()
        self._rank = rank
        self._dealer = dealer
        self._seed = Seed(dealer.receive_seed(step="seed"))
        self._next = 0

    def take(self, request: Request) -> tuple[Share, ...]:
        require_dealable(request)
        step = self._next
        self._next += 1
        self._dealer.send_hello({"tuple": request.model_dump(mode="json")}, step=f"tuple {step}")
        party = PartyRandomness(self._seed, item=ITEM, step=step)
        if self._rank == DATA_OWNER_RANK:
            return expand(request, party, None)
        received = self._dealer.receive_tensor(request.output, np.int64, step=f"correction {step}")
        return expand(request, party, torch.from_numpy(received))

    def end(self) -> None:
        """Tell D that this party needs no further tuples."""
        self._dealer.send_hello({"tuple": None}, step=f"tuple {self._next}")
