"""Each kind of TIFF, PNG, JPEG and NIfTI gives the right picture, or is refused."""

from pathlib import Path

import numpy as np
import pytest

from contract.errors import ImageError
from imaging.reading import read_image
from tests.imaging.raster_kinds import KINDS


@pytest.mark.parametrize(("file_format", "name"), [(group, name) for group, kinds in KINDS.items() for name in kinds])
def test_a_kind_reads_right_or_is_refused(tmp_path: Path, file_format: str, name: str) -> None:
    kind, path = KINDS[file_format][name], tmp_path / "image"
    path.write_bytes(kind.make())
    if kind.right is None:
        with pytest.raises(ImageError):
            read_image(path, kind.card)
        return
    image = read_image(path, kind.card)
    assert image.format == file_format
    np.testing.assert_allclose(image.pixels, kind.right, atol=kind.tolerance)
