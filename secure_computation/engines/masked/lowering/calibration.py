"""How large each value of a network gets over the calibration images, in floating point."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelFileError
from secure_computation.network import Network
from secure_computation.private_weights import PrivateWeights

if TYPE_CHECKING:
    import torch

BATCH: Final = 4


@dataclass(frozen=True, kw_only=True)
class RealRange:
    """Smallest and largest element of one value, and the mean of its squares."""

    smallest: float
    largest: float
    mean_square: float

    @property
    def magnitude(self) -> float:
        """Largest |element|."""
        return max(-self.smallest, self.largest)


def calibrate(network: Network, weights: PrivateWeights, images: NDArray[np.float32]) -> Mapping[str, RealRange]:
    """Range of every value of the network over `images`, float32 of shape (images, channels, height, width).

    Raises ModelFileError where the images do not fit the network or a value is not finite.
    """
    import torch

    from secure_computation.float_reference import evaluate

    if images.ndim != 4 or len(images) == 0 or images.shape[1:] != network.input_shape:
        raise ModelFileError(
            f"calibration images of shape {images.shape} do not fit: give one or more of shape {network.input_shape}"
        )
    ranges: dict[str, RealRange] = {}

    def observe(name: str, value: "torch.Tensor") -> None:
        smallest, largest = (float(bound) for bound in torch.aminmax(value))
        if not np.isfinite([smallest, largest]).all():
            raise ModelFileError(f"value '{name}' is not finite on the calibration images: train or export again")
        mean_square = float(value.square().mean())
        if not np.isfinite(mean_square):
            raise ModelFileError(
                f"value '{name}' is too large on the calibration images: give images scaled as those of the training"
            )
        known = ranges.get(name, RealRange(smallest=smallest, largest=largest, mean_square=0.0))
        ranges[name] = RealRange(
            smallest=min(smallest, known.smallest),
            largest=max(largest, known.largest),
            mean_square=known.mean_square + mean_square * len(value) / len(images),
        )

    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(images[start : start + BATCH])
        evaluate(network, weights, batch, dtype=torch.float32, observe=observe)
    return ranges
