"""What a clinician sees when something does not work: plain words, a next step, and nothing lost."""

from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect
from pydantic import SecretStr

from contract.identity import Role
from plumbing.settings import FrontEnd, Waiting
from secure_computation.channel.channel import Channel
from tests.browser.conftest import Visiting
from tests.browser.doing import bring, loaded, ready, state_is
from tests.browser.workstation import PATIENCE, gate_before
from tests.end_to_end.federation import TRUST_CENTRE, Federation, closed_port
from tests.end_to_end.models import radiograph

PATIENT_WAITING = Waiting(connect=PATIENCE, step=PATIENCE, material=PATIENCE)


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def test_the_front_end_is_down_and_comes_back(visit: Visiting, parties: Federation, chest: Path) -> None:
    with gate_before(port_of(parties.front_end_url)) as gate:
        front_end = FrontEnd(
            url=f"http://127.0.0.1:{gate.port}", api_key=parties.front_end_keys[Role.DATA_OWNER], authority=None
        )
        page = visit(parties.data_owner_settings(inference_service=front_end))
        offline = page.get_by_test_id("offline")
        expect(offline).to_contain_text("No connection")
        expect(offline).to_contain_text("data-owner doctor")
        bring(page, chest)
        expect(page.get_by_test_id("waiting")).to_be_visible()
        gate.hold()
        gate.open()
        page.get_by_test_id("reconnect").click()
        ready(page)
        expect(offline).to_have_count(0)
        page.get_by_test_id("submit").click()  # the image was not lost
        state_is(page, "answered")


def test_the_model_owner_cannot_be_reached(visit: Visiting, parties: Federation, chest: Path) -> None:
    nobody = f"ws://127.0.0.1:{closed_port()}/v2/inference"
    page = visit(parties.data_owner_settings(model_owner_url=nobody))
    bring(page, chest)
    ready(page)
    page.get_by_test_id("submit").click()
    state_is(page, "failed")
    error = page.get_by_test_id("entry-error")
    expect(error).to_contain_text("No connection")
    expect(error).to_contain_text("Nothing is lost")
    expect(error).to_have_attribute("role", "alert")
    assert loaded(page.get_by_test_id("original"))
    expect(page.get_by_test_id("submit")).to_have_text("Submit again")


def test_a_wrong_key(visit: Visiting, parties: Federation) -> None:
    key = SecretStr("ei-00000000-CANARYCANARYCANARY")
    front_end = FrontEnd(url=parties.front_end_url, api_key=key, authority=None)
    page = visit(parties.data_owner_settings(inference_service=front_end))
    expect(page.get_by_test_id("offline")).to_contain_text("key")
    assert "CANARY" not in page.content()


@pytest.mark.parametrize("content", [b"This is a letter.", b"", b"\x89PNG\r\n\x1a\n broken"])
def test_not_an_image(visit: Visiting, tmp_path: Path, content: bytes) -> None:
    letter = tmp_path / "letter.dcm"
    letter.write_bytes(content)
    page = visit()
    ready(page)
    bring(page, letter)
    state_is(page, "unreadable")
    expect(page.get_by_test_id("entry-error")).to_contain_text("cannot be read as a picture")
    expect(page.get_by_test_id("entry-error")).to_contain_text("Nothing was sent")
    expect(page.get_by_test_id("submit")).to_have_count(0)
    page.get_by_test_id("remove").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()


def test_a_session_is_stopped(visit: Visiting, parties: Federation, chest: Path) -> None:
    ended = Event()

    def silent(channel: Channel) -> None:
        ended.wait(PATIENCE)

    with parties.fake(TRUST_CENTRE, silent) as dealer_url:
        page = visit(parties.data_owner_settings(dealer_url=dealer_url, waiting=PATIENT_WAITING))
        bring(page, chest)
        ready(page)
        page.get_by_test_id("submit").click()
        expect(page.get_by_test_id("progress-words")).to_have_text("Preparing offline material")
        page.get_by_test_id("stop").click()
        state_is(page, "failed")
        error = page.get_by_test_id("entry-error")
        expect(error).to_contain_text("Stopped")
        expect(error).to_have_attribute("data-code", "session-cancelled")
        expect(page.get_by_test_id("submit")).to_be_enabled()
        ended.set()


def test_a_reload_in_the_middle_changes_nothing(visit: Visiting, parties: Federation, chest: Path) -> None:
    with gate_before(port_of(parties.model_owner_url)) as gate:
        gate.hold()
        detour = parties.model_owner_url.replace(str(port_of(parties.model_owner_url)), str(gate.port))
        page = visit(parties.data_owner_settings(model_owner_url=detour, waiting=PATIENT_WAITING))
        bring(page, chest)
        ready(page)
        page.get_by_test_id("submit").click()
        state_is(page, "running")
        page.reload()
        state_is(page, "running")
        expect(page.get_by_test_id("progress")).to_be_visible()
        gate.open()
        state_is(page, "answered")
        page.reload()
        state_is(page, "answered")
        expect(page.get_by_test_id("result-label")).to_have_text("normal")


def test_the_queue_survives_a_failure(visit: Visiting, parties: Federation, tmp_path: Path) -> None:
    """One that waits behind a session that is stopped is answered all the same, or can be taken out."""
    with gate_before(port_of(parties.model_owner_url)) as gate:
        gate.hold()
        detour = parties.model_owner_url.replace(str(port_of(parties.model_owner_url)), str(gate.port))
        page = visit(parties.data_owner_settings(model_owner_url=detour, waiting=PATIENT_WAITING))
        ready(page)
        bring(page, *(radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(2)))
        page.get_by_test_id("submit-all").click()
        expect(page.locator("[data-testid=entry-link][data-state=running]")).to_have_count(1)
        queued = page.locator("[data-testid=entry-link][data-state=queued]")
        expect(queued).to_have_count(1)
        queued.click()
        state_is(page, "queued")
        page.get_by_test_id("stop").click()
        state_is(page, "ready")
        gate.open()
        expect(page.locator("[data-testid=entry-link][data-state=answered]")).to_have_count(1)


def test_the_page_is_for_whoever_has_its_address(visit: Visiting) -> None:
    page = visit()
    origin = page.evaluate("location.origin")
    stranger = page.context.browser
    assert stranger is not None
    context = stranger.new_context()
    try:
        other = context.new_page()
        answer = other.goto(f"{origin}/")
        assert answer is not None
        assert answer.status == 403
        expect(other.locator("h1")).to_have_text("Not open here")
    finally:
        context.close()
