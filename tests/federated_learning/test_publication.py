"""What a card and its README say about how a model came about, by the kind of its run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import ConfigurationError
from contract.model_card import (
    FederatedTraining,
    InputSpecification,
    Modality,
    ModelCard,
    OutputPolicy,
    Task,
    read_card,
)
from federated_learning import publication
from federated_learning.augmentation import NONE, Augmentation
from federated_learning.checkpoints import save
from federated_learning.data_source.examples import collect_labels, load
from federated_learning.data_source.table import read_table
from federated_learning.evaluation import choose_threshold
from federated_learning.in_process import Chosen, Trainer
from federated_learning.model_readme import Split, write_readme
from federated_learning.publication import describe_recipe, measure, publish
from federated_learning.report import evaluating
from federated_learning.report.evaluating import evaluate, evaluate_published
from federated_learning.run_records import Description, RunKind, RunRecord, write_run
from federated_learning.temperature import fit_usable_temperature
from federated_learning.training_settings import Stage, TrainingSettings
from tests.end_to_end.models import write_tiny_model
from tests.federated_learning.conftest import CLASSES

SECURE: dict[str, str | int | float] = {"survivors needed": 3, "update ring bits": 16, "masks": "AES-256-CTR"}


def federation(**changes: Any) -> FederatedTraining:
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
    return FederatedTraining.model_validate(values | changes)


def run_record(description: Description, kind: RunKind, record: FederatedTraining | None) -> RunRecord:
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
    card = publication._make_card(run, chosen, 1, model_file=folder / "model.onnx")
    return card, write_readme(card, {}, validation_role=run.validation_role)


def test_a_securely_aggregated_model_says_all_of_it(
    drawn_data: tuple[Path, Path], description: Description, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, folder = drawn_data
    source = read_table(manifest, folder=folder, classes=CLASSES)
    record = run_record(description, RunKind.FEDERATED_SECURE, federation())
    run, model = manifest.parent / "run", manifest.parent / "model"
    run.mkdir()
    write_run(run, record)
    examples = source.examples("train")[:4]
    hospital = {"": (load(examples, description.input), collect_labels(examples))}
    save(Trainer(record.settings, hospital).chosen(), run / "best.npz")  # no checkpoint: a coordinator's run
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
        "| rounds | 12; the weights of round 11 were kept |",
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
    [
        (RunKind.CENTRALISED, "Trained in one place, where all images lay"),
        (RunKind.HOSPITAL, "one data owner with its own"),
    ],
)
def test_a_model_of_one_place_says_so(description: Description, tmp_path: Path, kind: RunKind, words: str) -> None:
    card, text = written(run_record(description, kind, None), tmp_path)
    assert card.federation is None
    assert words in card.training
    assert "epochs trained, epoch" in card.training
    assert "| federated training |" not in text


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (RunKind.FEDERATED, None),
        (RunKind.FEDERATED_SECURE, None),
        (RunKind.FEDERATED_SECURE, federation(secure_aggregation=None)),
    ],
)
def test_a_run_that_cannot_prove_it_is_not_published(
    description: Description, tmp_path: Path, kind: RunKind, record: FederatedTraining | None
) -> None:
    run = run_record(description, kind, record)
    with pytest.raises(ConfigurationError, match="let its coordinator end the run"):
        written(run, tmp_path)


def told(*, temperature: float | None, uncertain_below: float | None, splits: dict[str, Split]) -> str:
    """The README of a card with these figures, chosen on `choose`."""
    card = ModelCard(
        name="tiny",
        version="1.0.0",
        title="Tiny",
        intended_use="tests",
        input=InputSpecification(
            modalities=(Modality.OTHER,), height=32, width=32, mean=(0.4,), standard_deviation=(0.2,)
        ),
        classes=("well", "ill"),
        calibration_temperature=temperature,
        uncertain_below=uncertain_below,
        training="Drawn.",
        model_sha256="0" * 64,
    )
    return write_readme(card, splits, validation_role="choose")


def split(right: tuple[bool, ...], confidence: tuple[float, ...], uncertain_below: float | None) -> Split:
    probabilities = np.array([(one, 1 - one) for one in confidence])
    labels = np.array([0 if one else 1 for one in right])
    return Split.count(probabilities, labels, patients=len(labels), uncertain_below=uncertain_below)


def test_a_threshold_that_no_answer_reaches_promises_nothing() -> None:
    threshold = choose_threshold(np.array([(0.6, 0.4), (0.7, 0.3)]), np.array([1, 1]), wanted=0.9)
    assert threshold == 0.99
    splits = {name: split((False, False), (0.6, 0.7), threshold) for name in ("choose", "test")}
    text = told(temperature=1.2, uncertain_below=threshold, splits=splits)
    assert "No threshold makes 90% of the answers right on choose." in text
    assert "there no answer reaches it. On test, no answer reaches it." in text
    assert "are right there" not in text


def test_a_threshold_is_told_with_its_counts() -> None:
    chosen = split((True, True, False), (0.9, 0.95, 0.6), 0.8)
    tested = split((True, False), (0.9, 0.85), 0.8)
    text = told(temperature=1.2, uncertain_below=0.8, splits={"choose": chosen, "test": tested})
    assert "at which 90% of the answers that reach it are right there (2 of 2). On test, 1 of 2 are right." in text
    assert "Calibration temperature: 1.2, fitted on choose." in text
    assert "No test data" not in text


def test_a_threshold_that_some_wrong_answers_reach_is_no_promise() -> None:
    text = told(temperature=1.2, uncertain_below=0.99, splits={"choose": split((False, True), (0.995, 0.5), 0.99)})
    assert "there 0 of 1 answers that reach it are right." in text
    assert "No test data was looked at." in text


def test_a_model_that_is_never_uncertain_says_why() -> None:
    text = told(temperature=None, uncertain_below=None, splits={"choose": split((True, True), (0.9, 0.8), None)})
    assert "No answer is shown as uncertain: on choose, 2 of 2 are right, and 90% were wanted." in text
    assert "Not calibrated: no temperature fits choose" in text
    assert "Calibration temperature" not in text


def test_a_temperature_at_the_end_of_its_range_is_no_calibration() -> None:
    right = np.array([[4.0, 0.0], [0.0, 3.0]])
    assert fit_usable_temperature(right, np.array([0, 1])) is None  # the colder the better: nothing to calibrate on
    assert fit_usable_temperature(right, np.array([1, 0])) is None
    mixed = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    found = fit_usable_temperature(mixed, np.array([0, 0, 1, 1]))
    assert found == pytest.approx(2 / np.log(3), abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "random flips, moves, grey values and erasing"),
        ({"erase_probability": 0.0, "flip_probability": 0.0}, "random moves and grey values"),
        (
            dict.fromkeys(("rotation_degrees", "shift", "scale", "flip_probability", "erase_probability"), 0.0),
            "random grey",
        ),
        ({**NONE.model_dump(), "mixup": 0.2}, "no random changes of images"),
    ],
)
def test_only_changes_of_images_that_were_made_are_told(changes: dict[str, float], words: str) -> None:
    settings = TrainingSettings(augmentation=Augmentation(**changes))
    assert words in describe_recipe(settings, None)
    assert ("averaged weights" in describe_recipe(settings, None)) is True
    assert "averaged weights" not in describe_recipe(settings.model_copy(update={"average_decay": 0.0}), None)


@pytest.mark.parametrize("task", [Task.MULTI_LABEL, Task.BINARY])
def test_figures_of_one_class_of_several_are_not_measured_of_other_models(
    drawn_data: tuple[Path, Path], tmp_path: Path, task: Task
) -> None:
    manifest, folder = drawn_data
    card = read_card(write_tiny_model(tmp_path / "model", task=task, classes=CLASSES[:2]) / "card.json")
    source = read_table(manifest, folder=folder, classes=CLASSES)
    before = (tmp_path / "model" / "card.json").read_bytes()
    with pytest.raises(ConfigurationError, match=f"the card's task is {task}: temperature and figures are measured of"):
        measure(card, tmp_path / "model", source=source, data_set="drawn", validation_role="choose", test_roles=())
    assert (tmp_path / "model" / "card.json").read_bytes() == before


def test_a_readme_claims_no_calibration_that_nobody_measured(tmp_path: Path) -> None:
    card = read_card(write_tiny_model(tmp_path / "model") / "card.json")
    assert "Not calibrated." in write_readme(card, {}, validation_role="choose")
    calibrated = card.model_copy(update={"calibration_temperature": 0.9})
    assert "Calibration temperature: 0.9, fitted on choose." in write_readme(calibrated, {}, validation_role="choose")


def test_a_model_that_gives_its_label_only_gets_a_card_that_can_be_read(
    drawn_data: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest, folder = drawn_data
    card = read_card(write_tiny_model(tmp_path / "model", classes=CLASSES) / "card.json")
    card = card.model_copy(update={"output_policy": OutputPolicy.LABEL_ONLY})
    source = read_table(manifest, folder=folder, classes=CLASSES)
    measure(card, tmp_path / "model", source=source, data_set="drawn", validation_role="choose", test_roles=())
    assert read_card(tmp_path / "model" / "card.json").uncertain_below is None
    assert "The model gives its label only" in (tmp_path / "model" / "README.md").read_text()
