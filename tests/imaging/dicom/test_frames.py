"""Frames are found by how they begin, whatever the table of offsets says."""

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from contract.errors import ImageError
from contract.model_card import FrameChoice
from imaging.reading import read_image
from tests.imaging.samples import data_set, in_items, picture, specification

FRAMES = [picture(bits=12, seed=seed) for seed in range(3)]
ENCODED = [bytes(imagecodecs.jpegls_encode(frame)) for frame in FRAMES]
JPEG_LS = "1.2.840.10008.1.2.4.80"


def file(fragments: list[bytes], *, table: list[int] | None, frames: int | None = len(FRAMES)) -> bytes:
    """A file of these fragments after a table of offsets; None: not even an empty one."""
    made = data_set(FRAMES[0], bits=12)
    if frames is not None:
        made.NumberOfFrames = frames
    begin = [] if table is None else [struct.pack(f"<{len(table)}I", *table)]
    return in_items(made, [*begin, *fragments], JPEG_LS)


def halves(frames: list[bytes]) -> list[bytes]:
    return [half for frame in frames for half in (frame[:100], frame[100:])]


@pytest.mark.parametrize("table", [None, [], [0, 1, 2], [9999], [0, 99999, 7]])
@pytest.mark.parametrize("fragments", [ENCODED, halves(ENCODED)])
def test_the_table_is_not_needed(tmp_path: Path, fragments: list[bytes], table: list[int] | None) -> None:
    path = tmp_path / "image"
    path.write_bytes(file(fragments, table=table))
    for choice, index in ((FrameChoice.FIRST, 0), (FrameChoice.MIDDLE, 1)):
        image = read_image(path, specification(frame=choice))
        np.testing.assert_allclose(image.pixels, FRAMES[index] / 4095, atol=1e-6)
        assert image.warnings == ()


def test_frames_that_the_header_does_not_promise_are_remarked(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(file(ENCODED, table=[], frames=None))
    image = read_image(path, specification())
    np.testing.assert_allclose(image.pixels, FRAMES[0] / 4095, atol=1e-6)
    assert [warning.code for warning in image.warnings] == ["more-than-promised"]


@pytest.mark.parametrize("fragments", [[], ENCODED[:1]])
def test_frames_that_are_not_there_are_refused(tmp_path: Path, fragments: list[bytes]) -> None:
    path = tmp_path / "image"
    path.write_bytes(file(fragments, table=[]))
    with pytest.raises(ImageError, match=r"cut short|does not hold the pictures"):
        read_image(path, specification(frame=FrameChoice.MIDDLE))


@pytest.mark.parametrize("stray", [b"\0", b"\xff", b"\0\0\0", b"\0\xff"])
def test_bytes_before_the_end_of_jpeg_ls_are_passed_over(tmp_path: Path, stray: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(file([ENCODED[0][:-2] + stray + b"\xff\xd9"], table=[], frames=None))
    np.testing.assert_allclose(read_image(path, specification()).pixels, FRAMES[0] / 4095, atol=1e-6)


@pytest.mark.parametrize("cut", [2, 3, 200])
def test_jpeg_ls_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(file([ENCODED[0][:-cut]], table=[], frames=None))
    with pytest.raises(ImageError, match="damaged"):
        read_image(path, specification())
