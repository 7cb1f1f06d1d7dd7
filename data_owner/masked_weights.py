"""Masked weights on the data owner's disk: fetched once for each version of a model, then kept.

What is kept is Delta = W - A, uniform for whoever does not hold the dealer's model seed. One file for each version:
a line that names the format, the packed tensors in the order of the plan, and a SHA-256 of all that, so that a damaged
file is fetched again instead of giving a wrong answer.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError, PeerViolation
from secure_computation.engines.masked.plan import MaskedLowering
from secure_computation.engines.masked.weights import delta_layout, linear_steps
from secure_computation.protocols.bundle import Bundle
from secure_computation.protocols.draws import RingElements
from secure_computation.ring import reduce_to_ring

_FORMAT: Final = b"masked weights 1\n"
_DIGEST_BYTES: Final = 32

_Body = NDArray[np.uint8]


class MaskedWeightsFolder:
    """Keeps the newest masked weights of each plan and model owner."""

    def __init__(self, folder: Path) -> None:
        """Keep files in `folder`, which is made (0700) where it is missing."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._just_read: tuple[Path, _Body] | None = None
        """Between `newest` and `load`, so that the file is read and its digest computed once."""

    def newest(self, model_owner: str, lowering: MaskedLowering) -> str | None:
        """Name of the version that is kept and whole, if any."""
        for path in self._folder.glob(f"{_prefix(model_owner, lowering)}.*"):
            body = self._read(path, lowering)
            if body is not None:
                self._just_read = (path, body)
                return path.name.rpartition(".")[2]
        return None

    def load(self, model_owner: str, version: str, lowering: MaskedLowering) -> dict[str, RingElements] | None:
        """Delta of each linear step by its name, or None where it is not kept or damaged."""
        path = self._path(model_owner, version, lowering)
        (known, body), self._just_read = self._just_read or (None, None), None
        if known != path:
            body = self._read(path, lowering)
        if body is None:
            return None
        deltas: dict[str, RingElements] = {}
        offset = 0
        for _, step in linear_steps(lowering):
            layout = delta_layout(step)
            part = body[offset : offset + layout.body_bytes]
            try:
                bundle = layout.unpack(part, peer="the kept file", step="masked weights")
            except PeerViolation:
                return None  # fetched again
            deltas[step.name] = bundle.rings[0].values.reshape(step.weight_shape)
            offset += layout.body_bytes
        return deltas

    def save(
        self, model_owner: str, version: str, lowering: MaskedLowering, deltas: Mapping[str, RingElements]
    ) -> None:
        """Keep Delta in place of what was kept for this plan. Written aside and renamed, so it is whole or absent."""
        target = self._path(model_owner, version, lowering)
        digest = hashlib.sha256(_FORMAT)
        try:
            descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=".incoming-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(_FORMAT)
                for _, step in linear_steps(lowering):
                    layout = delta_layout(step)
                    flat = reduce_to_ring(deltas[step.name].reshape(-1), step.value.ring_bits)
                    body = layout.pack(Bundle(rings=(flat,)))
                    digest.update(body.data)
                    file.write(body.data)
                file.write(digest.digest())
            for old in self._folder.glob(f"{_prefix(model_owner, lowering)}.*"):
                old.unlink()
            Path(name).rename(target)
        except OSError as error:
            raise ConfigurationError(
                f"{self._folder} cannot be written ({error.strerror}): free space or correct its permissions"
            ) from error

    def _path(self, model_owner: str, version: str, lowering: MaskedLowering) -> Path:
        return self._folder / f"{_prefix(model_owner, lowering)}.{version}"

    @staticmethod
    def _read(path: Path, lowering: MaskedLowering) -> _Body | None:
        """The packed tensors of a whole file, or None."""
        wanted = sum(delta_layout(step).body_bytes for _, step in linear_steps(lowering))
        try:
            if path.stat().st_size != len(_FORMAT) + wanted + _DIGEST_BYTES:
                return None
            content = np.fromfile(path, np.uint8)
        except OSError:
            return None
        signed = content[:-_DIGEST_BYTES]
        if hashlib.sha256(signed.data).digest() != content[-_DIGEST_BYTES:].tobytes():
            return None
        return signed[len(_FORMAT) :]


def _prefix(model_owner: str, lowering: MaskedLowering) -> str:
    """What files of one plan and model owner begin with."""
    plan = hashlib.sha256(lowering.model_dump_json().encode()).hexdigest()
    return f"{model_owner}.{plan[:32]}"
