"""What a clinician does on the page, and what the page then shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


def ready(page: "Page") -> None:
    """Wait until the workstation is ready."""
    from playwright.sync_api import expect

    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "ready")


def bring(page: "Page", *paths: Path) -> None:
    """Choose files with the page's own input; wait until the last one is shown."""
    from playwright.sync_api import expect

    before = page.get_by_test_id("entry-link").count()
    page.get_by_test_id("file-input").set_input_files(list(paths))
    expect(page.get_by_test_id("entry-link")).to_have_count(before + len(paths))
    expect(page.get_by_test_id("upload-status")).to_contain_text("read")


def drop(page: "Page", paths: Sequence[Path]) -> None:
    """Drop files on the page, as a file manager does."""
    transfer = page.evaluate_handle(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, content] of files) transfer.items.add(new File([new Uint8Array(content)], name));
            return transfer;
        }""",
        [[path.name, list(path.read_bytes())] for path in paths],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("body", event, {"dataTransfer": transfer})


def state_is(page: "Page", state: str) -> None:
    """Wait until the entry that is shown is in this state."""
    from playwright.sync_api import expect

    expect(page.get_by_test_id("entry")).to_have_attribute("data-state", state)


def loaded(picture: "Locator") -> bool:
    """Whether the browser could show a picture."""
    picture.wait_for()
    size = picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }")
    return int(size) > 0
