"""`data-owner diagnose` against four real processes: bad files, bad settings, bad luck, and what is left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from contract.identity import Role
from contract.model_card import OutputPolicy
from contract.ticket import PUBLIC_KEY_FILE, new_signing_key
from data_owner.diagnosis import Diagnosis
from demonstration.commands import make_command as command_line
from demonstration.deployment import Deployment, deploy
from demonstration.plaintext import PlaintextModel
from secure_computation.kernels.elementwise import processor_features
from tests.end_to_end.bad_files import bad_files
from tests.end_to_end.changed_catalog import Change, changed, lying, of_card, sessions
from tests.end_to_end.command_line import WRONG_SETTINGS, Outcome, changed_settings, in_process
from tests.end_to_end.models import CLASSES, DITHER, PATIENT, class_answer, radiograph, write_tiny_model
from tests.imaging.samples import picture, png_bytes


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    model = write_tiny_model(tmp_path_factory.mktemp("tiny"), output_policy=OutputPolicy.LOGITS_AND_HEAT_MAP)
    with deploy(tmp_path_factory.mktemp("deployment"), [model]) as running:
        yield running


@dataclass(frozen=True)
class MixedRun:
    """One real command over good and bad files."""

    good: tuple[Path, Path]
    bad: dict[Path, str]
    outcome: Outcome


@pytest.fixture(scope="module")
def mixed_run(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> MixedRun:
    folder = tmp_path_factory.mktemp("images")
    first = radiograph(folder / "first.dcm", seed=1)
    last = folder / "last.png"
    last.write_bytes(png_bytes(picture(seed=5).astype(np.uint8)))
    bad = bad_files(folder)
    arguments = ["diagnose", str(first), *map(str, bad), str(last), "--config", str(deployment.data_owner_settings)]
    done = subprocess.run(
        command_line("data-owner", [*arguments, "--json", "--engine", "crypten", "--as-is"]),
        env=deployment.environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return MixedRun((first, last), bad, Outcome(done.returncode, done.stdout, done.stderr))


def test_json_is_alone_on_stdout_and_one_object_a_file(mixed_run: MixedRun, tmp_path: Path) -> None:
    lines = mixed_run.outcome.stdout.splitlines()
    answers = [Diagnosis.model_validate_json(line) for line in lines]
    assert [answer.file for answer in answers] == [str(path) for path in mixed_run.good]
    plaintext = PlaintextModel(write_tiny_model(tmp_path))
    for path, answer in zip(mixed_run.good, answers, strict=True):
        np.testing.assert_allclose(answer.logits or (), plaintext.logits_of_file(path), atol=DITHER)
        probabilities = class_answer(answer).probabilities or {}
        assert sum(probabilities.values()) == pytest.approx(1)
        assert tuple(probabilities) == CLASSES
    assert [warning.code for warning in answers[0].warnings] == []
    assert [warning.code for warning in answers[1].warnings] == ["polarity-as-read", "modality-unknown"]
    assert set(json.loads(lines[0])) == set(Diagnosis.model_fields) - {"heat_map", "heat_map_file"}


def test_each_bad_file_has_one_line_and_stops_no_other(mixed_run: MixedRun) -> None:
    assert mixed_run.outcome.status == 2
    lines = mixed_run.outcome.stderr.splitlines()
    assert len(lines) == len(mixed_run.bad)
    for (path, words), line in zip(mixed_run.bad.items(), lines, strict=True):
        assert line.startswith(f"data-owner: {path}: ")
        assert words in line


def test_force_submits_with_the_warning(
    deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = radiograph(tmp_path / "scan.dcm", Modality="CT")
    settings = deployment.data_owner_settings
    refused = in_process(capfd, "diagnose", path, "--config", settings)
    assert (refused.status, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"data-owner: {path}: the file's modality is CT; the model was made for CR, DX; submit it anyway with --force\n"
    )
    done = in_process(capfd, "diagnose", path, "--config", settings, "--force", "--model", "tiny-chest")
    assert (done.status, done.stderr) == (0, "")
    for words in ("Warning: the file's modality is CT", "tiny-chest 1.0.0", "Intended use: tests", *CLASSES):
        assert words in done.stdout
    assert re.search(r"Left this machine: \d+\.\d MB to the model owner and the crypto provider", done.stdout)
    assert "The image, the result and the keys stayed here." in done.stdout


@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_wrong_settings_end_in_one_line(
    deployment: Deployment, chest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    changes, status, words = WRONG_SETTINGS[case]
    settings = changed_settings(deployment, tmp_path / "settings.toml", **changes)
    done = in_process(capfd, "diagnose", chest, "--config", settings, "--json")
    assert done.status == status
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("data-owner: ")
    assert re.search(words, done.stderr)
    assert "CANARY" not in done.stderr


def test_a_front_end_whose_key_is_not_pinned(
    deployment: Deployment, chest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    new_signing_key(tmp_path)
    settings = changed_settings(deployment, tmp_path / "settings.toml", ticket_keys=[str(tmp_path / PUBLIC_KEY_FILE)])
    done = in_process(capfd, "diagnose", chest, "--config", settings)
    assert done.status == 3
    assert "ticket is forged: no pinned key of the inference service has signed it" in done.stderr


def test_an_unknown_model(deployment: Deployment, chest: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = in_process(capfd, "diagnose", chest, "--config", deployment.data_owner_settings, "--model", "absent")
    assert (done.status, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "absent" in done.stderr or "no model" in done.stderr


def test_material_is_prepared_listed_and_spent(
    deployment: Deployment, chest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ("--config", changed_settings(deployment, tmp_path / "settings.toml", data_folder=str(tmp_path / "data")))
    assert in_process(capfd, "stock", *config).stdout == "nothing is stocked; see data-owner prepare\n"
    prepared = in_process(capfd, "prepare", "--count", "2", *config)
    assert (prepared.status, prepared.stdout) == (0, "")
    assert re.search(r"stocked 2 of 2 for tiny-chest 1\.0\.0: \d+\.\d s, [\d.]+ MB", prepared.stderr)
    listed = in_process(capfd, "stock", *config)
    assert listed.stdout == (
        "tiny-chest 1.0.0: 2 for north-lab and trust-centre, the oldest 0 minutes old, kept for 7 days\n"
    )
    assert json.loads(in_process(capfd, "stock", "--json", *config).stdout)["items"] == 2
    for expected in (True, True, False):
        done = in_process(capfd, "diagnose", chest, "--json", *config)
        assert done.status == 0
        assert json.loads(done.stdout)["stocked"] is expected
    assert "nothing is stocked" in in_process(capfd, "stock", *config).stdout


@pytest.mark.parametrize("change", [of_card(lying), lambda _: {"engines": "crypten"}], ids=["card", "engines"])
def test_a_front_end_in_other_hands_is_refused_before_anything_leaves(
    deployment: Deployment, chest: Path, capfd: pytest.CaptureFixture[str], change: Change
) -> None:
    """One UPDATE of its database: no session is opened, so no party hears of the picture."""
    folder, config = deployment.folder / "inference-service-data", ("--config", deployment.data_owner_settings)
    before = sessions(folder)
    with changed(folder, change):
        for arguments in (("diagnose", chest), ("diagnose", chest, "--model", "tiny-chest", "--json"), ("prepare",)):
            done = in_process(capfd, *arguments, *config)
            assert (done.status, done.stdout) == (3, "")
            assert done.stderr == (
                "data-owner: what the front end shows of tiny-chest 1.0.0 is not what its owner, north-lab, signed "
                "(its card, engines or addresses were changed, or north-lab runs another release): nothing was sent; "
                "do not use this model, and tell north-lab and whoever runs the front end\n"
            )
        examined = in_process(capfd, "doctor", *config)
        assert examined.status == 1
        assert "bad      models: what the front end shows of tiny-chest 1.0.0 is not what" in examined.stdout
    assert sessions(folder) == before
    assert in_process(capfd, "diagnose", chest, *config).status == 0


def test_heat_maps_of_several_files_go_into_a_folder(
    deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chests = [radiograph(tmp_path / f"{name}.dcm", seed=seed) for seed, name in enumerate(("one", "two"))]
    config, folder = ("--config", deployment.data_owner_settings), tmp_path / "maps"
    done = in_process(capfd, "diagnose", *chests, *config, "--json", "--heat-map", folder)
    assert done.status == 0
    answers = [Diagnosis.model_validate_json(line) for line in done.stdout.splitlines()]
    written = [str(folder / f"{name}.dcm.heat-map.png") for name in ("one", "two")]
    assert [answer.heat_map_file for answer in answers] == written
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    for answer in answers:
        assert answer.heat_map is not None
        assert {np.shape(grid) for grid in answer.heat_map.values()} == {(16, 16)}
    shown = in_process(capfd, "diagnose", chests[0], *config, "--heat-map", tmp_path / "map.png")
    assert f"Heat map of {class_answer(answers[0]).label}: {tmp_path / 'map.png'}" in shown.stdout


_LISTING_TORCH = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules, "secure_computation.engines.masked.session.sides" in sys.modules))
from data_owner.command import main
main()
"""


