"""Predictions before anything is computed: the declared cost over a link, and constants that fit saved results."""

from pathlib import Path

import pytest

from benchmarks.configuration import RESULTS
from benchmarks.latency import read_newest
from contract.model_card import OutputPolicy
from contract.ticket import Engine
from model_owner.cost_prediction import OFFLINE_TRIPS, SPEEDS, Speed, predict_over_links, predict_phases
from model_owner.imported_models import ImportedModel, ImportedModels
from model_owner.link_profiles import LinkProfile
from secure_computation.at_rest import StorageKey
from tests.end_to_end.models import write_tiny_model

KEY = StorageKey(bytes(range(32)))

AMOUNTS = {Engine.MASKED: (1_734_886_912, 1_734_886_912), Engine.CRYPTEN: (412_456_732, 313_895_226)}
"""Of the shipped ResNet-18: products; bytes in line, online and offline."""


def imported(folder: Path, output_policy: OutputPolicy = OutputPolicy.LOGITS) -> ImportedModel:
    model = write_tiny_model(folder / "model", output_policy=output_policy)
    return ImportedModels(folder / "data", KEY).add(model / "model.onnx", model / "card.json", ())


def test_seconds_by_hand(tmp_path: Path) -> None:
    plan = imported(tmp_path).plan
    link = LinkProfile(name="x", one_way_milliseconds=100.0, megabits_per_second=1.0)
    online, offline = predict_phases(plan)[Engine.MASKED]
    assert online.trips == 6  # the image, two ReLUs to and fro, the result
    # A megabit a second is 125,000 bytes.
    masked = predict_over_links(plan, (link,))[0]
    computing = SPEEDS[Engine.MASKED][0].start_seconds
    assert masked.online_seconds == pytest.approx(0.6 + online.bytes_in_line / 125_000 + computing, abs=0.001)
    network = OFFLINE_TRIPS[Engine.MASKED] * 0.1 + offline.bytes_in_line / 125_000
    assert masked.offline_seconds == pytest.approx(network + SPEEDS[Engine.MASKED][1].start_seconds, abs=0.001)


def test_only_engines_that_are_offered_are_predicted(tmp_path: Path) -> None:
    plan = imported(tmp_path, OutputPolicy.LABEL_ONLY).plan
    assert {one.engine for one in predict_over_links(plan)} == {Engine.MASKED}


def test_cryptens_comparisons_cost_time_however_few_the_products(tmp_path: Path) -> None:
    for phase, speed in zip(
        predict_phases(imported(tmp_path).plan)[Engine.CRYPTEN], SPEEDS[Engine.CRYPTEN], strict=True
    ):
        assert phase.computing_seconds == pytest.approx(speed.seconds_per_million * phase.bytes_in_line / 1e6)
    # docs/own-model.md's network: 16 million products, 72 MB each way; 0.55 to 0.74 s were measured on a busy machine.
    assert 0.2 < SPEEDS[Engine.CRYPTEN][0].seconds(71_853_002) < 0.8


def test_computing_grows_with_the_products() -> None:
    speed = Speed(start_seconds=0.5, seconds_per_million=0.001)
    assert speed.seconds(0) == 0.5
    assert speed.seconds(2_000_000_000) == 2.5


@pytest.mark.parametrize("engine", list(Engine))
def test_constants_fit_the_newest_saved_result(engine: Engine) -> None:
    # Within a factor of 2: another machine may have measured it, and the constants are an estimate.
    (result,) = (one for one in read_newest(RESULTS, "resnet18")[1].results if one.engine == engine.value)
    phases = ("online_seconds", "offline_seconds")
    for speed, amount, phase in zip(SPEEDS[engine], AMOUNTS[engine], phases, strict=True):
        assert 0.5 < speed.seconds(amount) / getattr(result, phase) < 2.0


@pytest.mark.slow
def test_the_constants_rest_on_the_products_of_the_shipped_model(tmp_path: Path) -> None:
    folder = Path(__file__).resolve().parents[2] / "models" / "pediatric-pneumonia-resnet18"
    plan = ImportedModels(tmp_path, KEY).add(folder / "model.onnx", folder / "card.json", ()).plan
    assert sum(operation.multiplications() for operation in plan.network.operations) == AMOUNTS[Engine.MASKED][0]
    online, offline = predict_phases(plan)[Engine.CRYPTEN]
    assert (online.bytes_in_line, offline.bytes_in_line) == AMOUNTS[Engine.CRYPTEN]
