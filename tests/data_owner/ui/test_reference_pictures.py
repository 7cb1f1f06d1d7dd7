"""The page sends reference pictures along by itself, and says what they show."""

from pathlib import Path

import pytest

from data_owner import mismatches
from tests.data_owner.ui.conftest import Page, open_page, settings_of
from tests.end_to_end.changed_catalog import sessions
from tests.end_to_end.federation import Federation
from tests.end_to_end.test_reference_pictures import Certain, serving, with_other_weights


def answer(page: Page, file: Path, drop: str) -> str:
    (entry,) = page.ready().drop(file, drop=drop)
    page.wait_for(entry, "ready")
    assert page.post(f"/entries/{entry}/submit").status_code == 204
    page.wait_for(entry, "answered")
    page.wait(lambda: page.workplace.activity is None)
    return entry


def test_a_right_answer_is_not_mentioned(
    federation: Federation, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_owner.references._RANDOM", Certain(before=1))
    known = sessions(federation.folder / "front-end")
    with open_page(
        settings_of(federation, tmp_path / "data", references=federation.references, reference_share=0.5)
    ) as page:
        entry = answer(page, chest, "one")
        assert sessions(federation.folder / "front-end") == known + 2
        assert 'data-testid="mismatch"' not in page.html(entry)
        assert len(page.workplace.history.records()) == 1


def test_a_wrong_answer_is_said_in_the_corner_and_stays_in_the_history(
    federation: Federation, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_owner.references._RANDOM", Certain(before=0))
    other = with_other_weights(federation.model, -1, by=2.0)
    with monkeypatch.context() as patch, serving(federation, other, patch) as url:
        peers = federation.data_owner_settings(model_owner_url=url).model_owners
        settings = settings_of(
            federation, tmp_path / "data", references=federation.references, reference_share=0.5, model_owners=peers
        )
        with open_page(settings) as page:
            entry = answer(page, chest, "one")
            page.wait(lambda: page.workplace.mismatch)
            html = page.html(entry)
            assert 'data-testid="mismatch"' in html
            assert "answered a reference picture otherwise than its owner signed" in html
            own, reference = sorted(page.workplace.history.records(), key=lambda record: record.date)
            assert [warning.code for warning in own.warnings].count(mismatches.CODE) == 0
            assert [warning.code for warning in reference.warnings] == [mismatches.CODE]
    with open_page(settings) as page:
        page.ready()
        assert page.workplace.mismatch
