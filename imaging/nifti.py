"""NIfTI volumes: one axial slice, as a radiologist sees it: front at the top, the patient's right on the left.

The format names neither modality nor window. Values are stretched by the card's window, else by their own range.
"""

import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from contract.errors import ImageError
from contract.model_card import InputSpecification
from imaging.formats import GZIP, DecodedFile, ImageWarning, Limits, Values, chosen_frame, is_nifti, third_party_reader
from imaging.grey_scale import stretched

_LEFT_TO_RIGHT, _BELOW_TO_ABOVE = 0, 2
"""Axes of NIfTI's world, by the direction in which they grow; 1 is back to front."""


def read_nifti(source: BinaryIO, specification: InputSpecification, limits: Limits) -> DecodedFile:
    """Decode one axial slice of the first volume of a .nii or .nii.gz file to float32 in [0, 1].

    Which slice is for the card to say; slices count from below. Raises ImageError for everything else; sizes are judged
    before memory is taken.
    """
    import nibabel  # a fifth of a second, which most files need not wait for

    with third_party_reader("the NIfTI file"):
        content = _uncompressed(source, limits)
        kind = nibabel.Nifti2Image if content[4:8] == b"n+2\0" else nibabel.Nifti1Image
        image = kind.from_bytes(content)
        stored = image.get_data_dtype()
        if not (np.issubdtype(stored, np.integer) or np.issubdtype(stored, np.floating)) or image.ndim < 3:
            raise ImageError("the NIfTI file is no volume of grey values: export it as one")
        orientation = nibabel.io_orientation(image.affine)
        if not np.isfinite(orientation).all():
            raise ImageError("the NIfTI file does not say how its volume lies: export it again")
        along = int(np.argmax(orientation[:, 0] == _BELOW_TO_ABOVE))
        slices = image.shape[along]
        chosen = chosen_frame(specification.frame, slices)
        rows, columns = (size for axis, size in enumerate(image.shape[:3]) if axis != along)
        limits.check_size(rows=rows, columns=columns)
        index: list[slice | int] = [slice(None)] * 3 + [0] * (image.ndim - 3)
        index[along] = chosen if orientation[along, 1] > 0 else slices - 1 - chosen
        values = _upright(np.asarray(image.dataobj[tuple(index)], np.float32), np.delete(orientation, along, axis=0))
        if not np.isfinite(values).all():
            raise ImageError("the NIfTI file holds values that are not finite numbers: export it again")
        return DecodedFile(
            pixels=stretched(values, specification.window),
            encoding=f"{kind.__name__.removesuffix('Image')}, {stored.name}",
            frames=slices,
            frame=chosen + 1,
            warnings=_several(image.shape[3:]),
            values=Values(values=values),
        )


def _uncompressed(source: BinaryIO, limits: Limits) -> bytes:
    content = source.read()
    if content.startswith(GZIP):
        inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        content = inflater.decompress(content, limits.max_file_bytes)
        if not inflater.eof:
            many = inflater.unconsumed_tail
            what = f"inflates to more than {limits.max_file_bytes >> 20} MiB" if many else "is cut short"
            raise ImageError(f"the NIfTI file {what}: export one volume as a file of its own")
    if not is_nifti(content):
        raise ImageError("the NIfTI file is damaged: export or copy it again")
    return content


def _upright(plane: NDArray[np.float32], orientation: NDArray[np.float64]) -> NDArray[np.float32]:
    """Turn a plane so that its first row is the front and its first column the patient's right."""
    for axis in (0, 1):
        if orientation[axis, 1] > 0:
            plane = np.flip(plane, axis)
    return np.ascontiguousarray(plane.T if orientation[0, 0] == _LEFT_TO_RIGHT else plane)


def _several(volumes: tuple[int, ...]) -> tuple[ImageWarning, ...]:
    if int(np.prod(volumes, dtype=np.int64)) <= 1:
        return ()
    return (ImageWarning("several-volumes", "the file holds several volumes; the first was read"),)
