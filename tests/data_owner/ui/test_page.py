"""The page before an in-process federation: a whole diagnosis, a stop, an error, a reload, the history."""

import logging
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.api import SessionState
from contract.model_card import OutputPolicy
from data_owner.session import Diagnoser
from data_owner.session_desk import Opened
from data_owner.settings import DataOwnerSettings
from plumbing.settings import FrontEnd, Peer
from secure_computation.channel.channel import Channel
from secure_computation.engines.masked.session.sides import MaskedDataOwner
from tests.data_owner.ui.conftest import LIMIT, Page, open_page, settings_of
from tests.end_to_end.federation import LABORATORY, Federation, closed_port, running_federation
from tests.end_to_end.models import CLASSES, PATIENT, SIDE, class_answer, radiograph

SECRETS = (PATIENT, PATIENT.replace("^", " "), "chest.dcm")


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def answered(page: Page, path: Path) -> str:
    (entry,) = page.ready().drop(path)
    assert page.post(f"/entries/{entry}/submit").status_code == 204
    page.wait_for(entry, "answered")
    return entry


def test_a_whole_diagnosis(page: Page, chest: Path, federation: Federation) -> None:
    entry = answered(page, chest)
    expected = class_answer(federation.diagnose(chest))
    html = page.html(entry)
    assert f'data-testid="result-label">{expected.label}<' in html
    for name, share in (expected.probabilities or {}).items():
        shown = float(html.split(f'data-class="{name}" data-share="')[1].split('"')[0])
        assert shown == pytest.approx(share, abs=0.05)
    assert "Research use only, not a medical device." in html
    assert "tiny-chest 1.0.0" in html
    diagnosis = page.workplace.entries()[0].diagnosis
    assert diagnosis is not None
    assert f"{diagnosis.bytes.data_owner_sent / 1e3:,.1f} kB" in html
    assert "north-lab" in html
    assert page.workplace.entries()[0].image is None  # memory stays flat


def test_what_is_shown_is_what_the_model_sees(page: Page, chest: Path) -> None:
    (entry,) = page.ready().drop(chest)
    seen = page.get(f"/entries/{entry}/seen.png")
    assert seen.headers["content-type"] == "image/png"
    (page.settings.data_folder / "seen.png").write_bytes(seen.content)
    with Image.open(page.settings.data_folder / "seen.png") as picture:
        assert picture.size == (SIDE, SIDE)
        image = page.workplace.entries()[0].image
        assert image is not None
        np.testing.assert_allclose(np.asarray(picture) / 255, image.tensor[0] * 0.25 + 0.5, atol=1 / 255)
    values = np.frombuffer(page.get(f"/entries/{entry}/values").content, "<u2")
    facts = page.workplace.entries()[0].facts
    assert facts is not None
    assert values.size == facts.look.rows * facts.look.columns == 48 * 40
    assert (facts.look.low, facts.look.high) == pytest.approx((0, 4095), abs=30)


def test_the_state_survives_a_reload_and_another_tab(page: Page, chest: Path) -> None:
    entry = answered(page, chest)
    assert page.html() == page.html(entry)
    page.drop(chest)
    state = page.get("/state", params={"entry": entry}).json()
    assert state["entry"] == entry
    assert set(state["regions"]) == {"status", "queue", "entry", "stock"}
    keys = {f"key-{name}": part["key"] for name, part in state["regions"].items()}
    again = page.get("/state", params={"entry": entry} | keys).json()
    assert again["entry"] == entry
    assert again["regions"] == {}
    assert again["progress"] is None


def test_history_holds_the_answer_and_nobody_and_can_be_deleted(page: Page, chest: Path) -> None:
    entry = answered(page, chest)
    (record,) = page.workplace.history.records()
    assert record.answer.words in CLASSES
    assert record.answer.words in page.get("/history").text
    folder = page.workplace.folders.history
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files_below(folder))
    assert not any(secret in path.read_text() for path in files_below(folder) for secret in SECRETS)
    assert page.get(f"/history/{record.id}/picture.png").status_code == 404
    assert page.post(f"/entries/{entry}/keep").status_code == 204
    assert page.get(f"/history/{record.id}/picture.png").content.startswith(b"\x89PNG")
    assert page.post(f"/history/{record.id}/delete").status_code == 204
    assert files_below(folder) == []
    assert "Nothing is kept yet" in page.get("/history").text
    assert page.post("/history/..%2F..%2Fkey/delete").status_code == 404


