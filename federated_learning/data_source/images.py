"""Images that stay on the disk until they are asked for."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.model_card import InputSpecification
from federated_learning.data_source.examples import Example, load
from federated_learning.data_source.image_store import Pixels, shrink_stored


class ImageArray(Protocol):
    """What training needs of images: an array of shape (images, channels, height, width), or what behaves as one."""

    def __len__(self) -> int:
        """How many images."""

    def __getitem__(self, chosen: Any, /) -> NDArray[np.float32]:
        """Images by a slice or an array of indices: normalised float32, (chosen, channels, height, width)."""


class LazyImages:
    """Grey pictures in a file mapped into memory, normalised as a model asks for when they are read."""

    def __init__(self, pixels: Pixels, *, mean: Sequence[float], standard_deviation: Sequence[float]) -> None:
        """`pixels`: (images, height, width) in a store's file, in [0, 1]; one mean and deviation for each channel."""
        self.pixels = pixels
        self._mean = np.asarray(mean, dtype=np.float32)[:, np.newaxis, np.newaxis]
        self._deviation = np.asarray(standard_deviation, dtype=np.float32)[:, np.newaxis, np.newaxis]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(images, channels, height, width)."""
        count, height, width = self.pixels.shape
        return count, len(self._mean), height, width

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, chosen: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        """float32, (chosen, channels, height, width): bit for bit what serving makes of the same files."""
        return np.asarray((self.pixels[chosen][:, np.newaxis] - self._mean) / self._deviation)

    def in_unit_range(self) -> Iterator[NDArray[np.float32]]:
        """One by one, before they are normalised: (channels, height, width) in [0, 1], the channels all alike."""
        for picture in self.pixels:
            yield np.broadcast_to(picture, (len(self._mean), *picture.shape))

    def with_statistics(self, mean: Sequence[float], standard_deviation: Sequence[float]) -> "LazyImages":
        """The same pictures with other statistics, one for each channel, say those that hospitals agreed on."""
        if not len(mean) == len(standard_deviation) == len(self._mean):
            raise ConfigurationError(f"the network takes {len(self._mean)} channels: give as many means and deviations")
        return LazyImages(self.pixels, mean=mean, standard_deviation=standard_deviation)

    def at_size(self, size: int) -> "LazyImages":
        """The same pictures shrunk to (size, size), in a file of their own beside the first, which is made once.

        Raises ConfigurationError if it cannot be written.
        """
        mean, deviation = self._mean.ravel().tolist(), self._deviation.ravel().tolist()
        return LazyImages(shrink_stored(self.pixels, size), mean=mean, standard_deviation=deviation)


class OnDemandImages:
    """Images that are read from their files each time they are asked for: for one pass over them, as in evaluation."""

    def __init__(self, examples: Sequence[Example], specification: InputSpecification) -> None:
        self._examples, self._specification = examples, specification

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, chosen: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        """float32, (chosen, channels, height, width). Raises ImageError for a file that cannot be read."""
        return load([self._examples[index] for index in np.arange(len(self))[chosen]], self._specification)
