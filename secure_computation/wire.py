"""Frames: what crosses the wire between two parties. Typed, binary, every length declared, no pickle.

A frame is a header of 28 bytes and a body, all integers little-endian:

    offset  bytes  field
         0      4  magic "EMIF"
         4      1  version, 2
         5      1  kind (`Kind`)
         6      1  phase (`Phase`)
         7      1  reserved, 0
         8      4  first four bytes of the SHA-256 of the step's name, so that two parties out of step notice
        12      4  sequence number of the frame, from 0, in each direction
        16      4  trip depth within the phase, from 1 (see `secure_computation.channel.traffic`)
        20      8  length of the body in bytes

Bodies: HELLO a JSON object in UTF-8; SEED 32 bytes; TENSOR a prelude (dtype code u8, number of dimensions u8, each
dimension u32) and the elements in C order; BYTES anything; ERROR a code, a line feed and a message in printable UTF-8;
END nothing.

A receiver says what it expects before it reads: a frame that differs in kind, step or length is refused from its header
alone, before memory is taken for the body.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.errors import PeerViolation

MAGIC = b"EMIF"
VERSION = 2
HEADER_BYTES = 28
SEED_BYTES = 32
TAG_BYTES = 16
"""Of a deal tag (`deal_tag`)."""
MAX_HELLO_BYTES = 64 << 10
MAX_ERROR_BYTES = 2 << 10
MAX_DIMENSIONS = 8

Tensor: TypeAlias = NDArray[np.int64] | NDArray[np.int32] | NDArray[np.uint8]
"""What a TENSOR frame carries: ring elements or shares of bits."""

_HEADER = struct.Struct("<4sBBBB4sIIQ")
_CODE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_DTYPES: tuple[np.dtype[Any], ...] = (np.dtype("<i8"), np.dtype("<i4"), np.dtype("u1"))
"""The wire's code of a dtype is its place here, from 1."""


class Kind(IntEnum):
    """What a frame's body is."""

    HELLO = 1
    SEED = 2
    TENSOR = 3
    BYTES = 4
    ERROR = 5
    END = 6


class Phase(IntEnum):
    """Part of a session that a frame belongs to. Both parties change phase at the same point of the protocol."""

    HANDSHAKE = 0
    OFFLINE = 1
    ONLINE = 2
    OUTPUT = 3


def violation(detail: str, *, peer: str, step: str) -> PeerViolation:
    """The error for a peer that broke the protocol in `step`; `detail` says what was expected and what came."""
    return PeerViolation(
        f"{peer} broke the protocol in step '{step}': {detail}; check that both sides run the same version, then "
        "start a new session"
    )


class OutOfStep(PeerViolation):
    """The peer sent a frame of another kind or step: both are sound, and do different things."""

    step = ""
    """This side's."""

    @classmethod
    def at(cls, step: str, detail: str, *, peer: str) -> Self:
        """In the words of `violation`."""
        error = cls(str(violation(detail, peer=peer, step=step)))
        error.step = step
        return error


def step_digest(step: str) -> bytes:
    """Four bytes that stand for the step's name in a header."""
    return hashlib.sha256(step.encode()).digest()[:4]


@dataclass(frozen=True, kw_only=True)
class Header:
    """The fixed part of a frame."""

    kind: Kind
    phase: Phase
    step_digest: bytes
    sequence: int
    depth: int
    length: int

    def pack(self) -> bytes:
        """The 28 bytes on the wire."""
        return _HEADER.pack(
            MAGIC, VERSION, self.kind, self.phase, 0, self.step_digest, self.sequence, self.depth, self.length
        )

    @classmethod
    def parse(cls, data: bytes, *, peer: str, step: str) -> "Header":
        """Read 28 bytes from outside. Raises PeerViolation for anything this version does not know."""
        if len(data) != HEADER_BYTES:
            raise violation(f"a header has {HEADER_BYTES} bytes, not {len(data)}", peer=peer, step=step)
        magic, version, kind, phase, reserved, digest, sequence, depth, length = _HEADER.unpack(data)
        if magic != MAGIC:
            raise violation("what it sent is not a frame", peer=peer, step=step)
        if version != VERSION or reserved != 0:
            raise violation(f"frame version {version}, not {VERSION}", peer=peer, step=step)
        try:
            return cls(
                kind=Kind(kind), phase=Phase(phase), step_digest=digest, sequence=sequence, depth=depth, length=length
            )
        except ValueError:
            raise violation(f"unknown frame kind {kind} or phase {phase}", peer=peer, step=step) from None


