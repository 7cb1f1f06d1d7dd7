"""Sealed files: what a party keeps on disk, encrypted and authenticated under a key from its configuration.

    offset    content
         0    "sealed file 1" and a line feed
        14    which key: 16 bytes derived from it, so that a wrong key is not taken for a changed file
        30    salt, 16 bytes
        46    length of the public header, 4 bytes, little-endian
        50    the public header, readable without the key
              tag over all of the above, 16 bytes
              the content in chunks of 1 MiB, the last one shorter, each with its tag, 16 bytes

The content is the bodies, then their number and their lengths (8 bytes each), all filled up to multiples of 64 bytes.

AES-256-GCM. Each file has a key of its own, HKDF-SHA-256 of the party's key with the salt, the purpose (weights, stock
and so on) and the context (say, the file's name), so that files of one purpose do not pass for another and a file that
was moved does not open. Chunks are numbered in their nonces and the last one is marked (the STREAM construction, Hoang,
Reyhanitabar, Rogaway and Vizar 2015): chunks that are missing, repeated or in another order do not open.
"""

import base64
import binascii
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.files import new_file, read_bounded
from plumbing.settings import AtRest

Body = NDArray[np.uint8]
"""Some of a file's content, shape (bytes,)."""

KEY_BYTES: Final = 32
MAX_HEADER_BYTES: Final = 4096
_FORMAT: Final = b"sealed file 1\n"
_DOMAIN: Final = b"encrypted-medical-inference/at-rest/1"
_ID_BYTES: Final = 16
_SALT_BYTES: Final = 16
_TAG_BYTES: Final = 16
_CHUNK: Final = 1 << 20
_ALIGNED: Final = 64
"""Bodies begin at multiples of this, so that their elements are aligned in memory as they lie."""
_HEADER_NONCE: Final = b"\xff" * 12
_MAX_KEY_FILE_BYTES: Final = 1024


class DamagedFile(Exception):
    """A file is not what was sealed under this key for this place; its words say how. Callers make an error of it."""


class StorageKey:
    """256 bits under which a party seals its files. The value never shows in a repr, a log or an exception."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        """Take exactly 32 bytes."""
        if len(value) != KEY_BYTES:
            raise ValueError(f"a storage key has {KEY_BYTES} bytes, not {len(value)}")
        self._value = bytes(value)

    @classmethod
    def of(cls, settings: AtRest) -> Self:
        """The key that a party's settings give or name. Raises ConfigurationError."""
        if settings.key is not None:
            return cls(_decoded(settings.key.get_secret_value(), "at_rest.key"))
        path = settings.key_file
        if path is None:
            raise ConfigurationError("at_rest names no key; set key_file, or key in the environment")
        if not path.exists():
            make = f"(umask 077 && head -c 32 /dev/urandom | base64 > {shlex.quote(str(path))})"
            raise ConfigurationError(
                f"{path} does not exist, the key that seals what is kept on disk: correct the path, or make one: {make}"
            )
        content = read_bounded(path, limit=_MAX_KEY_FILE_BYTES)
        if path.stat().st_mode & 0o077 and path.parent != _credentials_folder():
            raise ConfigurationError(f"others can read the key {path}: run `chmod 600 {shlex.quote(str(path))}`")
        return cls(_decoded(content.decode("latin-1"), str(path)))

    def __repr__(self) -> str:
        return "StorageKey(<secret>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a storage key is not serialised")

    def identity(self) -> bytes:
        """16 bytes that tell this key from another and nothing more."""
        return self._derive(b"", b"identity", length=_ID_BYTES)

    def cipher(self, *, salt: bytes, purpose: str, context: str) -> AESGCM:
        """The cipher of one file."""
        parts = [part.encode() for part in (purpose, context)]
        return AESGCM(self._derive(salt, b"".join(len(part).to_bytes(4, "big") + part for part in parts)))

    def _derive(self, salt: bytes, about: bytes, *, length: int = KEY_BYTES) -> bytes:
        return HKDF(hashes.SHA256(), length, salt=salt, info=_DOMAIN + about).derive(self._value)


def seal(file: BinaryIO, key: StorageKey, *, purpose: str, context: str, header: bytes, bodies: Iterable[Body]) -> None:
    """Write a sealed file: a public header, then the bodies, which are secret. They are taken one at a time."""
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"a header has at most {MAX_HEADER_BYTES} bytes")
    salt = os.urandom(_SALT_BYTES)
    cipher = key.cipher(salt=salt, purpose=purpose, context=context)
    public = b"".join((_FORMAT, key.identity(), salt, len(header).to_bytes(4, "little"), header))
    file.write(public)
    file.write(cipher.encrypt(_HEADER_NONCE, b"", public))
    chunks, lengths = _Chunks(file, cipher), list[int]()
    for body in bodies:
        chunks.add(body)
        lengths.append(body.nbytes)
    chunks.add(_lengths(lengths))
    chunks.finish()


class _Chunks:
    """Cuts what it is given into chunks and writes them sealed."""

    def __init__(self, file: BinaryIO, cipher: AESGCM) -> None:
        self._file = file
        self._cipher = cipher
        self._plain = bytearray(_CHUNK)
        self._sealed = bytearray(_CHUNK + _TAG_BYTES)
        self._filled = 0
        self._number = 0

    def add(self, body: Body) -> None:
        view = np.ascontiguousarray(body).data.cast("B")
        self._take(view)
        self._take(memoryview(bytes(-len(view) % _ALIGNED)))

    def finish(self) -> None:
        self._write(last=True)

    def _take(self, view: memoryview) -> None:
        while view:
            if self._filled == _CHUNK:
                self._write(last=False)
            count = min(len(view), _CHUNK - self._filled)
            self._plain[self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]

    def _write(self, *, last: bool) -> None:
        out = memoryview(self._sealed)[: self._filled + _TAG_BYTES]
        self._cipher.encrypt_into(_nonce(self._number, last=last), memoryview(self._plain)[: self._filled], None, out)
        self._file.write(out)
        self._number += 1
        self._filled = 0


