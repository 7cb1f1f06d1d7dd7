"""docs/own-model.md, typed by a test: from a PyTorch module to an answer, with the page alone."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contract.card_faults import FILL_IN
from contract.model_card import InputSpecification, ModelCard, Task, read_card
from demonstration.commands import make_quiet_environment
from model_owner.card_drafting import draft_card, write_card
from model_owner.checking import check_model
from model_owner.command import _print_report
from model_owner.imported_models import ImportedModels
from model_owner.onnx_import.folding import REARRANGING
from model_owner.onnx_import.operators import OPERATORS
from secure_computation.at_rest import StorageKey

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "own-model.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 300


def blocks(language: str) -> list[str]:
    """Code of the page, in order."""
    return [match.group(2) for match in BLOCK.finditer(TEXT) if match.group(1) == language]


def fill_in(card: Path) -> None:
    """Replace what is marked by what the page says for it, as a person does in an editor."""
    drafted, said = json.loads(card.read_text()), json.loads(blocks("json")[0])
    filled = drafted | said | {"input": drafted["input"] | said["input"]}
    assert FILL_IN in card.read_text()
    kept = {*drafted, *(f"input.{name}" for name in drafted["input"])} - {
        *said,
        *(f"input.{name}" for name in said["input"]),
    }
    (sentence,) = re.findall(r"keep the other lines as they are \((.*?)\)", TEXT, re.DOTALL)
    assert set(re.findall(r"`([a-z0-9_.]+)`", sentence)) == kept
    assert FILL_IN not in json.dumps(filled)
    card.write_text(json.dumps(filled, indent=2))


@pytest.mark.filterwarnings("ignore")
def test_the_module_of_the_page_becomes_a_model_that_answers_as_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, on small pictures; the slow test below types every command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own-model").mkdir()
    (program,) = blocks("python")
    exec(compile(program.replace("224", "32").replace("dynamo=True", "dynamo=False"), "export.py", "exec"), {})
    model, card = tmp_path / "own-model" / "model.onnx", tmp_path / "own-model" / "card.json"
    write_card(draft_card(model), card)
    fill_in(card)
    report = check_model(ImportedModels(tmp_path / "data", StorageKey(bytes(32))).add(model, card))
    assert report.max_abs_error < 1e-4
    assert report.fixed_point is not None
    _print_report(report)
    shown = capsys.readouterr().out
    assert "The import, in clear, against the ONNX file in onnxruntime: logits differ by at most" in shown
    for arithmetic in (
        "dithered arithmetic (this plan's, 2 sessions a sample)",
        "exact arithmetic (with the same bits)",
    ):
        assert f"With the masked engine's rounding in {arithmetic}" in shown


@pytest.mark.slow
def test_from_a_module_to_an_encrypted_answer_with_the_commands_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "export.py").write_text(blocks("python")[0])
    environment = make_quiet_environment() | {"PYTHONPATH": str(ROOT)}
    said = ""
    for commands in blocks("sh"):
        if "model-owner import" in commands:
            fill_in(tmp_path / "own-model" / "card.json")
        typed = commands.replace("scripts/demo", str(ROOT / "scripts" / "demo"))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f'PATH="{Path(sys.executable).parent}:$PATH"\n{typed}'],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        said += done.stdout + done.stderr
    assert "Imported own-model 1.0.0" in said
    assert "The same model in clear (onnxruntime)" in said


def test_the_page_names_every_operator_and_every_field() -> None:
    words = set(re.findall(r"\w+", TEXT))
    assert sorted((set(OPERATORS) | REARRANGING) - words) == []
    fields: dict[str, Any] = {**ModelCard.model_fields}
    known = {"name", "version", "title", "intended_use", "task", "input", "classes", "training", "model_sha256"}
    of_training = {"federation"}  # written by the program that trained
    assert sorted(name for name in set(fields) - known - of_training if f"`{name}`" not in TEXT) == []
    given = {"modalities", "channels", "height", "width", "mean", "standard_deviation", "resize"}
    assert sorted(n for n in set(InputSpecification.model_fields) - given if f"`input.{n}`" not in TEXT) == []
    assert {str(task) for task in Task} <= set(re.findall(r"`([a-z-]+)`", TEXT))


def test_the_card_of_the_page_is_complete(tmp_path: Path) -> None:
    said = json.loads(blocks("json")[0])
    complete = said | {"version": "1.0.0", "model_sha256": "0" * 64}
    complete["input"] = said["input"] | {"height": 224, "width": 224}
    (tmp_path / "card.json").write_text(json.dumps(complete))
    assert read_card(tmp_path / "card.json").task is Task.CLASSIFICATION
