"""The command: what it refuses, and one whole run on a tiny model."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import app
from benchmarks.configuration import MODELS, ROOT, find_model, parse_names
from benchmarks.engines import ENGINES, openers
from contract.errors import CallerError
from plumbing.command_line import run
from tests.benchmarks.fakes import fake_case
from tests.benchmarks.test_latency_results import REQUIRED


def test_every_name_has_an_engine() -> None:
    assert tuple(openers()) == tuple(ENGINES)


def test_engines_are_read_in_order() -> None:
    assert parse_names("plaintext, crypten", ENGINES, noun="engine", option="--engines") == ("plaintext", "crypten")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engines", "crypten,quantum", "--model", "FOLDER"], "unknown engine 'quantum'"),
        (["--engines", ",", "--model", "FOLDER"], "no engine named"),
        (["--engines", "plaintext,plaintext", "--model", "FOLDER"], "twice"),
        (["--model", "resnet9000"], "unknown model 'resnet9000'"),
        (["--model", "FOLDER", "--save", "FOLDER/card.json/below"], "cannot be written"),
        (["--model", "FOLDER", "--batch", "0"], "--batch"),
        (["--model", "FOLDER", "--batch", "1,1"], "twice"),
        (["--model", "FOLDER", "--size", "16"], "--size"),
    ],
)
def test_mistakes_get_one_line_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (tmp_path / "card.json").write_text(fake_case(tmp_path).card.model_dump_json())
    (tmp_path / "model.onnx").touch()
    with pytest.raises(SystemExit) as caught:
        run(app, name="bench", arguments=["latency", *(part.replace("FOLDER", str(tmp_path)) for part in arguments)])
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert output.err.count("\n") == 1


def test_a_shipped_model_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "resnet18", tmp_path)
    with pytest.raises(CallerError, match=r"card\.json is missing"):
        find_model("resnet18")


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A model folder: one convolution, ReLU and a linear layer on 16 x 16 images."""
    from tests.model_owner.graphs import build, floats, node

    nodes = [
        node("Conv", ["image", "kernel"], "features", kernel_shape=[3, 3], strides=[2, 2]),
        node("Relu", ["features"], "positive"),
        node("GlobalAveragePool", ["positive"], "means"),
        node("Flatten", ["means"], "flat"),
        node("Gemm", ["flat", "matrix"], "logits"),
    ]
    tensors = {"kernel": floats(4, 1, 3, 3), "matrix": floats(4, 3, seed=1)}
    folder = tmp_path / "tiny"
    folder.mkdir()
    content = build(nodes, tensors, size=(1, 16, 16)).SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    card = fake_case(folder).card
    size = card.input.model_copy(update={"height": 16, "width": 16})
    card = card.model_copy(update={"input": size, "model_sha256": hashlib.sha256(content).hexdigest()})
    (folder / "card.json").write_text(card.model_dump_json())
    return folder


def processes_below(folder: Path) -> list[str]:
    """Command lines that mention a folder, this process aside."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def own_files(temporary: Path) -> list[str]:
    """What we left there; torch keeps an empty folder of its own."""
    return [path.name for path in temporary.iterdir() if path.name.startswith(("benchmark-", "stock-crypten-"))]


def benchmark(model: Path, *arguments: str) -> subprocess.Popen[str]:
    temporary = model.parent / "temporary"
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "latency", "--model", str(model), *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_batch_by_the_engines_that_can(tiny_model: Path) -> None:
    process = benchmark(tiny_model, "--engines", "masked,crypten,plaintext", "--runs", "1", "--batch", "3", "--json")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    lines = {line["engine"]: line for line in map(json.loads, output.splitlines())}
    assert lines["crypten"]["not_measured"] == "evaluates one image a session"
    for engine in ("masked", "plaintext"):
        assert lines[engine]["batch"] == 3
        assert lines[engine]["max_abs_error"] < 0.1


@pytest.mark.slow
def test_all_engines_agree_on_a_tiny_model(tiny_model: Path) -> None:
    results = tiny_model.parent / "results"
    process = benchmark(tiny_model, "--runs", "2", "--json", "--save", str(results))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    lines = {line["engine"]: line for line in map(json.loads, output.splitlines())}
    assert tuple(lines) == tuple(ENGINES)
    for line in lines.values():
        assert set(line) >= REQUIRED
        assert line["model"] == "tiny"
        assert line["max_abs_error"] < 0.1
        assert 0 < line["online_seconds"] <= line["total_seconds"]
        assert set(line["cpu_seconds"]) == set(line["peak_rss_bytes"])
        assert sum(link["online_bytes"] for link in line["links"]) == line["online_bytes"]
        assert sum(link["offline_bytes"] for link in line["links"]) == line["offline_bytes"]
        assert min(line["peak_rss_bytes"].values()) > 10_000_000
    assert set(lines["crypten"]["peak_rss_bytes"]) == {
        *("data_owner", "model_owner", "crypto_provider", "inference_service")
    }
    assert lines["crypten"]["offline_bytes"] > 0
    assert lines["stock-crypten"]["offline_bytes"] == 0
    # Both run the same protocol; ours asks no third party while the image waits.
    assert 0 < lines["crypten"]["one_way_trips"] < lines["stock-crypten"]["one_way_trips"]
    (saved,) = results.glob("latency-tiny-*.json")
    assert len(json.loads(saved.read_text())["runs"]) == 3 * len(ENGINES)
    assert processes_below(tiny_model.parent) == []
    assert own_files(tiny_model.parent / "temporary") == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_process_behind(tiny_model: Path, number: signal.Signals) -> None:
    process = benchmark(tiny_model, "--runs", "5", "--engines", "crypten", "--json")
    limit = time.monotonic() + 120
    while not any("diagnose" in line for line in processes_below(tiny_model.parent)):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert output == ""
    assert processes_below(tiny_model.parent) == []
    assert own_files(tiny_model.parent / "temporary") == []
