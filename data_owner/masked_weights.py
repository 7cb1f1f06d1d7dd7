"""Masked weights on the data owner's disk: fetched once for each version of a model, then kept.

What is kept is Delta = W - A, uniform for whoever does not hold the dealer's model seed. One sealed file (`at_rest`)
for each version: the packed tensors in the order of the plan. A damaged file, or one sealed under a former key, is
fetched again instead of giving a wrong answer.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from contract.errors import ConfigurationError, PeerViolation
from contract.files import private_folder, replacing_file
from secure_computation.at_rest import Body, DamagedFile, SealedFile, StorageKey, seal
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.session.weights import delta_layout, linear_steps
from secure_computation.protocols.bundle import Bundle
from secure_computation.protocols.draws import RingElements
from secure_computation.ring import reduce_to_ring

_PURPOSE: Final = "masked weights"


class MaskedWeightsFolder:
    """Keeps the newest masked weights of each plan and model owner."""

    def __init__(self, folder: Path, *, key: StorageKey) -> None:
        """Keep files in `folder`, which is made (0700) if it is missing, sealed with `key`."""
        private_folder(folder)
        self._folder = folder
        self._key = key
        self._just_read: tuple[Path, list[Body]] | None = None
        """Between `newest` and `load`, so that the file is read and its digest computed once."""

    def newest(self, model_owner: str, lowering: MaskedLowering) -> str | None:
        """Name of the version that is kept and whole, if any."""
        for path in self._folder.glob(f"{_make_prefix(model_owner, lowering)}.*"):
            body = self._read(path, lowering)
            if body is not None:
                self._just_read = (path, body)
                return path.name.rpartition(".")[2]
        return None

    def load(self, model_owner: str, version: str, lowering: MaskedLowering) -> dict[str, RingElements] | None:
        """Delta of each linear step by its name, or None if it is not kept or damaged."""
        path = self._path(model_owner, version, lowering)
        (known, body), self._just_read = self._just_read or (None, None), None
        if known != path:
            body = self._read(path, lowering)
        if body is None:
            return None
        deltas: dict[str, RingElements] = {}
        for (_, step), part in zip(linear_steps(lowering), body, strict=True):
            try:
                bundle = delta_layout(step).unpack(part, peer="the kept file", step="masked weights")
            except PeerViolation:
                return None  # fetched again
            deltas[step.name] = bundle.rings[0].values.reshape(step.weight_shape)
        return deltas

    def save(
        self, model_owner: str, version: str, lowering: MaskedLowering, deltas: Mapping[str, RingElements]
    ) -> None:
        """Keep Delta in place of what was kept for this plan."""
        target = self._path(model_owner, version, lowering)
        try:
            with replacing_file(target) as file:
                bodies = _pack(lowering, deltas)
                seal(file, self._key, purpose=_PURPOSE, context=target.name, header=b"", bodies=bodies)
            for old in self._folder.glob(f"{_make_prefix(model_owner, lowering)}.*"):
                if old != target:
                    old.unlink()
        except OSError as error:
            raise ConfigurationError(
                f"{self._folder} cannot be written ({error.strerror}): free space or correct its permissions"
            ) from error

    def _path(self, model_owner: str, version: str, lowering: MaskedLowering) -> Path:
        return self._folder / f"{_make_prefix(model_owner, lowering)}.{version}"

    def _read(self, path: Path, lowering: MaskedLowering) -> list[Body] | None:
        """The packed tensors of a whole file, or None."""
        sizes = [delta_layout(step).body_bytes for _, step in linear_steps(lowering)]
        try:
            with path.open("rb") as file:
                return SealedFile(file, self._key, purpose=_PURPOSE, context=path.name).read(sizes)
        except (OSError, DamagedFile, ConfigurationError):
            return None


def _pack(lowering: MaskedLowering, deltas: Mapping[str, RingElements]) -> Iterator[Body]:
    """One tensor at a time, as it lies in the file."""
    for _, step in linear_steps(lowering):
        flat = reduce_to_ring(deltas[step.name].reshape(-1), step.value.ring_bits)
        yield delta_layout(step).pack(Bundle(rings=(flat,)))


def _make_prefix(model_owner: str, lowering: MaskedLowering) -> str:
    """What files of one plan and model owner begin with."""
    plan = hashlib.sha256(lowering.model_dump_json().encode()).hexdigest()
    return f"{model_owner}.{plan[:32]}"
