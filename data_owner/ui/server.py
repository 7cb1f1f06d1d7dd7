"""Starts the page: one address with a token, on this machine only."""

import os
import signal
import socket
import webbrowser
from types import FrameType

import uvicorn

from data_owner.settings import DataOwnerSettings
from data_owner.ui.folders import Folders
from data_owner.ui.pages import make_page_app
from data_owner.ui.runner import Runner
from data_owner.ui.security import HOST, Access
from data_owner.ui.workplace import Workplace
from plumbing.command_line import say
from plumbing.http_server import BoundedHeadProtocol
from plumbing.listening import start_listening, take_port

MAX_UPLOAD_BYTES = 512 << 20
"""As imaging.Limits has it; reading checks that again."""


def serve_page(settings: DataOwnerSettings, *, port: int, browser: bool) -> None:
    """Serve the page until interrupted. Raises ConfigurationError if the port or the data folder cannot be had."""
    os.umask(0o077)
    with take_port(HOST, port, setting="--port") as listener:
        start_listening(listener, setting="--port")
        folders = Folders(settings.data_folder)
        try:
            access = Access(port=int(listener.getsockname()[1]), max_upload_bytes=MAX_UPLOAD_BYTES)
            workplace = Workplace(folders, stock_days=settings.stock_days)
            app = make_page_app(workplace, Runner(settings, workplace), access)
            # No access log: it would hold the token, and when which picture was looked at.
            configuration = uvicorn.Config(
                app,
                http=BoundedHeadProtocol,
                log_config=None,
                access_log=False,
                ws="none",
                lifespan="on",
                timeout_graceful_shutdown=2,
            )
            _Server(configuration, workplace, access, folders, browser=browser).run(sockets=[listener])
        finally:
            folders.close()


class _Server(uvicorn.Server):
    """Says where it is when it is up, and lets nobody wait when it ends."""

    def __init__(
        self, configuration: uvicorn.Config, workplace: Workplace, access: Access, folders: Folders, *, browser: bool
    ) -> None:
        super().__init__(configuration)
        self._workplace = workplace
        self._access = access
        self._folders = folders
        self._browser = browser

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self.started:
            return
        signal.signal(signal.SIGHUP, self.handle_exit)  # the terminal was closed
        print(self._access.address, flush=True)  # noqa: T201 - the command's result
        say("data-owner: the page is open on this machine only, to whoever has this address. End it with Ctrl-C.")
        if self._browser and _has_screen():
            webbrowser.open(self._folders.write_address_file(self._access.address).as_uri())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._workplace.bell.close()
        super().handle_exit(sig, frame)


def _has_screen() -> bool:
    """Without one a browser of the terminal would take it over."""
    return os.uname().sysname == "Darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
