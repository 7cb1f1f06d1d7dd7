"""`scripts/demo`: four processes, one object a line, and nothing left behind however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contract.errors import ComputationFailed
from contract.ticket import Engine
from data_owner.answers import answer_from_logits
from demonstration import demo
from demonstration.__main__ import _print
from demonstration.demo import Comparison, compare, contradicts, name_file
from imaging.formats import ImageWarning, Polarity
from tests.data_owner.answering import card as small_card
from tests.data_owner.answering import diagnosis_of, multi_label_card
from tests.end_to_end.models import CLASSES, radiograph, write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 150.0


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@dataclass(frozen=True)
class Demo:
    """One run whose temporary files all stand in one folder, by which its processes are found too."""

    process: subprocess.Popen[str]
    temporary: Path

    def wait_for(self, name: str) -> None:
        """Until a file of this name appears."""
        limit = time.monotonic() + PATIENCE
        while not any(self.temporary.rglob(name)):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < limit
            time.sleep(0.05)

    def finish(self) -> tuple[str, str]:
        return self.process.communicate(timeout=PATIENCE)

    def left_behind(self) -> list[str]:
        """Files, and processes that name or stand in the folder."""
        found = [str(path.relative_to(self.temporary)) for path in self.temporary.iterdir()]
        return found + [words for words in command_lines() if str(self.temporary) in words]


def command_lines() -> Iterator[str]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue
            yield words.replace(b"\0", b" ").decode(errors="replace")


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def start(temporary: Path, model: Path, *arguments: str | Path) -> Demo:
    words = [sys.executable, "-m", "demonstration", "--model", str(model), *(str(one) for one in arguments)]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return Demo(process, temporary)


PROBABILITIES = {"task", "label", "probabilities", "uncertain"}
KEYS: dict[str, set[str] | None] = {
    "file": None,
    "model": {"name", "version"},
    "engine": None,
    "diagnosis": PROBABILITIES,
    "calibration": None,
    "plaintext": PROBABILITIES,
    "max_abs_error": None,
    "warnings": None,
    "seconds": {"offline", "online"},
    "bytes": {"online", "offline", "data_owner_sent", "model_owner_sent", "crypto_provider_sent", "links"},
    "one_way_trips": None,
    "processes": {"data_owner", "model_owner", "crypto_provider", "inference_service"},
}
"""What item 9 of the demonstration's description asks for."""


