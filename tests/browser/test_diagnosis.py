"""Whole diagnoses in a browser: by mouse, by keyboard, several at once, and what stays afterwards."""

from pathlib import Path

import pytest
from playwright.sync_api import FileChooser, Page, Route, expect

from demonstration.plaintext import PlaintextModel
from imaging.phantom import write_phantom
from tests.browser.conftest import Visiting
from tests.browser.doing import bring, drop, loaded, ready, state_is
from tests.browser.workstation import PATIENCE
from tests.end_to_end.federation import HOSPITAL, LABORATORY, TRUST_CENTRE, Federation
from tests.end_to_end.models import PATIENT, radiograph


def expected(parties: Federation, path: Path) -> dict[str, float]:
    """What the model says in clear."""
    logits = PlaintextModel(parties.folder / "model").logits_of_file(path)
    return parties.model.card.probabilities(tuple(float(value) for value in logits))


def shown_probabilities(page: Page) -> dict[str, float]:
    bars = page.get_by_test_id("probabilities").locator("li")
    return {bar.get_attribute("data-class") or "": float(bar.get_attribute("data-share") or 0) for bar in bars.all()}


def test_from_a_file_to_an_answer(visit: Visiting, parties: Federation, chest: Path) -> None:
    page = visit()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    bring(page, chest)
    assert loaded(page.get_by_test_id("original"))
    assert loaded(page.get_by_test_id("seen"))
    ready(page)
    page.get_by_test_id("submit").click()
    state_is(page, "answered")

    wanted = expected(parties, chest)
    assert shown_probabilities(page) == pytest.approx(wanted, abs=0.05)
    expect(page.get_by_test_id("result-label")).to_have_text(max(wanted, key=lambda name: wanted[name]))
    expect(page.get_by_test_id("result-label")).to_be_focused()
    expect(page.get_by_test_id("announcer")).to_contain_text("Answer: normal")
    expect(page.get_by_test_id("result-model")).to_have_text("tiny-chest 1.0.0")
    expect(page.get_by_test_id("intended-use")).to_contain_text("not a medical device")
    account = page.get_by_test_id("account")
    for organisation in (LABORATORY.organisation, TRUST_CENTRE.organisation):
        expect(account).to_contain_text(organisation)
    assert any(character.isdigit() for character in page.get_by_test_id("bytes-sent").inner_text())


def test_the_heat_map_lies_over_the_picture(visit: Visiting, chest: Path) -> None:
    page = visit()
    bring(page, chest)
    ready(page)
    page.get_by_test_id("submit").click()
    layer, opacity = page.get_by_test_id("heat-map"), page.get_by_test_id("heat-map-opacity")
    assert loaded(layer)
    assert layer.bounding_box() == page.get_by_test_id("original").bounding_box()
    opacity.fill("20")
    expect(layer).to_have_css("opacity", "0.2")
    opacity.press("Home")
    expect(layer).to_have_css("opacity", "0")
    page.get_by_test_id("heat-map-class").select_option(label="for virus")
    expect(layer).to_have_attribute("alt", "Heat map: what speaks for virus")
    assert loaded(layer)


def test_an_answer_below_the_threshold_is_uncertain(visit: Visiting, parties: Federation, tmp_path: Path) -> None:
    phantom = tmp_path / "phantom.dcm"
    write_phantom(phantom, side=128)
    page = visit()
    bring(page, phantom)
    ready(page)
    page.get_by_test_id("submit").click()
    expect(page.get_by_test_id("result-label")).to_have_text("Uncertain")
    expect(page.get_by_test_id("uncertain")).to_contain_text("normal")
    assert max(expected(parties, phantom).values()) < 0.6
    page.get_by_test_id("history-link").click()
    expect(page.get_by_test_id("record")).to_contain_text("uncertain")


def test_by_keyboard_alone(visit: Visiting, chest: Path) -> None:
    page = visit()
    choosers: list[FileChooser] = []

    def opened(chooser: FileChooser) -> None:
        choosers.append(chooser)

    page.on("filechooser", opened)  # Playwright takes choosers from now on, long before the first
    ready(page)
    page.keyboard.press("Tab")
    expect(page.locator("a.skip")).to_be_focused()
    tab_to(page, "file-input")
    press_until(page, choosers).set_files(chest)
    state_is(page, "ready")
    expect(page.locator("#entry-heading")).to_be_focused()
    tab_to(page, "patient-toggle")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("patient-data")).to_be_visible()
    tab_to(page, "submit")
    page.keyboard.press("Enter")
    state_is(page, "answered")
    expect(page.get_by_test_id("result-label")).to_be_focused()
    tab_to(page, "heat-map-opacity", backwards=True)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_test_id("heat-map-opacity")).to_have_attribute("aria-valuetext", "79 percent")


def press_until(page: Page, choosers: list[FileChooser]) -> FileChooser:
    """Press Enter on a file input; again where a browser that was kept from running forgot that a key was pressed."""
    for look in range(PATIENCE * 10):
        if choosers:
            return choosers[0]
        if look % 50 == 0:
            page.keyboard.press("Enter")
        page.wait_for_timeout(100)
    raise AssertionError("no file can be chosen with the keyboard")


def tab_to(page: Page, test_id: str, *, backwards: bool = False) -> None:
    """Press Tab until this is focused."""
    target = page.get_by_test_id(test_id)
    for _ in range(40):
        page.keyboard.press("Shift+Tab" if backwards else "Tab")
        if target.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError(f"{test_id} cannot be reached with Tab")


