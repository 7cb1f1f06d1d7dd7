"""The radiograph that is drawn for demonstrations."""

from pathlib import Path

import numpy as np
from pydicom import dcmread

from contract.model_card import read_card
from imaging.phantom import draw_phantom, write_phantom
from imaging.reading import read_image
from tests.imaging.samples import specification


def test_the_file_is_a_12_bit_monochrome1_chest_radiograph(tmp_path: Path) -> None:
    path = tmp_path / "phantom.dcm"
    write_phantom(path, seed=3, side=256)
    stored = dcmread(path)
    assert (stored.Modality, stored.BodyPartExamined, stored.BitsStored) == ("DX", "CHEST", 12)
    assert stored.PhotometricInterpretation == "MONOCHROME1"
    assert stored.pixel_array.max() <= 4095
    image = read_image(path, specification())
    assert image.warnings == ()
    np.testing.assert_allclose(image.pixels, draw_phantom(seed=3, side=256), atol=2 / 4095)


def test_the_shipped_model_has_no_question_about_it(tmp_path: Path) -> None:
    write_phantom(tmp_path / "phantom.dcm", side=64)
    card = read_card(Path(__file__).parents[2] / "models" / "pediatric-pneumonia-resnet18" / "card.json")
    assert read_image(tmp_path / "phantom.dcm", card.input).warnings == ()


def test_lungs_are_darker_than_spine_and_heart_and_brighter_than_air() -> None:
    film = draw_phantom(seed=1, side=256)

    def around(x: float, y: float) -> float:
        column, row = int((x + 1) * 128), int((y + 1) * 128)
        return float(np.median(film[row - 6 : row + 7, column - 6 : column + 7]))

    lungs = max(around(-0.5, 0.1), around(0.6, 0.1))
    assert lungs + 0.15 < min(around(0, 0.1), around(0.15, 0.35), around(-0.4, 0.8))
    assert around(0.9, -0.95) + 0.1 < lungs


def test_the_seed_decides() -> None:
    assert np.array_equal(draw_phantom(seed=1, side=64), draw_phantom(seed=1, side=64))
    assert not np.array_equal(draw_phantom(seed=1, side=64), draw_phantom(seed=2, side=64))
