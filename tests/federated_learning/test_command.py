import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from contract.model_card import read_card
from federated_learning.augmentation import NONE
from federated_learning.command import main
from federated_learning.data_source.examples import collect_labels, load
from federated_learning.data_source.table import read_table
from federated_learning.export import run_onnx
from federated_learning.report.results import read_results
from federated_learning.run_records import Description, RunKind, read_run
from federated_learning.training_settings import Stage, TrainingSettings
from tests.federated_learning.conftest import CLASSES, SIDE, draw


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["federated-learning", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_train_and_publish(
    drawn_data: tuple[Path, Path],
    description: Description,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest, folder = drawn_data
    (tmp_path / "description.json").write_text(description.model_dump_json())
    data = ("--data", folder, "--manifest", manifest, "--threads", "1")
    train: list[str | Path] = ["train-centralised", *data, "--output", tmp_path / "run", "--epochs", "2"]
    train += ["--architecture", "resnet10-narrow", "--description", tmp_path / "description.json"]
    train += ["--training-role", "train", "--validation-role", "choose"]
    assert run(monkeypatch, *train) == 0
    assert "epoch 2 of 2" in capsys.readouterr().err
    assert run(monkeypatch, *train) == 0  # nothing left to do
    assert "best choose accuracy" in capsys.readouterr().err

    assert run(monkeypatch, *train, "--seed", "1") == 5
    assert "other settings" in capsys.readouterr().err
    published = ("publish", *data, "--run", tmp_path / "run", "--model", tmp_path / "model", "--test-role", "test")
    assert run(monkeypatch, *published) == 0
    card = read_card(tmp_path / "model" / "card.json")
    source = read_table(manifest, folder=folder, classes=CLASSES)
    for split in ("choose", "test"):
        examples = source.examples(split)
        logits = run_onnx(tmp_path / "model" / "model.onnx", load(examples, card.input))
        stated = next(metric for metric in card.metrics if metric.name == "accuracy" and metric.split == split)
        assert stated.value == pytest.approx((logits.argmax(1) == collect_labels(examples)).mean(), abs=1e-4)
        assert stated.interval_95 is not None
        assert stated.interval_95[0] <= stated.value <= stated.interval_95[1]
        assert np.isfinite(logits).all()
    assert "Confusion on test" in (tmp_path / "model" / "README.md").read_text()

    compared = ("--run", tmp_path / "run", "--name", "centralised", "--results", tmp_path / "results")
    assert run(monkeypatch, "evaluate", *data, *compared, "--test-role", "test") == 0
    (kept,) = read_results(tmp_path / "results")
    assert [line.round for line in kept.history] == [1, 2]
    assert kept.model_sha256 == card.model_sha256
    assert kept.temperature == pytest.approx(card.calibration_temperature, abs=1e-3)
    assert run(monkeypatch, "report", "--results", tmp_path / "results", "--page", tmp_path / "page.md") == 0
    stated = next(metric for metric in card.metrics if metric.name == "accuracy" and metric.split == "test")
    assert f"| centralised | {stated.value:.3f} (" in (tmp_path / "page.md").read_text()
    assert run(monkeypatch, "evaluate", *data, *compared[:3], "No Name", "--test-role", "test") == 2

    words = card.model_copy(update={"title": "Other words", "metrics": (), "calibration_temperature": 9.0})
    (tmp_path / "model" / "card.json").write_text(words.model_dump_json())
    measured = ("--model", tmp_path / "model", "--data-set", description.data_set, "--test-role", "test")
    assert run(monkeypatch, "measure", *data[:4], *measured, "--validation-role", "choose") == 0
    assert read_card(tmp_path / "model" / "card.json") == card.model_copy(update={"title": "Other words"})


def test_hospitals_in_one_process_leave_the_record_of_a_federation(
    drawn_data: tuple[Path, Path], description: Description, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, folder = drawn_data
    (tmp_path / "description.json").write_text(description.model_dump_json())
    (tmp_path / "recipe.json").write_text(
        TrainingSettings(
            architecture="small-cnn", stages=(Stage(size=SIDE, epochs=2, batch=4),), augmentation=NONE, sync_every=3
        ).model_dump_json()
    )
    train: list[str | Path] = ["train-centralised", "--data", folder, "--manifest", manifest, "--threads", "1"]
    train += ["--recipe", tmp_path / "recipe.json", "--description", tmp_path / "description.json", "--by-role"]
    train += ["--training-role", "train", "--training-role", "test", "--validation-role", "choose"]
    assert run(monkeypatch, *train, "--output", tmp_path / "run") == 0
    record = read_run(tmp_path / "run")
    assert record.kind is RunKind.FEDERATED
    assert record.federation is not None
    assert record.federation.hospitals == ("hospital-a", "hospital-b")
    assert record.federation.class_counts == {"plain": 18, "bright": 18, "striped": 18}
    assert record.federation.rounds == 4
    assert record.federation.chosen_round in {2, 4}
    source = read_table(manifest, folder=folder, classes=CLASSES)
    plain = description.input.model_copy(update={"mean": (0.0,), "standard_deviation": (1.0,)})
    pixels = load(source.examples("train", "test"), plain)
    assert record.description.input.mean[0] == pytest.approx(pixels.mean(), abs=2e-4)
    assert record.description.input.standard_deviation[0] == pytest.approx(pixels.std(), abs=2e-4)


def test_class_folders_need_no_table(
    tmp_path: Path, description: Description, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(1)
    for role, count in (("train", 4), ("choose", 2)):
        for label, name in enumerate(CLASSES):
            (tmp_path / "images" / role / name).mkdir(parents=True)
            for index in range(count):
                picture = Image.fromarray(draw(label, generator))
                picture.save(tmp_path / "images" / role / name / f"{role}-{index}.png")
    (tmp_path / "description.json").write_text(description.model_dump_json())
    train: list[str | Path] = ["train-centralised", "--data", tmp_path / "images", "--output", tmp_path / "run"]
    train += ["--epochs", "1", "--architecture", "resnet10-narrow", "--description", tmp_path / "description.json"]
    train += ["--training-role", "train", "--validation-role", "choose", "--threads", "1"]
    assert run(monkeypatch, *train) == 0
    assert "best choose accuracy" in capsys.readouterr().err
    (tmp_path / "images" / "train" / "unheard").mkdir()
    assert run(monkeypatch, *train) == 5
    assert "unheard: is none of the classes plain, bright, striped" in capsys.readouterr().err


def test_a_strangers_data_is_trained_and_published_by_the_printed_commands(
    tmp_path: Path,
    description: Description,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Class folders with roles as archives name them, no role named in any command, a network of three channels."""
    generator, channels = np.random.default_rng(1), 3
    for role, count in (("train", 8), ("val", 4), ("test", 3)):
        for label, name in enumerate(CLASSES):
            (tmp_path / "my images" / role / name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(draw(label, generator)).save(tmp_path / "my images" / role / name / f"{index}.png")
    statistics = {"mean": (0.5,) * channels, "standard_deviation": (0.25,) * channels}
    described = description.model_dump() | {
        "input": description.input.model_dump() | {"channels": channels} | statistics
    }
    (tmp_path / "description.json").write_text(Description.model_validate(described).model_dump_json())
    train: list[str | Path] = ["train-centralised", "--data", tmp_path / "my images", "--output", tmp_path / "run"]
    train += ["--epochs", "1", "--architecture", "resnet10-narrow", "--description", tmp_path / "description.json"]
    assert run(monkeypatch, *train, "--threads", "1") == 0
    said = capsys.readouterr().err
    assert "24 images to train on" in said
    (printed,) = re.findall(r"publish it with: federated-learning (.+)", said)
    assert run(monkeypatch, *shlex.split(printed), "--threads", "1") == 0
    model = tmp_path / "run" / "model"
    card = read_card(model / "card.json")
    assert {metric.split for metric in card.metrics} == {"val", "test"}
    assert card.input.channels == channels
    assert len(set(card.input.mean)) == 1  # grey pictures: every channel is given the same
    assert card.input.mean[0] not in statistics["mean"]
    (graph_input,) = onnx.load(model / "model.onnx").graph.input
    assert [size.dim_value for size in graph_input.type.tensor_type.shape.dim][1:] == [channels, SIDE, SIDE]
    evaluated = ("--run", tmp_path / "run", "--name", "own", "--results", tmp_path / "results", "--threads", "1")
    assert run(monkeypatch, "evaluate", "--data", tmp_path / "my images", *evaluated) == 0
    (result,) = read_results(tmp_path / "results")
    assert [split.split for split in result.splits] == ["val", "test"]


def test_a_data_set_without_the_usual_roles_is_asked_to_name_its_own(
    drawn_data: tuple[Path, Path],
    description: Description,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest, folder = drawn_data
    (tmp_path / "description.json").write_text(description.model_dump_json())
    train = ("train-centralised", "--data", folder, "--manifest", manifest, "--output", tmp_path / "run")
    assert run(monkeypatch, *train, "--epochs", "1", "--description", tmp_path / "description.json") == 5
    assert (
        "the data has no role 'validation'; its roles are: train, choose, test. Name one of them with --validation-role"
        in capsys.readouterr().err
    )


def test_errors_are_one_line_with_their_own_exit_status(
    drawn_data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = drawn_data
    arguments = ("train-centralised", "--data", folder, "--manifest", manifest, "--output", tmp_path / "run")
    assert run(monkeypatch, *arguments, "--description", "pediatric-pneumonia") == 5
    error = capsys.readouterr().err
    assert error.startswith("federated-learning: ")
    assert error.count("\n") == 1
