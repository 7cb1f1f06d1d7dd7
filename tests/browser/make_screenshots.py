"""Makes the pictures of the page in docs/images, of a drawn phantom: nobody's radiograph.

python -m tests.browser.make_screenshots
"""

import io
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from imaging.phantom import write_phantom
from tests.browser.doing import bring, loaded, ready, state_is
from tests.browser.real_page import real_federation, started_page
from tests.browser.workstation import chromium_path, launched_browser, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
SIZE = {"width": 1280, "height": 860}
SHOWN_SEED = 1


def take(page: "Page", name: str) -> None:
    """Write what the screen shows, with a palette of 256 colours: a third of the bytes, and nearly the same."""
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.mouse.move(0, 0)
    shot = Image.open(io.BytesIO(page.screenshot(animations="disabled", scale="device")))
    small = shot.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=4)
    small.save(IMAGES / name, optimize=True)


def main() -> None:
    """Take both."""
    path = chromium_path()
    if path is None:
        sys.exit("make_screenshots: no Chromium on PATH: scripts/install --with-system installs it")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, real_federation() as deployment, launched_browser(path) as browser:
        phantom = Path(name) / "phantom.dcm"
        write_phantom(phantom, seed=SHOWN_SEED)
        with (
            started_page(deployment) as (address, _),
            visiting(browser, address, viewport=SIZE, color_scheme="light") as page,
        ):
            ready(page)
            page.get_by_test_id("prepare-count").fill("4")
            page.get_by_test_id("prepare").click()
            page.get_by_test_id("stock-level").get_by_text("4").wait_for()
            bring(page, phantom)
            assert loaded(page.get_by_test_id("original"))
            assert loaded(page.get_by_test_id("seen"))
            take(page, "page-before.png")
            page.get_by_test_id("submit").click()
            state_is(page, "answered")
            assert loaded(page.get_by_test_id("heat-map"))
            take(page, "page-answer.png")


if __name__ == "__main__":
    main()
