"""From a finished run to a model folder: model.onnx, card.json and README.md with the figures."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.model_card import (
    AgeRange,
    FederationRecord,
    InputSpecification,
    Metric,
    Modality,
    ModelCard,
    OutputPolicy,
    Task,
    View,
)
from federated_learning.calibration import fit_temperature, softmax
from federated_learning.data_source import DataSource, OnDemandImages, labels_of, load
from federated_learning.evaluation import calibration_error, confusion_matrix, metrics, uncertainty_threshold
from federated_learning.export import largest_difference, run_onnx, to_onnx, write_model
from federated_learning.networks import network_with
from federated_learning.records import Description, RunKind, RunRecord, read_run
from federated_learning.settings import Stage, TrainingSettings
from federated_learning.training import Chosen, read_chosen

WANTED_ACCURACY = 0.9
"""Of the answers that are not shown as uncertain, on validation data."""


PEDIATRIC_PNEUMONIA = Description(
    name="pediatric-pneumonia-resnet18",
    version="2.0.0",
    title="Pneumonia in chest radiographs of children: normal, bacterial or viral",
    intended_use=(
        "Research use only, not a medical device. Sorts frontal (anterior-posterior) chest radiographs of children of "
        "one to five years into normal, bacterial pneumonia and viral pneumonia. Trained on one hospital's images, "
        "stored as 8-bit JPEG; not validated on adults, other hospitals, other views or other findings, and its labels "
        "are readings of radiographs, not laboratory results. Not for diagnosis or treatment of patients."
    ),
    input=InputSpecification(
        modalities=(Modality.CR, Modality.DX),
        body_parts=("CHEST", "THORAX"),
        views=(View.AP,),
        ages=AgeRange(youngest=1, oldest=5),
        channels=1,
        height=224,
        width=224,
        # Constants rather than statistics of the data: a federated site would have to reveal its own.
        mean=(0.48,),
        standard_deviation=(0.23,),
    ),
    classes=("normal", "bacteria", "virus"),
    data_set="Kermany et al. 2018, chest X-ray, 224 x 224 JPEG",
    training=(
        "Trained from random weights on the radiographs of Kermany et al. 2018 (Guangzhou Women and Children's Medical "
        "Center), split by patient, between hospitals as well, which are parts of this one data set; copies of images "
        "are left out everywhere."
    ),
    citations=(
        (
            "Kermany, Daniel; Zhang, Kang; Goldbaum, Michael (2018), Labeled Optical Coherence Tomography (OCT) and "
            "Chest X-Ray Images for Classification, Mendeley Data, V2, doi:10.17632/rscbjbr9sj.2, licence CC BY 4.0 "
            "(https://creativecommons.org/licenses/by/4.0/). The images were resized to 224 x 224 pixels."
        ),
        (
            "Kermany, D. S. et al. (2018), Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep "
            "Learning, Cell 172(5), 1122-1131, doi:10.1016/j.cell.2018.02.010."
        ),
    ),
    # Its weights are public, so a heat map gives nothing of them away.
    output_policy=OutputPolicy.LOGITS_AND_HEAT_MAP,
)


def publish(
    run: Path,
    model: Path,
    *,
    source: DataSource,
    test_roles: tuple[str, ...],
    progress: Callable[[str], None] = lambda _text: None,
) -> ModelCard:
    """Export the chosen network of `run` into the folder `model` and measure the exported file itself.

    Temperature and threshold are fitted on the validation role; each test role is looked at here for the first and
    only time. Raises ConfigurationError or ModelFileError.
    """
    record = read_run(run)
    description = record.description
    weights, chosen = read_chosen(run / "best.npz")
    federation = record.federation
    rounds = federation.rounds if federation else read_chosen(run / "checkpoint.npz")[1].epoch
    _provenance(record)  # refuses a run that cannot say how it came about, before anything is written
    network = network_with(record.settings, weights)
    model.mkdir(parents=True, exist_ok=True)
    write_model(to_onnx(network, description.input), model / "model.onnx")

    images = load(source.examples(record.validation_role)[:16], description.input)
    gap = largest_difference(network_with(record.settings, weights), model / "model.onnx", images)
    progress(f"exported; largest gap to the trained network over {len(images)} images: {gap:.1e} (logits)")
    card = _card(record, chosen, rounds, model_file=model / "model.onnx")
    return measure(
        card,
        model,
        source=source,
        data_set=description.data_set,
        validation_role=record.validation_role,
        test_roles=test_roles,
        progress=progress,
    )


def measure(
    card: ModelCard,
    model: Path,
    *,
    source: DataSource,
    data_set: str,
    validation_role: str,
    test_roles: tuple[str, ...],
    progress: Callable[[str], None] = lambda _text: None,
) -> ModelCard:
    """Measure model.onnx of the folder `model`, and write its card and README.md with what was found.

    Temperature and `uncertain_below` are fitted on the validation role; then every role is reported. The rest of the
    card stays. Raises ConfigurationError.
    """
    if card.task is not Task.CLASSIFICATION:
        raise ConfigurationError(
            f"the card's task is {card.task}: temperature and figures are measured of models that name one of several "
            "classes (task classification)"
        )
    figures: list[Metric] = []
    confusions: dict[str, NDArray[np.int64]] = {}
    temperature, threshold = 1.0, None
    for role in dict.fromkeys((validation_role, *test_roles)):
        examples = source.examples(role)
        labels = labels_of(examples)
        logits = run_onnx(model / "model.onnx", OnDemandImages(examples, card.input))
        if role == validation_role:
            before = calibration_error(softmax(logits), labels)
            temperature = round(fit_temperature(logits, labels), 4)
            threshold = uncertainty_threshold(softmax(logits, temperature=temperature), labels, wanted=WANTED_ACCURACY)
            progress(f"{role}: expected calibration error before calibration {before:.4f}")
        probabilities = softmax(logits, temperature=temperature)
        patients = [example.patient for example in examples]
        reported = metrics(probabilities, labels, patients, data_set=data_set, split=role, uncertain_below=threshold)
        error = Metric(
            name="expected calibration error (15 bins)",
            value=round(calibration_error(probabilities, labels), 4),
            data_set=data_set,
            split=role,
            examples=len(labels),
        )
        figures += [*reported, error]
        confusions[role] = confusion_matrix(probabilities, labels)
        for metric in (*reported, error):
            progress(f"{role}: {metric.name} {metric.value:.4f}")
    measured = card.model_copy(
        update={"calibration_temperature": temperature, "uncertain_below": threshold, "metrics": tuple(figures)}
    )
    (model / "card.json").write_text(measured.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (model / "README.md").write_text(readme(measured, confusions, validation_role=validation_role), encoding="utf-8")
    return measured


def _card(record: RunRecord, chosen: Chosen, rounds: int, *, model_file: Path) -> ModelCard:
    description = record.description
    return ModelCard(
        name=description.name,
        version=description.version,
        title=description.title,
        intended_use=description.intended_use,
        input=description.input,
        classes=description.classes,
        output_policy=description.output_policy,
        training=f"{description.training} {_provenance(record)} {_method(record, chosen, rounds)}",
        federation=record.federation,
        citations=description.citations,
        model_sha256=hashlib.sha256(model_file.read_bytes()).hexdigest(),
    )


def _provenance(record: RunRecord) -> str:
    """Who trained it, and what left whose house."""
    roles = f"Training rows: {', '.join(record.training_roles)}."
    if record.kind is RunKind.CENTRALISED:
        return f"The images of all data owners were pooled: this is the centralised baseline. {roles}"
    if record.kind is RunKind.HOSPITAL:
        return f"Trained by one data owner with its own images alone. {roles}"
    if record.federation is None:
        raise ConfigurationError("run.json of a federated run lacks its federation: let its coordinator end the run")
    names = ", ".join(record.federation.hospitals)
    start = f"Trained by {len(record.federation.hospitals)} hospitals ({names}) that shared no image"
    if record.kind is RunKind.FEDERATED:
        return f"{start}; the coordinator saw the update of each in the clear. {roles}"
    if record.federation.secure_aggregation is None:
        raise ConfigurationError(
            "run.json says that updates were aggregated securely and not how: let its coordinator end the run"
        )
    return f"{start}; the coordinator saw sums of masked updates, and of none alone. {roles}"


def _method(record: RunRecord, chosen: Chosen, rounds: int) -> str:
    """The recipe, in words."""
    federation, unit = record.federation, "epoch" if record.federation is None else "round"
    plan = _in_words(chosen.plans[-1][1])
    for (begin, stages), (end, _) in pairwise(chosen.plans):
        plan += f" (in epochs {begin + 1} to {end} the learning rate followed an earlier plan: {_in_words(stages)})"
    kept = chosen.epoch if federation is None else federation.chosen_round
    choice = f"Of {rounds} {unit}s trained, {unit} {kept} was chosen on {record.validation_role}"
    return (
        f"{choice}, where the temperature was fitted too. {recipe_words(record.settings, federation, plan=plan)}. "
        "Weights stored as float16; figures measured on this file. Intervals: patient bootstrap."
    )


def recipe_words(settings: TrainingSettings, federation: FederationRecord | None, *, plan: str | None = None) -> str:
    """Settings as a card tells them; `plan` where the stages were not followed throughout."""
    momentum = f", server momentum {settings.server_momentum:g}" if settings.server_momentum else ""
    averaging = "" if federation is None else f"{federation.method}{momentum}; "
    return "; ".join((
        f"{settings.architecture}, {settings.pool} pool in its stem",
        f"planned: {plan or _in_words(settings.stages)}",
        f"{averaging}{settings.optimizer}, peak rate {settings.peak_rate}, weight decay {settings.weight_decay}",
        f"label smoothing {settings.label_smoothing}, dropout {settings.dropout}, mixup {settings.augmentation.mixup}",
        f"class balance {settings.class_balance}; random flips, moves, grey values and erasing",
        f"averaged weights, {settings.precision}, seed {settings.seed}",
    ))  # fmt: skip


def _in_words(stages: tuple[Stage, ...]) -> str:
    return ", then ".join(f"{stage.epochs} epochs at {stage.size} px" for stage in stages)


def readme(card: ModelCard, confusions: Mapping[str, NDArray[np.int64]], *, validation_role: str) -> str:
    """The card's figures and words as Markdown."""
    lines = [f"# {card.title}", "", f"`{card.name}` {card.version}. {card.intended_use}", "", "## Results", ""]
    lines += ["| split | images | figure | value | 95 % interval |", "| --- | --- | --- | --- | --- |"]
    for metric in card.metrics:
        interval = "" if metric.interval_95 is None else "{:.3f} to {:.3f}".format(*metric.interval_95)
        lines.append(f"| {metric.split} | {metric.examples} | {metric.name} | {metric.value:.3f} | {interval} |")
    temperature = card.calibration_temperature
    calibrated = "Not calibrated." if temperature is None else f"Calibration temperature: {temperature}."
    lines += ["", f"Intervals come from 2,000 draws of whole patients. {calibrated}", ""]
    if card.uncertain_below is not None:
        words = (
            f"An answer whose probability is below {card.uncertain_below:g} is shown as uncertain. This threshold was "
            f"chosen on {validation_role} alone, with the temperature: the smallest, in hundredths, at which "
            f"{WANTED_ACCURACY:.0%} of the answers that reach it are right there. On other data it may be fewer; the "
            "table says how many on the test splits, which were looked at afterwards."
        )
        lines += [words, ""]
    for split, matrix in confusions.items():
        lines += [f"Confusion on {split} (rows: true class):", "", f"| | {' | '.join(card.classes)} |"]
        lines.append("| --- |" + " --- |" * len(card.classes))
        lines += [f"| {name} | {' | '.join(map(str, row))} |" for name, row in zip(card.classes, matrix, strict=True)]
        lines.append("")
    lines += ["## Training", "", card.training, ""]
    if card.federation is not None:
        lines += ["| federation | |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in _facts(card.federation, validation_role)]
        lines.append("")
    lines += ["## Data", ""]
    lines += [f"- {citation}" for citation in card.citations]
    return "\n".join(lines) + "\n"


def _facts(federation: FederationRecord, validation_role: str) -> Iterator[tuple[str, str]]:
    """What the README tells of a federation, line by line."""
    yield "hospitals", ", ".join(federation.hospitals)
    yield "rounds", f"{federation.rounds}; round {federation.chosen_round} was chosen on {validation_role}"
    yield "rounds made again after somebody dropped out", str(federation.restarted_rounds)
    yield "method", federation.method
    batches = federation.local_batches
    yield "between two rounds", "one pass over a hospital's images" if batches is None else f"{batches} batches each"
    if federation.examples is not None:
        yield "images of all hospitals together", str(federation.examples)
    if federation.class_counts is not None:
        yield "of them by class", ", ".join(f"{name} {count}" for name, count in federation.class_counts.items())
    if federation.secure_aggregation is None:
        yield "secure aggregation", "none"
    else:
        for name, value in federation.secure_aggregation.items():
            yield f"secure aggregation: {name}", str(value)
    if federation.software:
        yield "software", ", ".join(f"{name} {version}" for name, version in federation.software.items())
