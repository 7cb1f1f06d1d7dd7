"""A page in this process, before an in-process federation or before none, and a browser without a screen."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from data_owner.settings import DataOwnerSettings
from data_owner.ui.folders import Folders
from data_owner.ui.pages import make_page_app
from data_owner.ui.runner import Runner
from data_owner.ui.security import Access
from data_owner.ui.workplace import Workplace
from plumbing.settings import Peer
from tests.end_to_end.federation import HOSPITAL, LABORATORY, TRUST_CENTRE, Federation, listening, loopback

LIMIT = 1 << 20
PATIENCE = 60.0
"""Seconds that a test waits for what takes a moment; only a hang is told by it."""


@dataclass
class Page:
    """A page and the browser before it."""

    browser: httpx.Client
    access: Access
    workplace: Workplace
    settings: DataOwnerSettings

    @property
    def origin(self) -> dict[str, str]:
        return {"Origin": self.access.origin, "Sec-Fetch-Site": "same-origin", "Accept": "application/json"}

    def get(self, path: str, **named: Any) -> Any:
        return self.browser.get(path, **named)

    def post(self, path: str, **form: str) -> Any:
        return self.browser.post(path, data=form, headers=self.origin, follow_redirects=False)

    def drop(self, *files: Path, drop: str = "one") -> list[str]:
        """Upload files; the ids of their entries."""
        ids = []
        for file in files:
            headers = self.origin | {"X-Drop": drop, "X-File-Name": quote(file.name)}
            answer = self.browser.post("/entries", content=file.read_bytes(), headers=headers)
            assert answer.status_code == 201, answer.text
            ids.append(answer.json()["entry"])
        return ids

    def html(self, entry: str = "") -> str:
        answer = self.get("/", params={"entry": entry})
        assert answer.status_code == 200
        return str(answer.text)

    def state(self, entry: str) -> str:
        found = re.search(r'data-testid="entry" data-state="([a-z]+)"', self.html(entry))
        return found.group(1) if found else ""

    def wait(self, condition: Callable[[], object]) -> None:
        limit = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < limit, "it did not come"
            time.sleep(0.02)

    def wait_for(self, entry: str, state: str) -> None:
        self.wait(lambda: self.state(entry) == state)

    def ready(self) -> "Page":
        self.wait(lambda: self.workplace.connection == "ready")
        return self


@contextmanager
def open_page(settings: DataOwnerSettings, *, visit: bool = True) -> Iterator[Page]:
    """Serve a page until the block ends."""
    with ExitStack() as stack:
        folders = Folders(settings.data_folder)
        stack.callback(folders.close)
        listener, port = loopback()
        access = Access(port=port, max_upload_bytes=LIMIT)
        workplace = Workplace(folders, stock_days=settings.stock_days)
        app = make_page_app(workplace, Runner(settings, workplace), access)
        stack.callback(workplace.bell.close)
        stack.enter_context(listening(app, listener, ws="none", lifespan="on"))
        browser = stack.enter_context(httpx.Client(base_url=access.origin, trust_env=False, timeout=PATIENCE))
        if visit:
            assert browser.get(f"/?token={access.token}").status_code == 200
        yield Page(browser, access, workplace, settings)


def settings_of(federation: Federation, folder: Path, **changes: Any) -> DataOwnerSettings:
    common = federation._common(HOSPITAL) | {
        "data_folder": folder,
        "model_owners": (Peer(organisation=LABORATORY.organisation),),
        "crypto_providers": (Peer(organisation=TRUST_CENTRE.organisation),),
    }
    return DataOwnerSettings(**common | changes)


@pytest.fixture
def settings(federation: Federation, tmp_path: Path) -> DataOwnerSettings:
    return settings_of(federation, tmp_path / "data-owner")


@pytest.fixture
def page(settings: DataOwnerSettings) -> Iterator[Page]:
    with open_page(settings) as opened:
        yield opened
