"""A NIfTI file of each kind, drawn here, with the right picture. docs/images.md lists them."""

import gzip
import struct
from collections.abc import Callable
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from tests.imaging.drawn import FIRST, MIDDLE, Kind, grey, part
from tests.imaging.samples import nifti_bytes, volume

UPRIGHT = np.diag([-1.0, -1, 1, 1])
"""A volume whose rows and columns are those of the picture, as scanners lay slices."""


def nifti(values: NDArray[Any], *, affine: NDArray[Any] | None = UPRIGHT, **header: Any) -> Callable[[], bytes]:
    """Values by (column, row, slice)."""

    def make() -> bytes:
        image = nibabel.Nifti1Image(values, affine)
        if affine is not None:
            image.set_sform(affine, code=1)
            image.set_qform(affine, code=1)
        for name, value in header.items():
            image.header[name] = value
        return bytes(image.to_bytes())

    return make


def big_endian() -> bytes:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(grey(12).T.astype(np.int16), UPRIGHT, header)
    image.set_qform(UPRIGHT, code=1)
    return bytes(image.to_bytes())


def patched(content: bytes, at: int, *numbers: float) -> bytes:
    """With other numbers in its header: nibabel writes none that contradict the image."""
    changed = bytearray(content)
    changed[at : at + 4 * len(numbers)] = np.array(numbers, "<f4").tobytes()
    return bytes(changed)


def in_parts() -> bytes:
    content = nifti(grey(12).T)()
    parts = (content[:9], content[9:300], b"", content[300:])
    return b"".join(gzip.compress(part) for part in parts) + b"what follows"


def with_a_hole() -> NDArray[np.float32]:
    values = grey(8).astype(np.float32)
    values[3:6, 3:6] = np.nan
    return values


def checksum_wrong() -> bytes:
    content = bytearray(gzip.compress(nifti(grey(12).T)()))
    content[-6] ^= 1
    return bytes(content)


def pixels_that_begin_in_the_header() -> bytes:
    content = bytearray(nifti_bytes(volume()))
    content[108:112] = struct.pack("<f", 0)
    return bytes(content)


def middle_slice() -> NDArray[np.float64]:
    values = np.asarray(nibabel.as_closest_canonical(nibabel.Nifti1Image(volume(), np.eye(4))).dataobj, np.float64)
    plane = values[::-1, ::-1, values.shape[2] // 2].T
    return np.asarray((plane - plane.min()) / (plane.max() - plane.min()))


COLOURS = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
NIFTIS: dict[str, Kind] = {
    "a picture of its own": Kind(make=nifti(grey(12).T), right=part(grey(12), 12)),
    "a frontal plane of a volume": Kind(
        make=nifti(grey(12).T[:, np.newaxis], affine=np.diag([-1.0, 1, -1, 1])), right=part(grey(12), 12)
    ),
    "big-endian": Kind(make=big_endian, right=part(grey(12), 12)),
    "slope -2, intercept 7": Kind(
        make=lambda: patched(nifti(grey(8).T.astype(np.int16))(), 112, -2.0, 7.0), right=1 - part(grey(8), 8)
    ),
    "gzip of several parts, with something behind": Kind(make=in_parts, right=part(grey(12), 12)),
    "pixels that are no numbers": Kind(make=nifti(with_a_hole().T), right=part(np.nan_to_num(with_a_hole()), 8)),
    "colours that are grey": Kind(
        make=nifti(
            np.ascontiguousarray(np.repeat(grey(8).T.astype(np.uint8)[..., np.newaxis], 3, axis=-1)).view(COLOURS)[
                ..., 0
            ]
        ),
        right=part(grey(8), 8),
    ),
    "neither qform nor sform": Kind(make=nifti(grey(12).T, affine=None), right=part(grey(12), 12)[::-1]),
    "qform and sform differ": Kind(
        make=lambda: patched(nifti(grey(12).T)(), 280, 1.0), right=part(grey(12), 12)[:, ::-1]
    ),
    "several volumes, the card takes none": Kind(make=nifti(np.stack([grey(12).T[..., np.newaxis]] * 2, axis=-1))),
    "several volumes, the card takes the first": Kind(
        make=nifti(np.stack([grey(12).T[..., np.newaxis]] * 2, axis=-1)), right=part(grey(12), 12), card=FIRST
    ),
    "complex numbers": Kind(make=nifti(grey(12).T.astype(np.complex64))),
    "only numbers that are none": Kind(make=nifti(np.full((9, 9), np.nan, np.float32))),
    "cut short": Kind(make=lambda: nifti(grey(12).T)()[:-9]),
    "gzip cut short": Kind(make=lambda: gzip.compress(nifti(grey(12).T)())[:-9]),
    "gzip with a wrong checksum": Kind(make=checksum_wrong),
    "pixels that begin in the header": Kind(make=pixels_that_begin_in_the_header, right=middle_slice(), card=MIDDLE),
}
