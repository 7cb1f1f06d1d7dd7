r"""Values of a script as bytes that can only ever be data: CrypTen pickles them, and a pickle can run code.

A value is numbers, text, tensors, shares, and lists, tuples and dictionaries of them. It becomes a description (JSON)
and the bytes of its tensors, in the description's order:

    file    magic "CRYPTEN-DATA/1\\n", length of the description (u32, little-endian), description, tensors
    message the description in a HELLO frame, then each tensor's bytes in a frame of its own
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
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

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


class Description(Strict):
    """A value without the contents of its tensors."""

    value: Any
    """JSON; {"tensor": n} stands for the nth tensor, {"tuple": [...]} and {"dictionary": [[key, value], ...]} for
    what JSON does not have."""
    tensors: Annotated[tuple[TensorEntry, ...], Field(max_length=4096)]


@dataclass(frozen=True)
class Parts:
    """A value, taken apart."""

    description: Description
    tensors: tuple[torch.Tensor, ...]

    def encode_description(self) -> bytes:
        """JSON. Raises CallerError if it is too long to be taken back."""
        encoded = json.dumps(self.description.model_dump(mode="json"), separators=(",", ":")).encode()
        if len(encoded) > MOST_DESCRIPTION_BYTES:
            raise CallerError(f"a value may have {MOST_DESCRIPTION_BYTES} bytes beside its tensors: use fewer parts")
        return encoded


def take_apart(value: object, *, with_shares: Callable[[object], TensorEntry | None] | None = None) -> Parts:
    """Description and tensors of a value.

    Args:
        value: what to store or send.
        with_shares: says of a CrypTen tensor what its entry is, and None of anything else. Left out where shares must
            not be written.

    Raises CallerError naming the first part that is no plain data.
    """
    entries: list[TensorEntry] = []
    tensors: list[torch.Tensor] = []

    def add(tensor: torch.Tensor, entry: TensorEntry) -> object:
        tensors.append(tensor.detach().cpu().contiguous())
        entries.append(entry)
        return {"tensor": len(entries) - 1}

    def walk(part: Any, depth: int) -> object:
        if depth > MOST_DEPTH:
            raise CallerError(f"lists and dictionaries may be {MOST_DEPTH} deep, not deeper")
        if part is None or type(part) in {bool, int, float, str}:
            return part
        if isinstance(part, list):
            return [walk(each, depth + 1) for each in part]
        if isinstance(part, tuple):
            return {"tuple": [walk(each, depth + 1) for each in part]}
        if isinstance(part, dict):
            return {"dictionary": [[_require_key(key), walk(each, depth + 1)] for key, each in part.items()]}
        shares = with_shares(part) if with_shares is not None else None
        if shares is not None:
            return add(part.share, shares)
        if isinstance(part, torch.Tensor):
            return add(part, describe_tensor(part))
        raise CallerError(_refuse_kind(part))

    described = walk(value, 0)
    return Parts(Description(value=described, tensors=tuple(entries)), tuple(tensors))


def _require_key(key: object) -> object:
    if key is not None and type(key) not in {bool, int, float, str}:
        raise CallerError(
            f"a dictionary's key must be text or a number to be stored or sent, not a {type(key).__name__}"
        )
    return key


def _refuse_kind(part: object) -> str:
    kind = type(part).__name__
    hint = ": give its state_dict()" if isinstance(part, torch.nn.Module) else ""
    return f"a {kind} is not stored or sent, because reading one back could run code; give plain data or tensors{hint}"


def describe_tensor(tensor: torch.Tensor) -> TensorEntry:
    """The entry of a plain tensor. Raises CallerError for a dtype that is not stored."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise CallerError(f"tensors of {name} are not stored or sent; convert it to one of {', '.join(_DTYPES)}")
    return TensorEntry.model_validate({"dtype": name, "shape": tuple(tensor.shape)})


def parse_description(fields: object) -> Description:
    """A description from outside. Raises CallerError where it is none, or takes too much memory."""
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

    def build(self, part: Any, depth: int) -> Any:
        if depth > MOST_DEPTH:
            raise CallerError(f"lists and dictionaries may be {MOST_DEPTH} deep, not deeper")
        if isinstance(part, list):
            return [self.build(each, depth + 1) for each in part]
        if not isinstance(part, dict):
            return part
        match part:
            case {"tensor": number, **rest} if not rest:
                return self._tensor(number)
            case {"tuple": [*items], **rest} if not rest:
                return tuple(self.build(each, depth + 1) for each in items)
            case {"dictionary": [*pairs], **rest} if not rest:
                return dict(self._pair(pair, depth + 1) for pair in pairs)
        raise CallerError("what came is not a value of a CrypTen script: save or send it again")

    def _tensor(self, number: object) -> object:
        if type(number) is not int or not 0 <= number < len(self.parts.tensors):
            raise CallerError("the value names a tensor that it does not have: save or send it again")
        tensor, entry = self.parts.tensors[number], self.parts.description.tensors[number]
        if entry.shares is None:
            return tensor
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


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's elements as flat uint8, without a copy if it is contiguous."""
    flat = tensor.detach().contiguous().view(-1)
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
