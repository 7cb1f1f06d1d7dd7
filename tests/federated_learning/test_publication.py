"""What a card and its README say about how a model came about, by the kind of its run."""

from pathlib import Path
from typing import Any

import pytest

from contract.errors import ConfigurationError
from contract.model_card import FederationRecord, ModelCard, Task, read_card
from federated_learning import publication
from federated_learning.checkpoints import save
from federated_learning.data_source import ManifestSource, labels_of, load
from federated_learning.publication import measure, publish, readme
from federated_learning.records import Description, RunKind, RunRecord, write_run
from federated_learning.report import evaluating
from federated_learning.report.evaluating import evaluate, evaluate_published
from federated_learning.settings import Stage, TrainingSettings
from federated_learning.training import Chosen, trainer_of
from tests.end_to_end.models import write_tiny_model
from tests.federated_learning.conftest import CLASSES

SECURE: dict[str, str | int | float] = {"survivors needed": 3, "update ring bits": 16, "masks": "AES-256-CTR"}


def federation(**changes: Any) -> FederationRecord:
    values: dict[str, Any] = {
        "hospitals": ("hospital-a", "hospital-b", "hospital-c"),
        "rounds": 12,
        "chosen_round": 11,
        "restarted_rounds": 1,
        "method": "FedAvg weighted by examples",
        "local_batches": 5,
        "examples": 36,
        "class_counts": {"plain": 12, "bright": 12, "striped": 12},
        "secure_aggregation": SECURE,
        "software": {"flwr": "1.41.0"},
    }
    return FederationRecord.model_validate(values | changes)


def run_record(description: Description, kind: RunKind, record: FederationRecord | None) -> RunRecord:
    return RunRecord(
        settings=TrainingSettings(architecture="resnet10-narrow", stages=(Stage(size=32, epochs=1, batch=8),)),
        description=description,
        training_roles=("train",),
        validation_role="choose",
        kind=kind,
        federation=record,
    )


def written(run: RunRecord, folder: Path) -> tuple[ModelCard, str]:
    """The words of a card and a README, without exporting anything."""
    (folder / "model.onnx").write_bytes(b"")
    chosen = Chosen(epoch=1, plans=((0, run.settings.stages),))
    card = publication._card(run, chosen, 1, model_file=folder / "model.onnx")
    return card, publication.readme(card, {}, validation_role=run.validation_role)


def test_a_securely_aggregated_model_says_all_of_it(
    drawn_data: tuple[Path, Path], description: Description, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, folder = drawn_data
    source = ManifestSource(manifest=manifest, folder=folder, classes=CLASSES)
    record = run_record(description, RunKind.FEDERATED_SECURE, federation())
    run, model = manifest.parent / "run", manifest.parent / "model"
    run.mkdir()
    write_run(run, record)
    examples = source.examples("train")[:4]
    hospital = {"": (load(examples, description.input), labels_of(examples))}
    save(trainer_of(record.settings, hospital).chosen(), run / "best.npz")  # no checkpoint: a coordinator's run
    card = publish(run, model, source=source, test_roles=("test",))
    assert read_card(model / "card.json") == card
    compared = evaluate(run, name="secure", source=source, test_roles=())
    assert (compared.model_sha256, compared.chosen_round) == (card.model_sha256, 11)
    assert (compared.kind, compared.federation) == (RunKind.FEDERATED_SECURE, federation())
    again = evaluate_published(model, name="shipped", source=source, validation_role="choose", test_roles=())
    assert again.splits == compared.splits  # the run is not needed any more
    assert again.settings == {"published": f"{card.name} {card.version}"}
    monkeypatch.setattr(evaluating, "PEDIATRIC_PNEUMONIA_RECIPE", record.settings)
    recognised = evaluate_published(model, name="shipped", source=source, validation_role="choose", test_roles=())
    assert recognised.settings == compared.settings | again.settings
    assert (again.temperature, again.model_sha256) == (compared.temperature, compared.model_sha256)
    assert (again.kind, again.federation, again.chosen_round) == (compared.kind, compared.federation, 11)
    text = (model / "README.md").read_text()
    assert card.federation == federation()
    for words in (
        "Trained by 3 hospitals (hospital-a, hospital-b, hospital-c) that shared no image",
        "the coordinator saw sums of masked updates, and of none alone",
        "Of 12 rounds trained, round 11 was chosen on choose",
        "FedAvg weighted by examples; adamw",
    ):
        assert words in card.training
        assert words in text
    for line in (
        "| rounds | 12; round 11 was chosen on choose |",
        "| rounds made again after somebody dropped out | 1 |",
        "| between two rounds | 5 batches each |",
        "| of them by class | plain 12, bright 12, striped 12 |",
        "| secure aggregation: survivors needed | 3 |",
        "| secure aggregation: masks | AES-256-CTR |",
        "| software | flwr 1.41.0 |",
    ):
        assert line in text.splitlines()


def test_an_average_in_the_clear_does_not_pass_for_a_masked_one(description: Description, tmp_path: Path) -> None:
    record = federation(secure_aggregation=None, local_batches=None)
    card, text = written(run_record(description, RunKind.FEDERATED, record), tmp_path)
    assert "saw the update of each in the clear" in card.training
    assert "masked" not in card.training
    assert "| secure aggregation | none |" in text
    assert "| between two rounds | one pass over a hospital's images |" in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [(RunKind.CENTRALISED, "this is the centralised baseline"), (RunKind.HOSPITAL, "one data owner with its own")],
)
def test_a_model_of_one_place_says_so(description: Description, tmp_path: Path, kind: RunKind, words: str) -> None:
    card, text = written(run_record(description, kind, None), tmp_path)
    assert card.federation is None
    assert words in card.training
    assert "epochs trained, epoch" in card.training
    assert "| federation |" not in text


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (RunKind.FEDERATED, None),
        (RunKind.FEDERATED_SECURE, None),
        (RunKind.FEDERATED_SECURE, federation(secure_aggregation=None)),
    ],
)
def test_a_run_that_cannot_prove_it_is_not_published(
    description: Description, tmp_path: Path, kind: RunKind, record: FederationRecord | None
) -> None:
    run = run_record(description, kind, record)
    with pytest.raises(ConfigurationError, match="let its coordinator end the run"):
        written(run, tmp_path)


@pytest.mark.parametrize("task", [Task.MULTI_LABEL, Task.BINARY])
def test_figures_of_one_class_of_several_are_not_measured_of_other_models(
    drawn_data: tuple[Path, Path], tmp_path: Path, task: Task
) -> None:
    manifest, folder = drawn_data
    card = read_card(write_tiny_model(tmp_path / "model", task=task, classes=CLASSES[:2]) / "card.json")
    source = ManifestSource(manifest=manifest, folder=folder, classes=CLASSES)
    before = (tmp_path / "model" / "card.json").read_bytes()
    with pytest.raises(ConfigurationError, match=f"the card's task is {task}: temperature and figures are measured of"):
        measure(card, tmp_path / "model", source=source, data_set="drawn", validation_role="choose", test_roles=())
    assert (tmp_path / "model" / "card.json").read_bytes() == before


def test_a_readme_claims_no_calibration_that_nobody_measured(tmp_path: Path) -> None:
    card = read_card(write_tiny_model(tmp_path / "model") / "card.json")
    assert "Not calibrated." in readme(card, {}, validation_role="choose")
    calibrated = card.model_copy(update={"calibration_temperature": 0.9})
    assert "Calibration temperature: 0.9." in readme(calibrated, {}, validation_role="choose")
