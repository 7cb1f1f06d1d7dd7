"""Bad input and bad luck, as a clinician meets them: plain words, a next step, nothing lost, no stack trace."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from contract.api import SessionView
from contract.errors import BudgetSpent
from inference_service.client import InferenceServiceClient
from tests.browser.conftest import Visiting
from tests.browser.doing import bring, drop, loaded, ready, state_is
from tests.browser.test_trouble import PATIENT_WAITING, port_of
from tests.browser.workstation import gate_before
from tests.end_to_end.federation import Federation
from tests.end_to_end.models import radiograph
from tests.imaging.samples import colour_picture

if TYPE_CHECKING:
    from playwright.sync_api import Page

STACK_TRACE = ("Traceback", "Error(", 'File "', ".py")


def told_plainly(page: "Page", *words: str) -> None:
    """The entry's error has these words, and nothing that only a programmer reads."""
    error = page.get_by_test_id("entry-error")
    for one in words:
        expect(error).to_contain_text(one)
    text = error.inner_text()
    assert [sign for sign in STACK_TRACE if sign in text] == []


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_colour_photograph(visit: Visiting, tmp_path: Path, suffix: str) -> None:
    photograph = tmp_path / f"holiday.{suffix}"
    Image.fromarray(colour_picture(rows=300, columns=400)).save(photograph)
    page = visit()
    ready(page)
    bring(page, photograph)
    state_is(page, "unreadable")
    told_plainly(page, "cannot be read as a picture for this model", "Nothing was sent", "colour")
    expect(page.get_by_test_id("submit")).to_have_count(0)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "0", "WindowWidth": "-5"},
        {"WindowCenter": "1e308", "WindowWidth": "0"},
        {"WindowCenter": "-1e30", "WindowWidth": "1e-30", "VOILUTFunction": "SIGMOID"},
    ],
    ids=["negative", "zero", "nowhere"],
)
def test_an_absurd_window(visit: Visiting, tmp_path: Path, tags: dict[str, Any]) -> None:
    page = visit()
    ready(page)
    bring(page, radiograph(tmp_path / "chest.dcm", **tags))
    state_is(page, "ready")
    expect(page.get_by_test_id("warnings")).not_to_be_empty()
    assert loaded(page.get_by_test_id("original"))
    page.get_by_test_id("window-width").fill("300")
    expect(page.get_by_test_id("windowed")).to_be_visible()


def test_no_window_at_all(visit: Visiting, chest: Path) -> None:
    page = visit()
    ready(page)
    bring(page, chest)
    expect(page.get_by_test_id("warnings")).to_have_count(0)
    grey = np.asarray(page.get_by_test_id("original").evaluate(GREY))
    assert grey.min() < 20  # its own smallest and largest value
    assert grey.max() > 235


GREY = """async (image) => {
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    const colours = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return [...colours].filter((_, index) => index % 4 === 0);
}"""


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"BodyPartExamined": "HAND"}, "HAND"),
        ({"PatientAge": "040Y"}, "older than the model was made for (1 to 5 years)"),
    ],
    ids=["body-part", "age"],
)
def test_an_image_that_is_not_for_the_model_is_submitted_only_when_confirmed(
    visit: Visiting, tmp_path: Path, tags: dict[str, Any], words: str
) -> None:
    page = visit()
    ready(page)
    bring(page, radiograph(tmp_path / "doubtful.dcm", **tags))
    expect(page.get_by_test_id("warnings")).to_contain_text(words)
    page.get_by_test_id("submit").click()
    expect(page.locator("#confirm:invalid")).to_have_count(1)
    state_is(page, "ready")
    page.get_by_test_id("confirm").check()
    page.get_by_test_id("submit").click()
    state_is(page, "answered")
    expect(page.get_by_test_id("result-warnings")).to_contain_text(words)


def test_several_patients_in_one_drop(visit: Visiting, tmp_path: Path) -> None:
    page = visit()
    ready(page)
    drop(page, [radiograph(tmp_path / f"{name}.dcm", PatientID=name, PatientName=name) for name in ("one", "two")])
    expect(page.get_by_test_id("entry-link")).to_have_count(2)
    expect(page.get_by_test_id("several-patients")).to_contain_text("2 patients")
    expect(page.get_by_test_id("submit")).to_be_disabled()
    page.get_by_test_id("alone").click()
    expect(page.get_by_test_id("entry-link")).to_have_count(1)
    expect(page.get_by_test_id("submit")).to_be_enabled()


def test_the_connection_is_lost_in_the_middle(visit: Visiting, parties: Federation, chest: Path) -> None:
    with gate_before(port_of(parties.model_owner_url)) as gate:
        gate.hold()
        gate.open()
        detour = parties.model_owner_url.replace(str(port_of(parties.model_owner_url)), str(gate.port))
        page = visit(parties.data_owner_settings(model_owner_url=detour, waiting=PATIENT_WAITING))
        bring(page, chest)
        ready(page)
        page.get_by_test_id("submit").click()
        state_is(page, "answered")
        whole = gate.forwarded
        bring(page, chest)
        gate.cut_after(whole // 2)
        page.get_by_test_id("submit").click()
        state_is(page, "failed")
        told_plainly(page, "The connection was lost", "Submit again", "Nothing is lost")
        assert loaded(page.get_by_test_id("original"))
        gate.cut_after(None)
        page.get_by_test_id("submit").click()
        state_is(page, "answered")


def test_the_budget_is_used_up(visit: Visiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spent, whole = True, InferenceServiceClient.open_session

    def open_session(client: InferenceServiceClient, **asked: Any) -> SessionView:
        if spent:
            raise BudgetSpent("st-mary may have 20 images a day: wait until 00:00 UTC, or ask the registry")
        return whole(client, **asked)

    monkeypatch.setattr(InferenceServiceClient, "open_session", open_session)
    page = visit()
    ready(page)
    bring(page, *(radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(2)))
    page.get_by_test_id("submit-all").click()
    links = page.get_by_test_id("entry-link")
    expect(page.locator("[data-testid=entry-link][data-state=failed]")).to_have_count(2)
    expect(page.get_by_test_id("entry-error")).to_have_attribute("data-code", "budget-spent")
    told_plainly(page, "The budget is used up", "Nothing is lost", "wait until 00:00 UTC")
    spent = False
    page.get_by_test_id("submit").click()
    state_is(page, "answered")
    expect(links).to_have_count(2)