def test_several_files_of_one_patient(visit: Visiting, tmp_path: Path) -> None:
    page = visit()
    ready(page)
    files = [radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(3)]
    drop(page, files)
    expect(page.get_by_test_id("entry-link")).to_have_count(3)
    expect(page.locator("[data-testid=entry-link][data-state=ready]")).to_have_count(3)
    expect(page.get_by_test_id("several-patients")).to_have_count(0)
    page.get_by_test_id("submit-all").click()
    expect(page.locator("[data-testid=entry-link][data-state=answered]")).to_have_count(3)
    page.get_by_test_id("history-link").click()
    expect(page.get_by_test_id("record")).to_have_count(3)


def test_the_image_that_is_chosen_is_the_one_that_is_shown(visit: Visiting, tmp_path: Path) -> None:
    page = visit()
    bring(page, *(radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(3)))
    expect(page.get_by_test_id("entry").get_by_role("heading", name="Image 1")).to_be_visible()
    page.get_by_test_id("entry-link").filter(has_text="Image 2").click()
    expect(page.get_by_test_id("entry").get_by_role("heading", name="Image 2")).to_be_visible()
    page.go_back()
    expect(page.get_by_test_id("entry").get_by_role("heading", name="Image 1")).to_be_visible()


def test_several_patients_in_one_drop_are_asked_about(visit: Visiting, tmp_path: Path) -> None:
    page = visit()
    ready(page)
    drop(page, [radiograph(tmp_path / f"{name}.dcm", PatientID=name, PatientName=name) for name in ("one", "two")])
    expect(page.get_by_test_id("several-patients")).to_contain_text("2 patients")
    expect(page.get_by_test_id("submit")).to_be_disabled()
    page.get_by_test_id("separate").click()
    expect(page.get_by_test_id("several-patients")).to_have_count(0)
    expect(page.get_by_test_id("submit")).to_be_enabled()


def test_the_patient_is_hidden_until_asked_for(visit: Visiting, chest: Path) -> None:
    page = visit()
    bring(page, chest)
    name = PATIENT.split("^")[0]
    toggle = page.get_by_test_id("patient-toggle")
    assert name not in page.content()
    toggle.click()
    expect(page.get_by_test_id("patient-data")).to_contain_text(name)
    toggle.click()
    expect(page.get_by_test_id("patient-data")).to_have_count(0)
    assert name not in page.content()
    toggle.click()
    expect(page.get_by_test_id("patient-data")).to_be_visible()
    page.reload()
    expect(toggle).to_have_attribute("aria-expanded", "false")
    assert name not in page.content()


def test_material_is_prepared_and_used(visit: Visiting, chest: Path) -> None:
    page = visit()
    ready(page)
    page.get_by_test_id("prepare-count").fill("1")
    page.get_by_test_id("prepare").click()
    expect(page.get_by_test_id("stock-level")).to_have_text("1 in stock")
    bring(page, chest)
    page.get_by_test_id("submit").click()
    state_is(page, "answered")
    expect(page.get_by_test_id("stock-level")).to_have_text("0 in stock")


def test_history_is_kept_until_it_is_deleted(visit: Visiting, chest: Path, parties: Federation) -> None:
    settings = parties.data_owner_settings()
    page = visit(settings)
    bring(page, chest)
    ready(page)
    page.get_by_test_id("submit").click()
    page.get_by_test_id("keep").click()
    expect(page.get_by_test_id("keep")).to_have_count(0)
    page.get_by_test_id("history-link").click()
    record = page.get_by_test_id("record")
    expect(record).to_contain_text("normal")
    expect(record.get_by_test_id("kept-picture")).to_be_visible()
    record.get_by_test_id("delete-record").press("Enter")
    expect(page.get_by_test_id("question-words")).to_contain_text("normal")
    expect(page.get_by_test_id("question-no")).to_be_focused()
    page.keyboard.press("Escape")
    expect(record).to_be_visible()
    record.get_by_test_id("delete-record").press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("history-empty")).to_be_visible()
    assert HOSPITAL.organisation not in page.content()


def test_a_button_pressed_before_the_script_is_there_asks_all_the_same(visit: Visiting, chest: Path) -> None:
    page = visit()
    bring(page, chest)
    ready(page)
    page.get_by_test_id("submit").click()
    state_is(page, "answered")
    late: list[Route] = []
    page.route("**/static/page.js", lambda route: late.append(route))  # noqa: PLW0108  (Playwright marks what it calls)
    with page.expect_request("**/static/page.js"):
        page.get_by_test_id("history-link").click(no_wait_after=True)
    delete = page.get_by_test_id("record").first.get_by_test_id("delete-record")
    delete.press("Enter")
    delete.press("Enter")
    expect(page.get_by_test_id("question")).to_be_hidden()
    late[0].continue_()
    expect(page.get_by_test_id("question-words")).to_contain_text("Delete the answer")
    page.get_by_test_id("question-no").click()
    expect(page.get_by_test_id("question")).to_be_hidden()
    expect(delete).to_be_focused()


def test_the_focus_goes_to_an_image_that_is_shown_later_than_it_was_read(visit: Visiting, chest: Path) -> None:
    page = visit()
    ready(page)
    page.route("**/state?*", lambda _: None)
    page.reload()
    page.get_by_test_id("file-input").set_input_files(chest)
    expect(page.get_by_test_id("upload-status")).to_contain_text("read")
    expect(page.locator("#entry-heading")).to_have_count(0)
    page.unroute("**/state?*")  # lets go what is held
    expect(page.locator("#entry-heading")).to_be_focused()
