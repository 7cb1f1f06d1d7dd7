"""NIfTI files: one slice of a volume, or a picture of its own, as a radiologist sees it.

The head or the front is at the top, the patient's right, else the front, on the left. The format names neither modality
nor window: values are stretched by the card's window, else by their own range.
"""

import logging
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import ImageError
from contract.model_card import FrameChoice, InputSpecification
from imaging.formats import (
    GZIP,
    DecodedFile,
    ImageWarning,
    ImageWarnings,
    Limits,
    PolaritySource,
    Values,
    choose_frame,
    guard_library,
    is_nifti,
)
from imaging.grey_scale import LARGEST, make_grey, stretch

_BELOW_TO_ABOVE = 2
"""An axis of NIfTI's world, by the direction in which it grows; 0 is left to right, 1 back to front."""
_COLOURS = ("R", "G", "B")
MOST_MEMBERS: Final = 100_000
"""Parts of a gzip file. Programs that write one in blocks make a block of 64 KiB."""
_PIECE: Final = 1 << 16


def read_nifti(source: BinaryIO, specification: InputSpecification, limits: Limits) -> DecodedFile:
    """Decode one slice of the first volume of a .nii or .nii.gz file to float32 in [0, 1].

    The slice is axial, unless the volume is a single plane of another direction. Which one is for the card to say;
    slices count from below. Raises ImageError for everything else; sizes are judged before memory is taken.
    """
    import nibabel  # a fifth of a second, which most files need not wait for

    with guard_library("the NIfTI file"), _silence(nibabel.imageglobals.logger):
        content = _place_pixels(_uncompress(source, limits))
        kind = nibabel.Nifti2Image if content[4:8] == b"n+2\0" else nibabel.Nifti1Image
        image = kind.from_bytes(content)
        stored = image.get_data_dtype()
        _check(image, stored, len(content))
        shape = (*image.shape[:3], 1)[:3]
        orientation = nibabel.io_orientation(image.affine)
        along = _choose_axis(shape, image.ndim, orientation)
        slices, volumes = shape[along], math.prod(image.shape[3:])
        chosen = choose_frame(specification.frame, slices)
        if specification.frame is FrameChoice.ONLY:
            choose_frame(specification.frame, slices * volumes)
        rows, columns = (size for axis, size in enumerate(shape) if axis != along)
        limits.check_size(rows=rows, columns=columns)
        index: list[slice | int] = [slice(None)] * 3 + [0] * (image.ndim - 3)
        index[along] = chosen if not orientation[along, 1] < 0 else slices - 1 - chosen
        plane = np.asarray(image.dataobj[tuple(index[: image.ndim])])
        plane = _turn_plane(plane, np.delete(orientation, along, axis=0))
        pixels, warnings, values = _show(plane, specification)
        return DecodedFile(
            pixels=pixels,
            encoding=f"version {2 if kind is nibabel.Nifti2Image else 1}, {'colour' if stored.names else stored.name}",
            frames=slices,
            frame=chosen + 1,
            # Programs that turn a radiograph into NIfTI drop what its DICOM file said of that; of volumes, none is one.
            polarity=PolaritySource.NOBODY if slices == 1 else PolaritySource.FILE,
            warnings=(*_check_volumes(volumes), *_question_placement(image, orientation), *warnings),
            values=values,
        )


