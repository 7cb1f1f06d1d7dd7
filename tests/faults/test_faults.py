"""Faults on every link between real servers: a sample always, hundreds with --all. And what is wrong would be found."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import EncryptedInferenceError
from data_owner.session import Diagnoser
from data_owner.session_desk import SessionDesk
from imaging.reading import read_model_input
from model_owner.server import InferenceHandler
from secure_computation.stock_folder import StockFolder
from tests.end_to_end.federation import running_federation
from tests.end_to_end.models import PATIENT, tiny_weights
from tests.faults import campaign
from tests.faults.fault import Fault, Kind, Link, Way
from tests.faults.harness import EXACT, Cell, Scenario, Watch, running_cell, watching

SEED = 2018


def test_a_sample_of_faults(tmp_path: Path) -> None:
    result = campaign.run(tmp_path, faults=12, cells=4, seed=SEED)
    assert result.failures == ()
    assert result.faults >= 6


@pytest.mark.slow
def test_hundreds_of_faults(tmp_path: Path) -> None:
    result = campaign.run(tmp_path, faults=640, cells=6, seed=SEED + 1)
    assert result.failures == ()
    assert result.faults >= 500  # some messages, of reports above all, are not sent every time


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    folder = tmp_path_factory.mktemp("faults")
    with (
        watching() as watch,
        running_federation(folder / "federation", model=EXACT) as federation,
        running_cell(federation, folder / "cell", watch) as running,
    ):
        yield running


def found(cell: Cell) -> str:
    """What a trial finds whose data owner loses the model owner in the middle."""
    trial = cell.trial(Scenario.FRESH, Fault(kind=Kind.CUT, link=Link.OWNERS, way=Way.OUT, number=6))
    assert trial.struck
    return "; ".join(trial.failures)


def test_nothing_is_found_where_nothing_is_wrong(cell: Cell) -> None:
    assert found(cell) == ""
    assert cell.watch.used_twice() == []


def test_a_wrong_result_would_be_found(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.harness.expected", lambda _federation, _path: np.zeros(3))
    assert "a wrong result was shown as right" in found(cell)


def test_a_disturbed_neighbour_would_be_found(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    take = StockFolder.take

    def broken(self: StockFolder, *arguments: Any) -> Any:
        if self._folder.parent.name == "neighbour":
            raise EncryptedInferenceError("the test broke the neighbour: expected")
        return take(self, *arguments)

    monkeypatch.setattr(StockFolder, "take", broken)
    assert "another session was disturbed" in found(cell)


def test_an_error_outside_the_tree_would_be_found(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Diagnoser.submit

    def broken(self: Diagnoser, *arguments: Any, **named: Any) -> Any:
        try:
            return submit(self, *arguments, **named)
        except EncryptedInferenceError as error:
            raise KeyError("nobody expects this") from error

    monkeypatch.setattr(Diagnoser, "submit", broken)
    assert "an error outside the tree" in found(cell)


def test_a_session_left_open_would_be_found(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionDesk, "_report_failure", lambda *_: None)
    monkeypatch.setattr(InferenceHandler, "_report", lambda *_: None)
    monkeypatch.setattr("tests.end_to_end.federation.ENDS_WITHIN_SECONDS", 0.5)
    assert "was left" in found(cell)


def test_a_hang_would_be_found(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.harness.HANGS_AFTER_SECONDS", 0.0)
    assert "hung for" in found(cell)


def test_material_used_twice_would_be_found() -> None:
    folder = Path("party/stock")
    assert Watch(taken=[(folder, "a"), (folder, "b"), (Path("other/stock"), "a")]).used_twice() == []
    assert Watch(taken=[(folder, "a"), (folder, "a")]).used_twice() == ["taken 2 times: a in party"]
    assert Watch(consumed=[(folder, "a"), (folder, "a")]).used_twice() == ["consumed 2 times: a in party"]


@pytest.mark.parametrize("place", ["log", "data-owner", "neighbour"])
def test_a_leak_would_be_found(cell: Cell, tmp_path: Path, place: str) -> None:
    """Of a name in a log, of weights at a data owner, of an image in a file."""
    assert campaign.leaks(cell.federation, tmp_path, Watch(), [cell]) == []
    watch, (image, _) = Watch(), cell.images
    tensor = read_model_input(image, cell.federation.model.card.input).tensor
    leaked = {"data-owner": tiny_weights()["c2.weight"].tobytes(), "neighbour": tensor.tobytes()}
    if place == "log":
        watch.logged.append(f"cannot read the file of {PATIENT}")
    else:
        (tmp_path / place).mkdir()
        (tmp_path / place / "cache").write_bytes(b"header" + leaked[place])
    assert len(campaign.leaks(cell.federation, tmp_path, watch, [cell])) == 1
