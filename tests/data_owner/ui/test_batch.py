"""Many images at once: told apart, counted, the same file twice, removed together; names only where asked for."""

from pathlib import Path

import pytest

from data_owner.settings import DataOwnerSettings
from data_owner.ui.entries import Entry
from tests.data_owner.ui.conftest import Page, open_page
from tests.end_to_end.models import radiograph

WHO = ("Doe Jane", "ID-7", "ACC-31", "secret-name.dcm")


@pytest.fixture
def named(tmp_path: Path) -> Path:
    return radiograph(tmp_path / WHO[3], PatientName="Doe^Jane", PatientID=WHO[1], AccessionNumber=WHO[2])


def answered(page: Page, path: Path) -> Entry:
    (name,) = page.ready().drop(path, drop=path.name)
    assert page.post(f"/entries/{name}/submit").status_code == 204
    page.wait_for(name, "answered")
    entry = page.workplace.entry(name)
    assert entry is not None
    return entry


def test_names_are_hidden_until_the_switch_and_forgotten_after_it(page: Page, named: Path, tmp_path: Path) -> None:
    page.ready().drop(named)
    assert not any(one in page.html() for one in WHO)
    assert page.post("/names", show="yes").status_code == 204
    assert all(one in page.html() for one in WHO)
    page.drop(radiograph(tmp_path / "later.dcm", seed=1, PatientName="Came^Later"))
    assert "Came Later" in page.html()  # of what comes too
    assert page.post("/names", show="no").status_code == 204
    assert not any(one in page.html() for one in (*WHO, "Came Later"))
    assert all(entry.named is None for entry in page.workplace.entries())


def test_each_page_begins_without_names(settings: DataOwnerSettings, named: Path) -> None:
    with open_page(settings) as page:
        page.post("/names", show="yes")
    with open_page(settings) as page:
        page.ready().drop(named)
        assert not any(one in page.html() for one in WHO)


def test_a_name_that_is_no_text_is_shown_harmlessly(page: Page, tmp_path: Path) -> None:
    content = radiograph(tmp_path / "chest.dcm").read_bytes()
    page.post("/names", show="yes")
    for name in ("%FF%1B[31m", "%3Cb%3E%E2%80%AEgpj", "%ED%A0%80", "%00"):
        headers = page.origin | {"X-Drop": name[:2], "X-File-Name": name}
        answer = page.browser.post("/entries", content=content, headers=headers)
        assert answer.status_code == 201
        html = page.html(answer.json()["entry"])
        assert not any(character in html for character in ("\x1b", "\u202e", "<b>\u202e", "\x00"))
        assert page.get(f"/entries/{answer.json()['entry']}/patient").status_code == 200


def test_the_list_counts_what_is_where(page: Page, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear colleague")
    answered(page, radiograph(tmp_path / "0.dcm"))
    page.drop(*(radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in (1, 2)), tmp_path / "letter.txt")
    assert "4 images: 1 answered, 2 ready to submit, 1 cannot be read" in page.html()


def test_the_same_file_twice_is_told_and_not_submitted_with_the_others(page: Page, tmp_path: Path) -> None:
    files = [radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in (1, 2)]
    first, _, twin = page.ready().drop(*files, files[0])
    assert "This is the same file as Image 1" in page.html(twin)
    assert 'data-testid="repeat"' not in page.html(first)
    assert page.post("/submit-all").status_code == 204
    page.wait_for(first, "answered")
    assert "Image 1 is answered" in page.html(twin)
    assert page.state(twin) == "ready"
    assert page.post(f"/entries/{twin}/keep-both").status_code == 204
    assert 'data-testid="repeat"' not in page.html(twin)
    assert page.post("/submit-all").status_code == 204
    page.wait_for(twin, "answered")


def test_a_file_that_the_history_has_is_told(settings: DataOwnerSettings, tmp_path: Path) -> None:
    path, other = radiograph(tmp_path / "1.dcm"), radiograph(tmp_path / "2.dcm", seed=1)
    with open_page(settings) as page:
        answered(page, path)
    with open_page(settings) as page:
        again, new = page.ready().drop(path, other)
        assert "This file was answered before" in page.html(again)
        assert 'data-testid="repeat"' not in page.html(new)
        page.post("/history/delete-all")
        (third,) = page.drop(path, drop="another")
        assert "This is the same file as Image 1" in page.html(third)
        assert page.post(f"/entries/{again}/remove").status_code == 204
        assert 'data-testid="repeat"' not in page.html(third)


def test_all_are_removed_but_what_a_session_has_and_answers_ask_first(page: Page, tmp_path: Path) -> None:
    page.ready().drop(radiograph(tmp_path / "0.dcm"))
    assert "data-confirm" not in page.html().partition('action="/remove-all"')[2].partition("</form>")[0]
    entry = answered(page, radiograph(tmp_path / "1.dcm", seed=1))
    question = page.html().partition('action="/remove-all"')[2].partition("</form>")[0]
    assert "1 of them is answered. The answers stay in the history" in question
    with page.workplace.changing():
        entry.record = None
    question = page.html().partition('action="/remove-all"')[2].partition("</form>")[0]
    assert "1 of the answers is kept nowhere else and would be lost" in question
    assert page.post("/remove-all").status_code == 204
    assert page.workplace.entries() == []
    assert len(page.workplace.history.records()) == 1


def test_removing_all_leaves_what_is_queued(page: Page, tmp_path: Path) -> None:
    first, second = page.ready().drop(radiograph(tmp_path / "0.dcm"), radiograph(tmp_path / "1.dcm", seed=1))
    with page.workplace.changing():
        page.workplace.entries()[1].state = type(page.workplace.entries()[1].state).QUEUED
    assert page.post("/remove-all").status_code == 204
    assert [entry.id for entry in page.workplace.entries()] == [second]
    assert page.workplace.entry(first) is None


def test_a_name_is_kept_in_the_history_only_when_asked_for(page: Page, named: Path, tmp_path: Path) -> None:
    entry, other = answered(page, named), answered(page, radiograph(tmp_path / "1.dcm", seed=1))
    assert not any(one in page.get("/history").text for one in WHO)
    assert page.post(f"/entries/{entry.id}/keep-name").status_code == 204
    text = page.get("/history").text
    assert all(one in text for one in WHO)
    assert "Canary" not in text
    assert page.post("/keep-names").status_code == 204
    assert "Canary" in page.get("/history").text
    assert page.post(f"/history/{entry.record}/forget-name").status_code == 204
    assert not any(one in page.get("/history").text for one in WHO)
    assert page.post(f"/history/{other.record}/delete").status_code == 204
    folder = page.workplace.folders.history
    assert [path.name for path in folder.iterdir()] == [f"{entry.record}.json"]  # the name went with its answer
    assert page.post(f"/entries/{other.id}/keep-name").status_code == 404


def test_what_the_disk_does_not_take_is_still_answered_and_said(
    page: Page, named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_owner.ui.history.try_to_replace", lambda _path, _content: False)
    entry = answered(page, named)
    assert entry.record is None
    assert "disk did not take it" in page.html(entry.id)
    assert page.get("/answers.csv").text.count("\r\n") == 2
