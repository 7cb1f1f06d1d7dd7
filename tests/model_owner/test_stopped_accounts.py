"""A data owner that a decoy has found to deviate is served no more until an operator lifts that."""

import json
from pathlib import Path
from uuid import UUID

import pytest

from bookkeeping.audit_log import AuditLog, read_log
from contract.errors import AccountStopped, CallerError, ConfigurationError, PeerReported
from contract.ticket import Engine, Purpose
from data_owner.progress import Progress
from model_owner.command import app
from model_owner.stopped_accounts import RECORDS, STOPPED, StoppedAccounts
from model_owner.verdict import read_record
from plumbing.command_line import run
from secure_computation.admission import STOCKED_ITEM_STEP, present_ticket
from secure_computation.wire import Phase
from tests.end_to_end.federation import HOSPITAL, LABORATORY, SILENT, Federation
from tests.model_owner.test_oversight import refusal, written
from tests.model_owner.violation_records import Parties, enrol_parties


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return enrol_parties(tmp_path_factory.mktemp("federation"))


def accounts(folder: Path) -> StoppedAccounts:
    return StoppedAccounts(data_folder=folder, audit=AuditLog(folder / "audit", keep_days=1))


def test_a_stopped_hospital_is_refused_in_words_that_say_what_happened_and_whom_to_ask(
    parties: Parties, tmp_path: Path
) -> None:
    own = accounts(tmp_path)
    own.require_served("st-mary", own="north-lab")
    own.stop(parties.record())
    with pytest.raises(AccountStopped) as caught:
        own.require_served("st-mary", own="north-lab")
    words = str(caught.value)
    assert words.startswith(f"north-lab serves st-mary no more: in session {UUID(int=7)}, on ")
    assert words.endswith(
        "its software did not follow the protocol; ask the operator of north-lab, who keeps the "
        "record and can lift this"
    )
    own.require_served("st-anne", own="north-lab")


def test_it_stays_stopped_across_restarts_until_it_is_lifted(parties: Parties, tmp_path: Path) -> None:
    running = accounts(tmp_path)
    running.stop(parties.record())
    with pytest.raises(AccountStopped):
        accounts(tmp_path).require_served("st-mary", own="north-lab")
    assert [stop.data_owner for stop in accounts(tmp_path).list()] == ["st-mary"]
    accounts(tmp_path).lift("st-mary")
    running.require_served("st-mary", own="north-lab")  # the server that runs needs no restart
    assert accounts(tmp_path).list() == ()


def test_the_record_and_the_log_keep_what_happened(parties: Parties, tmp_path: Path) -> None:
    record = parties.record()
    path = accounts(tmp_path).stop(record)
    accounts(tmp_path).lift("st-mary")
    assert read_record(path) == record
    stopped, lifted = read_log(tmp_path / "audit")
    assert (stopped.event, stopped.organisation, stopped.session) == ("account-stopped", "st-mary", record.session)
    assert stopped.state == "wrong-answer"
    assert (stopped.item, stopped.record) == (record.item.item, record.hash())
    assert (lifted.event, lifted.organisation) == ("account-lifted", "st-mary")


def test_a_second_record_is_kept_and_one_lifting_is_enough(parties: Parties, tmp_path: Path) -> None:
    own = accounts(tmp_path)
    paths = {own.stop(parties.record(session=UUID(int=number))) for number in (7, 9, 7)}
    assert {path.parent.name for path in paths} == {RECORDS}
    assert len(paths) == 2
    own.lift("st-mary")
    own.require_served("st-mary", own="north-lab")


def test_a_full_disk_stops_it_while_the_server_runs(parties: Parties, tmp_path: Path) -> None:
    (tmp_path / RECORDS).write_text("in the way")
    running = accounts(tmp_path)
    with pytest.raises(ConfigurationError):
        running.stop(parties.record())
    with pytest.raises(AccountStopped, match="ask the operator of north-lab"):
        running.require_served("st-mary", own="north-lab")


