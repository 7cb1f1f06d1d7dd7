"""How quick the page is, and whether it keeps what it should forget. For a quiet machine:

python -m tests.browser.figures
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from pydicom.uid import JPEGLosslessSV1

from data_owner.ui.history import Record
from demonstration.deployment import Deployment
from imaging.phantom import draw_phantom, write_phantom
from tests.browser.doing import ready
from tests.browser.real_page import real_federation, started_page
from tests.browser.workstation import PATIENCE, chromium_path, launched_browser, visiting
from tests.imaging.make_table import in_syntax
from tests.imaging.samples import data_set

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RUNS = 5
DIAGNOSES = 200
SETTLED = 100
"""Diagnoses after which a process has what it needs; the growth over as many more is the figure."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of issue 6 and its bound."""

    name: str
    value: float
    bound: float
    unit: str

    def __str__(self) -> str:
        """A line for people."""
        verdict = "met" if self.value <= self.bound else "NOT MET"
        return f"{self.name}: {self.value:.2f} {self.unit} (at most {self.bound:g}): {verdict}"


class Driver:
    """A page's requests without a browser."""

    def __init__(self, address: str) -> None:
        """Enter with the token."""
        parts = urlsplit(address)
        origin = f"{parts.scheme}://{parts.netloc}"
        headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin", "Accept": "application/json"}
        self.browser = httpx.Client(base_url=origin, trust_env=False, timeout=PATIENCE, headers=headers)
        self.browser.get(address).raise_for_status()

    def state(self, entry: str) -> Any:
        """What the page's script asks for."""
        return self.browser.get("/state", params={"entry": entry}).raise_for_status().json()

    def diagnose(self, content: bytes) -> None:
        """Drop, submit, wait for the answer, remove."""
        entry = str(self.browser.post("/entries", content=content).raise_for_status().json()["entry"])
        self.until(entry, 'data-state="ready"')
        self.browser.post(f"/entries/{entry}/submit").raise_for_status()
        self.until(entry, 'data-testid="result"')
        self.browser.post(f"/entries/{entry}/remove").raise_for_status()

    def until(self, entry: str, words: str) -> None:
        """Wait until an entry's part of the page has these words."""
        limit = time.monotonic() + PATIENCE
        while words not in (html := str(self.state(entry)["regions"]["entry"]["html"])):
            if 'data-testid="entry-error"' in html or time.monotonic() > limit:
                raise AssertionError(html)
            time.sleep(0.02)


def resident_megabytes(process: int) -> float:
    """Memory of a process now."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return kilobytes / 1e3


def growth(deployment: Deployment, content: bytes, *, diagnoses: int = DIAGNOSES) -> tuple[float, float]:
    """Megabytes of the page's process after the first diagnoses, and after all."""
    with started_page(deployment) as (address, process):
        driver = Driver(address)
        settled = 0.0
        for number in range(1, diagnoses + 1):
            driver.diagnose(content)
            if number == SETTLED:
                settled = resident_megabytes(process)
        driver.browser.close()
        return settled, resident_megabytes(process)


def start_seconds(deployment: Deployment) -> float:
    """From the command to the page's content."""
    begin = time.monotonic()
    with started_page(deployment) as (address, _):
        driver = Driver(address)
        assert "drop-zone" in driver.browser.get("/").raise_for_status().text
        seconds = time.monotonic() - begin
        driver.browser.close()
    return seconds


def large_radiograph(folder: Path) -> Path:
    """3000 x 3000 pixels of 16 bits in JPEG Lossless."""
    stored = np.rint(draw_phantom(seed=2, side=3000) * 65535).astype(np.uint16)
    content = in_syntax(folder, data_set(stored, bits=16), JPEGLosslessSV1)
    assert content is not None
    path = folder / "large.dcm"
    path.write_bytes(content)
    return path


def seconds_until(page: "Page", path: Path, shown: Sequence[str], *, press: bool) -> float:
    """From a file's arrival on the page until these test ids are on its screen; then the page is empty again.

    Timed by the page's own clock: the browser is driven from another process, whose way to it is no part of the page.
    `press`: the image is submitted as soon as the button can be pressed, as no person could.
    """
    page.evaluate(STOPWATCH, {"shown": list(shown), "press": press})
    page.get_by_test_id("file-input").set_input_files(path)
    seconds = float(page.evaluate("window.stopwatch"))
    page.get_by_test_id("remove").click()
    page.get_by_test_id("welcome").wait_for()
    return seconds


