"""ReLU on additive shares: CrypTen's protocol, tuple for tuple and opening for opening, in fewer passes over memory.

CrypTen writes x0 + x1 as a binary circuit (a Sklansky adder over all 64 bits), takes the sign bit of the sum, turns it
into an arithmetic share and multiplies x with it. Here are the same steps on plain tensors, in place, in pieces that
stay in the processor's cache; CrypTen's own code copies each operand several times. The resulting shares are the same
bit by bit (a test compares them).

    round   tuple                  opens, each way             computes
    -----   --------------------   -------------------------   -----------------------------------------------
    1       binary triple          2 x 8 bytes an element      S = x0 & x1 (carries made); P = x0 ^ x1
    2..7    binary triple, twice   4 x 8 bytes                 carries move 1, 2, 4, ... 32 places: S, P
            as wide
    8       bit                    8 bytes                     [x < 0], binary to arithmetic
    9       triple (product)       2 x 8 bytes                 x * (1 - [x < 0])

Cost: 232 bytes an element each way, 9 trips. Neither party learns anything: each opened value is masked by a dealt
one that is uniform and used once. x0 and x1 enter the circuit as (x0, 0) and (0, x1): the masks hide them, so the
random sharing of them that CrypTen makes first is left out.
"""

from collections.abc import Iterator
from typing import Any, Final

import torch

from secure_computation.crypten_bridge.communicator import DATA_OWNER_RANK
from secure_computation.crypten_bridge.session import Session, current_session

PIECE: Final = 1 << 14
"""Elements that are worked on at a time: a dozen such pieces fit into a processor's second-level cache."""

_ALL: Final = (1 << 64) - 1
_ARROW_STARTS: Final = (
    0x5555555555555555,
    0x2222222222222222,
    0x0808080808080808,
    0x0080008000800080,
    0x0000800000008000,
    0x0000000080000000,
)
"""By round of the adder: the highest bit of each lower half block, from where carries move to the upper half."""


def relu(share: torch.Tensor) -> torch.Tensor:
    """Shares of max(x, 0) from int64 shares of x, of any shape, both with the same fractional bits."""
    x = share.reshape(-1)
    return _product(current_session(), x, not_negative(share).view(-1), share.shape).view(share.shape)


def not_negative(share: torch.Tensor) -> torch.Tensor:
    """Shares of the whole number 1 where x >= 0 and 0 elsewhere, from int64 shares of x, of any shape."""
    session = current_session()
    x = share.reshape(-1)
    # The sum of both shares, as binary shares; its highest bit is the sign.
    total = _carries(session, x, share.shape).bitwise_left_shift_(1).bitwise_xor_(x)
    negative = total.bitwise_right_shift_(63).bitwise_and_(1)
    return _not(session, negative, share.shape).view(share.shape)


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Shares of left * right in the ring, element by element, without truncation; both of one shape."""
    return _product(current_session(), left.reshape(-1), right.reshape(-1), left.shape).view(left.shape)


def largest(share: torch.Tensor, dim: int) -> torch.Tensor:
    """Shares of the largest along a dimension, which stays with size 1: a tree of max(a, b) = b + relu(a - b)."""
    while (count := share.shape[dim]) > 1:
        half = count // 2
        left, right = share.narrow(dim, 0, half), share.narrow(dim, half, half)
        share = torch.cat([right + relu(left - right), share.narrow(dim, 2 * half, count % 2)], dim)
    return share


class _Conjunction:
    """One batch of AND gates on binary shares, in one opening: `hide` every piece, `open`, take the `share` of each."""

    def __init__(self, session: Session, shape: torch.Size) -> None:
        triple = session.provider.generate_binary_triple(shape, shape)
        self._a, self._b, self._c = _flat(triple)
        self._session = session
        self._leads = session.communicator.get_rank() == DATA_OWNER_RANK
        self._own = torch.empty((2, self._a.numel()), dtype=torch.int64, device=self._a.device)

    def hide(self, at: slice, left: torch.Tensor | None, right: torch.Tensor | None) -> None:
        """Mask this party's shares of both inputs of the gates `at`; None stands for zero."""
        for own, mask, share in zip(self._own[:, at], (self._a[at], self._b[at]), (left, right), strict=True):
            if share is None:
                own.copy_(mask)
            else:
                torch.bitwise_xor(mask, share, out=own)

    def open(self) -> None:
        # reveal: the inputs of the gates under the dealt masks a and b, which are uniform and used once.
        self._received = self._session.communicator.exchange(self._own)

    def share(self, at: slice) -> torch.Tensor:
        """This party's c ^ (epsilon & b) ^ (a & delta), and at one party ^ (epsilon & delta); for each gate once."""
        epsilon, delta = self._received[:, at].bitwise_xor_(self._own[:, at])
        a, b = self._a[at], self._b[at]
        if self._leads:
            b.bitwise_xor_(delta)
        return b.bitwise_and_(epsilon).bitwise_xor_(a.bitwise_and_(delta)).bitwise_xor_(self._c[at])


