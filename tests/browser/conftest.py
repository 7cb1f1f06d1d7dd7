"""A federation whose model allows heat maps, the page, and a browser."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from contract.model_card import OutputPolicy
from data_owner.settings import DataOwnerSettings
from tests.browser.workstation import chromium_path, launched_browser, open_page, visiting
from tests.end_to_end.federation import Federation, running_federation

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

UNCERTAIN_BELOW = 0.6
"""The tiny model is sure of noise (0.70) and not of phantoms (0.54)."""

Visiting = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium on PATH: scripts/install --with-system installs it")
    with launched_browser(path) as running:
        yield running


@pytest.fixture(scope="session")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """All parties but the data owner, serving a tiny model with heat maps from this process."""
    folder = tmp_path_factory.mktemp("parties")
    policy = OutputPolicy.LOGITS_AND_HEAT_MAP
    with running_federation(folder, output_policy=policy, model={"uncertain_below": UNCERTAIN_BELOW}) as running:
        yield running


@pytest.fixture
def visit(browser: "Browser", parties: Federation) -> Iterator[Visiting]:
    """Start a page with these settings, else those of the federation, and look at it."""
    with ExitStack() as stack:

        def start(settings: DataOwnerSettings | None = None, **options: Any) -> "Page":
            address = stack.enter_context(open_page(settings or parties.data_owner_settings()))
            return stack.enter_context(visiting(browser, address, **options))

        yield start
