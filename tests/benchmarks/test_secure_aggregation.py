"""`scripts/bench aggregation` measures rounds whose result it checks."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import secure_aggregation
from benchmarks.__main__ import app
from benchmarks.measuring import Step
from benchmarks.secure_aggregation import TrainingRounds, list_resnet18_shapes, measure_aggregation
from contract.errors import ComputationFailed
from federated_learning.secure_aggregation.encoding import VectorLayout

SHAPES = {"weight": (200, 50), "bias": (50,)}


def test_a_round_is_measured_beside_plain_averaging() -> None:
    seen: list[Step] = []
    cost = measure_aggregation(Path(), seen.append, hospitals=4, ring_bits=16, runs=2, shapes=SHAPES)
    assert [step.done for step in seen] == [0, 1, 2]
    assert cost.parameters == 10_050
    assert cost.plain_bytes_sent_by_a_hospital == 4 * 10_050
    assert 0.5 < cost.bytes_against_plain < 0.55
    assert 0 < cost.hospital_seconds < cost.apart_seconds < cost.together_seconds
    wide = measure_aggregation(Path(), seen.append, hospitals=3, ring_bits=32, runs=1, shapes=SHAPES)
    assert 1.0 < wide.bytes_against_plain < 1.1


def test_it_is_the_size_of_a_resnet18() -> None:
    assert VectorLayout(update=list_resnet18_shapes(), exact={}).update_length == 11_166_979


def test_a_wrong_mean_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TrainingRounds.plain_round

    def wrong(self: TrainingRounds, clock: secure_aggregation.Clock) -> tuple[secure_aggregation.Update, int]:
        mean, size = plain(self, clock)
        mean["bias"][3] += 0.001
        return mean, size

    monkeypatch.setattr(TrainingRounds, "plain_round", wrong)
    with pytest.raises(ComputationFailed, match="more than rounding"):
        measure_aggregation(Path(), lambda _step: None, hospitals=3, ring_bits=16, runs=1, shapes=SHAPES)


def test_a_ring_too_small_is_refused() -> None:
    refused = CliRunner().invoke(app, ["aggregation", "--ring-bits", "8"])
    assert refused.exit_code != 0
