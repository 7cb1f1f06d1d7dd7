r"""Values of a script as bytes that can only ever be data: CrypTen pickles them, and a pickle can run code.

A value is numbers, text, tensors, shares, and lists, tuples and dictionaries of them, also a module's `state_dict` with
its metadata. It comes back as what it was; other kinds of tuples and dictionaries are refused. It becomes a description
(JSON) and the bytes of its tensors, in the description's order:

    file    magic "CRYPTEN-DATA/1\\n", length of the description (u32, little-endian), description, tensors
    message the description in a HELLO frame, then each tensor's bytes in a frame of its own
"""

import json
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, BinaryIO, Final, Literal, TypeAlias

import torch
from pydantic import Field, ValidationError

from contract.base import Strict
from contract.errors import CallerError

MAGIC: Final = b"CRYPTEN-DATA/1\n"
MOST_BYTES: Final = 1 << 30
"""Of all tensors of one value."""
MOST_DESCRIPTION_BYTES: Final = 64 << 10
MOST_DEPTH: Final = 16
_LENGTH_BYTES: Final = 4
_PLAIN: Final = (bool, int, float, str)
_TUPLES: Final[dict[type, str]] = {tuple: "tuple", torch.Size: "size"}
_DTYPES: Final = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.float32, torch.float64, torch.bfloat16),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
    )
}
Dtype: TypeAlias = Literal[
    "float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool"
]


class TensorEntry(Strict):
    """What a description says of one tensor."""

    dtype: Dtype
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=1 << 31)], ...], Field(max_length=64)]
    shares: Literal["arithmetic", "binary"] | None = None
    """Set if it is this party's share of a CrypTen tensor."""
    rank: Literal[0, 1] | None = None
    """Whose share it is."""
    scale: Annotated[int, Field(ge=1, le=1 << 62)] = 1
    """By which a CrypTen tensor's values are multiplied: 2^16 for 16 fractional bits."""
    requires_grad: bool = False

    def __str__(self) -> str:
        """Say `int64 of shape (2, 3)`."""
        return f"{self.dtype} of shape {self.shape}"

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


class Description(Strict):
    """A value without the contents of its tensors."""

    value: Any
    """JSON; {"tensor": n} stands for the nth tensor; what JSON does not have: {"tuple": [...]}, {"size": [...]},
    {"dictionary": [[key, value], ...]}, {"ordered": [[key, value], ...], "metadata": of a state_dict}."""
    tensors: Annotated[tuple[TensorEntry, ...], Field(max_length=4096)]


@dataclass(frozen=True)
class Parts:
    """A value, taken apart."""

    description: Description
    tensors: tuple[torch.Tensor, ...]

    def encode_description(self) -> bytes:
        """JSON. Raises CallerError if it is too long to be taken back."""
        encoded = json.dumps(self.describe(), separators=(",", ":")).encode()
        if len(encoded) > MOST_DESCRIPTION_BYTES:
            raise CallerError(f"a value may have {MOST_DESCRIPTION_BYTES} bytes beside its tensors: use fewer parts")
        return encoded

    def describe(self) -> dict[str, Any]:
        """The description's fields, as JSON has them."""
        return self.description.model_dump(mode="json", exclude_defaults=True)


WithShares: TypeAlias = Callable[[object], TensorEntry | None]
"""Says of a CrypTen tensor what its entry is, and None of anything else."""


def take_apart(value: object, *, with_shares: WithShares | None = None) -> Parts:
    """Description and tensors of a value. `with_shares` is left out if shares must not be written.

    Raises CallerError naming the first part that is no plain data.
    """
    taker = _Taker(with_shares)
    described = taker.walk(value, 0)
    return Parts(Description(value=described, tensors=tuple(taker.entries)), tuple(taker.tensors))


@dataclass(frozen=True)
class _Taker:
    with_shares: WithShares | None
    entries: list[TensorEntry] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)

    def walk(self, part: Any, depth: int) -> object:
        _require_shallow(depth)
        kind = type(part)
        if part is None or kind in _PLAIN:
            return part
        if kind is list:
            return [self.walk(each, depth + 1) for each in part]
        if kind in _TUPLES:
            return {_TUPLES[kind]: [self.walk(each, depth + 1) for each in part]}
        if kind not in {dict, OrderedDict}:
            return {"tensor": self._add(part)}
        pairs = [[_require_key(key), self.walk(each, depth + 1)] for key, each in part.items()]
        if kind is dict:
            return {"dictionary": pairs}
        return {"ordered": pairs, "metadata": self.walk(getattr(part, "_metadata", None), depth + 1)}

    def _add(self, part: Any) -> int:
        """The number that a tensor has among all."""
        entry, tensor = self.with_shares(part) if self.with_shares is not None else None, part
        if entry is not None:
            tensor = part.share
        elif isinstance(part, torch.Tensor):
            entry = describe_tensor(part)
        else:
            hint = ": give its state_dict()" if isinstance(part, torch.nn.Module) else ""
            raise CallerError(
                f"a {type(part).__name__} is not stored or sent, because reading one back could run code; give plain "
                f"data or tensors{hint}"
            )
        self.entries.append(entry)
        self.tensors.append(tensor.detach().cpu().contiguous())
        return len(self.entries) - 1


def _require_shallow(depth: int) -> None:
    if depth > MOST_DEPTH:
        raise CallerError(f"lists and dictionaries may be {MOST_DEPTH} deep, not deeper")


