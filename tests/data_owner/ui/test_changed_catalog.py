"""The page before a front end in other hands: a changed model is refused in plain words, and nothing is sent."""

from pathlib import Path

from authority.vouching import sign_voucher
from data_owner.settings import DataOwnerSettings
from tests.data_owner.ui.conftest import Page, open_page
from tests.end_to_end.changed_catalog import changed, lying, of_card, sessions
from tests.end_to_end.federation import LABORATORY, Federation

TITLE = "The front end shows another model than its owner signed"


def test_a_model_that_was_changed_after_the_picture_was_read_gets_no_picture(
    page: Page, chest: Path, federation: Federation
) -> None:
    front_end = federation.folder / "front-end"
    (entry,) = page.ready().drop(chest)
    page.wait_for(entry, "ready")
    before = sessions(front_end)
    with changed(front_end, of_card(lying)):
        assert page.post(f"/entries/{entry}/submit").status_code == 204
        page.wait_for(entry, "failed")
        html = page.html(entry)
        assert 'data-code="not-vouched-for"' in html
        assert TITLE in html
        assert "Nothing was sent." in html
        assert page.post("/prepare", count="1").status_code == 204
        page.wait(lambda: page.workplace.preparing.error)
        assert page.workplace.preparing.error is not None
        assert page.workplace.preparing.error.title == TITLE
    assert sessions(front_end) == before
    assert page.post(f"/entries/{entry}/submit").status_code == 204
    page.wait_for(entry, "answered")


def test_no_picture_is_read_by_a_card_that_nobody_signed(
    settings: DataOwnerSettings, chest: Path, federation: Federation
) -> None:
    with changed(federation.folder / "front-end", of_card(lying)), open_page(settings) as page:
        page.wait(lambda: page.workplace.connection == "offline")
        (entry,) = page.drop(chest)
        html = page.html(entry)
        assert TITLE in html
        assert page.state(entry) == "waiting"
        assert page.workplace.model is None


def test_a_model_that_its_owner_signed_anew_is_the_same_model(page: Page, chest: Path, federation: Federation) -> None:
    """As after each start of its server: the clinician is not asked to look again."""
    (entry,) = page.ready().drop(chest)
    page.wait_for(entry, "ready")
    assert federation.entry is not None
    anew = sign_voucher(federation.entry.statement(), federation.credentials(LABORATORY))
    assert anew != federation.entry.voucher
    with changed(federation.folder / "front-end", lambda _: {"voucher": anew.model_dump_json()}):
        assert page.post(f"/entries/{entry}/submit").status_code == 204
        page.wait_for(entry, "answered")