def test_json_alone_on_stdout_and_nothing_left(temporary: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Two files: a CT, which the demonstration inverts and submits with --force, and one that is not an image."""
    scan = radiograph(tmp_path / "scan.dcm", Modality="CT")
    text = tmp_path / "notes.txt"
    text.write_text("not an image\n" * 50)
    demo = start(temporary, tiny_model, "--json", "--engine", "crypten", "--invert", scan, text)
    stdout, stderr = demo.finish()
    assert demo.process.returncode == 2
    words, *steps = stderr.splitlines()  # the file that is none is named first, before anything is started
    assert words.startswith(f"demo: {text}: this is not a PNG, JPEG, TIFF, DICOM or NIfTI file: ")
    assert len(steps) == 4
    assert all(step.startswith("demo: ") for step in steps)
    assert "importing the model" in steps[0]
    assert "diagnosing" in steps[-1]
    (line,) = stdout.splitlines()
    shown = json.loads(line)
    assert set(shown) == set(KEYS)
    for key, inner in KEYS.items():
        assert inner is None or set(shown[key]) == inner, key
    assert shown["file"] == str(scan)
    assert shown["engine"] == "crypten"
    assert shown["model"] == {"name": "tiny-chest", "version": "1.0.0"}
    assert [warning["code"] for warning in shown["warnings"]] == ["inverted", "wrong-modality"]
    assert shown["diagnosis"]["label"] == shown["plaintext"]["label"]
    assert set(shown["diagnosis"]["probabilities"]) == set(CLASSES)
    assert shown["max_abs_error"] < 0.1
    assert len({*shown["processes"].values(), demo.process.pid, os.getpid()}) == 6
    links = shown["bytes"].pop("links")
    assert min(shown["bytes"].values()) > 0
    assert {link["sender"] for link in links} == {"data-owner", "model-owner", "crypto-provider"}
    assert demo.left_behind() == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("authority.pem", signal.SIGINT),
        pytest.param("model-owner.log", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("model-owner.log", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("phantom.dcm", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("tickets.sqlite", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("tickets.sqlite", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("tickets.sqlite", signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_nothing_behind(temporary: Path, tiny_model: Path, moment: str, number: signal.Signals) -> None:
    """While it sets up, while servers start, and while it computes."""
    demo = start(temporary, tiny_model, "--json")
    demo.wait_for(moment)
    demo.process.send_signal(number)
    stdout, stderr = demo.finish()
    assert demo.process.returncode != 0
    assert "Traceback" not in stderr
    assert stdout == ""
    assert demo.left_behind() == []


@pytest.mark.parametrize("damage", ["card.json", pytest.param("model.onnx", marks=pytest.mark.slow)])
def test_a_model_folder_that_is_not_one(temporary: Path, tmp_path: Path, damage: str) -> None:
    folder = write_tiny_model(tmp_path / "model")
    (folder / damage).write_bytes(b"{}")
    demo = start(temporary, folder, "--json")
    stdout, stderr = demo.finish()
    assert demo.process.returncode in {2, 5}
    assert stdout == ""
    *steps, words = stderr.splitlines()
    assert all(step.startswith("demo: ") for step in steps)
    assert damage in words
    assert demo.left_behind() == []


def test_nothing_is_started_for_files_that_are_no_images(temporary: Path, tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not an image\n" * 50)
    demo = start(temporary, tiny_model, "--json", text)
    stdout, stderr = demo.finish()
    assert (demo.process.returncode, stdout) == (2, "")
    (words,) = stderr.splitlines()
    assert words.startswith(f"demo: {text}: this is not a PNG, JPEG, TIFF, DICOM or NIfTI file: ")


def comparison(*, plaintext: str) -> Comparison:
    finding = {"label": "normal", "probabilities": {"normal": 1.0}}
    return Comparison.model_validate(
        {
            "file": "chest.dcm",
            "model": {"name": "tiny", "version": "1.0.0"},
            "engine": "crypten",
            "diagnosis": finding,
            "calibration": "calibrated",
            "plaintext": finding | {"label": plaintext},
            "max_abs_error": 0.5,
            "warnings": (),
            "seconds": {"offline": 1.0, "online": 1.0},
            "bytes": dict.fromkeys(KEYS["bytes"] or set(), 1) | {"links": ()},
            "one_way_trips": 1,
            "processes": dict.fromkeys(KEYS["processes"] or set(), 1),
        }
    )


def test_answers_that_differ_are_a_failure() -> None:
    comparison(plaintext="normal").require_same_answer()
    with pytest.raises(ComputationFailed, match="encrypted inference says normal, the plaintext model virus"):
        comparison(plaintext="virus").require_same_answer()


@pytest.mark.parametrize(
    ("found", "plain", "differ"),
    [
        ((2.0, -2.0, 0.01), (2.0, -2.0, -0.01), False),  # of a finding at its threshold, rounding decides
        ((2.0, -2.0, 0.3), (2.0, -2.0, -0.3), True),
        ((2.0, 2.0, 0.0), (2.0, -2.0, 0.0), True),
        ((1.0, -2.0, 0.0), (3.0, -1.0, 0.0), False),
    ],
)
def test_findings_differ_where_one_is_clearly_on_the_other_side(
    found: tuple[float, ...], plain: tuple[float, ...], differ: bool
) -> None:
    card = multi_label_card()
    assert contradicts(answer_from_logits(card, found), answer_from_logits(card, plain)) is differ


def test_an_answer_of_another_kind_contradicts() -> None:
    one, several = answer_from_logits(small_card(), (1.0, 0.0)), answer_from_logits(multi_label_card(), (1.0, 0.0, 0.0))
    assert contradicts(one, several)
    assert contradicts(several, one)
    assert not contradicts(one, one)


def test_the_demonstration_does_not_say_that_anybody_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    model = small_card()
    asking = ImageWarning("wrong-modality", "the file is a CT", needs_confirmation=True)
    for noticed in ((asking,), ()):
        diagnosis = diagnosis_of(model, (0.0, 1.0), *noticed)
        comparison = Comparison(
            **diagnosis.model_dump(include=Comparison.model_fields.keys() & type(diagnosis).model_fields),
            plaintext=diagnosis.diagnosis,
            max_abs_error=0.0,
            processes=dict.fromkeys(("data_owner", "model_owner", "crypto_provider", "inference_service"), 1),
        )
        _print(diagnosis, comparison, model)
        shown = capsys.readouterr().out
        assert "submitted it anyway" not in shown
        assert ("Warning: the file is a CT\n" in shown) == bool(noticed)
        assert ("data-owner diagnose asks; the demonstration does not" in shown) == bool(noticed)


@pytest.mark.parametrize(
    ("polarity", "words"), [(None, set()), (Polarity.AS_READ, {"--as-is"}), (Polarity.INVERTED, {"--invert"})]
)
def test_what_is_said_of_bright_and_dark_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, polarity: Polarity | None, words: set[str]
) -> None:
    asked: list[str] = []

    def nothing(_program: str, arguments: list[str]) -> list[str]:
        asked.extend(arguments)
        return [sys.executable, "-S", "-c", ""]

    monkeypatch.setattr(demo, "make_command", nothing)
    monkeypatch.setattr(demo, "PlaintextModel", lambda _folder: None)
    deployment: Any = SimpleNamespace(data_owner_settings=tmp_path, environment={}, process_ids=dict)
    assert list(compare(deployment, [tmp_path / "a.png"], Engine.MASKED, tmp_path, polarity=polarity)) == []
    assert {"--as-is", "--invert"} & set(asked) == words


def test_a_picture_that_is_gone_afterwards_is_not_named_as_a_file(tmp_path: Path) -> None:
    drawn = diagnosis_of(small_card(), (1.0, 2.0)).model_copy(update={"file": str(tmp_path / "phantom.dcm")})
    assert name_file(drawn, tmp_path) == "a phantom radiograph, drawn for this run"
    assert name_file(drawn, tmp_path / "another") == str(tmp_path / "phantom.dcm")