def test_a_file_that_cannot_be_read_lets_nobody_in(parties: Parties, tmp_path: Path) -> None:
    own = accounts(tmp_path)
    own.stop(parties.record())
    (tmp_path / STOPPED / "st-mary.json").write_text("{")
    with pytest.raises(AccountStopped):
        own.require_served("st-mary", own="north-lab")
    with pytest.raises(ConfigurationError, match="stays stopped until it is lifted"):
        own.list()
    own.lift("st-mary")
    own.require_served("st-mary", own="north-lab")


@pytest.mark.parametrize("name", ["st-anne", "../audit/x", "../stopped/st-mary", "", "x" * 500, "st-mary\n"])
def test_who_is_not_stopped_cannot_be_lifted(parties: Parties, tmp_path: Path, name: str) -> None:
    own = accounts(tmp_path)
    own.stop(parties.record())
    with pytest.raises(CallerError, match="is not stopped here"):
        own.lift(name)


def test_no_session_of_a_stopped_hospital_begins_and_after_lifting_one_does(
    federation: Federation, parties: Parties, tmp_path: Path
) -> None:
    folder = tmp_path / "p1"
    with federation.model_owner(data_folder=folder) as url:
        own = accounts(folder)
        own.stop(parties.record())
        for purpose, engine in (
            (Purpose.DIAGNOSE, Engine.MASKED),
            (Purpose.PREPARE, Engine.MASKED),
            (Purpose.DIAGNOSE, Engine.CRYPTEN),
        ):
            refused = refusal(federation, url, federation.ticket(purpose=purpose, engine=engine, account="another"))
            assert refused.reported == "account-stopped"
            assert "ask the operator of north-lab" in str(refused)
        own.lift("st-mary")
        with federation.dial(url, HOSPITAL, LABORATORY) as channel:
            present_ticket(channel, federation.ticket(engine=Engine.MASKED))
            channel.set_phase(Phase.OFFLINE)
            channel.send_hello({"items": 7}, step=STOCKED_ITEM_STEP)  # it is let in, and what it says is looked at
            with pytest.raises(PeerReported, match="named stocked items"):
                channel.receive_hello(step=STOCKED_ITEM_STEP)
    refusals = [entry for entry in read_log(folder / "audit") if entry.event == "ticket-refused"]
    assert {entry.state for entry in refusals} == {"account-stopped"}


def test_a_session_that_runs_when_its_hospital_is_stopped_gets_no_answer(
    federation: Federation, parties: Parties, chest: Path, tmp_path: Path
) -> None:
    """A hospital that opens many sessions at once gains nothing by those that are no decoys."""
    folder = tmp_path / "p1"

    def stop_it(index: int, _total: int, _name: str) -> None:
        if index == 0:
            accounts(folder).stop(parties.record())

    progress = Progress(stage=SILENT.stage, layer=stop_it)
    with federation.model_owner(data_folder=folder) as url, federation.diagnoser(model_owner_url=url) as (owner, _):
        entry = owner.choose_model(None)
        with pytest.raises(PeerReported) as caught:
            owner.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=progress)
    assert caught.value.reported == "account-stopped"


def command(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        run(app, name="model-owner", arguments=[str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_an_operator_sees_who_is_stopped_and_lifts_it(
    federation: Federation, parties: Parties, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(federation, tmp_path / "p1", url=federation.front_end_url)
    assert command("accounts", "list", "--config", config) == 0
    assert capsys.readouterr().err == "No hospital is stopped.\n"
    path = accounts(tmp_path / "p1").stop(parties.record())
    assert command("accounts", "list", "--config", config) == 0
    line = capsys.readouterr().out
    assert line.startswith("st-mary  20")
    assert line.endswith(f"session {UUID(int=7)}  account account  {path}\n")
    assert command("accounts", "list", "--json", "--config", config) == 0
    assert json.loads(capsys.readouterr().out)["record"] == path.name
    assert command("accounts", "lift", "st-anne", "--config", config) == CallerError.exit_status
    assert command("accounts", "lift", "st-mary", "--config", config) == 0
    assert "st-mary is served again" in capsys.readouterr().err
    assert command("accounts", "list", "--config", config) == 0
    assert capsys.readouterr().err == "No hospital is stopped.\n"
