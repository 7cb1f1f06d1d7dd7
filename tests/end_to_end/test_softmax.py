"""A model with a softmax amid its layers and another at its end, through all parties."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.ticket import Engine
from tests.end_to_end.federation import SILENT, Federation, running_federation
from tests.end_to_end.float_maps import outputs_of_the_file
from tests.end_to_end.models import CLASSES, class_answer, radiograph


@pytest.fixture(scope="module")
def soft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with running_federation(tmp_path_factory.mktemp("soft"), model={"softmax": True}) as federation:
        yield federation


@pytest.mark.parametrize("case", ["masked", "masked, stocked", "crypten"])
def test_the_probabilities_are_those_that_the_file_gives(soft: Federation, tmp_path: Path, case: str) -> None:
    assert [operation.kind for operation in soft.model.plan.network.operations].count("softmax") == 1
    path = radiograph(tmp_path / "chest.dcm", seed=7)
    engine = Engine.CRYPTEN if case == "crypten" else Engine.MASKED
    with soft.diagnoser() as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        assert entry.engines == (Engine.MASKED, Engine.CRYPTEN)
        if case == "masked, stocked":
            diagnoser.stock(entry, engine=engine, progress=SILENT)
        diagnosis = diagnoser.diagnose(path, entry, engine=engine, force=False, progress=SILENT)
    expected = outputs_of_the_file(soft, path)  # which ends in a softmax
    assert expected.sum() == pytest.approx(1.0, abs=1e-5)
    assert expected.max() - expected.min() > 0.1
    assert class_answer(diagnosis).probabilities == pytest.approx(dict(zip(CLASSES, expected, strict=True)), abs=0.05)