@dataclass(frozen=True)
class Frame:
    """One whole frame as a recorder sees it. Its text never shows the body."""

    kind: Kind
    phase: Phase
    step: str
    body: bytes

    def __repr__(self) -> str:
        """Kind, phase, step and length."""
        return f"Frame({self.kind.name}, {self.phase.name}, {self.step!r}, {len(self.body)} bytes)"


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What a receiver is ready to take: compared with the header before memory is taken for the body."""

    kind: Kind
    step: str
    shortest: int
    longest: int
    """Bounds of the body's length in bytes."""
    prelude: bytes = b""
    """The body's first bytes if they are known: dtype and shape of a tensor."""
    or_end: str = ""
    """A step in which an END is taken as well."""

    @property
    def words(self) -> str:
        """The expectation in words, for messages."""
        if self.kind is Kind.TENSOR:
            return f"a tensor, {describe_prelude(self.prelude)}"
        if self.shortest == self.longest:
            return f"{self.kind.name} of {self.longest} bytes"
        return f"{self.kind.name} of {self.shortest} to {self.longest} bytes"

    def check(self, header: Header, *, peer: str, phase: Phase, sequence: int) -> None:
        """Raise PeerViolation unless the frame behind `header` is the expected one. An ERROR is always expected."""
        if self.or_end and header.kind is Kind.END:
            end = Expectation(kind=Kind.END, step=self.or_end, shortest=0, longest=0)
            end.check(header, peer=peer, phase=phase, sequence=sequence)
            return
        if header.sequence != sequence:
            raise violation(f"frame number {header.sequence} came when {sequence} was due", peer=peer, step=self.step)
        if header.kind is Kind.ERROR:
            if header.length > MAX_ERROR_BYTES:
                raise violation(f"an error message of {header.length} bytes", peer=peer, step=self.step)
            return
        if header.kind is not self.kind:
            raise OutOfStep.at(self.step, f"expected {self.words}, not {header.kind.name}", peer=peer)
        if header.phase is not phase:
            raise violation(f"frame of phase {header.phase.name} during {phase.name}", peer=peer, step=self.step)
        if header.step_digest != step_digest(self.step):
            raise OutOfStep.at(self.step, "the frame belongs to another step", peer=peer)
        if not self.shortest <= header.length <= self.longest:
            raise violation(f"expected {self.words}, not {header.length} bytes", peer=peer, step=self.step)


def expect_tensor(step: str, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Expectation:
    """A tensor of exactly this shape and dtype."""
    prelude = tensor_prelude(shape, dtype)
    length = len(prelude) + math.prod(shape) * dtype.itemsize
    return Expectation(kind=Kind.TENSOR, step=step, shortest=length, longest=length, prelude=prelude)


def tensor_prelude(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """The bytes that name dtype and shape. Raises TypeError or ValueError for what no frame can carry."""
    if (little := dtype.newbyteorder("<")) not in _DTYPES:
        raise TypeError(f"a frame carries int64, int32 or uint8, not {dtype}")
    if len(shape) > MAX_DIMENSIONS or any(not 0 <= side < 1 << 32 for side in shape):
        raise ValueError(f"a frame carries at most {MAX_DIMENSIONS} dimensions below 2^32 each, not {shape}")
    return struct.pack(f"<BB{len(shape)}I", _DTYPES.index(little) + 1, len(shape), *shape)


def describe_prelude(prelude: bytes) -> str:
    """Words for a tensor's dtype and shape, also for one from outside that makes no sense."""
    code, dimensions = prelude[0], prelude[1]
    if not 1 <= code <= len(_DTYPES) or len(prelude) != 2 + 4 * dimensions:
        return "of unknown dtype or shape"
    return f"{_DTYPES[code - 1].name} of shape {struct.unpack_from(f'<{dimensions}I', prelude, 2)}"


def encode_hello(fields: Mapping[str, object]) -> bytes:
    """JSON of a HELLO's fields. Raises ValueError above 64 KiB."""
    body = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if len(body) > MAX_HELLO_BYTES:
        raise ValueError(f"a HELLO carries at most {MAX_HELLO_BYTES} bytes, not {len(body)}")
    return body


def parse_hello(body: bytes, *, peer: str, step: str) -> dict[str, Any]:
    """Read a HELLO from outside. Its fields are still to be validated by whoever asked for them."""
    try:
        fields = json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_distinct)
        json.dumps(fields, ensure_ascii=False).encode()  # a lone surrogate would break whoever prints it
    except (ValueError, RecursionError):
        raise violation("expected a JSON object in HELLO", peer=peer, step=step) from None
    if not isinstance(fields, dict):
        raise violation("expected a JSON object in HELLO", peer=peer, step=step)
    return fields


def _refuse_constant(name: str) -> object:
    raise ValueError(name)


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("repeated key")
    return fields


def encode_error(code: str, message: str) -> bytes:
    """Body of an ERROR: anything that does not print becomes a space, and a long message is cut."""
    if not _CODE.fullmatch(code):
        raise ValueError("an error code is lower-case letters, digits and hyphens")
    plain = "".join(letter if letter.isprintable() else " " for letter in message)
    body = f"{code}\n{plain}".encode("utf-8", "replace")
    return body[:MAX_ERROR_BYTES].decode("utf-8", "ignore").encode()


def parse_error(body: bytes, *, peer: str, step: str) -> tuple[str, str]:
    """Code and message of an ERROR from outside. Raises PeerViolation for text that does not print on one line."""
    try:
        code, separator, message = body.decode().partition("\n")
    except UnicodeDecodeError:
        code, separator, message = "", "", ""
    if not separator or not _CODE.fullmatch(code) or not message.isprintable():
        raise violation("an error message that cannot be shown", peer=peer, step=step)
    return code, message
