"""Odd DICOM files are read right, asked about or refused, as docs/images.md says."""

from pathlib import Path

import numpy as np
import pytest

from contract.errors import ImageError
from imaging.reading import read_image
from tests.imaging.forgiven_dicom import KINDS


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.refused])
def test_a_kind_is_read_with_what_must_be_said_of_it(tmp_path: Path, name: str) -> None:
    kind, path = KINDS[name], tmp_path / "image"
    path.write_bytes(kind.make())
    image = read_image(path, kind.card)
    told = [(warning.code, warning.needs_confirmation) for warning in image.warnings]
    assert told == [(code, False) for code in kind.says.split()] + [(code, True) for code in kind.asks.split()]
    assert not any("\n" in warning.text for warning in image.warnings)
    if kind.right is not None:
        np.testing.assert_allclose(image.pixels, kind.right(), atol=kind.tolerance)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.refused])
def test_a_kind_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(KINDS[name].make())
    with pytest.raises(ImageError, match=r"^[^\n]+: [^\n]+$"):
        read_image(path, KINDS[name].card)


def test_a_kind_that_is_read_in_silence_has_a_right_picture() -> None:
    silent = [name for name, kind in KINDS.items() if not (kind.says or kind.asks or kind.refused)]
    assert silent
    assert all(KINDS[name].right is not None for name in silent)
