"""Many images in a browser: none out of reach, names behind a switch, removed together by key, printed, on a phone."""

from pathlib import Path

from playwright.sync_api import FileChooser, Page, expect

from tests.browser.conftest import Visiting
from tests.browser.doing import bring, ready, state_is
from tests.browser.test_diagnosis import press_until, tab_to
from tests.browser.test_looks import overflow
from tests.end_to_end.models import radiograph

PHONE = {"width": 390, "height": 844}
VISIBLE = """() => [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility() && !one.children.length && one.textContent.trim())
    .map((one) => one.textContent.trim())"""


def visible(page: Page) -> str:
    return "\n".join(page.evaluate(VISIBLE))


def test_a_list_that_is_longer_than_its_frame(visit: Visiting, tmp_path: Path) -> None:
    page = visit()
    choosers: list[FileChooser] = []

    def opened(chooser: FileChooser) -> None:
        choosers.append(chooser)

    page.on("filechooser", opened)
    ready(page)
    tab_to(page, "choose")
    files = [radiograph(tmp_path / f"jane-{seed}.dcm", seed=seed, AccessionNumber=f"ACC-{seed}") for seed in range(14)]
    press_until(page, choosers).set_files(files)
    expect(page.get_by_test_id("tally")).to_have_text("14 images: 14 ready to submit")
    first = page.get_by_test_id("entry-link").filter(has_text="Image 1").last
    expect(first).to_be_in_viewport()  # it is chosen, and the last of the list
    expect(page.get_by_test_id("entries-more")).to_contain_text("more above")
    page.get_by_test_id("entry-link").first.focus()
    expect(page.get_by_test_id("entries-more")).to_contain_text("more below")
    assert "ACC-3" not in page.content()
    page.get_by_test_id("names-switch").press("Enter")
    expect(page.get_by_test_id("entry-link").filter(has_text="ACC-3")).to_contain_text("jane-3.dcm")
    page.get_by_test_id("names-switch").press("Enter")
    expect(page.get_by_test_id("who")).to_have_count(0)
    page.get_by_test_id("remove-all").press("Enter")  # nothing is answered: nothing is asked
    expect(page.get_by_test_id("welcome")).to_be_visible()


def test_an_answer_is_printed_kept_and_removed(visit: Visiting, chest: Path) -> None:
    page = visit()
    bring(page, chest)
    ready(page)
    page.get_by_test_id("submit").click()
    state_is(page, "answered")
    page.emulate_media(media="print")
    shown = visible(page)
    for words in ("normal", "tiny-chest 1.0.0", "Intended use: tests", "Research use only, not a medical device."):
        assert words in shown
    for words in ("Encrypted inference", "Offline material", "History", "Show patient", "What left this machine"):
        assert words not in shown
    expect(page.locator(".print-only img").first).to_be_visible()
    assert page.pdf().startswith(b"%PDF")
    page.emulate_media(media="screen")
    page.get_by_test_id("remove-all").press("Enter")
    expect(page.get_by_test_id("question-words")).to_contain_text("The answers stay in the history")
    expect(page.get_by_test_id("question-no")).to_be_focused()
    page.keyboard.press("Enter")
    state_is(page, "answered")
    page.get_by_test_id("answers-report").click()
    expect(page.get_by_test_id("report-answer")).to_have_count(1)
    page.get_by_test_id("history-link").click()
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    expect(page.get_by_test_id("record")).to_be_visible()
    assert overflow(page) == 0
    for part in page.get_by_test_id("record").locator("td, th").all():
        box = part.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= PHONE["width"]
