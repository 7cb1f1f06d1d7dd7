"""CrypTen's tuple provider on dealt material: each request must be the next one of the dealing list."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, assert_never

import torch

from contract.errors import MaterialSpent, PeerViolation
from secure_computation.crypten_bridge.dealing import (
    BinaryTripleRequest,
    BitRequest,
    Convolution,
    ConvolutionOptions,
    PartyRandomness,
    Product,
    Request,
    Share,
    SquareRequest,
    TransposedConvolutionOptions,
    TripleRequest,
    WrapRequest,
    describe,
    expand,
)
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.randomness import Seed


class Corrections:
    """P1's corrections of one item, in the order of the dealing list."""

    def __init__(self, tensors: Sequence[Share]) -> None:
        self._tensors: list[Share | None] = list(tensors)

    def __repr__(self) -> str:
        return "Corrections(<secret>)"

    def take(self, step: int) -> Share:
        """The correction of the request at `step`, once; its memory is then the caller's. MaterialSpent afterwards."""
        tensor = self._tensors[step]
        if tensor is None:
            raise MaterialSpent("a dealt tuple was asked for twice; start a new session")
        self._tensors[step] = None
        return tensor


class TupleSource(ABC):
    """CrypTen's interface to correlated randomness. A subclass says where the shares of a tuple come from."""

    NAME = "dealt"

    def __init__(self) -> None:
        """Find CrypTen's tensor types."""
        primitives = load_crypten().mpc.primitives
        self._arithmetic_type = primitives.ArithmeticSharedTensor
        self._binary_type = primitives.BinarySharedTensor

    @abstractmethod
    def take(self, request: Request) -> tuple[Share, ...]:
        """This party's shares of the tuple that `request` names, each used once."""

    def opened_right(self) -> torch.Tensor | None:
        """Delta = y - b of the additive triple given last, if both parties opened it before the session."""
        return None

    def _arithmetic(self, share: Share) -> Any:
        return self._arithmetic_type.from_shares(share, precision=0)

    def _binary(self, share: Share) -> Any:
        return self._binary_type.from_shares(share, precision=0)

    # CrypTen's interface: the names are its own.

    def generate_additive_triple(
        self, size0: torch.Size, size1: torch.Size, op: str, device: object = None, **options: Any
    ) -> tuple[Any, Any, Any]:
        """Shares of a, b and a * b for `op` in mul, matmul, conv2d, conv_transpose2d."""
        del device
        a, b, c = self.take(triple_request(size0, size1, op, options))
        return self._arithmetic(a), self._arithmetic(b), self._arithmetic(c)

    def square(self, size: torch.Size, device: object = None) -> tuple[Any, Any]:
        """Shares of r and r * r."""
        r, r2 = self.take(SquareRequest(output=tuple(size)))
        return self._arithmetic(r), self._arithmetic(r2)

    def generate_binary_triple(
        self, size0: torch.Size, size1: torch.Size, device: object = None
    ) -> tuple[Any, Any, Any]:
        """Binary shares of a, b and a & b, all three of the shape that both sizes broadcast to."""
        del device
        a, b, c = self.take(binary_triple_request(size0, size1))
        return self._binary(a), self._binary(b), self._binary(c)

    def wrap_rng(self, size: torch.Size, device: object = None) -> tuple[Any, Any]:
        """Shares of r and of the wraps of its sharing."""
        del device
        r, theta = self.take(WrapRequest(output=tuple(size)))
        return self._arithmetic(r), self._arithmetic(theta)

    def B2A_rng(self, size: torch.Size, device: object = None) -> tuple[Any, Any]:  # noqa: N802 - CrypTen's name
        """Arithmetic and binary shares of random bits."""
        del device
        arithmetic, binary = self.take(BitRequest(output=tuple(size)))
        return self._arithmetic(arithmetic), self._binary(binary)


class PartyProvider(TupleSource):
    """P0's and P1's tuples of one item, in the order of the dealing list."""

    def __init__(
        self,
        requests: tuple[Request, ...],
        *,
        seed: Seed,
        item: str,
        corrections: Corrections | None = None,
        opened: Mapping[int, Share] = MappingProxyType({}),
    ) -> None:
        """Take what the party was dealt.

        Args:
            requests: the dealing list.
            seed: of this party.
            item: name of the material.
            corrections: P1's, which complete its tuples. P0 has none: everything comes out of its seed.
            opened: y - b of the triples whose right factor was opened before.
        """
        super().__init__()
        self._requests = requests
        self._opened = opened
        self._next = 0
        self._seed = seed
        self._item = item
        self._corrections = corrections

    def check_finished(self) -> None:
        """Raise PeerViolation unless every dealt tuple was used."""
        if self._next != len(self._requests):
            raise PeerViolation(
                f"the computation used {self._next} of {len(self._requests)} dealt tuples; "
                "import the model again so that plan and dealing agree"
            )

    def opened_right(self) -> torch.Tensor | None:
        return self._opened.get(self._next - 1)

    def take(self, request: Request) -> tuple[Share, ...]:
        """See TupleSource. Raises PeerViolation unless the next tuple of the dealing list is the one asked for."""
        step = self._next
        dealt = self._requests[step] if step < len(self._requests) else None
        if dealt != request:
            dealt_text = "nothing more" if dealt is None else describe(dealt)
            raise PeerViolation(
                f"the computation asked for {describe(request)} but the dealing list has {dealt_text}; "
                "import the model again so that plan and dealing agree"
            )
        self._next += 1
        correction = None if self._corrections is None else self._corrections.take(step)
        return expand(request, PartyRandomness(self._seed, item=self._item, step=step), correction)


def triple_request(left: torch.Size, right: torch.Size, op: str, options: dict[str, Any]) -> TripleRequest:
    """Name an additive triple that CrypTen asks for. The output's shape follows from the map, on no data."""
    product = Product(op)
    request = TripleRequest(
        product=product, left=tuple(left), right=tuple(right), output=(), convolution=_convolution(product, options)
    )
    output = request.multiply(torch.empty(left, device="meta"), torch.empty(right, device="meta")).shape
    return request.model_copy(update={"output": tuple(output)})


def _convolution(product: Product, options: Mapping[str, Any]) -> Convolution | None:
    match product:
        case Product.MUL | Product.MATMUL:
            return None
        case Product.CONV2D | Product.CONV_TRANSPOSE2D:
            pairs = {name: _pair(value) for name, value in options.items() if name != "groups"}
            groups = options.get("groups", 1)
            if product is Product.CONV2D:
                return ConvolutionOptions(groups=groups, **pairs)
            return TransposedConvolutionOptions(groups=groups, **{"output_padding": (0, 0)} | pairs)
        case _ as never:
            assert_never(never)


def binary_triple_request(left: torch.Size, right: torch.Size) -> BinaryTripleRequest:
    """Name a binary triple that CrypTen asks for, of the shape that both sides broadcast to.

    Masks of that shape hide more than they must if a side is smaller, and each is used once all the same.
    """
    try:
        output = (torch.empty(left, device="meta") + torch.empty(right, device="meta")).shape
    except RuntimeError:
        raise PeerViolation(
            f"CrypTen asked for a binary triple of different shapes {tuple(left)} and {tuple(right)}"
        ) from None
    return BinaryTripleRequest(output=tuple(output))


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))