@contextmanager
def _silence(logger: logging.Logger) -> Iterator[None]:
    """Without what nibabel tells the terminal of headers that it puts right."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _uncompress(source: BinaryIO, limits: Limits) -> bytes:
    content = source.read()
    if content.startswith(GZIP):
        content = _inflate(content, limits.max_file_bytes)
    if not is_nifti(content):
        raise ImageError("the NIfTI file is damaged: export or copy it again")
    return content


def _place_pixels(content: bytes) -> bytes:
    """A header that says that pixels begin inside it means the first byte behind, as in most programs."""
    order = "<" if content[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
    form, at, least = (f"{order}q", 168, 544) if content[4:8] == b"n+2\0" else (f"{order}f", 108, 352)
    (start,) = struct.unpack_from(form, content, at)
    if start >= least:
        return content
    return content[:at] + struct.pack(form, least) + content[at + struct.calcsize(form) :]


def _inflate(content: bytes, most: int) -> bytes:
    """All members of a gzip file, one after the other; what follows the last is left alone, as gzip does."""
    plain, position = bytearray(), 0
    for _ in range(MOST_MEMBERS):
        inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while not inflater.eof:
            piece = content[position : position + _PIECE]
            if not piece:
                raise ImageError("the NIfTI file is cut short: export or copy it again")
            try:
                plain += inflater.decompress(piece, most + 1 - len(plain))
            except zlib.error:
                raise ImageError(
                    "the compressed data of the NIfTI file are damaged, or their checksum is: copy it again"
                ) from None
            if len(plain) > most:
                raise ImageError(
                    f"the NIfTI file inflates to more than {most >> 20} MiB: export one volume as a file of its own"
                )
            position += len(piece) - len(inflater.unused_data)
        if not content.startswith(GZIP, position):
            return bytes(plain)
    raise ImageError("the NIfTI file is compressed in too many parts: compress it again")


def _check(image: Any, stored: np.dtype[Any], byte_count: int) -> None:
    """Raise ImageError for what holds no picture of grey values or colours, or not all that its header promises."""
    colours = stored.names is not None and stored.names[:3] == _COLOURS
    if not (colours or np.issubdtype(stored, np.integer) or np.issubdtype(stored, np.floating)) or image.ndim < 2:
        raise ImageError("the NIfTI file is no volume or picture of grey values: export it as one")
    if image.dataobj.offset + math.prod(image.shape) * stored.itemsize > byte_count:
        raise ImageError("the NIfTI file is cut short: export or copy it again")


def _choose_axis(shape: tuple[int, ...], dimensions: int, orientation: NDArray[np.float64]) -> int:
    """The axis that slices are counted along: a plane's own, else the patient's."""
    if not np.isfinite(orientation[:dimensions]).all():
        raise ImageError("the NIfTI file does not say how its volume lies: export it again")
    if dimensions == 2:
        return 2
    flat = [axis for axis, size in enumerate(shape) if size == 1]
    return flat[0] if len(flat) == 1 else int(np.argmax(orientation[:, 0] == _BELOW_TO_ABOVE))


def _turn_plane(plane: NDArray[Any], orientation: NDArray[np.float64]) -> NDArray[Any]:
    """Turn a plane: head, else front, in the first row; the patient's right, else front, in the first column."""
    for axis in (0, 1):
        if orientation[axis, 1] > 0:
            plane = np.flip(plane, axis)
    return np.ascontiguousarray(plane.T if orientation[0, 0] < orientation[1, 0] else plane)


def _show(
    plane: NDArray[Any], specification: InputSpecification
) -> tuple[NDArray[np.float32], ImageWarnings, Values | None]:
    if plane.dtype.names is not None:
        colours = np.stack([plane[name] for name in _COLOURS], axis=-1)
        return *make_grey(colours, specification.colour), None
    with np.errstate(over="ignore"):
        values = plane.astype(np.float32)
    missing = np.isnan(values)
    if missing.all() or not np.abs(values, where=~missing, out=np.zeros_like(values)).max() < LARGEST:
        raise ImageError("the NIfTI file holds values that are not finite numbers: export it again")
    warnings: ImageWarnings = ()
    if missing.any():
        values[missing] = values[~missing].min()
        text = "some pixels have no value (they are marked as no number); they were taken for the smallest"
        warnings = (ImageWarning("missing-values", text),)
    return stretch(values, specification.window), warnings, Values(values=values)


def _check_volumes(volumes: int) -> ImageWarnings:
    if volumes <= 1:
        return ()
    return (ImageWarning("several-volumes", "the file holds several volumes; the first was read"),)


def _question_placement(image: Any, orientation: NDArray[np.float64]) -> ImageWarnings:
    """Questions about a file that does not say, or says in two ways, which side is the patient's left."""
    import nibabel

    named = [affine for affine, code in (image.get_sform(coded=True), _read_qform(image)) if code]
    if not named:
        text = "the file does not say how its picture lies: it may be mirrored or turned; look at it"
        return (ImageWarning("placement-unknown", text, needs_confirmation=True),)
    known = orientation[:2] if image.ndim == 2 else orientation
    if any(not np.array_equal(nibabel.io_orientation(affine)[: len(known)], known) for affine in named):
        text = "the file says in two places how its picture lies, and they differ: it may be mirrored; look at it"
        return (ImageWarning("placement-contradicts", text, needs_confirmation=True),)
    return ()


def _read_qform(image: Any) -> tuple[NDArray[np.float64] | None, int]:
    """The volume's place by its quaternion, and the code of its space; 0 if it makes no sense."""
    import nibabel

    try:
        affine, code = image.get_qform(coded=True)
    except (nibabel.spatialimages.HeaderDataError, ValueError):
        return None, 0
    return affine, code