def _require_key(key: object) -> object:
    if key is not None and type(key) not in _PLAIN:
        raise CallerError(
            f"a dictionary's key must be text or a number to be stored or sent, not a {type(key).__name__}"
        )
    return key


def describe_tensor(tensor: torch.Tensor) -> TensorEntry:
    """The entry of a plain tensor. Raises CallerError for a dtype that is not stored."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _DTYPES or tensor.layout != torch.strided:
        raise CallerError(
            f"only dense tensors are stored or sent, of {', '.join(_DTYPES)}; convert this one, of {name}"
        )
    return TensorEntry.model_validate(
        {"dtype": name, "shape": tuple(tensor.shape), "requires_grad": tensor.requires_grad}
    )


def parse_description(fields: object) -> Description:
    """A description from outside. Raises CallerError if it is none, or takes too much memory."""
    try:
        description = Description.model_validate(fields)
    except (ValidationError, RecursionError):
        raise CallerError("what came is not a value of a CrypTen script: save or send it again") from None
    if sum(entry.size for entry in description.tensors) > MOST_BYTES:
        raise CallerError(f"a value may have {MOST_BYTES} bytes in tensors: split it")
    return description


FromShares: TypeAlias = Callable[[torch.Tensor, TensorEntry], object]
"""Makes a CrypTen tensor of this party's share."""


def put_together(parts: Parts, *, from_shares: FromShares | None = None) -> Any:
    """The value again. `from_shares` is left out if shares must not come. Raises CallerError for a description that
    does not fit.
    """
    return _Builder(parts, from_shares).build(parts.description.value, 0)


@dataclass(frozen=True)
class _Builder:
    parts: Parts
    from_shares: FromShares | None

    def build(self, part: Any, depth: int) -> Any:  # noqa: PLR0911 - one for each kind
        _require_shallow(depth)
        if isinstance(part, list):
            return [self.build(each, depth + 1) for each in part]
        if not isinstance(part, dict):
            return part
        match part:
            case {"tensor": number, **rest} if not rest:
                return self._tensor(number)
            case {"tuple": [*items], **rest} if not rest:
                return tuple(self.build(each, depth + 1) for each in items)
            case {"size": [*sides], **rest} if not rest:
                return torch.Size(_require_side(side) for side in sides)
            case {"dictionary": [*pairs], **rest} if not rest:
                return dict(self._pair(pair, depth + 1) for pair in pairs)
            case {"ordered": [*pairs], "metadata": metadata, **rest} if not rest:
                ordered = OrderedDict(self._pair(pair, depth + 1) for pair in pairs)
                if metadata is not None:
                    vars(ordered)["_metadata"] = self.build(metadata, depth + 1)
                return ordered
        raise CallerError("what came is not a value of a CrypTen script: save or send it again")

    def _tensor(self, number: object) -> object:
        if type(number) is not int or not 0 <= number < len(self.parts.tensors):
            raise CallerError("the value names a tensor that it does not have: save or send it again")
        tensor, entry = self.parts.tensors[number], self.parts.description.tensors[number]
        if entry.shares is None:
            return tensor.requires_grad_(entry.requires_grad and tensor.is_floating_point())
        if self.from_shares is None or entry.dtype != "int64":
            raise CallerError("shares of a CrypTen tensor came in place of a value: load them with crypten.load")
        return self.from_shares(tensor, entry)

    def _pair(self, pair: object, depth: int) -> tuple[Any, Any]:
        match pair:
            case [str() | int() | float() | None as key, value]:
                return key, self.build(value, depth)
        raise CallerError(
            "a dictionary is broken, or has a key that is neither text nor a number: save or send it again"
        )


def _require_side(side: object) -> int:
    if type(side) is not int or not 0 <= side <= MOST_BYTES:
        raise CallerError("what came has a size that no tensor has: save or send it again")
    return side


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's elements as flat uint8, without a copy if it is contiguous."""
    flat = tensor.detach().resolve_neg().contiguous().view(-1)
    # The stride of a single element may be anything, but a view of other elements needs 1.
    return flat.as_strided((flat.numel(),), (1,)).view(torch.uint8)


def from_bytes(data: torch.Tensor, entry: TensorEntry) -> torch.Tensor:
    """A tensor again from flat uint8, whose memory it takes."""
    return data.view(_DTYPES[entry.dtype]).reshape(entry.shape)


def write_value(file: BinaryIO, parts: Parts) -> None:
    """Write a value to an open file."""
    described = parts.encode_description()
    file.write(MAGIC + len(described).to_bytes(_LENGTH_BYTES, "little") + described)
    file.writelines(as_bytes(tensor).numpy().data for tensor in parts.tensors)


def read_parts(file: BinaryIO) -> Parts:
    """Read what `write_value` wrote. Memory is taken for bytes that are there. Raises CallerError for anything else."""
    if file.read(len(MAGIC)) != MAGIC:
        raise CallerError(
            "the file was not written by crypten.save in a session: files of torch.save are pickles, which can run "
            "code when they are read; load them where you trust them and save them again"
        )
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    described = file.read(min(length, MOST_DESCRIPTION_BYTES))
    try:
        fields = json.loads(described.decode())
    except (ValueError, RecursionError):
        raise CallerError("the file is broken: save it again") from None
    description = parse_description(fields)
    return Parts(description, tuple(_read_tensor(file, entry) for entry in description.tensors))


def _read_tensor(file: BinaryIO, entry: TensorEntry) -> torch.Tensor:
    data = bytearray(file.read(entry.size))
    if len(data) != entry.size:
        raise CallerError("the file ends too early: save it again")
    flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return from_bytes(flat, entry)
