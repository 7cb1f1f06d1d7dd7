"""The cases that were once read wrongly or refused, as they were reported: all hold one ramp."""

import numpy as np
import pytest

from imaging import read_image
from tests.cases import cases_folder, right_picture
from tests.imaging.samples import specification

pytestmark = pytest.mark.real_data

RAMPS = {"tiff16_miniswhite.tif": None, "tiff8_signed.tif": None, "bigtiff.tif": "tiff8_signed.tif"} | {
    "jpg12.jpg": "tiff8_signed.tif"
}
"""Cases, and where the right picture is if it does not stand beside."""


@pytest.mark.parametrize("name", RAMPS)
def test_a_reported_case_reads_right(name: str) -> None:
    case = cases_folder() / name
    image = read_image(case, specification())
    right = right_picture(case.with_name(RAMPS[name] or name))
    np.testing.assert_allclose(image.pixels, right, atol=0.002 if "8" in name else 0.0004)  # the ramp was rounded
