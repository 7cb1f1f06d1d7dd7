"""The cases that were once read wrongly or refused, as they were reported."""

import numpy as np
import pytest

from contract.model_card import View
from imaging.reading import read_image
from tests.cases import cases_folder, right_picture
from tests.imaging.samples import specification

pytestmark = pytest.mark.real_data

RIGHT: dict[str, set[str]] = {
    "high_bit_15_stored_12.dcm": set(),
    "jls_zero_before_eoi.dcm": set(),
    "jpeg_wrong_bot.dcm": set(),
    "photometric_lower.dcm": set(),
    "pixel_padding_no_window.dcm": set(),
    "voi_lut_declared16_used12.dcm": {"lookup-table-depth"},
    "voi_lut_negative_first_value_positive_pixels.dcm": set(),
    "window_decimal_comma.dcm": {"decimal-comma"},
}
"""Cases with a right picture -> what is remarked."""
SAME_RAMP = {"garbage_high_bits__jls.dcm": set[str](), "no_preamble.dcm": {"no-preamble"}}
"""Cases that hold the ramp of `high_bit_15_stored_12.dcm`."""
SPEAKING = {
    "mono2_presentation_inverse.dcm": ("polarity-contradicts", True),
    "lateral_view.dcm": ("wrong-view", True),
    "patient_orientation_flipped.dcm": ("orientation", True),
    "anatomic_region_abdomen.dcm": ("wrong-body-part", True),
    "for_processing_by_sop_class.dcm": ("for-processing", True),
    "display_shutter.dcm": ("display-shutter", False),
    "window_first_empty.dcm": ("bad-window", False),
    "jpeg_three_components_mono.dcm": ("three-colours", False),
}
"""Cases of which the user must hear, for a card of frontal views, and whether it is a question."""
FRONTAL = specification(views=(View.AP, View.PA))


@pytest.mark.parametrize(("name", "codes"), [*RIGHT.items(), *SAME_RAMP.items()])
def test_a_reported_case_reads_right(name: str, codes: set[str]) -> None:
    case = cases_folder() / name
    image = read_image(case, specification())
    right = right_picture(case.with_name("high_bit_15_stored_12.dcm") if name in SAME_RAMP else case)
    np.testing.assert_allclose(image.pixels, right, atol=1e-6)
    assert {warning.code for warning in image.warnings} == codes


@pytest.mark.parametrize(("name", "expected"), SPEAKING.items())
def test_the_user_hears_of_a_reported_case(name: str, expected: tuple[str, bool]) -> None:
    image = read_image(cases_folder() / name, FRONTAL)
    assert expected in [(warning.code, warning.needs_confirmation) for warning in image.warnings]


def test_floating_point_pixels_are_stretched_over_their_range() -> None:
    """The ramp of the other cases, which names no window here."""
    image = read_image(cases_folder() / "float_pixel_data.dcm", specification())
    assert (image.pixels.min(), image.pixels.max()) == (0, 1)
    assert (
        np.corrcoef(
            image.pixels.ravel(), read_image(cases_folder() / "no_preamble.dcm", specification()).pixels.ravel()
        )[0, 1]
        > 0.95
    )
