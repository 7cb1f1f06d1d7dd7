"""SPU beside us: its processes are watched and ended, what they report is read as hostile, and it is never a must."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from benchmarks.case import Case, CompiledFiles
from benchmarks.configuration import ROOT
from benchmarks.engines.spu import SpuEngine, open_with
from benchmarks.peers import spu_environment, spu_party
from benchmarks.processes import Finished
from contract.errors import ComputationFailed, ConfigurationError, DeadlineExceeded, EncryptedInferenceError
from secure_computation.network import Operation
from tests.benchmarks.fake_spu import LOGITS
from tests.benchmarks.fakes import fake_case
from tests.benchmarks.test_stock_crypten import SMALL, expected_logits, files

__all__ = ["files"]  # a fixture

PICTURES = fake_case(Path("folder")).pictures(0)
FAKE = Path(__file__).with_name("fake_spu.py")


def case_of(folder: Path) -> Case:
    """A case whose files are there, for a program that does not read them."""
    case = fake_case(folder, rounds=2)
    compiled = CompiledFiles(network=folder / "network.json", weights=folder / "weights.npz")
    compiled.network.write_bytes(SMALL.canonical_bytes())
    compiled.weights.write_bytes(b"not read")
    vars(case)["compiled"] = compiled
    return case


@contextmanager
def opened(folder: Path, behaviour: str) -> Iterator[SpuEngine]:
    """A fake SPU; whatever happened in the block, its processes are gone at the end."""
    parties = folder / "spu-semi2k"
    try:
        with open_with([sys.executable, str(FAKE), behaviour], "SEMI2K", case_of(folder), 60) as engine:
            assert all(Path(f"/proc/{number}").exists() for number in process_ids(parties))
            yield engine
    finally:
        assert not any(Path(f"/proc/{number}").exists() for number in process_ids(parties))


def process_ids(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.glob("*.pid")]


def test_both_parties_evaluate_as_often_as_asked(tmp_path: Path) -> None:
    with opened(tmp_path, "well") as engine:
        assert len(process_ids(tmp_path / "spu-semi2k")) == 2
        first, second = (engine.measure(PICTURES) for _ in range(2))
    assert first.online_seconds == 2.5
    assert second.online_seconds == 3.5
    assert second.logits == tuple(LOGITS)
    assert second.online_bytes == 1000  # both directions
    assert second.peak_rss_bytes == {"data_owner": 1000, "model_owner": 1001}
    assert second.cpu_seconds == {"data_owner": 0.5, "model_owner": 0.5}
    assert [link.online_bytes for link in second.links] == [700, 300]
    assert second.details == {"messages_each_way": 9}


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("crash", "model_owner: ended early: the reason why"),
        ("unreadable", "report cannot be read"),
        ("surplus", "report cannot be read"),
        ("negative", "report cannot be read"),
        ("endless", "wrote more than"),
        ("silent", "traffic of 0 evaluations"),
    ],
)
def test_what_goes_wrong_is_told(tmp_path: Path, behaviour: str, words: str) -> None:
    with pytest.raises(ComputationFailed, match=words), opened(tmp_path, behaviour) as engine:
        engine.measure(PICTURES)


def test_a_network_that_it_cannot_compile(tmp_path: Path) -> None:
    with pytest.raises(ComputationFailed, match="no rule for this operation"), opened(tmp_path, "cannot compile"):
        pass


def test_a_party_that_hangs_meets_the_deadline(tmp_path: Path) -> None:
    with opened(tmp_path, "hang") as engine:
        engine._timeout_seconds = 0.2
        with pytest.raises(DeadlineExceeded, match="SPU"):
            engine.measure(PICTURES)


def test_outputs_that_are_no_numbers_are_read_as_such(tmp_path: Path) -> None:
    """Comparing tells that they differ; the report itself is well formed."""
    with opened(tmp_path, "not numbers") as engine:
        assert math.isnan(engine.measure(PICTURES).logits[0])


def test_operations_are_known_by_the_names_that_networks_use() -> None:
    kinds = {kind.model_fields["kind"].default for kind in get_args(Operation)}
    assert set(spu_party.EVALUATORS) <= kinds
    assert {operation.kind for operation in SMALL.operations} <= set(spu_party.EVALUATORS)


def test_an_operation_without_a_rule_is_named() -> None:
    network = {"operations": [{"kind": "dream", "name": "x", "inputs": ["input"]}], "output": "x"}
    with pytest.raises(SystemExit, match="no rule for dream"):
        spu_party.evaluate(None, network, None, {})


def test_the_files_hold_all_that_it_needs(tmp_path: Path, files: tuple[Path, Path, Path]) -> None:
    """Names and shapes in order, then a tensor of that shape for each."""
    folder = tmp_path / "case"
    folder.mkdir()
    case = case_of(folder)
    vars(case)["compiled"] = CompiledFiles(network=files[0], weights=files[1])
    with open_with([sys.executable, str(FAKE), "well"], "SEMI2K", case, 60):
        shapes = json.loads((folder / "spu-semi2k" / "shapes.json").read_text())
    assert list(shapes) == list(SMALL.weight_shapes())
    with np.load(files[1], allow_pickle=False) as held:
        assert {name: list(held[name].shape) for name in held.files} == shapes


def test_nothing_is_installed_unasked(tmp_path: Path) -> None:
    folder = tmp_path / "environment"
    assert spu_environment.find(folder) is None
    with pytest.raises(ConfigurationError, match="SPU is missing"):
        spu_environment.require(folder, install=False)
    assert spu_environment.versions(folder) == {}
    assert not folder.exists()


def test_another_python_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spu_environment, "PYTHON", (3, 99))
    with pytest.raises(ConfigurationError, match=r"Python 3\.11"):
        spu_environment.require(tmp_path / "environment", install=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (ComputationFailed("no such index at packages.example"), "step 'pip' failed"),
        (DeadlineExceeded(peer="pip", step="one run", waited_seconds=5), "took more than 5 s"),
    ],
)
def test_an_installation_that_fails_is_told_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: EncryptedInferenceError, words: str
) -> None:
    folder = tmp_path / "environment"
    steps: list[str] = []

    def pretend(_command: list[str], *, name: str, **_options: object) -> Finished:
        steps.append(name)
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / "python").touch()
        if name == "pip" and steps.count("pip") == 1:
            raise failure
        return Finished(output="", peak_rss_bytes=1, cpu_seconds=1.0, seconds=1.0)

    monkeypatch.setattr(spu_environment, "run_watched", pretend)
    monkeypatch.setattr(spu_environment, "PYTHON", sys.version_info[:2])
    with pytest.raises(ConfigurationError, match=words) as caught:
        spu_environment.require(folder, install=True, timeout_seconds=5)
    assert "example" not in str(caught.value)  # an index may be private
    assert spu_environment.find(folder) is None
    python = spu_environment.require(folder, install=True, timeout_seconds=5)
    assert steps == ["venv", "pip", "venv", "pip", "import"]
    assert spu_environment.require(folder, install=True) == python == spu_environment.find(folder)
    assert len(steps) == 5  # once


def test_every_package_is_pinned_with_hashes() -> None:
    lines = [line for line in spu_environment.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    packages = [line.split("==")[0] for line in lines if "==" in line]
    assert {"spu", "jax", "jaxlib", "numpy"} <= set(packages)
    assert all("==" in line or line.startswith("    --hash=sha256:") for line in lines)
    assert sum("--hash" in line for line in lines) >= len(packages)
    assert ".venv-spu/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.skipif(spu_environment.find() is None, reason="SPU is not installed: scripts/bench peers does it")
@pytest.mark.parametrize("protocol", ["SEMI2K", "CHEETAH"])
def test_spu_itself_answers_as_the_plain_evaluation_does(
    tmp_path: Path, files: tuple[Path, Path, Path], protocol: str
) -> None:
    from benchmarks.engines.spu import spu

    case = fake_case(tmp_path)
    vars(case)["compiled"] = CompiledFiles(network=files[0], weights=files[1])
    pictures = replace(case.pictures(0), tensor=tmp_path / "first.npy")
    np.save(pictures.tensor, np.load(files[2], allow_pickle=False)[:1], allow_pickle=False)
    with spu(protocol)(case, 200) as engine:
        assert isinstance(engine, SpuEngine)
        first, second = (engine.measure(pictures) for _ in range(2))
    for measurement in (first, second):
        assert measurement.logits == pytest.approx(expected_logits(files)[:3], abs=0.01)
        assert measurement.online_seconds > 0
        assert measurement.online_bytes > 8 * 64
        assert min(measurement.peak_rss_bytes.values()) > 10_000_000
