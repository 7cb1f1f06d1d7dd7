"""What the dealer D deals for CrypTen's protocols, with the three roles side by side.

CrypTen asks its tuple provider for five kinds of correlated randomness. The order and the shapes of a whole session are
public and known beforehand (the *dealing list*, recorded by a dry run when the model is imported), so D can deal
everything ahead of time:

    D    draws a seed for P0 and one for P1, and derives from each what that party will derive
    P0   derives all its shares from its seed: nothing else is ever sent to it
    P1   derives all its shares from its seed but one tensor of each tuple, which D sends: the *correction*

All elements are in the ring of integers mod 2^64, as int64. Sharings are additive (x = x0 + x1) or binary
(x = x0 ^ x1). Source: CrypTen (Knott et al. 2021), section 4 and its `provider.py`; Beaver 1991 for triples.
"""

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol, TypeAlias, assert_never

from pydantic import Field

from contract.base import Strict
from secure_computation.randomness import Seed

if TYPE_CHECKING:  # a plan is read without torch, which takes a second to load
    import torch

Shape = Annotated[tuple[Annotated[int, Field(ge=0, le=1 << 31)], ...], Field(fail_fast=True)]
Share: TypeAlias = "torch.Tensor"
"""int64 share of one tensor."""

ELEMENT_BYTES: Final = 8
MAX_REQUESTS: Final = 1 << 15
"""Of one network: an EfficientNet-B0 asks for 1,512."""


class Product(StrEnum):
    """Bilinear maps that CrypTen multiplies shared tensors with."""

    MUL = "mul"
    MATMUL = "matmul"
    CONV2D = "conv2d"
    CONV_TRANSPOSE2D = "conv_transpose2d"


class ConvolutionOptions(Strict):
    """Public attributes of a conv2d, as torch takes them."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class TransposedConvolutionOptions(ConvolutionOptions):
    """Public attributes of a conv_transpose2d, as torch takes them."""

    output_padding: tuple[int, int]


Convolution: TypeAlias = TransposedConvolutionOptions | ConvolutionOptions


class TripleRequest(Strict):
    """a, b uniform, c = a * b for a bilinear `product`; additive shares of all three."""

    kind: Literal["triple"] = "triple"
    product: Product
    left: Shape
    right: Shape
    output: Shape
    convolution: Convolution | None = None

    @property
    def has_weights(self) -> bool:
        """Whether the right factor is a layer's weights: known before the image is, so opened beforehand."""
        return self.product is not Product.MUL

    def multiply(self, left: Share, right: Share) -> Share:
        """Apply the bilinear map in the ring."""
        match self.product:
            case Product.MUL:
                return left * right
            case Product.MATMUL:
                return left @ right
            case Product.CONV2D | Product.CONV_TRANSPOSE2D:
                import torch

                options = self.convolution or ConvolutionOptions()
                convolve = torch.conv2d if self.product is Product.CONV2D else torch.conv_transpose2d
                return convolve(left, right, **options.model_dump())
            case _ as never:
                assert_never(never)


class SquareRequest(Strict):
    """r uniform and r * r; additive shares of both."""

    kind: Literal["square"] = "square"
    output: Shape


class BinaryTripleRequest(Strict):
    """a, b uniform, c = a & b; binary shares of all three. Left and right have the same shape."""

    kind: Literal["binary-triple"] = "binary-triple"
    output: Shape


class BitRequest(Strict):
    """A uniform bit for each element, shared both additively and in binary."""

    kind: Literal["bit"] = "bit"
    output: Shape


class WrapRequest(Strict):
    """r uniform and how often the sum of its shares wraps around 2^64; additive shares of both."""

    kind: Literal["wrap"] = "wrap"
    output: Shape


Request = Annotated[
    TripleRequest | SquareRequest | BinaryTripleRequest | BitRequest | WrapRequest, Field(discriminator="kind")
]


def correction_bytes(request: Request) -> int:
    """Bytes of the one tensor that D sends P1 for a request."""
    return ELEMENT_BYTES * math.prod(request.output)


def count_wraps(left: Share, right: Share) -> Share:
    """How often left + right wraps around: -1, 0 or 1 for each element (signed representation)."""
    total = left + right
    under = (left < 0) & (right < 0) & (total >= 0)
    over = (left > 0) & (right > 0) & (total < 0)
    return over.long() - under.long()


class PartyRandomness:
    """Derives what one party draws from its dealt seed for the tuple at `step` of `item`."""

    def __init__(self, seed: Seed, *, item: str, step: int) -> None:
        """Bind the seed to one tuple of one item of material."""
        self._seed = seed
        self._item = item
        self._step = step

    def ring(self, label: str, shape: Shape) -> Share:
        """Uniform ring elements."""
        import torch

        return torch.from_numpy(self._seed.stream(item=self._item, step=self._step, label=label).int64(shape))

    def bits(self, label: str, shape: Shape) -> Share:
        """Uniform bits as ring elements 0 and 1."""
        import torch

        return torch.from_numpy(self._seed.stream(item=self._item, step=self._step, label=label).bits(shape)).long()


class Draws(Protocol):
    """What `expand` needs of a party's randomness; a dry run stands in with shapes."""

    def ring(self, label: str, shape: Shape) -> Share: ...
    def bits(self, label: str, shape: Shape) -> Share: ...


def deal(request: Request, p0: PartyRandomness, p1: PartyRandomness) -> Share:
    """D: derive both parties' draws and return the correction that completes P1's shares."""
    match request:
        case TripleRequest():
            a = p0.ring("a", request.left).add_(p1.ring("a", request.left))
            b = p0.ring("b", request.right).add_(p1.ring("b", request.right))
            return request.multiply(a, b).sub_(p0.ring("c", request.output))
        case SquareRequest():
            r = p0.ring("r", request.output).add_(p1.ring("r", request.output))
            return r.mul_(r.clone()).sub_(p0.ring("r2", request.output))
        case BinaryTripleRequest():
            a = p0.ring("a", request.output).bitwise_xor_(p1.ring("a", request.output))
            b = p0.ring("b", request.output).bitwise_xor_(p1.ring("b", request.output))
            return a.bitwise_and_(b).bitwise_xor_(p0.ring("c", request.output))
        case BitRequest():
            bit = p0.bits("binary", request.output).bitwise_xor_(p1.bits("binary", request.output))
            return bit.sub_(p0.ring("arithmetic", request.output))
        case WrapRequest():
            theta = count_wraps(p0.ring("r", request.output), p1.ring("r", request.output))
            return theta.sub_(p0.ring("theta", request.output))
        case _ as never:
            assert_never(never)


def expand(request: Request, party: Draws, correction: "Share | None") -> tuple[Share, ...]:
    """P0 and P1: derive a party's shares. `correction`: at P1, in place of the tensor that P0 draws last."""

    def last(label: str) -> Share:
        return party.ring(label, request.output) if correction is None else correction

    match request:
        case TripleRequest():
            return party.ring("a", request.left), party.ring("b", request.right), last("c")
        case SquareRequest():
            return party.ring("r", request.output), last("r2")
        case BinaryTripleRequest():
            return party.ring("a", request.output), party.ring("b", request.output), last("c")
        case BitRequest():
            return last("arithmetic"), party.bits("binary", request.output)
        case WrapRequest():
            return party.ring("r", request.output), last("theta")
        case _ as never:
            assert_never(never)


def describe(request: Request) -> str:
    """Name a request for error messages."""
    details: dict[str, Any] = request.model_dump(exclude={"kind"}, exclude_none=True)
    return f"{request.kind} {details}"
