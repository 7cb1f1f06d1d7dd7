"""The benchmark of real federations: how rounds become figures, and, slowly, the whole of it."""

from pathlib import Path

import pytest

from benchmarks.federation import _cost, measure_federation
from federated_learning.run_records import RoundTraffic


def traffic(number: int, *, masked: float, training: float) -> RoundTraffic:
    return RoundTraffic(
        round=number,
        survivors=("a", "b", "c"),
        restarts=0,
        seconds=100.0,
        seconds_by_step={"TRAIN": training, "SHARES": 1.0, "MASKED": masked, "opening": 0.5},
        bytes_sent={"a": 10, "b": 12, "c": 11},
        bytes_received={"a": 1, "b": 1, "c": 1},
    )


def test_training_is_not_counted() -> None:
    cost = _cost(tuple(traffic(index, masked=seconds, training=90.0) for index, seconds in enumerate((2.0, 8.0, 3.0))))
    assert cost.seconds == 4.5
    assert cost.seconds_range == (3.5, 9.5)
    assert cost.seconds_by_step == {"SHARES": 1.0, "MASKED": 3.0, "opening": 0.5}
    assert cost.bytes_sent_by_a_hospital == 12


@pytest.mark.slow
def test_a_real_federation_is_measured_both_ways(tmp_path: Path) -> None:
    result = measure_federation(tmp_path, lambda _step: None, architecture="resnet10-narrow", hospitals=3, rounds=1)
    assert result.parameters > 70_000
    assert 0.5 < result.bytes_against_plain < 0.6
    assert result.extra_seconds == result.secure.seconds - result.plain.seconds
    assert set(result.plain.seconds_by_step) == {"PLAIN"}