class SealedFile:
    """A sealed file that was opened: its header is authentic, its content is read at once or not at all."""

    def __init__(self, file: BinaryIO, key: StorageKey, *, purpose: str, context: str) -> None:
        """Read and check the header. `file` stays the caller's.

        Raises: DamagedFile; ConfigurationError if it was sealed under another key.
        """
        self._file = file
        start = file.read(len(_FORMAT) + _ID_BYTES + _SALT_BYTES + 4)
        if len(start) != len(_FORMAT) + _ID_BYTES + _SALT_BYTES + 4 or not start.startswith(_FORMAT):
            raise DamagedFile("is not a sealed file of this version")
        identity, salt = start[len(_FORMAT) :][:_ID_BYTES], start[-4 - _SALT_BYTES : -4]
        if identity != key.identity():
            raise ConfigurationError(
                f"{context}: was sealed under another key than the one that at_rest in the settings gives; give that "
                "key, or remove the file"
            )
        length = int.from_bytes(start[-4:], "little")
        if length > MAX_HEADER_BYTES:
            raise DamagedFile("has a header of an impossible length")
        header, tag = file.read(length), file.read(_TAG_BYTES)
        self._begins = len(start) + length + _TAG_BYTES
        self._cipher = key.cipher(salt=salt, purpose=purpose, context=context)
        self._opened(_HEADER_NONCE, tag, start + header)
        self.header = header

    def content_bytes(self) -> int:
        """Length of the content, by the file's size."""
        sealed = os.fstat(self._file.fileno()).st_size - self._begins
        chunks = -(-sealed // (_CHUNK + _TAG_BYTES))
        if sealed < _TAG_BYTES or sealed - chunks * _TAG_BYTES < 0:
            raise DamagedFile("is cut short")
        return sealed - chunks * _TAG_BYTES

    def read(self, sizes: Sequence[int]) -> list[Body]:
        """The bodies, whose lengths the caller knows. Raises DamagedFile, also if the file has another length."""
        starts, total, written = list[int](), 0, _lengths(sizes)
        for size in (*sizes, written.nbytes):
            starts.append(total)
            total += size + -size % _ALIGNED
        if self.content_bytes() != total:
            raise DamagedFile("has another length than it should")
        content = np.empty(total, np.uint8)
        view, scratch = content.data, memoryview(bytearray(_CHUNK + _TAG_BYTES))
        for number, begin in enumerate(range(0, max(total, 1), _CHUNK)):
            end = min(begin + _CHUNK, total)
            sealed = scratch[: end - begin + _TAG_BYTES]
            if self._file.readinto(sealed) != len(sealed):  # type: ignore[attr-defined]
                raise DamagedFile("is cut short")
            try:
                self._cipher.decrypt_into(_nonce(number, last=end == total), sealed, None, view[begin:end])
            except InvalidTag:
                raise DamagedFile("was changed, cut short or moved since it was written") from None
        if not np.array_equal(content[starts[-1] :][: written.nbytes], written):
            raise DamagedFile("has bodies of other lengths than it should")
        return [content[start : start + size] for start, size in zip(starts[:-1], sizes, strict=True)]

    def _opened(self, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        try:
            return self._cipher.decrypt(nonce, sealed, associated)
        except (InvalidTag, ValueError):
            raise DamagedFile("was changed, cut short or moved since it was written") from None


def write_sealed(path: Path, key: StorageKey, content: bytes, *, purpose: str, context: str) -> None:
    """Write a new sealed file (mode 0600) with one body, whole or not at all. Raises OSError, also if one stands."""
    with new_file(path) as file:
        header = len(content).to_bytes(8, "little")
        body = np.frombuffer(content, np.uint8)
        seal(file, key, purpose=purpose, context=context, header=header, bodies=[body])


def read_sealed(path: Path, key: StorageKey, *, purpose: str, context: str, limit: int) -> Body:
    """Read what `write_sealed` wrote, of at most `limit` bytes. Raises OSError, DamagedFile, ConfigurationError."""
    with path.open("rb") as file:
        sealed = SealedFile(file, key, purpose=purpose, context=context)
        size = int.from_bytes(sealed.header, "little")
        if size > limit:
            raise DamagedFile("is larger than it may be")
        return sealed.read([size])[0]


def _lengths(sizes: Sequence[int]) -> Body:
    """What follows the bodies: how many there are, and how long each is."""
    return np.array([len(sizes), *sizes], "<u8").view(np.uint8)


def _nonce(number: int, *, last: bool) -> bytes:
    """12 bytes: zeros, the chunk's number, whether it is the last."""
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _credentials_folder() -> Path | None:
    """Where systemd puts credentials: a folder for this service alone, whose files show an access list as group."""
    named = os.environ.get("CREDENTIALS_DIRECTORY")
    return None if named is None else Path(named)


def _decoded(text: str, place: str) -> bytes:
    """32 bytes from hexadecimal or base64. The text is never repeated."""
    text = text.strip()
    try:
        value = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        value = b""
    if len(value) != KEY_BYTES:
        raise ConfigurationError(
            f"{place}: is not a key of {KEY_BYTES} bytes in hexadecimal or base64; make one with "
            "`head -c 32 /dev/urandom | base64`"
        )
    return value
