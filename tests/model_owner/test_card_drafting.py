"""`model-owner card --from`: all that a model tells of itself, the rest for people to fill in."""

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from contract.card_faults import FILL_IN
from contract.errors import ModelFileError
from contract.model_card import Task, read_card
from model_owner.card_drafting import draft_card
from model_owner.onnx_import.compiling import compile_model
from model_owner.onnx_import.reading import read_onnx
from tests.model_owner.graphs import build, floats, node
from tests.model_owner.test_ending import write_model
from tests.model_owner.test_imported_models_and_command import run, tiny_model


def filled(card: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The card as a person fills it in."""
    specification = {"modalities": ["DX"], "mean": [0.5], "standard_deviation": [0.25]}
    classes = [f"class {number}" for number in range(len(card["classes"]))]
    words = {"title": "Tiny", "intended_use": "tests", "training": "none", "classes": classes, "name": "tiny"}
    return card | words | {"input": card["input"] | specification} | changes


@pytest.mark.parametrize(
    ("ending", "outputs", "task"),
    [
        ("Sigmoid", 3, Task.MULTI_LABEL),
        ("Softmax", 3, Task.CLASSIFICATION),
        ("Sigmoid", 1, Task.BINARY),
        ("logits", 1, Task.BINARY),
        ("logits", 3, None),
    ],
)
def test_a_card_says_what_the_model_tells(tmp_path: Path, ending: str, outputs: int, task: Task | None) -> None:
    path, _ = write_model(tmp_path, ending, outputs)
    card = draft_card(path)
    assert card["model_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {key: card["input"][key] for key in ("channels", "height", "width")} == {
        "channels": 1,
        "height": 9,
        "width": 8,
    }
    assert len(card["classes"]) == max(outputs, 2)
    assert card["task"] == task if task is not None else card["task"].startswith(FILL_IN)
    filled_in = tmp_path / "filled.json"
    filled_in.write_text(json.dumps(filled(card, **({} if task else {"task": "classification"}))))
    assert compile_model(path, read_card(filled_in)).network.classes == max(outputs, 2)


def test_the_command_writes_a_card_that_import_names_field_by_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_OWNER_AT_REST__KEY", "5a" * 32)
    model = tmp_path / "Chest net.onnx"
    model.write_bytes(tiny_model().SerializeToString())
    assert run("card", "--from", model) == 0
    told = capsys.readouterr().err
    card = tmp_path / "card.json"
    assert json.loads(card.read_text())["name"] == "chest-net"
    fields = "title, intended_use, task, classes, training, input.modalities, input.mean, input.standard_deviation"
    assert f"Fill in what is marked FILL IN: {fields}." in told
    key, data = tmp_path / "at-rest.key", tmp_path / "imported"
    assert f"key that seals weights: (umask 077 && head -c 32 /dev/urandom | base64 > {key})\n" in told
    assert f"model-owner import '{model}' --card {card} --data-folder {data} --key-file {key}\n" in told
    assert run("import", model, "--card", card, "--data-folder", tmp_path / "data") == 2
    refused = capsys.readouterr().err
    assert "8 things to correct" in refused
    assert all(f"{field}: is still to be filled in; write " in refused for field in fields.split(", "))
    card.write_text(json.dumps(filled(json.loads(card.read_text()), task="classification")))
    assert run("import", model, "--card", card, "--data-folder", tmp_path / "data") == 0
    assert run("card", "--from", model) == 5
    assert f"{card} exists: remove it, or give another --output" in capsys.readouterr().err


def test_no_card_for_a_model_that_cannot_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(build([node("InstanceNormalization", ["image", "s", "b"], "y")],
                            {"s": floats(1), "b": floats(1)}, flatten="y").SerializeToString())  # fmt: skip
    assert run("card", "--from", model) == 2
    assert "train the model with BatchNorm instead" in capsys.readouterr().err
    assert not (tmp_path / "card.json").exists()


def test_the_hash_covers_external_data_and_a_wrong_one_says_how_it_is_made(tmp_path: Path) -> None:
    import subprocess

    path = tmp_path / "model.onnx"
    onnx.save_model(tiny_model(), path, save_as_external_data=True, location="my weights.bin", size_threshold=0)
    card = draft_card(path)
    assert card["model_sha256"] == read_onnx(path).sha256
    wrong = tmp_path / "card.json"
    wrong.write_text(json.dumps(filled(card, task="classification", model_sha256="0" * 64)))
    with pytest.raises(ModelFileError) as caught:
        compile_model(path, read_card(wrong))
    told = str(caught.value)
    assert card["model_sha256"] in told
    assert "the model first, the data in the order of their names" in told
    typed = told.partition("`")[2].partition("`")[0]
    assert typed == "sha256sum model.onnx 'my weights.bin' | sha256sum"
    printed = subprocess.run(["/bin/sh", "-c", typed], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert printed.split()[0] == card["model_sha256"]
