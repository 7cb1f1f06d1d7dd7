"""The cases that were once read wrongly or refused, as they were reported."""

import numpy as np
import pytest

from imaging.reading import read_image
from tests.cases import cases_folder, right_picture
from tests.imaging.samples import specification

pytestmark = pytest.mark.real_data

RIGHT = {
    "tiff16_miniswhite.tif": "tiff16_miniswhite.tif",
    "tiff8_signed.tif": "tiff8_signed.tif",
    "n_2d_sitk.nii.gz": "n_2d_sitk.nii.gz",
    "bigtiff.tif": "tiff8_signed.tif",  # the same ramp
    "jpg12.jpg": "tiff8_signed.tif",
}
"""Cases, and beside which the right picture stands."""
STEPS = {"tiff8_signed.tif": 255, "jpg12.jpg": 1500}
"""How finely a case holds its ramp, where it is not by 16 bits; the JPEG loses some of its 12."""


@pytest.mark.parametrize("name", RIGHT)
def test_a_reported_case_reads_right(name: str) -> None:
    folder = cases_folder()
    image = read_image(folder / name, specification())
    right = right_picture(folder / RIGHT[name])
    np.testing.assert_allclose(image.pixels, right, atol=0.51 / STEPS.get(name, 65535) + 1e-7)
