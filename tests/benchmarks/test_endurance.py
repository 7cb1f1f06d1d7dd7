"""A small service from its start to servers killed and started again."""

from pathlib import Path

import pytest

from benchmarks.document.blocks import Table
from benchmarks.document.sections import show_endurance
from benchmarks.endurance import SERVERS, measure_endurance
from benchmarks.measuring import Step
from tests.end_to_end.models import write_tiny_model


@pytest.mark.slow
def test_a_small_service(tmp_path: Path) -> None:
    steps: list[Step] = []
    result = measure_endurance(
        write_tiny_model(tmp_path / "model"),
        tmp_path,
        hospitals=2,
        diagnoses=6,
        minutes=0,
        timeout_seconds=120,
        on_step=steps.append,
    )
    assert result.diagnoses == 6
    assert [sample.diagnoses for sample in result.samples] == [1, 2, 3, 4, 5, 6]
    assert all(held > 1 << 20 for sample in result.samples for held in sample.resident_bytes.values())
    assert all(count > 3 for sample in result.samples for count in sample.open_files.values())
    assert [(one.party, one.killed) for one in result.restarts] == [
        (role.value, killed) for killed in (False, True) for role in SERVERS
    ]
    images = 2 + 6 + 6  # warm-up, the service, one after each restart
    assert result.consumed == {"model-owner": images, "crypto-provider": 2 * images}  # which deals to both
    assert steps[-1].words == "6 of 6 diagnoses"
    table = show_endurance(result).blocks[0]
    assert isinstance(table, Table)
    assert len(table.rows) == 9
