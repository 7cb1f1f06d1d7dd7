"""A model whose card allows heat maps: through all parties to the picture, and refused wherever it does not fit."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.errors import CallerError, PeerViolation, Refused
from contract.model_card import Arithmetic, OutputPolicy
from contract.ticket import Engine
from data_owner.diagnosis import Diagnosis
from demonstration.plaintext import PlaintextModel
from imaging.reading import read_model_input
from tests.end_to_end.federation import LABORATORY, SILENT, Federation, running_federation
from tests.end_to_end.float_maps import float_maps
from tests.end_to_end.models import CLASSES, DITHER, class_answer, radiograph


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Of exact arithmetic: rounded at random, single places of a map stray by what chance does to them."""
    folder, model = tmp_path_factory.mktemp("maps"), {"arithmetic": Arithmetic.EXACT}
    with running_federation(folder, output_policy=OutputPolicy.LOGITS_AND_HEAT_MAP, model=model) as federation:
        yield federation


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    return radiograph(tmp_path / "chest.dcm", seed=3)


def diagnose(
    federation: Federation, path: Path, engine: Engine = Engine.MASKED, heat_map: Path | None = None
) -> Diagnosis:
    with federation.diagnoser() as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        return diagnoser.diagnose(path, entry, engine=engine, force=False, progress=SILENT, heat_map=heat_map)


def test_the_map_is_the_floating_point_one_within_truncation(maps: Federation, chest: Path) -> None:
    diagnosis = diagnose(maps, chest)
    plaintext = PlaintextModel(maps.folder / "model")
    np.testing.assert_allclose(diagnosis.logits or (), plaintext.logits_of_file(chest), atol=DITHER)
    require_floating_point_map(maps, diagnosis, chest)


def require_floating_point_map(maps: Federation, diagnosis: Diagnosis, path: Path) -> None:
    """The map is the float network's: bits are chosen for the logits, which average over the map's places."""
    assert diagnosis.heat_map is not None
    masked = maps.model.plan.engines.masked
    assert masked is not None
    assert masked.heat_map is not None
    step = 1 / masked.heat_map.value.scale
    tensor = read_model_input(path, maps.model.card.input).tensor
    expected = dict(zip(CLASSES, float_maps(maps.folder / "model" / "model.onnx", tensor), strict=True))
    assert list(diagnosis.heat_map) == list(CLASSES)
    for name, grid in diagnosis.heat_map.items():
        assert np.abs(np.array(grid) - expected[name]).max() < 2 * step
        np.testing.assert_array_equal(np.array(grid) / step % 1, 0)
    assert max(np.abs(grid).max() for grid in expected.values()) > 40 * step


def test_the_picture_is_written_for_the_clinician_alone(maps: Federation, chest: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    diagnosis = diagnose(maps, chest, heat_map=path)
    assert diagnosis.heat_map_file == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with Image.open(path) as image:
        shown = np.asarray(image, np.float64)
    assert shown.shape == (48, 40, 3)
    assert diagnosis.heat_map is not None
    grid = np.array(diagnosis.heat_map[class_answer(diagnosis).label])
    for_it = np.kron(grid > 0.5 * grid.max(), np.ones((3, 2)))[:48, :40] > 0  # a grid of 16 x 16 over 48 x 40
    assert grid.shape == (16, 16)
    assert for_it.any()
    assert np.ptp(shown, axis=2).max() > 30


def test_a_stocked_item_gives_a_map_too(maps: Federation, chest: Path) -> None:
    with maps.diagnoser() as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        diagnoser.stock(entry, engine=Engine.MASKED, progress=SILENT)
        diagnosis = diagnoser.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=SILENT)
    assert diagnosis.stocked
    require_floating_point_map(maps, diagnosis, chest)


def test_the_other_engine_gives_logits_and_says_so_if_asked_for_more(
    maps: Federation, chest: Path, tmp_path: Path
) -> None:
    diagnosis = diagnose(maps, chest, Engine.CRYPTEN)
    assert diagnosis.logits is not None
    assert "heat_map" not in json.loads(diagnosis.model_dump_json())
    with pytest.raises(CallerError, match="opens no heat maps; use --engine masked"):
        diagnose(maps, chest, Engine.CRYPTEN, tmp_path / "map.png")


def test_a_picture_that_cannot_be_written_costs_no_result(maps: Federation, chest: Path, tmp_path: Path) -> None:
    diagnosis = diagnose(maps, chest, heat_map=tmp_path / "gone" / "map.png")
    assert diagnosis.heat_map_file is None
    assert diagnosis.heat_map is not None
    (warning,) = diagnosis.warnings
    assert warning.code == "no-heat-map"
    assert "No such file or directory" in warning.text


def test_a_model_whose_owner_does_not_allow_it(federation: Federation, chest: Path, tmp_path: Path) -> None:
    with federation.diagnoser() as (diagnoser, client):
        entry = diagnoser.choose_model(None)
        with pytest.raises(Refused, match="the model's owner does not allow heat maps"):
            diagnoser.diagnose(
                chest, entry, engine=Engine.MASKED, force=False, progress=SILENT, heat_map=tmp_path / "map.png"
            )
        assert client.opened == []
    assert diagnose(federation, chest).heat_map is None


@pytest.mark.parametrize("policy", list(OutputPolicy))
def test_a_plan_that_gives_something_else_than_the_card_says(
    maps: Federation, federation: Federation, chest: Path, policy: OutputPolicy
) -> None:
    """A model owner that signs another card than the plan's: nothing is opened, nothing sent."""
    for place, own in ((maps, OutputPolicy.LOGITS_AND_HEAT_MAP), (federation, OutputPolicy.LOGITS)):
        if own is policy:
            continue
        with place.diagnoser() as (diagnoser, client):
            card = place.model.card.model_copy(update={"output_policy": policy})
            changed = place.signed(LABORATORY, card=card)
            with pytest.raises(PeerViolation, match="another input, classes, output or engines than its card"):
                diagnoser.diagnose(chest, changed, engine=Engine.MASKED, force=False, progress=SILENT)
            assert client.opened == []
