"""An answer that was paid for reaches its reader, whatever its file is called and wherever output goes."""

import io
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from contract.errors import ConfigurationError
from data_owner.delivery import UNPRINTED, Delivery
from data_owner.diagnosis import Diagnosis
from data_owner.inspection import format_inspection, inspect_file
from tests.end_to_end.federation import Federation
from tests.end_to_end.models import CLASSES, radiograph

NASTY = b"M\xfcller [bold]\x1b[31m\xe2\x80\xae.dcm"


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return radiograph(tmp_path_factory.mktemp("images") / os.fsdecode(NASTY))


@pytest.fixture(scope="module")
def diagnosis(federation: Federation, nasty: Path) -> Diagnosis:
    return federation.diagnose(nasty)


def delivered(federation: Federation, diagnosis: Diagnosis, folder: Path, *, as_json: bool) -> int:
    return Delivery(folder, as_json=as_json).deliver(diagnosis, federation.model.card)


def test_a_name_that_is_no_text_does_not_cost_the_answer(
    federation: Federation, diagnosis: Diagnosis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert delivered(federation, diagnosis, tmp_path, as_json=True) == 0
    (line,) = capsys.readouterr().out.splitlines()
    read = json.loads(line)
    assert bytes.fromhex(read["file_bytes"]).endswith(b"/" + NASTY)
    assert read["file"].endswith(r"M\xfcller [bold]\x1b[31m\u202e.dcm")
    assert Diagnosis.model_validate_json(line) == diagnosis
    assert diagnosis.path.is_file()  # scripts/demo opens it once more


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_shows_the_answer_and_obeys_no_name(
    federation: Federation, diagnosis: Diagnosis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert delivered(federation, diagnosis, tmp_path, as_json=False) == 0
    shown = raw.getvalue().decode(encoding)
    assert r"M\xfcller [bold]\x1b[31m\u202e.dcm: " + diagnosis.diagnosis.words in shown  # however long the path is
    assert "\x1b" not in shown
    assert all(name in shown for name in CLASSES)
    assert shown.count(r"\u") == 1  # bars and frames are drawn with what the encoding has


@pytest.mark.parametrize("closed", [False, True], ids=["full", "closed"])
@pytest.mark.parametrize("as_json", [False, True], ids=["for people", "json"])
def test_an_answer_that_cannot_be_printed_is_kept(
    federation: Federation,
    diagnosis: Diagnosis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    closed: bool,
    as_json: bool,
) -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", None if closed else full)
        for _ in range(2):
            assert delivered(federation, diagnosis, tmp_path, as_json=as_json) == ConfigurationError.exit_status
    kept = sorted((tmp_path / UNPRINTED).iterdir())
    assert len(kept) == 2
    for path in kept:
        assert Diagnosis.model_validate_json(path.read_bytes()) == diagnosis
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    said = capsys.readouterr().err
    assert said.count("the answer is kept in") == 2
    assert "standard output" in said


def test_with_nowhere_to_keep_it_the_answer_is_said(
    federation: Federation,
    diagnosis: Diagnosis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(sys, "stdout", None)
    assert delivered(federation, diagnosis, tmp_path / "file", as_json=True) == ConfigurationError.exit_status
    said = capsys.readouterr().err
    assert Diagnosis.model_validate_json(said[said.index("here is the answer: ") + 20 :]) == diagnosis


@pytest.mark.parametrize("readable", [True, False])
def test_inspect_names_such_a_file(nasty: Path, tmp_path: Path, readable: bool) -> None:
    path = nasty if readable else tmp_path / os.fsdecode(NASTY)
    inspection = inspect_file(path, None, None)
    assert inspection.readable is readable
    assert os.fsencode(path).hex() == inspection.file_bytes
    inspection.model_dump_json()
    if readable:
        assert "\x1b" not in format_inspection(inspection)
    else:
        assert "\x1b" not in (inspection.reason or "")
