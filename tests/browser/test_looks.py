"""Dark and light, a tablet, and what a screen reader needs."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Visiting
from tests.browser.doing import bring, ready, state_is
from tests.browser.workstation import DESKTOP, TABLET

NAMELESS = """() => [...document.querySelectorAll("button, input, select, a, img, canvas, progress")]
    .filter((one) => one.checkVisibility())
    .filter((one) => !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.title
        || one.textContent.trim() || (one.labels && one.labels.length) || one.hasAttribute("alt")))
    .map((one) => one.outerHTML)"""
"""What has no name for a screen reader."""

LUMINANCE = """(selector) => {
    const style = getComputedStyle(document.querySelector(selector));
    const [red, green, blue] = style.backgroundColor.match(/[\\d.]+/g).map(Number);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}"""


EXTREME = """(canvas) => {
    const colours = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const grey = colours.filter((_, index) => index % 4 === 0);
    return grey.filter((value) => value === 0 || value === 255).length / grey.length;
}"""
"""Share of a canvas that is black or white."""


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the screen."""
    return int(page.evaluate("document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"))


def luminance(page: Page) -> float:
    """Of the page's background, 0 to 255."""
    return float(page.evaluate(LUMINANCE, "body"))


def answered(page: Page, chest: Path) -> None:
    bring(page, chest)
    ready(page)
    page.get_by_test_id("submit").click()
    state_is(page, "answered")


def test_dark_and_light(visit: Visiting) -> None:
    page = visit(color_scheme="dark")
    assert luminance(page) < 60
    page.emulate_media(color_scheme="light")
    assert luminance(page) > 200
    page.get_by_test_id("theme-switch").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert luminance(page) < 60
    page.get_by_test_id("history-link").click()
    expect(page.get_by_test_id("history-empty")).to_be_visible()
    assert luminance(page) < 60
    page.get_by_test_id("theme-switch").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.emulate_media(color_scheme="dark")
    assert luminance(page) > 200


@pytest.mark.parametrize("size", [DESKTOP, TABLET, {"width": 1180, "height": 820}], ids=lambda size: str(size["width"]))
def test_everything_fits_on_the_screen(visit: Visiting, chest: Path, size: dict[str, int]) -> None:
    page = visit(viewport=size, has_touch=size is not DESKTOP)
    assert overflow(page) == 0
    answered(page, chest)
    assert overflow(page) == 0
    result = page.get_by_test_id("result").bounding_box()
    assert result is not None
    assert result["x"] >= 0
    assert result["x"] + result["width"] <= size["width"]
    page.get_by_test_id("history-link").click()
    expect(page.get_by_test_id("record")).to_have_count(1)
    assert overflow(page) == 0


def test_everything_has_a_name(visit: Visiting, chest: Path) -> None:
    page = visit()
    assert page.evaluate(NAMELESS) == []
    bring(page, chest)
    state_is(page, "ready")
    assert page.evaluate(NAMELESS) == []
    ready(page)
    page.get_by_test_id("submit").click()
    state_is(page, "answered")
    assert page.evaluate(NAMELESS) == []
    assert page.locator("h1").count() == 1
    page.get_by_test_id("history-link").click()
    expect(page.get_by_test_id("record")).to_have_count(1)
    assert page.evaluate(NAMELESS) == []


def test_a_narrow_window_shows_more_contrast(visit: Visiting, chest: Path) -> None:
    page = visit()
    bring(page, chest)
    canvas, original = page.get_by_test_id("windowed"), page.get_by_test_id("original")
    expect(original).to_be_visible()
    page.get_by_test_id("window-width").fill("20")
    expect(canvas).to_be_visible()
    expect(original).to_be_hidden()
    assert canvas.evaluate(EXTREME) > 0.9  # noise, cut at its middle
    page.get_by_test_id("window-width").fill("1000")
    page.wait_for_function(f"({EXTREME})(document.getElementById('windowed')) < 0.1")
    page.get_by_test_id("window-reset").click()
    expect(original).to_be_visible()
    expect(canvas).to_be_hidden()