def _carries(session: Session, x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Binary shares of the carries of x0 + x1: bit i is set where bits 0 to i overflow."""
    leads = session.communicator.get_rank() == DATA_OWNER_RANK
    size = x.numel()
    made, passed = torch.empty_like(x), x.clone()
    gates = _Conjunction(session, torch.Size((1, *shape)))
    gates.hide(slice(0, size), x if leads else None, None if leads else x)
    gates.open()
    for at in _pieces(x):
        made[at] = gates.share(at)
    for distance, start in enumerate(_ARROW_STARTS):
        fan = (1 << (2**distance + 1)) - 2  # multiplying by it copies a bit to the 2^distance places above
        end = start * fan & _ALL
        gates = _Conjunction(session, torch.Size((2, 1, *shape)))
        for at in _pieces(x):
            receiving = passed[at] & _signed(end)
            gates.hide(at, receiving, (made[at] & start).mul_(fan))
            gates.hide(_moved(at, size), receiving, (passed[at] & start).mul_(fan))
        gates.open()
        for at in _pieces(x):
            made[at].bitwise_xor_(gates.share(at))
            passed[at].bitwise_and_(_signed(end ^ _ALL)).bitwise_xor_(gates.share(_moved(at, size)))
    return made


def _not(session: Session, bit: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Arithmetic shares of 1 - bit from binary shares of it."""
    dealt, mask = _flat(session.provider.B2A_rng(shape))
    # reveal: the bit under a dealt bit, which is uniform and used once.
    opened = session.communicator.exchange(mask.bitwise_xor_(bit)).bitwise_xor_(mask)
    # Where the opened bit is 1, `bit` is the opposite of the dealt one.
    result = dealt.mul_(opened.mul_(2).sub_(1))
    if session.communicator.get_rank() == DATA_OWNER_RANK:
        result.add_(opened.eq(-1))
    return result


def _product(session: Session, x: torch.Tensor, y: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Shares of x * y, element by element (Beaver)."""
    leads = session.communicator.get_rank() == DATA_OWNER_RANK
    a, b, c = _flat(session.provider.generate_additive_triple(shape, shape, "mul"))
    own = torch.empty((2, x.numel()), dtype=torch.int64, device=x.device)
    torch.sub(x, a, out=own[0])
    torch.sub(y, b, out=own[1])
    # reveal: x and y under the dealt masks a and b, which are uniform and used once.
    received = session.communicator.exchange(own)
    for at in _pieces(x):
        epsilon, delta = received[:, at].add_(own[:, at])
        if leads:
            b[at].add_(delta)
        c[at].add_(b[at].mul_(epsilon)).add_(a[at].mul_(delta))
    return c


def _flat(tensors: tuple[Any, ...]) -> list[torch.Tensor]:
    return [tensor.share.view(-1) for tensor in tensors]


def _pieces(x: torch.Tensor) -> Iterator[slice]:
    size = x.numel()
    step = max(size, 1) if x.is_meta else PIECE
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _moved(at: slice, by: int) -> slice:
    return slice(at.start + by, at.stop + by)


def _signed(word: int) -> int:
    """A 64-bit word as int64 holds it."""
    return word - (1 << 64) if word >> 63 else word
