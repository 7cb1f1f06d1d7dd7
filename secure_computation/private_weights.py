"""The private half of a compiled model: float32 tensors by the names that the public network gives them.

Held by the model owner alone. The values never show in a repr, cannot be pickled, and are kept as an .npz file (NumPy's
zip of .npy, read without pickle) that the model owner seals.
"""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Never, TypeVar

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelFileError
from contract.files import new_file
from secure_computation.network import Network

Tensor32 = NDArray[np.float32]
Tensor = TypeVar("Tensor", bound=NDArray[Any])

_NPY_HEADER_BYTES = 4096


class HiddenTensors(Mapping[str, Tensor]):
    """Private tensors by name: read-only, never shown, never pickled."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over `tensors`."""
        self._tensors = dict(tensors)
        for tensor in self._tensors.values():
            tensor.setflags(write=False)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} tensors, values withheld>"

    def __reduce__(self) -> Never:
        raise TypeError("private weights are not pickled: keep them in sealed files")


class PrivateWeights(HiddenTensors[Tensor32]):
    """Exactly the tensors that `network.weight_shapes()` names: float32, finite.

    Raises ModelFileError if names, shapes or values do not fit the network; no value appears in the message.
    """

    def __init__(self, network: Network, tensors: Mapping[str, NDArray[np.floating]]) -> None:
        """Copy and check `tensors`; the originals stay the caller's."""
        shapes = network.weight_shapes()
        if set(tensors) != set(shapes):
            different = min(set(tensors) ^ set(shapes))
            raise ModelFileError(f"weights and network disagree on tensor '{different}': import the model again")
        super().__init__({name: _checked(name, tensors[name], shape) for name, shape in shapes.items()})

    def to_npz(self) -> bytes:
        """The tensors as the content of an .npz file, for its owner to seal (`at_rest`)."""
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **self._tensors)
        return content.getvalue()

    def save(self, path: Path) -> None:
        """Write a new .npz file that only its owner may read (mode 0600), in clear: for benchmarks of others' systems.

        Raises FileExistsError if one stands.
        """
        with new_file(path) as file:
            np.savez(file, allow_pickle=False, **self._tensors)

    @classmethod
    def load(cls, network: Network, file: Path | BinaryIO) -> "PrivateWeights":
        """Read what `save` or `to_npz` wrote. Sizes are checked against the network before memory is taken."""
        try:
            with zipfile.ZipFile(file) as archive:
                tensors = {name: _member(archive, name, shape) for name, shape in network.weight_shapes().items()}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
            raise ModelFileError("the weights' file cannot be read: import the model again") from error
        return cls(network, tensors)


def _checked(name: str, tensor: NDArray[np.floating], shape: tuple[int, ...]) -> Tensor32:
    if tensor.dtype.kind != "f" or tensor.shape != shape:
        raise ModelFileError(
            f"weight '{name}' has type {tensor.dtype} and shape {tensor.shape}, the network asks for floats of shape "
            f"{shape}: import the model again"
        )
    with np.errstate(over="ignore"):
        copy = np.array(tensor, dtype=np.float32, order="C")
    if not np.isfinite(copy).all():
        raise ModelFileError(f"weight '{name}' holds a value that is not finite in float32: train or export again")
    return copy


def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> Tensor32:
    """One tensor of an .npz; its declared length must fit `shape` before a byte of it is read."""
    entry = archive.getinfo(f"{name}.npy")
    length = 4 * math.prod(shape)
    if entry.file_size > length + _NPY_HEADER_BYTES:
        raise ValueError("a tensor is longer than the network says")
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of .npy")
        if np.lib.format.read_array_header_1_0(file) != (shape, False, np.dtype("<f4")):
            raise ValueError("another shape or type than the network says")
        data = file.read()
    if len(data) != length:
        raise ValueError("a tensor is cut off")
    return np.frombuffer(data, dtype="<f4").reshape(shape)
