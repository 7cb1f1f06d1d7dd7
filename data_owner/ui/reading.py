"""A file that was dropped -> what its entry shows, and what would be submitted of it."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.errors import ConfigurationError
from contract.files import replacing_file
from contract.model_card import ModelCard
from data_owner.inspection import encode_png, undo_normalisation
from data_owner.ui.entries import Entry, Facts, Look
from imaging.preprocessing import Viewing
from imaging.reading import ModelInput, read_for_viewing


def read_entry(entry: Entry, card: ModelCard) -> tuple[ModelInput, Facts]:
    """Read an entry's file as a model asks, and write its pictures. Raises ImageError, or ConfigurationError."""
    image, viewing = read_for_viewing(entry.file, card.input, polarity=entry.polarity)
    try:
        _write(entry.original, _encode_grey_png(image.picture))
        _write(entry.seen, encode_png(undo_normalisation(image.tensor, card)))
        _write(entry.values, viewing.steps.tobytes())
    except OSError as error:
        raise ConfigurationError(
            f"the previews cannot be written ({error.strerror}); make room in the data folder"
        ) from error
    return image, _list_facts(image, viewing)


def _encode_grey_png(picture: NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(picture).save(target, "PNG", compress_level=1)  # it crosses nothing but this machine's memory
    return target.getvalue()


def _write(path: Path, content: bytes) -> None:
    with replacing_file(path, durable=False) as file:  # it goes with the page
        file.write(content)


def _list_facts(image: ModelInput, viewing: Viewing) -> Facts:
    rows, columns = viewing.steps.shape
    return Facts(
        format=image.format.value,
        encoding=image.encoding,
        rows=image.original_size[0],
        columns=image.original_size[1],
        frames=image.frames,
        frame=image.frame,
        modality=image.modality,
        body_part=image.body_part,
        look=Look(
            rows=rows,
            columns=columns,
            low=viewing.low,
            high=viewing.high,
            inverted=viewing.inverted,
            center=viewing.window.center,
            width=viewing.window.width,
        ),
        seen_rows=image.tensor.shape[1],
        seen_columns=image.tensor.shape[2],
        polarity_told_by=image.polarity_told_by,
    )
