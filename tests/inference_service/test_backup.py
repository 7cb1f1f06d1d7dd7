"""A backup that is taken while the front end works, and what is there after it was restored."""

import shutil
from pathlib import Path

import pytest

from bookkeeping.audit_log import AuditLog, verify_log
from contract.api import AuditHead, ModelRegistration, SessionEvent, SessionRequest, SessionState
from contract.api import SessionEventName as Event
from contract.errors import AuditLogBroken
from contract.ticket import SIGNING_KEY_FILE, Engine
from inference_service.app import Components, create_app
from inference_service.command import app
from inference_service.problems import NotFound
from inference_service.settings import DATABASE_FILE
from plumbing.command_line import run
from tests.inference_service.builders import PLAN
from tests.inference_service.conftest import FrontEnd, Keys

REQUEST = SessionRequest(model="resnet", engine=Engine.CRYPTEN)


@pytest.fixture
def config(front_end: FrontEnd, tmp_path: Path) -> str:
    path = tmp_path / "service.toml"
    path.write_text('data_folder = "data"\n')
    return str(path)


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(app, name="inference-service", arguments=arguments)
    return int(caught.value.code or 0)


def test_what_was_backed_up_comes_back(
    front_end: FrontEnd, keys: Keys, registered: ModelRegistration, config: str, tmp_path: Path
) -> None:
    service = front_end.service
    clinician = service.accounts.authenticate(keys.clinician)
    kept = service.sessions.open(clinician, REQUEST).id
    at_backup = service.audit.head()
    with service.database.read():  # somebody is at work
        assert command("backup", str(tmp_path / "copy"), "--config", config) == 0
    lost = service.sessions.open(clinician, REQUEST).id
    later = service.audit.head()
    service.database.close()
    shutil.rmtree(front_end.settings.data_folder)

    (tmp_path / "copy").rename(front_end.settings.data_folder)
    folder = front_end.settings.data_folder
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}
    assert (modes["data"], modes[DATABASE_FILE], modes[SIGNING_KEY_FILE], modes["audit"]) == (
        0o700,
        0o600,
        0o600,
        0o700,
    )
    restored = create_app(front_end.settings, clock=front_end.clock).state.service
    assert isinstance(restored, Components)
    again = restored.accounts.authenticate(keys.clinician)
    assert restored.catalog.plan(registered.plan_hash) == PLAN.encode()
    assert restored.sessions.view(again, kept).state is SessionState.OPENED
    assert restored.sessions.apply(again, kept, SessionEvent(event=Event.RUN)).state is SessionState.RUNNING
    with pytest.raises(NotFound):
        restored.sessions.view(again, lost)
    assert restored.sessions.open(again, REQUEST).ticket
    _the_log_says_what_is_missing(restored.audit, folder / "audit", at_backup, later)
    restored.database.close()


def _the_log_says_what_is_missing(
    log: AuditLog, folder: Path, at_backup: AuditHead | None, later: AuditHead | None
) -> None:
    assert at_backup is not None
    assert later is not None
    assert verify_log(folder, [at_backup]).heads_found == 1
    with pytest.raises(AuditLogBroken):
        verify_log(folder, [later])  # what a model owner saw between backup and loss
    assert log.record("started").number > at_backup.number


def test_it_overwrites_nothing(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "copy").mkdir()
    assert command("backup", str(tmp_path / "copy"), "--config", config) == 2
    assert "exists; give a folder that does not" in capsys.readouterr().err
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_data_folder_that_lacks_something(
    front_end: FrontEnd, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (front_end.settings.data_folder / SIGNING_KEY_FILE).unlink()
    assert command("backup", str(tmp_path / "copy"), "--config", config) == 5
    assert "the backup is not whole" in capsys.readouterr().err
