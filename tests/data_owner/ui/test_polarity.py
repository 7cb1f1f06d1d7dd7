"""The page asks which way round a picture is where its file does not say, and reads it so."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_owner.ui.intake import read_file
from tests.data_owner.ui.conftest import Page
from tests.end_to_end.models import SIDE, radiograph
from tests.imaging.samples import picture, png_bytes

ASKED = 'data-testid="polarity-question"'


def pngs(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{seed}.png" for seed in range(count)]
    for seed, path in enumerate(paths):
        path.write_bytes(png_bytes(picture(rows=SIDE, columns=SIDE, seed=seed).astype(np.uint8)))
    return paths


def shown(page: Page, entry: str, name: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(page.get(f"/entries/{entry}/{name}.png").content)) as image:
        return np.asarray(image)


def test_a_png_is_submitted_only_when_somebody_has_said_which_way_round_it_is(page: Page, tmp_path: Path) -> None:
    (entry,) = page.ready().drop(*pngs(tmp_path, 1))
    drawn = picture(rows=SIDE, columns=SIDE)
    html = page.html(entry)
    assert ASKED in html
    assert "PNG files do not say whether the picture is a negative." in html
    assert 'data-testid="submit"' not in html
    assert "Which way round?" in html
    assert "/submit-all" not in html
    assert "1 image: 1 with a question" in html
    refused = page.post(f"/entries/{entry}/submit", confirm="yes")
    assert (refused.status_code, refused.json()["detail"]) == (400, "say first which of the two pictures looks right")
    assert page.post("/submit-all").status_code == 204
    assert page.state(entry) == "ready"

    assert page.post(f"/entries/{entry}/polarity", polarity="as-read").status_code == 204
    html = page.html(entry)
    assert ASKED not in html
    assert "PNG files do not say whether the picture is a negative; it was taken as it is." in html
    assert "1 image: 1 ready to submit" in html
    np.testing.assert_array_equal(shown(page, entry, "original"), drawn)

    assert page.post(f"/entries/{entry}/polarity", polarity="inverted").status_code == 204
    html = page.html(entry)
    assert "Bright and dark were exchanged, as you asked." in html
    for name in ("original", "seen"):
        np.testing.assert_array_equal(shown(page, entry, name), 255 - drawn)
        assert f"/entries/{entry}/{name}.png?3" in html  # a browser would show the old one again
    image = page.workplace.entries()[0].image
    assert image is not None
    np.testing.assert_allclose(image.tensor[0], ((255 - drawn) / 255 - 0.5) / 0.25, atol=1e-5)

    assert page.post(f"/entries/{entry}/submit").status_code == 204
    page.wait_for(entry, "answered")
    diagnosis = page.workplace.entries()[0].diagnosis
    assert diagnosis is not None
    assert "bright and dark were exchanged, as you asked" in [warning.text for warning in diagnosis.warnings]
    assert "Bright and dark were exchanged, as you asked." in page.html(entry)
    assert "Bright and dark were exchanged, as you asked." in page.get("/history").text
    late = page.post(f"/entries/{entry}/polarity", polarity="as-read")
    assert (late.status_code, "cannot be changed now" in late.json()["detail"]) == (400, True)


def test_one_click_answers_for_all_of_a_drop_that_ask(page: Page, tmp_path: Path) -> None:
    files = pngs(tmp_path, 3)
    said, first, second = page.ready().drop(*files, drop="one")
    told, other = page.drop(radiograph(tmp_path / "chest.dcm"), drop="one") + page.drop(files[0], drop="two")
    page.post(f"/entries/{said}/polarity", polarity="as-read")
    html = page.html(first)
    assert "Use all 2 of this drop inverted" in html
    assert "of this drop" not in page.html(other)
    assert page.post(f"/entries/{first}/polarity", **{"polarity-for-all": "inverted"}).status_code == 204
    page.wait(lambda: [page.state(entry) for entry in (first, second)] == ["ready"] * 2)
    stand = {one.id: (one.polarity, one.polarity_question is None) for one in page.workplace.entries()}
    assert stand == {
        said: ("as-read", True),
        first: ("inverted", True),
        second: ("inverted", True),
        told: (None, True),
        other: (None, False),
    }
    assert "Undo the inversion for all 2 of this drop" in page.html(second)
    page.post(f"/entries/{second}/polarity", **{"polarity-for-all": "as-read"})
    page.wait(lambda: page.state(first) == "ready")
    np.testing.assert_array_equal(shown(page, first, "original"), picture(rows=SIDE, columns=SIDE, seed=1))
    assert "for all 3 of this drop" in page.html(said)


def test_what_was_said_holds_for_another_model_too(page: Page, tmp_path: Path) -> None:
    (name,) = page.ready().drop(*pngs(tmp_path, 1))
    assert page.post(f"/entries/{name}/polarity", polarity="inverted").status_code == 204
    (entry,), model = page.workplace.entries(), page.workplace.model
    assert model is not None
    page.workplace.adopt(model)
    read_file(page.workplace, entry)
    assert [one.code for one in entry.warnings] == ["inverted", "modality-unknown"]
    np.testing.assert_array_equal(shown(page, name, "seen"), 255 - picture(rows=SIDE, columns=SIDE))


def test_any_picture_can_be_inverted_and_back_without_a_script(page: Page, chest: Path) -> None:
    (entry,) = page.ready().drop(chest)
    before, html = shown(page, entry, "original"), page.html(entry)
    assert ASKED not in html
    assert "Bright and dark as the file says." in html
    for polarity, expected in (("inverted", 255 - before), ("as-read", before)):
        answer = page.browser.post(
            f"/entries/{entry}/polarity",
            data={"polarity": polarity},
            headers=page.origin | {"Accept": "text/html"},
            follow_redirects=False,
        )
        assert (answer.status_code, answer.headers["location"]) == (303, f"/?entry={entry}")
        np.testing.assert_allclose(shown(page, entry, "original"), expected, atol=1)
    assert page.workplace.entries()[0].warnings == ()
    assert page.post(f"/entries/{entry}/polarity", polarity="sideways").status_code == 404
