"""The clinician's workstation in tests: the page served from this process, and a Chromium that looks at it."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from data_owner.settings import DataOwnerSettings
from tests.end_to_end.federation import listening, loopback

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

PATIENCE = 90
"""Seconds until a test gives up waiting for what the page should show. Generous: a test may share two cores."""
DESKTOP = {"width": 1280, "height": 800}
TABLET = {"width": 820, "height": 1180}


def chromium_path() -> str | None:
    """The system's Chromium; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def launched_browser(path: str) -> Iterator["Browser"]:
    """A headless browser. While it runs, asyncio.run does not work in this thread: Playwright has its loop there."""
    from playwright.sync_api import expect, sync_playwright

    arguments = ["--disable-dev-shm-usage"]  # containers have little
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium does not run its sandbox as root
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments, timeout=PATIENCE * 1000)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(settings: DataOwnerSettings) -> Iterator[str]:
    """The page as `data-owner ui` serves it, in a thread; its address."""
    from data_owner.ui.folders import Folders
    from data_owner.ui.pages import make_page_app
    from data_owner.ui.runner import Runner
    from data_owner.ui.security import Access
    from data_owner.ui.server import MAX_UPLOAD_BYTES
    from data_owner.ui.workplace import Workplace

    folders = Folders(settings.data_folder)
    listener, port = loopback()
    try:
        access = Access(port=port, max_upload_bytes=MAX_UPLOAD_BYTES)
        workplace = Workplace(folders, stock_days=settings.stock_days)
        app = make_page_app(workplace, Runner(settings, workplace), access)
        with listening(app, listener, ws="none", lifespan="on"):
            try:
                yield access.address
            finally:
                workplace.bell.close()  # nobody waits for news any longer
    finally:
        folders.close()


@dataclass
class Visit:
    """A browser at the page, and everything about it that should not be."""

    page: "Page"
    origin: str
    wrong: list[str] = field(default_factory=list)
    answered: dict[int, int] = field(default_factory=dict)
    """Expected error statuses by how often the browser's console complained of them."""

    def watch(self) -> None:
        """Note errors of the script, and requests that go anywhere else than to the page's own server."""
        self.page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        self.page.on("console", self._console)
        self.page.on("request", self._request)

    def _console(self, message: "ConsoleMessage") -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.wrong.append(f"console: {message.text}")

    def _request(self, request: "Request") -> None:
        if not request.url.startswith((f"{self.origin}/", "data:", "blob:")):
            self.wrong.append(f"request: {request.url}")


@contextmanager
def visiting(browser: "Browser", address: str, **options: Any) -> Iterator["Page"]:
    """A browser at this address, in a profile of its own. Raises AssertionError if anything went wrong behind it."""
    context = browser.new_context(**{"viewport": DESKTOP} | options)
    context.set_default_timeout(PATIENCE * 1000)
    parts = urlsplit(address)
    visit = Visit(context.new_page(), origin=f"{parts.scheme}://{parts.netloc}")
    visit.watch()
    try:
        visit.page.goto(address)
        visit.page.get_by_test_id("home").wait_for()
        yield visit.page
    finally:
        context.close()
    assert visit.wrong == []


class Gate:
    """A port that refuses, holds or forwards connections to another one."""

    def __init__(self, target: int) -> None:
        """Refuse, until told otherwise."""
        self._target = target
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._opened = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._most: int | None = None
        self.forwarded = 0
        """Bytes that went to the port, of the newest connection."""
        self.port = int(self._listener.getsockname()[1])

    def hold(self) -> None:
        """Accept connections, and let them wait until the gate is opened."""
        self._listener.listen()
        self._start(self._accept)

    def open(self) -> None:
        """Forward every connection, those that wait among them."""
        self._opened.set()

    def cut_after(self, most: int | None) -> None:
        """Cut each new connection after so many bytes to the port; None: never."""
        self._most = most

    def close(self) -> None:
        """End everything."""
        self._opened.set()
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inward, _ = self._listener.accept()
                self._sockets.append(inward)
                self._start(self._forward, inward)

    def _forward(self, inward: socket.socket) -> None:
        self._opened.wait()
        with suppress(OSError):
            outward = socket.create_connection(("127.0.0.1", self._target))
            self._sockets.append(outward)
            self.forwarded = 0
            self._start(self._pump, outward, inward)
            while content := inward.recv(1 << 16):
                self.forwarded += len(content)
                if self._most is not None and self.forwarded > self._most:
                    for one in (inward, outward):
                        one.shutdown(socket.SHUT_RDWR)
                    return
                outward.sendall(content)
            outward.shutdown(socket.SHUT_WR)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def gate_before(target: int) -> Iterator[Gate]:
    """A gate to a port of this machine."""
    gate = Gate(target)
    try:
        yield gate
    finally:
        gate.close()
