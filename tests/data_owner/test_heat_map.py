"""The picture of a heat map: where it is refused, where it goes, and what it shows."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from contract.errors import CallerError, Refused
from contract.model_card import ModelCard, OutputPolicy, read_card
from contract.ticket import Engine
from data_owner.answers import ClassAnswer
from data_owner.diagnosis import Bytes, Diagnosis, ModelName, Seconds
from data_owner.heat_map import CAPTION_ROWS, MOST_OPAQUE, draw_heat_map, draw_heat_maps, make_colours
from data_owner.heat_map_places import choose_places
from data_owner.submission import require_heat_map
from imaging.preprocessing import PICTURE_SIDE, to_picture
from tests.end_to_end.models import write_tiny_model

GREY = np.full((140, 280), 100, np.uint8)


def card(folder: Path, policy: OutputPolicy) -> ModelCard:
    return read_card(write_tiny_model(folder, output_policy=policy) / "card.json")


def drawn(picture: NDArray[np.uint8], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    with Image.open(io.BytesIO(draw_heat_map(picture, grid))) as image:
        assert image.mode == "RGB"
        return np.asarray(image, np.float64)


# Whether


@pytest.mark.parametrize("policy", [OutputPolicy.LOGITS, OutputPolicy.LABEL_ONLY])
def test_a_card_that_does_not_allow_it(tmp_path: Path, policy: OutputPolicy) -> None:
    with pytest.raises(Refused, match=r"owner does not allow heat maps of tiny-chest 1\.0\.0; leave out --heat-map"):
        require_heat_map(card(tmp_path, policy), Engine.MASKED)


def test_the_engine_that_opens_none(tmp_path: Path) -> None:
    allowed = card(tmp_path, OutputPolicy.LOGITS_AND_HEAT_MAP)
    require_heat_map(allowed, Engine.MASKED)
    with pytest.raises(CallerError, match="'crypten' opens no heat maps; use --engine masked"):
        require_heat_map(allowed, Engine.CRYPTEN)


# Where


def test_one_file_has_a_picture_several_have_a_folder(tmp_path: Path) -> None:
    chest, hand = Path("a/chest.dcm"), Path("b/hand.png")
    assert choose_places([chest], tmp_path / "map.png") == (tmp_path / "map.png",)
    assert choose_places([chest], tmp_path) == (tmp_path / "chest.dcm.heat-map.png",)
    folder = tmp_path / "maps"
    expected = (folder / "chest.dcm.heat-map.png", folder / "hand.png.heat-map.png")
    assert choose_places([chest, hand], folder) == expected
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("files", "target", "words"),
    [
        (["chest.dcm"], "taken.png", "taken.png exists already; name another place"),
        (["chest.dcm"], "chest.jpg", "give a name that ends in .png, or a folder"),
        (["chest.dcm"], "absent/map.png", "not a folder that can be written"),
        (["chest.dcm", "hand.dcm"], "taken.png", "cannot be made a folder"),
        (["chest.dcm", "hand.dcm"], "absent/maps", "cannot be made a folder"),
        (["a/chest.dcm", "b/chest.dcm"], "maps", "two of the files have one name"),
        (["taken"], "", "taken.heat-map.png exists already"),
    ],
)
def test_places_that_will_not_do(tmp_path: Path, files: list[str], target: str, words: str) -> None:
    for name in ("taken.png", "taken.heat-map.png"):
        (tmp_path / name).write_bytes(b"of somebody")
    with pytest.raises(CallerError, match=words):
        choose_places([Path(file) for file in files], tmp_path / target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.heat-map.png", "taken.png"]


# What


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (6, 6), (2, 0)])
def test_a_cell_colours_its_part_of_the_picture(row: int, column: int) -> None:
    """140 x 280 under 7 x 7: cells of 20 x 40, whose middle is the most coloured."""
    grid = np.zeros((7, 7))
    grid[row, column] = 0.3
    colour = np.ptp(drawn(GREY, grid), axis=2)
    middle = (20 * row + 10, 40 * column + 20)
    assert colour[middle] > 0.9 * colour.max()
    near = np.zeros(GREY.shape, bool)
    near[max(0, middle[0] - 30) : middle[0] + 30, max(0, middle[1] - 60) : middle[1] + 60] = True
    assert colour[~near].max() == 0


def test_what_speaks_against_the_class_and_nothing_at_all_stay_grey() -> None:
    for grid in (-np.ones((7, 7)), np.zeros((7, 7))):
        np.testing.assert_array_equal(drawn(GREY, grid), np.repeat(GREY[:, :, np.newaxis], 3, axis=2))


def test_the_largest_cell_has_the_last_colour_over_the_picture_whatever_the_scale() -> None:
    for scale in (1e-3, 1.0, 1e4):
        shown = drawn(GREY, np.full((2, 2), scale))
        expected = (1 - MOST_OPAQUE) * 100 + MOST_OPAQUE * make_colours()[-1]
        assert np.abs(shown - expected).max() <= 0.5


def test_the_picture_shows_below() -> None:
    picture = np.tile(np.arange(256, dtype=np.uint8), (32, 1))
    steps = np.diff(drawn(picture, np.ones((2, 2)))[0], axis=0)
    assert steps.min() >= 0
    assert steps.sum(axis=0).min() > 90


def test_equal_steps_of_the_colours_look_equally_large() -> None:
    """Back to OKLab, by the published matrices: lightness rises, steps are of one size, no colour is cut off."""
    encoded = make_colours().astype(np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    lab = np.cbrt(linear @ to_cones.T) @ to_lab.T
    every = lab[::16]  # steps of one are of the size of rounding to 8 bits
    assert np.all(np.diff(every[:, 0]) > 0)
    steps = np.linalg.norm(np.diff(every, axis=0), axis=1)
    assert steps.max() < 1.15 * steps.min()
    np.testing.assert_allclose(np.hypot(lab[:, 1], lab[:, 2]), 0.125, atol=0.006)


def test_a_picture_for_the_screen_keeps_its_proportions() -> None:
    generator = np.random.default_rng(0)
    small = generator.random((30, 20))
    np.testing.assert_array_equal(to_picture(small), np.rint(small.astype(np.float32) * 255))
    assert to_picture(np.zeros((3000, 1500))).shape == (PICTURE_SIDE, PICTURE_SIDE // 2)
    assert to_picture(np.zeros((3, 50_000))).shape == (1, PICTURE_SIDE)


# Of several findings


def panels(picture: NDArray[np.uint8], names: list[str]) -> NDArray[np.uint8]:
    grids = {name: np.full((2, 2), 1.0 + number) for number, name in enumerate(names)}
    with Image.open(io.BytesIO(draw_heat_maps(picture, grids))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("many", "across", "down"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (5, 3, 2)])
def test_each_finding_has_the_picture_under_its_map_and_below_its_name(many: int, across: int, down: int) -> None:
    shown = panels(GREY, [f"finding {number}" for number in range(many)])
    height, width = GREY.shape[0] + CAPTION_ROWS, GREY.shape[1]
    assert shown.shape == (down * height, across * width, 3)
    single = drawn(GREY, np.ones((2, 2)))
    for number in range(many):
        top, left = height * (number // across), width * (number % across)
        panel = shown[top : top + height, left : left + width]
        assert panel[:CAPTION_ROWS].max() > 200  # white words on black
        np.testing.assert_array_equal(panel[CAPTION_ROWS:], single)


def test_a_long_name_runs_into_no_other_panel_and_many_panels_stay_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("data_owner.heat_map.MOST_ACROSS", 512)
    small = np.full((16, 16), 100, np.uint8)
    shown = panels(small, ["w" * 2000, "i"])
    assert shown.shape[1] <= 512
    second = shown[:CAPTION_ROWS, shown.shape[1] // 2 :]
    assert second[:, CAPTION_ROWS:].max() == 0  # of the second name only, which is one letter
    panels(small, ["two\nlines\x1b[31m", "\ud800", "\u540d\u524d"])  # whatever a card may hold
    many = panels(np.full((256, 256), 100, np.uint8), [str(number) for number in range(64)])
    assert max(many.shape) <= 512 + 8 * CAPTION_ROWS


# In JSON


def test_json_has_it_only_where_there_is_one() -> None:
    diagnosis = Diagnosis(
        file="chest.dcm",
        model=ModelName(name="tiny", version="1.0.0"),
        engine=Engine.MASKED,
        diagnosis=ClassAnswer(label="virus", probabilities=None),
        calibration=None,
        logits=None,
        warnings=(),
        seconds=Seconds(offline=1, online=1),
        bytes=Bytes(online=1, offline=1, data_owner_sent=1, model_owner_sent=1, crypto_provider_sent=1, links=()),
        one_way_trips=1,
    )
    plain = json.loads(diagnosis.model_dump_json())
    assert plain["logits"] is None
    assert not any("heat_map" in name for name in plain)
    mapped = diagnosis.model_copy(update={"heat_map": {"virus": ((0.5, -1.25),)}, "heat_map_file": "map.png"})
    shown = json.loads(mapped.model_dump_json())
    assert (shown["heat_map"], shown["heat_map_file"]) == ({"virus": [[0.5, -1.25]]}, "map.png")
    assert Diagnosis.model_validate_json(mapped.model_dump_json()) == mapped
    assert "1.25" not in repr(mapped)