def test_an_answer_from_stock_loads_no_torch(
    deployment: Deployment, chest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ("--config", changed_settings(deployment, tmp_path / "settings.toml", data_folder=str(tmp_path / "data")))
    assert in_process(capfd, "prepare", *config).status == 0
    features = processor_features()
    multiplies_with_torch = "avx512vnni" not in features or "amx-int8" in features
    for stocked in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", _LISTING_TORCH, "diagnose", str(chest), "--json", *map(str, config)],
            env=deployment.environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )
        diagnosis, loaded = done.stdout.splitlines()
        assert json.loads(diagnosis)["stocked"] is stocked
        assert loaded == f"{not stocked and multiplies_with_torch} True"


def test_a_batch_is_one_session_and_a_bad_file_takes_no_place_in_it(
    deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = [radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(3)]
    files = [paths[0], tmp_path / "absent.dcm", *paths[1:]]
    settings = deployment.data_owner_settings
    done = in_process(capfd, "diagnose", *files, "--config", settings, "--batch", "2", "--json")
    assert done.status == 2
    assert re.fullmatch(rf"data-owner: {files[1]}: .*No such file.*\n", done.stderr)
    answers = [Diagnosis.model_validate_json(line) for line in done.stdout.splitlines()]
    assert [answer.file for answer in answers] == [str(path) for path in paths]
    assert [(answer.batch.images, answer.batch.index) for answer in answers] == [(2, 0), (2, 1), (1, 0)]
    assert answers[0].seconds == answers[1].seconds != answers[2].seconds
    for path, answer in zip(paths, answers, strict=True):
        alone = in_process(capfd, "diagnose", path, "--config", settings, "--json")
        single = Diagnosis.model_validate_json(alone.stdout)
        assert single.logits == pytest.approx(answer.logits, abs=DITHER)
        assert answer.heat_map is not None
        assert single.heat_map is not None
        for name, grid in single.heat_map.items():
            assert np.corrcoef(np.ravel(grid), np.ravel(answer.heat_map[name]))[0, 1] > 0.8
    maps = ("--batch", "8", "--heat-map", tmp_path / "maps")
    shown = in_process(capfd, "diagnose", *paths[:2], "--config", settings, *maps)
    assert shown.status == 0
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {f"{seed}.dcm.heat-map.png" for seed in range(2)}
    assert "All figures are those of 2 images that were evaluated together." in shown.stdout


def test_a_batch_of_names_that_are_no_text_is_answered_to_the_last_one(
    deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One session for both; what cannot be printed is kept, and the status says so."""
    names = (b"M\xfcller.dcm", b"[red]\x1b[2J.dcm")
    files = [radiograph(tmp_path / os.fsdecode(name), seed=number) for number, name in enumerate(names)]
    common: tuple[str | Path, ...] = ("diagnose", *files, "--batch", "2", "--config", deployment.data_owner_settings)
    done = in_process(capfd, *common, "--json")
    assert (done.status, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [bytes.fromhex(line["file_bytes"] or line["file"].encode().hex()) for line in lines] == [
        os.fsencode(file) for file in files
    ]
    assert {line["diagnosis"]["label"] for line in lines} <= set(CLASSES)
    missing = in_process(capfd, "diagnose", tmp_path / os.fsdecode(b"\xff"), "--config", deployment.data_owner_settings)
    assert missing.status == 2
    assert missing.stderr.startswith(rf"data-owner: {tmp_path}/\xff: ")
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        lost = in_process(capfd, *common)
    assert lost.status == 5
    assert lost.stderr.count("the answer is kept in") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch", "2", "--engine", "crypten"), "'crypten' evaluates one image a session; use --engine masked"),
        (("--batch", "0"), "batch"),
        (("--batch", "17"), "batch"),
    ],
)
def test_a_batch_that_cannot_be(
    deployment: Deployment, chest: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    done = in_process(capfd, "diagnose", chest, "--config", deployment.data_owner_settings, *arguments)
    assert (done.status, done.stdout) == (2, "")
    assert words in done.stderr


def test_only_the_masked_engines_material_is_prepared(
    deployment: Deployment, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ("--config", deployment.data_owner_settings)
    done = in_process(capfd, "prepare", "--engine", "crypten", *config)
    assert (done.status, done.stdout) == (2, "")
    words = "data-owner: material of the engine 'crypten' cannot be prepared ahead; use --engine masked"
    assert words in done.stderr.splitlines()


@pytest.mark.parametrize("role", [Role.CRYPTO_PROVIDER, Role.MODEL_OWNER])
def test_a_process_that_stalls_and_comes_back(
    deployment: Deployment, chest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], role: Role
) -> None:
    """Stopped as by a debugger: connections open, nobody answers. The session fails in time; the next one is right."""
    settings = changed_settings(
        deployment, tmp_path / "settings.toml", waiting={"connect": 1, "step": 2, "material": 2}
    )
    process = deployment.servers[role].process
    os.kill(process.pid, signal.SIGSTOP)
    try:
        done = in_process(capfd, "diagnose", chest, "--config", settings)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert (done.status, done.stdout) == (4, "")
    assert len(done.stderr.splitlines()) == 1
    assert re.search(r"(did not answer within|cannot be reached \(no answer in time\))", done.stderr)
    assert f"{role.value} of " in done.stderr
    again = in_process(capfd, "diagnose", chest, "--config", deployment.data_owner_settings, "--json")
    assert again.status == 0, again.stderr


def test_a_model_that_changed_on_disk_is_not_served(deployment: Deployment, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(deployment.folder / "model-owner-data", data)
    weights = next(data.rglob("weights.sealed"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    done = subprocess.run(
        command_line("model-owner", ["serve", "--config", str(deployment.folder / "model-owner.toml")]),
        env=deployment.environment | {"MODEL_OWNER_DATA_FOLDER": str(data), "MODEL_OWNER_LISTEN": "127.0.0.1:0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("model-owner: ")
    assert line.endswith("changed since the import: delete the folder and import the model again")


TICKET = re.compile(rb"eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}\.")
"""A compact JWT."""


def test_nothing_secret_is_left_behind(deployment: Deployment, mixed_run: MixedRun) -> None:
    """Everything that the run left: logs, ledgers, the database, settings, and what it printed."""
    left = {path: path.read_bytes() for path in deployment.folder.rglob("*") if path.is_file()}
    printed = (mixed_run.outcome.stdout + mixed_run.outcome.stderr).encode()
    logs = {path.name for path in left if path.suffix == ".log" and left[path]}
    assert logs == {"inference-service.log", "crypto-provider.log", "model-owner.log"}

    settings = {path: tomllib.loads(path.read_text()) for path in deployment.folder.glob("*.toml")}
    for path, values in settings.items():
        if "inference_service" in values:
            key = values["inference_service"]["api_key"].encode()
            assert [other for other, content in left.items() if key in content] == [path]
            assert key not in printed
            assert key.split(b"-", 2)[2] not in printed  # the secret, which may hold hyphens itself

    for path, content in left.items():
        if path.suffix == ".key" or path.name == "ticket-key.pem":
            assert path.stat().st_mode & 0o077 == 0
            # The dealer's key is raw bytes, taken whole: a piece between line breaks may be a byte that is anywhere.
            for line in content.splitlines()[1:-1] if content.startswith(b"-----") else [content]:
                assert [other for other, text in left.items() if line in text] == [path]
                assert line not in printed

    image = mixed_run.good[0].read_bytes()
    stored = np.random.default_rng(1).integers(0, 4096, (48, 40), dtype=np.uint16).tobytes()
    assert stored[:24] in image
    assert PATIENT.encode() in image
    for content in (*left.values(), printed):
        assert TICKET.search(content) is None
        assert PATIENT.encode() not in content
        assert not any(stored[at : at + 24] in content for at in range(0, len(stored) - 24, 240))
    for name in (path.name for path in (*mixed_run.good, *mixed_run.bad)):
        assert [path for path, content in left.items() if name.encode() in content] == []
    # Weights stay in the model owner's folder, and the results at the data owner.
    outside = b"".join(content for path, content in left.items() if path.suffix in {".log", ".sqlite"})
    assert b"probabilities" not in outside
    assert b'logits"' not in outside
    assert b'"heat_map":{' not in outside