def test_history_of_an_earlier_page_is_shown_and_deleted_at_once(settings: DataOwnerSettings, chest: Path) -> None:
    with open_page(settings) as page:
        answered(page, chest)
    with open_page(settings) as page:
        assert 'data-testid="record"' in page.get("/history").text
        assert page.post("/history/delete-all").status_code == 204
        assert 'data-testid="record"' not in page.get("/history").text


def test_what_was_dropped_goes_with_the_entry_and_with_the_page(settings: DataOwnerSettings, tmp_path: Path) -> None:
    uploads = settings.data_folder / "page" / "uploads"
    with open_page(settings) as page:
        first, second = page.ready().drop(radiograph(tmp_path / "1.dcm"), radiograph(tmp_path / "2.dcm", seed=1))
        for path in files_below(uploads):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        many = len(files_below(uploads))
        assert page.post(f"/entries/{first}/remove").status_code == 204
        assert len(files_below(uploads)) == many / 2
        assert page.get(f"/entries/{first}/original.png").status_code == 404
        assert page.get(f"/entries/{second}/original.png").status_code == 200
    assert not uploads.exists()


def test_the_patient_is_shown_when_asked_for_and_appears_nowhere_else(
    page: Page, chest: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    entry = answered(page, chest)
    shown = page.get(f"/entries/{entry}/patient").text
    assert "Canary Patient" in shown
    assert chest.name in shown
    elsewhere = [page.html(entry), page.get("/state").text, page.get("/history").text, repr(page.workplace.entries())]
    elsewhere += [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]
    elsewhere += capfd.readouterr()
    assert not any(secret in text for text in elsewhere for secret in SECRETS)
    kept = [path for path in files_below(page.settings.data_folder) if path.name != "file"]
    assert not any(secret.encode() in path.read_bytes() for path in kept for secret in SECRETS)


def test_stopping_in_the_middle_ends_the_session_everywhere(
    page: Page, chest: Path, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at its second layer: front end and peers end it, the image stays and can be submitted again."""
    (entry,) = page.ready().drop(chest)
    run, sessions = MaskedDataOwner.run, []
    opening = Diagnoser._run

    def watched(self: Diagnoser, opened: Opened, *rest: object, **named: object) -> object:
        sessions.append(opened.session)
        return opening(self, opened, *rest, **named)  # type: ignore[arg-type]

    def stopped(self: MaskedDataOwner, *images: object, **named: object) -> object:
        on_layer = named["on_layer"]

        def layer(index: int, total: int, name: str) -> None:
            if index == 1:
                page.workplace.stop(page.workplace.entries()[0])
            on_layer(index, total, name)  # type: ignore[operator]

        return run(self, *images, **named | {"on_layer": layer})  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(MaskedDataOwner, "run", stopped)
        patch.setattr(Diagnoser, "_run", watched)
        assert page.post(f"/entries/{entry}/submit").status_code == 204
        page.wait_for(entry, "failed")
    assert 'data-code="session-cancelled"' in page.html(entry)
    assert federation.ended(sessions[0].view).state is SessionState.CANCELLED
    assert page.post(f"/entries/{entry}/submit").status_code == 204
    page.wait_for(entry, "answered")


def test_stopping_while_the_peer_keeps_us_waiting(federation: Federation, tmp_path: Path, chest: Path) -> None:
    """A model owner that never answers: stopping does not wait for its deadline."""
    over = threading.Event()

    def keep_waiting(_channel: Channel) -> None:
        over.wait(60)

    with federation.fake(LABORATORY, keep_waiting) as url:
        settings = settings_of(
            federation,
            tmp_path / "data-owner",
            model_owners=(Peer(organisation=LABORATORY.organisation, url=url),),
        )
        with open_page(settings) as page:
            (entry,) = page.ready().drop(chest)
            page.post(f"/entries/{entry}/submit")
            page.wait(lambda: page.workplace.activity is not None and page.workplace.activity.cancellation._channels)
            assert page.post(f"/entries/{entry}/stop").status_code == 204
            page.wait_for(entry, "failed")
            assert 'data-code="session-cancelled"' in page.html(entry)
        over.set()


def test_an_unreachable_model_owner_is_told_and_nothing_is_lost(
    federation: Federation, tmp_path: Path, chest: Path
) -> None:
    nowhere = f"ws://127.0.0.1:{closed_port()}/v2/inference"
    peer = Peer(organisation=LABORATORY.organisation, url=nowhere)
    with open_page(settings_of(federation, tmp_path / "data-owner", model_owners=(peer,))) as page:
        (entry,) = page.ready().drop(chest)
        page.post(f"/entries/{entry}/submit")
        page.wait_for(entry, "failed")
        html = page.html(entry)
        assert 'data-code="peer-unreachable"' in html
        assert "No connection" in html
        assert "Nothing is lost" in html
        assert "Submit again" in html
        assert "Traceback" not in html


def test_without_a_front_end_the_page_says_so_and_keeps_the_image(
    federation: Federation, tmp_path: Path, chest: Path
) -> None:
    settings = settings_of(federation, tmp_path / "data-owner")
    nowhere = FrontEnd(url=f"http://127.0.0.1:{closed_port()}", api_key=settings.inference_service.api_key)
    with open_page(settings.model_copy(update={"inference_service": nowhere})) as page:
        page.wait(lambda: page.workplace.connection == "offline")
        (entry,) = page.drop(chest)
        html = page.html(entry)
        assert 'data-testid="offline"' in html
        assert 'data-testid="waiting"' in html
        page.workplace.bell.ring()
        assert page.post("/reconnect").status_code == 204
        page.wait(lambda: page.workplace.connection == "offline")
        assert page.state(entry) == "waiting"


def test_material_is_prepared_and_spent(page: Page, chest: Path) -> None:
    page.ready()
    assert page.workplace.stock.items == 0
    assert page.post("/prepare", count="2").status_code == 204
    page.wait(lambda: page.workplace.stock.items == 2 and page.workplace.activity is None)
    assert "<b>2</b> in stock" in page.html()
    entry = answered(page, chest)
    page.wait(lambda: page.workplace.stock.items == 1)
    diagnosis = page.workplace.entry(entry).diagnosis  # type: ignore[union-attr]
    assert diagnosis is not None
    assert diagnosis.stocked


@pytest.mark.parametrize("count", ["0", "-1", "51", "many", "", "1e3"])
def test_an_absurd_number_of_items_is_refused(page: Page, count: str) -> None:
    answer = page.post("/prepare", count=count)
    assert answer.status_code == 400
    assert "1 to 50" in answer.json()["detail"]
    assert page.workplace.preparing.left == 0


@pytest.mark.parametrize(
    ("tags", "code", "words"),
    [
        ({"BodyPartExamined": "HAND"}, "wrong-body-part", "HAND"),
        ({"PatientAge": "040Y"}, "wrong-age", "older than the model was made for (1 to 5 years)"),
    ],
)
def test_an_image_with_doubts_needs_confirmation(
    page: Page, tmp_path: Path, tags: dict[str, Any], code: str, words: str
) -> None:
    (entry,) = page.ready().drop(radiograph(tmp_path / "doubtful.dcm", **tags))
    html = page.html(entry)
    assert f'data-code="{code}"' in html
    assert words in html
    assert 'data-testid="confirm"' in html
    assert html.count("Needs your confirmation") == 2  # above the picture, and in the list
    assert page.post(f"/entries/{entry}/submit").status_code == 400
    assert page.state(entry) == "ready"
    assert page.post(f"/entries/{entry}/submit", confirm="yes").status_code == 204
    page.wait_for(entry, "answered")
    assert words in page.html(entry)


def test_several_patients_in_one_drop_are_asked_about(page: Page, tmp_path: Path) -> None:
    one, same = radiograph(tmp_path / "1.dcm"), radiograph(tmp_path / "2.dcm", seed=1)
    other = radiograph(tmp_path / "3.dcm", PatientName="Somebody^Else")
    first, _, third = page.ready().drop(one, same, other)
    (later,) = page.drop(other, drop="another")
    assert 'data-testid="several-patients"' in page.html(first)
    assert 'data-testid="several-patients"' not in page.html(later)
    assert page.post(f"/entries/{first}/submit").status_code == 400
    assert page.post(f"/entries/{first}/separate").status_code == 204
    assert 'data-testid="several-patients"' not in page.html(first)
    assert page.post(f"/entries/{third}/submit").status_code == 204
    page.wait_for(third, "answered")


def test_of_several_patients_one_can_be_kept(page: Page, tmp_path: Path) -> None:
    one, other = radiograph(tmp_path / "1.dcm"), radiograph(tmp_path / "2.dcm", PatientName="Somebody^Else")
    first, second = page.ready().drop(one, other)
    assert page.post(f"/entries/{first}/alone").status_code == 204
    assert page.workplace.entry(second) is None
    assert page.workplace.count_patients(page.workplace.entries()[0]) == 1


def test_what_is_no_image_is_refused_in_plain_words(page: Page, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear colleague")
    (entry,) = page.ready().drop(tmp_path / "letter.txt")
    html = page.html(entry)
    assert 'data-state="unreadable"' in html
    assert "this is not a PNG" in html
    assert page.post(f"/entries/{entry}/submit").status_code == 400
    assert page.post(f"/entries/{entry}/remove").status_code == 204


def test_a_file_that_is_too_large_leaves_nothing(page: Page) -> None:
    answer = page.browser.post("/entries", content=bytes(LIMIT + 1), headers=page.origin)
    assert answer.status_code == 413
    assert page.workplace.entries() == []


def test_names_are_escaped(page: Page, tmp_path: Path) -> None:
    nasty = radiograph(tmp_path / "<img src=x>.dcm", PatientName="<script>alert(1)</script>")
    (entry,) = page.ready().drop(nasty)
    shown = page.get(f"/entries/{entry}/patient").text
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "&lt;script&gt;" in shown


def test_images_wait_for_their_turn(page: Page, tmp_path: Path) -> None:
    paths = [radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(3)]
    entries = page.ready().drop(*paths)
    assert page.post("/submit-all").status_code == 204
    for entry in entries:
        page.wait_for(entry, "answered")
    assert len(page.workplace.history.records()) == 3


def test_a_form_without_script_leads_back_to_the_page(page: Page, chest: Path) -> None:
    (entry,) = page.ready().drop(chest)
    headers = {"Origin": page.access.origin, "Accept": "text/html"}
    answer = page.browser.post(f"/entries/{entry}/submit", headers=headers, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/?entry={entry}")
    answer = page.browser.post("/theme", data={"theme": "dark"}, headers=headers, follow_redirects=True)
    assert 'data-theme="dark"' in answer.text
    page.wait_for(entry, "answered")


def test_what_is_not_there_is_told_on_a_page(page: Page) -> None:
    for path in ("/entries/none/original.png", "/nothing", "/static/../server.py", "/static/secret.css"):
        answer = page.get(path)
        assert answer.status_code == 404
        assert "Nothing here" in answer.text


@pytest.fixture(scope="module")
def with_heat_maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("heat-maps")
    with running_federation(folder, output_policy=OutputPolicy.LOGITS_AND_HEAT_MAP) as running:
        yield running


def test_a_heat_map_of_each_class_lies_over_the_picture(
    with_heat_maps: Federation, tmp_path: Path, chest: Path
) -> None:
    with open_page(settings_of(with_heat_maps, tmp_path / "data-owner")) as page:
        entry = answered(page, chest)
        html = page.html(entry)
        assert 'data-testid="heat-map"' in html
        pictures = set()
        for number in range(len(CLASSES)):
            layer = page.get(f"/entries/{entry}/heat-map/{number}.png")
            assert layer.status_code == 200
            pictures.add(layer.content)
        assert len(pictures) == len(CLASSES)
        assert page.get(f"/entries/{entry}/heat-map/{len(CLASSES)}.png").status_code == 404


def test_numbers_and_forms_that_the_page_never_sends_end_nothing(page: Page) -> None:
    for since in ("\u00b2", "9" * 5000, "-1"):
        assert page.get("/state", params={"since": since}).status_code == 200
    many = {f"field-{number}": "x" for number in range(20)}
    assert page.post("/names", **many).status_code == 400
    assert page.post("/prepare", count="9" * 5000).status_code == 400
