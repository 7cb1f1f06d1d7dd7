from pathlib import Path

import pytest

from contract.errors import ConfigurationError
from contract.model_card import FederatedTraining
from federated_learning.recipe import find_description, fit_to_description
from federated_learning.run_records import (
    Description,
    RoundRecord,
    RunKind,
    RunRecord,
    append_round,
    read_description,
    read_history,
    read_run,
    write_run,
)
from federated_learning.training_settings import TrainingSettings

SAMPLE = Path(__file__).resolve().parents[2] / "docs" / "samples" / "description.json"


def test_a_run_is_read_as_it_was_written(tmp_path: Path, description: Description) -> None:
    record = RunRecord(
        settings=TrainingSettings(),
        description=description,
        training_roles=("train",),
        validation_role="choose",
        kind=RunKind.FEDERATED_SECURE,
        federation=FederatedTraining(
            hospitals=("a", "b", "c"),
            rounds=9,
            chosen_round=7,
            method="FedAvg",
            secure_aggregation={"ring bits": 16, "masks": "AES-256-CTR"},
        ),
    )
    write_run(tmp_path, record)
    assert read_run(tmp_path) == record


def test_a_round_that_is_made_again_replaces_what_followed(tmp_path: Path) -> None:
    assert read_history(tmp_path) == ()
    for number in (1, 2, 3):
        append_round(tmp_path, RoundRecord(round=number, training_loss=1 / number))
    again = RoundRecord(round=2, training_loss=0.4, restarts=1)
    append_round(tmp_path, again)
    assert read_history(tmp_path) == (RoundRecord(round=1, training_loss=1.0), again)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "the file is not JSON"),
        ("{}", "settings: is missing"),
        ('{"settings": 1}', "settings: must be a table of fields"),
        ("[]", "must be a table of fields"),
        ('{"surprise": 1}', "settings: is missing"),
        ('{"settings": {"seed": -1}}', "settings.seed: must be at least 0"),
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        read_run(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'run.json'}: {words}; ")
    assert str(caught.value).endswith("; correct the file")
    (tmp_path / "history.json").write_text('[{"round": 0}]')
    with pytest.raises(ConfigurationError, match=r"history\.json: 0\.round"):
        read_history(tmp_path)


def test_the_sample_description_can_be_trained() -> None:
    description = read_description(SAMPLE)
    assert fit_to_description(TrainingSettings(), description).classes == len(description.classes)
    assert find_description(str(SAMPLE)) == description
    assert find_description("pediatric-pneumonia").classes == ("normal", "bacteria", "virus")