STOPWATCH = """({shown, press}) => {
    window.stopwatch = new Promise((done) => {
        const input = document.getElementById("file-input");
        const there = (id) => {
            const found = document.querySelector(`[data-testid=${id}]`);
            return found && (found.tagName !== "IMG" || (found.complete && found.naturalWidth > 0));
        };
        const watch = () => {
            const begin = performance.now();
            let pressed = !press;
            const look = () => {
                const button = document.getElementById("submit");
                if (!pressed && button && !button.disabled) {
                    pressed = true;
                    button.click();
                }
                if (pressed && shown.every(there)) {
                    requestAnimationFrame(() => setTimeout(() => done((performance.now() - begin) / 1000)));
                } else setTimeout(look, 5);
            };
            look();
        };
        input.addEventListener("change", watch, {once: true, capture: true});
    });
}"""


def preview_seconds(page: "Page", path: Path) -> float:
    """Until both pictures of a file are shown."""
    return seconds_until(page, path, ["original", "seen"], press=False)


def answer_seconds(page: "Page", path: Path) -> float:
    """Until the answer to a file is shown: reading, pictures, session, result, and what the browser does with them."""
    return seconds_until(page, path, ["result"], press=True)


def engine_seconds(deployment: Deployment) -> list[float]:
    """What the sessions took by their own clock, in the order of the answers.

    A session's clock runs from its first connection to a party until its result: fetching or preparing material, and
    the network's layers. The front end's part before and after, and all that the page does, is not in it.
    """
    records = sorted(deployment.folder.glob("*/page/history/*.json"))
    return [Record.model_validate_json(path.read_bytes()).seconds for path in records]


def in_browser(deployment: Deployment, browser: "Browser", folder: Path) -> list[Figure]:
    """Figures that need one."""
    phantom, large = folder / "phantom.dcm", large_radiograph(folder)
    write_phantom(phantom)
    with started_page(deployment) as (address, _), visiting(browser, address) as page:
        ready(page)
        preview_seconds(page, phantom)
        preview = median(preview_seconds(page, large) for _ in range(RUNS))
        answer_seconds(page, phantom)  # the first one loads and fetches
        unprepared = median(answer_seconds(page, phantom) for _ in range(RUNS))
        page.get_by_test_id("prepare-count").fill(str(RUNS))
        page.get_by_test_id("prepare").click()
        page.get_by_test_id("stock-level").get_by_text(str(RUNS), exact=True).wait_for()
        prepared = median(answer_seconds(page, phantom) for _ in range(RUNS))
    own = engine_seconds(deployment)
    first, second = median(own[-2 * RUNS : -RUNS]), median(own[-RUNS:])
    ratio = "times the engine's own"
    return [
        Figure(name="preview of 3000 x 3000, 16 bits, JPEG Lossless", value=preview, bound=1.5, unit="s"),
        Figure(name=f"drop to answer, {unprepared:.2f} s", value=unprepared / first, bound=1.3, unit=ratio),
        Figure(name=f"drop to answer from stock, {prepared:.2f} s", value=prepared / second, bound=1.3, unit=ratio),
    ]


def main() -> None:
    """Print all; status 1 where a bound is not met."""
    path = chromium_path()
    if path is None:
        sys.exit("figures: no Chromium on PATH: scripts/install --with-system installs it")
    with tempfile.TemporaryDirectory() as name, real_federation() as deployment:
        started = median(start_seconds(deployment) for _ in range(RUNS))
        figures = [Figure(name="page ready after start", value=started, bound=1.0, unit="s")]
        with launched_browser(path) as browser:
            figures += in_browser(deployment, browser, Path(name))
        phantom = Path(name) / "phantom.dcm"
        settled, ended = growth(deployment, phantom.read_bytes())
        words = f"growth of the page's process over {DIAGNOSES - SETTLED} diagnoses, from {settled:.0f} MB"
        figures.append(Figure(name=words, value=ended - settled, bound=8, unit="MB"))
    for figure in figures:
        sys.stdout.write(f"{figure}\n")
    sys.exit(1 if any(figure.value > figure.bound for figure in figures) else 0)


if __name__ == "__main__":
    main()
