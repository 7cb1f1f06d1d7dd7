"""Settings: unknown keys are refused, and Flower's own knobs are where they were."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w
from pydantic import ValidationError

from contract.errors import CallerError, ConfigurationError
from federated_learning.data_source.table import read_table
from federated_learning.flower.processes import QUIET, Child, flower_environment, hold_lock
from federated_learning.flower.supernode import IDLE_SECONDS, LONGEST_SECONDS, SHORTEST_SECONDS, Pauses
from federated_learning.flower.tasks import fetch_parts_sooner
from federated_learning.loopback.run import LoopbackSettings, smoke_settings
from federated_learning.loopback.sites import divide_roles, draw_data, write_tables
from federated_learning.recipe import PEDIATRIC_PNEUMONIA
from federated_learning.rounds.settings import CoordinatorSettings, HospitalSettings, RunSettings, Sums
from federated_learning.training_settings import TrainingSettings
from plumbing.settings import load_settings
from tests.federated_learning.rounds.local import CLASSES, ROLES, SIDE

SAMPLES = Path(__file__).resolve().parents[3] / "docs" / "samples"


def test_the_samples_belong_to_one_run() -> None:
    coordinator = load_settings(CoordinatorSettings, SAMPLES / "federated-coordinator.toml")
    hospital = load_settings(HospitalSettings, SAMPLES / "federated-hospital.toml")
    assert coordinator.run == hospital.run
    assert coordinator.aggregation.secure
    for same in RunSettings.model_fields.keys() - {"aggregation", "federation"}:
        assert getattr(coordinator, same) == getattr(hospital, same)
    assert coordinator.aggregation.model_dump(include=set(Sums.model_fields)) == hospital.aggregation.model_dump()


@pytest.mark.parametrize("kind", [CoordinatorSettings, HospitalSettings, LoopbackSettings])
def test_unknown_keys_are_refused(tmp_path: Path, kind: type[CoordinatorSettings]) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('run = "one"\nhopsitals = 3\n')
    with pytest.raises(ConfigurationError, match="hopsitals"):
        load_settings(kind, path)


@pytest.mark.parametrize("name", ["federated-coordinator.toml", "federated-hospital.toml"])
def test_nobody_trains_by_a_recipe_that_they_did_not_write(tmp_path: Path, name: str) -> None:
    content = tomllib.loads((SAMPLES / name).read_text())
    assert content.keys() >= {"description", "training", "exchange_statistics", "aggregation"}
    del content["training"]
    (tmp_path / name).write_text(tomli_w.dumps(content))
    with pytest.raises(ConfigurationError, match="training: "):
        load_settings(CoordinatorSettings if "coordinator" in name else HospitalSettings, tmp_path / name)


def test_a_key_deep_inside_is_refused_too(tmp_path: Path) -> None:
    text = (SAMPLES / "federated-coordinator.toml").read_text() + "\n[waiting]\nfor_ever = 1\n"
    tomllib.loads(text)
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"waiting\.for_ever"):
        load_settings(CoordinatorSettings, path)


def test_flower_is_quiet_and_installs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    environment = flower_environment(tmp_path)
    assert {name: environment[name] for name in QUIET} == QUIET
    code = "import flwr.supercore.telemetry as t; import flwr.superlink.cli.flower_superlink; "
    code += "import sys; s = sys.modules['flwr.superlink.cli.flower_superlink']; "
    code += "print(t.FLWR_TELEMETRY_ENABLED, s._runtime_dependency_install_default())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


def test_flower_is_asked_sooner_than_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
    from flwr.supernode import start_client_internal

    before = dict(pull_objects.__kwdefaults__ or {})
    fetch_parts_sooner()
    assert pull_objects.__kwdefaults__ is not None
    assert pull_objects.__kwdefaults__["initial_backoff"] < before["initial_backoff"]
    pull_objects.__kwdefaults__.update(before)
    source = Path(start_client_internal.__file__).read_text()
    assert f"time.sleep({IDLE_SECONDS})" in source
    assert set(re.findall(r"\btime\.\w+\(", source)) == {"time.sleep("}  # nothing else is taken from the module

    slept: list[float] = []
    monkeypatch.setattr("federated_learning.flower.supernode.time.sleep", slept.append)
    pauses = Pauses()
    for _ in range(40):
        pauses(IDLE_SECONDS)
    assert slept[0] == SHORTEST_SECONDS
    assert slept == sorted(slept)
    assert slept[-1] == LONGEST_SECONDS
    pauses(0.5)
    pauses(IDLE_SECONDS)
    assert slept[-1] == SHORTEST_SECONDS


def test_two_processes_cannot_hold_one_folder(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "lock", seconds=0, what="a hospital"):
        again = hold_lock(tmp_path / "lock", seconds=0, what="a hospital")
        with pytest.raises(ConfigurationError, match="a hospital runs there already"):
            again.__enter__()
    with hold_lock(tmp_path / "lock", seconds=0, what="a hospital"):
        pass


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    code = "import time; from federated_learning.flower.processes import end_with_parent; "
    code += "end_with_parent(); print('up', flush=True); time.sleep(600)"
    parent = "import subprocess, sys, os; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); "
    parent += "print(child.pid, flush=True); os._exit(0) if sys.stdin.read() is None else os._exit(0)"
    with subprocess.Popen(
        [sys.executable, "-c", parent, code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        assert process.stdout.readline() == "up\n"
        process.kill()
        assert process.stdout.readline() == ""  # the last that could write to the pipe, the child, has ended


def test_what_a_child_said_last_is_kept(tmp_path: Path) -> None:
    with Child(["-c", "print('words')"], log=tmp_path / "log", environment=os.environ) as child:
        assert child.wait(60) == 0
        assert child.read_last_words() == "words\n"


def test_more_hospitals_than_roles_share_the_last_ones_by_patient(tmp_path: Path) -> None:
    manifest = draw_data(
        tmp_path / "drawn", classes=CLASSES, roles=ROLES, validation_role="held-out", side=SIDE, hospitals=4
    )
    source = read_table(manifest, folder=tmp_path / "drawn", classes=CLASSES)
    four = divide_roles(4, ROLES)
    assert [(site.name[-1], site.role, site.parts) for site in four] == [
        ("a", "one", 1), ("b", "two", 1), ("c", "three", 2), ("d", "three", 2),
    ]  # fmt: skip
    tables = write_tables(
        source, tmp_path, data=tmp_path / "drawn", hospitals=four, validation_role="held-out", at_most=None
    )
    rows = {name: path.read_text().splitlines()[1:] for name, path in tables.items()}
    patients = [line.split(",")[2] for lines in rows.values() for line in lines]
    assert len(patients) == len(set(patients)) == len(source.examples(*ROLES, "held-out"))
    assert abs(len(rows["hospital-c"]) - len(rows["hospital-d"])) <= 3
    assert [(site.role, site.part, site.parts) for site in divide_roles(3, ("train",))] == [
        ("train", n, 3) for n in range(3)
    ]
    assert [(site.role, site.parts) for site in divide_roles(3, (*ROLES, "four"))] == [(role, 1) for role in ROLES]
    for count in (2, 27):
        with pytest.raises(CallerError, match="choose from 3 to 26"):
            divide_roles(count, ROLES)


def test_a_smoke_run_claims_nobody_elses_images() -> None:
    description = smoke_settings().description
    assert description is not None
    assert "Kermany" not in description.model_dump_json()
    assert "Kermany" in PEDIATRIC_PNEUMONIA.model_dump_json()


def test_channels_and_classes_of_a_network_follow_from_the_description() -> None:
    coordinator = load_settings(CoordinatorSettings, SAMPLES / "federated-coordinator.toml")
    assert (coordinator.training.channels, coordinator.training.classes) == (1, 3)
    values = coordinator.model_dump(exclude={"training"})
    coloured = coordinator.description.input.model_dump() | {"channels": 3, "mean": (0.5,) * 3}
    coloured["standard_deviation"] = (0.2,) * 3
    values["description"] = coordinator.description.model_dump() | {"input": coloured, "classes": ("ill", "well")}
    described = CoordinatorSettings(**values, training=TrainingSettings())
    assert (described.training.channels, described.training.classes) == (3, 2)
    with pytest.raises(ValidationError, match="the training settings say 4 classes, the description 2: leave classes"):
        CoordinatorSettings(**values, training=TrainingSettings(classes=4))


@pytest.mark.parametrize("hospitals", range(3, 9))
def test_a_smoke_run_of_any_size_lets_a_round_go_on_without_as_many_as_is_safe(hospitals: int) -> None:
    assert smoke_settings(hospitals).aggregation.survivors(hospitals) == max(3, 2 * hospitals // 3 + 1)
    assert LoopbackSettings().aggregation.survivors(hospitals) == hospitals
