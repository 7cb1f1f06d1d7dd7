"""A picture whose file does not say which way round it is: both are shown, and one key decides."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect

from tests.browser.conftest import Visiting
from tests.browser.doing import bring, loaded, ready, state_is
from tests.end_to_end.models import SIDE
from tests.imaging.samples import picture

SIZES: tuple[ViewportSize, ...] = ({"width": 390, "height": 844}, {"width": 1280, "height": 800})


def brightness(page: Page, name: str) -> float:
    """Mean of what the screen shows of a picture."""
    shot = io.BytesIO(page.get_by_test_id(name).screenshot())
    return float(np.asarray(Image.open(shot).convert("L")).mean())


def test_both_ways_stand_side_by_side_and_a_key_decides(visit: Visiting, tmp_path: Path) -> None:
    for seed in range(2):
        dark = picture(rows=SIDE, columns=SIDE, seed=seed) // 4
        Image.fromarray(dark.astype(np.uint8)).save(tmp_path / f"{seed}.png")
    page = visit()
    ready(page)
    bring(page, *sorted(tmp_path.glob("*.png")))
    for size in SIZES:
        page.set_viewport_size(size)
        one, other = (page.get_by_test_id(f"shown-{name}") for name in ("as-read", "inverted"))
        assert loaded(one)
        left, right = one.bounding_box(), other.bounding_box()
        assert left is not None
        assert right is not None
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
        assert right["x"] + right["width"] <= size["width"]
    assert brightness(page, "shown-as-read") < 50 < 150 < brightness(page, "shown-inverted")

    page.get_by_test_id("use-inverted-for-all").focus()
    page.keyboard.press("Enter")
    said = page.get_by_test_id("polarity-said")
    expect(said).to_have_text("Inverted, as you said.")
    expect(said).to_be_focused()
    expect(page.get_by_test_id("submit-all")).to_have_text("Submit 2")
    assert loaded(page.get_by_test_id("original"))
    assert brightness(page, "original") > 150

    page.keyboard.press("Tab")
    expect(page.get_by_test_id("invert")).to_be_focused()
    page.keyboard.press("Enter")
    expect(said).to_contain_text("Bright and dark as they are")
    expect(said).to_be_focused()
    state_is(page, "ready")
    assert loaded(page.get_by_test_id("original"))
    assert brightness(page, "original") < 50  # not the picture that the browser has kept
