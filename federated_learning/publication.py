"""From a finished run to a model folder: model.onnx, card.json and README.md with the figures."""

import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from contract.errors import ConfigurationError
from contract.files import replace
from contract.model_card import FederatedTraining, Metric, ModelCard, OutputPolicy, Task
from federated_learning.augmentation import Augmentation
from federated_learning.data_source.examples import DataSource, collect_labels, load
from federated_learning.data_source.images import OnDemandImages
from federated_learning.evaluation import choose_threshold
from federated_learning.evaluation import measure as measure_figures
from federated_learning.export import largest_difference, run_onnx, to_onnx
from federated_learning.in_process import Chosen, read_chosen
from federated_learning.metrics import calibration_error, compute_once
from federated_learning.model_readme import WANTED_ACCURACY, Split, write_readme
from federated_learning.run_records import RunKind, RunRecord, read_run
from federated_learning.temperature import fit_usable_temperature, softmax
from federated_learning.torch_networks import network_with
from federated_learning.training_settings import Stage, TrainingSettings


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
    rounds = record.federation.rounds if record.federation else read_chosen(run / "checkpoint.npz")[1].epoch
    _describe_origin(record)  # refuses a run that cannot say how it came about, before anything is written
    network = network_with(record.settings, weights)
    model.mkdir(parents=True, exist_ok=True)
    replace(model / "model.onnx", to_onnx(network, description.input).SerializeToString(), mode=None)

    images = load(source.examples(record.validation_role)[:16], description.input)
    gap = largest_difference(network, model / "model.onnx", images)
    progress(f"exported; largest gap to the trained network over {len(images)} images: {gap:.1e} (logits)")
    return measure(
        _make_card(record, chosen, rounds, model_file=model / "model.onnx"),
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
    splits: dict[str, Split] = {}
    temperature, threshold = None, None
    for role in dict.fromkeys((validation_role, *test_roles)):
        examples = source.examples(role)
        labels = collect_labels(examples)
        logits = run_onnx(model / "model.onnx", OnDemandImages(examples, card.input))
        if role == validation_role:
            before = compute_once(calibration_error, softmax(logits), labels)
            temperature = fit_usable_temperature(logits, labels)
            calibrated = softmax(logits, temperature=temperature or 1.0)
            if card.output_policy is not OutputPolicy.LABEL_ONLY:  # else nobody sees a probability
                threshold = choose_threshold(calibrated, labels, wanted=WANTED_ACCURACY)
            progress(f"{role}: expected calibration error before calibration {before:.4f}")
        probabilities = softmax(logits, temperature=temperature or 1.0)
        patients = [example.patient for example in examples]
        reported = measure_figures(
            probabilities, labels, patients, data_set=data_set, split=role, uncertain_below=threshold
        )
        error = Metric(
            name="expected calibration error (15 bins)",
            value=round(compute_once(calibration_error, probabilities, labels), 4),
            data_set=data_set,
            split=role,
            examples=len(labels),
        )
        figures += [*reported, error]
        splits[role] = Split.count(probabilities, labels, patients=len(set(patients)), uncertain_below=threshold)
        for metric in (*reported, error):
            progress(f"{role}: {metric.name} {metric.value:.4f}")
    found = {"calibration_temperature": temperature, "uncertain_below": threshold, "metrics": tuple(figures)}
    measured = ModelCard.model_validate(card.model_dump() | found)
    (model / "card.json").write_text(measured.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (model / "README.md").write_text(write_readme(measured, splits, validation_role=validation_role), encoding="utf-8")
    return measured


def _make_card(record: RunRecord, chosen: Chosen, rounds: int, *, model_file: Path) -> ModelCard:
    return ModelCard(
        **record.description.model_dump(exclude={"data_set", "training"}),
        training=f"{record.description.training} {_describe_origin(record)} {_describe_method(record, chosen, rounds)}",
        federation=record.federation,
        model_sha256=hashlib.sha256(model_file.read_bytes()).hexdigest(),
    )


def _describe_origin(record: RunRecord) -> str:
    """Who trained it, and what left whose house."""
    roles = f"Training rows: {', '.join(record.training_roles)}."
    if record.kind is RunKind.CENTRALISED:
        return f"Trained in one place, where all images lay. {roles}"
    if record.kind is RunKind.HOSPITAL:
        return f"Trained by one data owner with its own images alone. {roles}"
    if record.federation is None:
        raise ConfigurationError(
            "run.json of a federated run lacks its field 'federation': let its coordinator end the run"
        )
    names = ", ".join(record.federation.hospitals)
    start = f"Trained by {len(record.federation.hospitals)} hospitals ({names}) that shared no image"
    if record.kind is RunKind.FEDERATED:
        return f"{start}; the coordinator saw the update of each in the clear. {roles}"
    if record.federation.secure_aggregation is None:
        raise ConfigurationError(
            "run.json says that updates were aggregated securely and not how: let its coordinator end the run"
        )
    return f"{start}; the coordinator saw sums of masked updates, and of none alone. {roles}"


def _describe_method(record: RunRecord, chosen: Chosen, rounds: int) -> str:
    """The recipe, in words."""
    training, unit = record.federation, "epoch" if record.federation is None else "round"
    plan = _describe_stages(chosen.plans[-1][1])
    for (begin, stages), (end, _) in pairwise(chosen.plans):
        earlier = _describe_stages(stages)
        plan += f" (in epochs {begin + 1} to {end} the learning rate followed an earlier plan: {earlier})"
    kept = chosen.epoch if training is None else training.chosen_round
    return (
        f"Of {rounds} {unit}s trained, {unit} {kept} was chosen on {record.validation_role}. "
        f"{describe_recipe(record.settings, training, plan=plan)}. Large tensors of weights are stored as float16."
    )


def describe_recipe(settings: TrainingSettings, training: FederatedTraining | None, *, plan: str | None = None) -> str:
    """Settings as a card says them; `plan` if the stages were not followed throughout."""
    momentum = f", server momentum {settings.server_momentum:g}" if settings.server_momentum else ""
    averaging = "" if training is None else f"{training.method}{momentum}; "
    return "; ".join((
        f"{settings.architecture}, {settings.pool} pool in its stem",
        f"planned: {plan or _describe_stages(settings.stages)}",
        f"{averaging}{settings.optimizer}, peak rate {settings.peak_rate}, weight decay {settings.weight_decay}",
        f"label smoothing {settings.label_smoothing}, dropout {settings.dropout}, mixup {settings.augmentation.mixup}",
        f"class balance {settings.class_balance}; {_describe_changes(settings.augmentation)}",
        f"{'averaged weights, ' if settings.average_decay else ''}{settings.precision}, seed {settings.seed}",
    ))  # fmt: skip


def _describe_changes(settings: Augmentation) -> str:
    """What was changed at random in training images."""
    flips, erasing = settings.flip_probability, settings.erase_probability
    moves = settings.rotation_degrees or settings.shift or settings.scale
    grey_values = settings.gamma or settings.contrast or settings.brightness or settings.noise
    every = {"flips": flips, "moves": moves, "grey values": grey_values, "erasing": erasing}
    made = [name for name, strength in every.items() if strength]
    if not made:
        return "no random changes of images"
    return f"random {' and '.join(filter(None, (', '.join(made[:-1]), made[-1])))}"


def _describe_stages(stages: tuple[Stage, ...]) -> str:
    return ", then ".join(f"{stage.epochs} epochs at {stage.size} px" for stage in stages)
