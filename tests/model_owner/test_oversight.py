"""What the model owner holds by itself: budgets that no front end can raise, its audit log, and withdrawal."""

import dataclasses
import json
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from bookkeeping.audit_log import AuditLog, read_log, verify_log
from bookkeeping.audit_segments import Entry
from contract.allowance import Allowance
from contract.api import AuditHead
from contract.errors import (
    AuditLogBroken,
    ConfigurationError,
    ModelFileError,
    ModelWithdrawn,
    PeerReported,
    PeerUnreachable,
    Refused,
)
from contract.identity import Party, Role
from contract.ticket import Engine, Purpose
from data_owner.progress import Progress
from demonstration.plaintext import PlaintextModel
from inference_service.client import InferenceServiceClient
from model_owner.allowances import choose_allowances
from model_owner.command import app
from model_owner.imported_models import WITHDRAWN, ImportedModels, require_in_service
from model_owner.oversight import BOOK_FILE
from model_owner.registration import withdraw_models
from model_owner.server import build_inference_app, load_models
from model_owner.settings import HospitalAllowance
from plumbing.command_line import run
from secure_computation.admission import STOCKED_ITEM_STEP, present_ticket
from secure_computation.wire import Phase
from tests.end_to_end.federation import (
    HOSPITAL,
    LABORATORY,
    SEALING,
    STORAGE_KEY,
    Federation,
    closed_port,
    running_federation,
)
from tests.end_to_end.models import DITHER, PATIENT, radiograph


def audit(folder: Path) -> list[Entry]:
    return list(read_log(folder / "audit"))


def entry_of(folder: Path, event: str) -> Entry:
    """The first entry of a kind; the model owner writes some after the data owner has its answer."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        for entry in audit(folder):
            if entry.event == event:
                return entry
        time.sleep(0.02)
    raise AssertionError(event)


def refusal(federation: Federation, url: str, ticket: str, own: Party = HOSPITAL) -> PeerReported:
    """Why the model owner ends a session with this ticket."""
    with federation.dial(url, own, LABORATORY) as channel:
        present_ticket(channel, ticket)
        channel.set_phase(Phase.OFFLINE)
        with pytest.raises(PeerReported) as caught:
            channel.receive_hello(step="material ready")
    return caught.value


class TestBudgets:
    """Tickets are signed here with the front end's own key, as one in an attacker's hands would sign them."""

    def test_no_ticket_raises_what_a_hospital_may_use(
        self, federation: Federation, chest: Path, tmp_path: Path
    ) -> None:
        with federation.model_owner(allowance=Allowance(images=1), data_folder=tmp_path / "p1") as url:
            federation.diagnose(chest, model_owner_url=url)
            for changes in ({}, {"account": "another"}, {"engine": Engine.MASKED, "images": 4}):
                error = refusal(federation, url, federation.ticket(**changes))
                assert error.reported == "budget-spent"
                assert "the budget of st-mary for tiny-chest, 1 images a day" in str(error)
                assert "ask the model's owner, north-lab" in str(error)
        with federation.model_owner(allowance=Allowance(images=1), data_folder=tmp_path / "p1") as url:
            assert refusal(federation, url, federation.ticket()).reported == "budget-spent"  # also after a restart

    def test_the_hospital_is_the_one_in_the_certificate(self, federation: Federation, tmp_path: Path) -> None:
        """A ticket that names another hospital, whose budget is whole, is of no use to the one that dials."""
        stranger = Party(role=Role.DATA_OWNER, organisation="elsewhere")
        allowances = (HospitalAllowance(organisation="st-mary", images=0),)
        with federation.model_owner(allowances=allowances, data_folder=tmp_path / "p1") as url:
            assert refusal(federation, url, federation.ticket()).reported == "budget-spent"
            assert refusal(federation, url, federation.ticket(data_owner="elsewhere")).reported == "ticket-invalid"
            assert refusal(federation, url, federation.ticket(), own=stranger).reported == "ticket-invalid"

    def test_sessions_a_minute(self, federation: Federation, chest: Path) -> None:
        with federation.model_owner(allowance=Allowance(sessions_per_minute=1)) as url:
            federation.diagnose(chest, model_owner_url=url)
            assert refusal(federation, url, federation.ticket()).reported == "too-fast"

    def test_material_that_may_not_be_ordered(self, federation: Federation) -> None:
        with federation.model_owner(allowance=Allowance(items=0)) as url:
            ticket = federation.ticket(purpose=Purpose.PREPARE, engine=Engine.MASKED)
            error = refusal(federation, url, ticket)
        assert error.reported == "budget-spent"
        assert "no items of material at all" in str(error)

    def test_a_book_that_cannot_be_read_serves_nobody(self, federation: Federation, tmp_path: Path) -> None:
        (tmp_path / BOOK_FILE).write_bytes(b"garbage" * 1000)
        settings = federation.model_owner_settings(data_folder=tmp_path)
        with (
            federation.client(Role.MODEL_OWNER) as client,
            pytest.raises(ConfigurationError, match="book of budgets"),
        ):
            build_inference_app(settings, federation.models, client)

    def test_exceptions_are_told_to_the_front_end_the_nearest_first(self, federation: Federation) -> None:
        settings = federation.model_owner_settings(
            allowance=Allowance(images=1),
            allowances=(
                HospitalAllowance(organisation="st-mary", model="tiny-chest", images=3),
                HospitalAllowance(organisation="st-mary", images=2),
                HospitalAllowance(organisation="elsewhere", model="another", images=9),
            ),
        )
        network, card = federation.model.plan.network, federation.model.card
        of_this, of_another = (
            choose_allowances(settings, card.model_copy(update={"name": name}), network)
            for name in (card.name, "another")
        )
        assert [of_this.of(name).images for name in ("st-mary", "elsewhere", "third")] == [3, 1, 1]
        assert [of_another.of(name).images for name in ("st-mary", "elsewhere", "third")] == [2, 9, 1]


class TestAudit:
    @pytest.mark.usefixtures("unknown")
    def test_a_session_is_recorded_and_both_logs_vouch_for_each_other(
        self, federation: Federation, chest: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "p1"
        with federation.model_owner(data_folder=folder) as url:
            federation.diagnose(chest, model_owner_url=url)
            seen = entry_of(folder, "head-seen")
        begun, ended, *_ = audit(folder)
        assert (begun.event, ended.event, ended.state) == ("session-begun", "session-ended", "served")
        assert begun.session == ended.session is not None
        assert (begun.organisation, begun.model, begun.version, begun.images) == ("st-mary", "tiny-chest", "1.0.0", 1)
        front_end = federation.folder / "front-end" / "audit"
        assert verify_log(front_end, [AuditHead(number=seen.entry or 0, hash=seen.hash or "")]).heads_found == 1
        told = next(entry for entry in read_log(front_end) if entry.hash == verify_hash(folder, 2))
        assert (told.event, told.organisation, told.entry) == ("head-seen", "north-lab", 2)
        everything = b"".join(path.read_bytes() for path in folder.rglob("*.jsonl"))
        assert PATIENT.encode() not in everything
        assert chest.name.encode() not in everything

    def test_a_refused_ticket_is_recorded_once_a_minute(self, federation: Federation, tmp_path: Path) -> None:
        folder = tmp_path / "p1"
        with federation.model_owner(data_folder=folder) as url:
            for _ in range(3):
                refusal(federation, url, federation.expired_ticket())
        refused = [entry for entry in audit(folder) if entry.event == "ticket-refused"]
        assert 1 <= len(refused) <= 2  # a minute may end in between
        assert (refused[0].organisation, refused[0].state) == ("st-mary", "ticket-invalid")

    def test_a_flood_of_refused_tickets_leaves_no_files_and_one_line_a_minute(
        self, federation: Federation, tmp_path: Path
    ) -> None:
        """Genuine ones as well, of 16 images: for no plan that is served, for too many images, beyond the budget."""
        folder = tmp_path / "p1"
        wrong: tuple[dict[str, Any], ...] = (
            {"plan_hash": "0" * 64},
            {"model": "absent"},
            {"images": 16},
            {"images": 2},
            {"exp": 1 << 39},
        )
        with federation.model_owner(data_folder=folder, allowance=Allowance(images=1)) as url:
            for changes in wrong * 2:
                refusal(federation, url, federation.ticket(engine=Engine.MASKED, **changes))
        written = {path.name for path in folder.rglob("*") if path.is_file() and path.parent.name != "audit"}
        assert written <= {BOOK_FILE, f"{BOOK_FILE}-wal", f"{BOOK_FILE}-shm"}
        with closing(sqlite3.connect(folder / BOOK_FILE)) as book:
            assert book.execute("SELECT count(*) FROM tickets").fetchone() == (0,)
            assert book.execute("SELECT count(*) FROM spent").fetchone() == (0,)
        assert len(audit(folder)) <= 2  # a minute may end in between

    def test_a_session_that_fails_says_how(self, federation: Federation, tmp_path: Path) -> None:
        folder = tmp_path / "p1"
        with federation.model_owner(data_folder=folder) as url, federation.dial(url, HOSPITAL, LABORATORY) as channel:
            present_ticket(channel, federation.ticket(engine=Engine.MASKED))
            channel.set_phase(Phase.OFFLINE)
            channel.send_hello({"items": 7}, step=STOCKED_ITEM_STEP)
            with pytest.raises(PeerReported):
                channel.receive_hello(step=STOCKED_ITEM_STEP)
        assert [entry.state for entry in audit(folder)] == [None, "peer-violation"]

    def test_what_cannot_be_recorded_is_not_served(self, federation: Federation, tmp_path: Path) -> None:
        folder = tmp_path / "p1"
        with federation.model_owner(data_folder=folder) as url:
            shutil.rmtree(folder / "audit")
            (folder / "audit").write_text("in the way")
            assert refusal(federation, url, federation.ticket()).reported == "configuration"

    def test_a_front_end_that_cannot_be_told_changes_nothing_for_the_patient(
        self, federation: Federation, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = threading.Event()

        def unreachable(client: InferenceServiceClient, own: AuditHead) -> AuditHead:
            told.set()
            raise PeerUnreachable("the front end is away: check that it runs")

        monkeypatch.setattr(InferenceServiceClient, "exchange_audit_heads", unreachable)
        with federation.model_owner(data_folder=tmp_path / "p1") as url:
            diagnosis = federation.diagnose(chest, model_owner_url=url)
            assert told.wait(20)
        assert diagnosis.logits
        assert verify_log(tmp_path / "p1" / "audit").head is not None


def verify_hash(folder: Path, number: int) -> str:
    """The hash of an entry, as the next one names it."""
    return next(entry.previous for entry in audit(folder) if entry.number == number + 1)


@pytest.fixture
def unknown(federation: Federation) -> None:
    """The front end has not heard of this organisation's log: other tests start model owners with logs of their own."""
    with closing(sqlite3.connect(federation.folder / "front-end" / "inference-service.sqlite", timeout=20)) as database:
        database.execute("DELETE FROM audit_heads")
        database.commit()


@pytest.fixture
def own_models(federation: Federation, tmp_path: Path) -> tuple[Federation, ImportedModels]:
    """The federation with a model owner whose imported models lie in a folder of this test's own."""
    shutil.copytree(federation.folder / "registry", tmp_path / "p1")
    registry = ImportedModels(tmp_path / "p1", SEALING)
    return dataclasses.replace(federation, models=load_models(registry)), registry


class TestWithdrawal:
    def test_a_server_that_runs_refuses_from_the_next_session_on(
        self, own_models: tuple[Federation, ImportedModels], tmp_path: Path
    ) -> None:
        federation, registry = own_models
        with federation.model_owner(data_folder=tmp_path / "p1") as url:
            federation.diagnose(radiograph(tmp_path / "before.dcm"), model_owner_url=url)
            registry.withdraw("tiny-chest", "1.0.0")
            preparing = federation.ticket(purpose=Purpose.PREPARE, engine=Engine.MASKED)
            for ticket in (federation.ticket(), preparing):
                error = refusal(federation, url, ticket)
                assert error.reported == "model-withdrawn"
                assert "tiny-chest 1.0.0 was withdrawn by its owner: open a session with another version" in str(error)
        assert load_models(registry) == {}
        assert registry.withdrawn() == (("tiny-chest", "1.0.0"),)

    def test_a_session_that_runs_comes_to_its_end(
        self, own_models: tuple[Federation, ImportedModels], chest: Path, tmp_path: Path
    ) -> None:
        federation, registry = own_models
        withdrawn: list[str] = []

        def withdraw(_index: int, _total: int, name: str) -> None:
            if not withdrawn:  # the first layer has been evaluated
                registry.withdraw("tiny-chest", "1.0.0")
                withdrawn.append(name)

        progress = Progress(stage=lambda _: None, layer=withdraw)
        with (
            federation.model_owner(data_folder=tmp_path / "p1") as url,
            federation.diagnoser(model_owner_url=url) as (diagnoser, _),
        ):
            entry = diagnoser.choose_model(None)
            diagnosis = diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=progress)
            assert withdrawn
            expected = PlaintextModel(federation.folder / "model").logits_of_file(chest)
            np.testing.assert_allclose(diagnosis.logits or (), expected, atol=DITHER)
            with pytest.raises(PeerReported) as caught:
                diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=progress)
            assert caught.value.reported == "model-withdrawn"

    def test_once_more_changes_nothing_and_what_is_not_there_is_refused(
        self, own_models: tuple[Federation, ImportedModels]
    ) -> None:
        federation, registry = own_models
        (model,) = federation.models.values()
        require_in_service(model)
        registry.withdraw("tiny-chest", "1.0.0")
        first = (model.folder / WITHDRAWN).read_bytes()
        registry.withdraw("tiny-chest", "1.0.0")
        assert (model.folder / WITHDRAWN).read_bytes() == first
        with pytest.raises(ModelWithdrawn):
            require_in_service(model)
        for name, version in (("tiny-chest", "9.0.0"), ("../tiny-chest", "1.0.0")):
            with pytest.raises(ModelFileError, match="is not imported here"):
                registry.withdraw(name, version)


@pytest.fixture
def config(federation: Federation, own_models: tuple[Federation, ImportedModels], tmp_path: Path) -> Path:
    """Settings of a model owner whose folder is this test's own."""
    return written(federation, tmp_path / "p1", url=federation.front_end_url)


def written(federation: Federation, data_folder: Path, *, url: str) -> Path:
    credentials = federation.credentials(LABORATORY)
    path = data_folder.parent / "model-owner.toml"
    settings = {
        "data_folder": str(data_folder),
        "ticket_keys": [str(federation.folder / "front-end" / "ticket-key.public.pem")],
        "credentials": {name: str(getattr(credentials, name)) for name in ("key", "certificate", "authority")},
        "inference_service": {
            "url": url,
            "api_key": federation.front_end_keys[Role.MODEL_OWNER].get_secret_value(),
        },
        "crypto_provider": {"organisation": "trust-centre", "url": federation.dealer_url},
        "at_rest": {"key": STORAGE_KEY},
    }
    path.write_text(tomli_w.dumps(settings))
    return path


def command(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        run(app, name="model-owner", arguments=[str(argument) for argument in arguments])
    return int(caught.value.code or 0)


class TestCommandLine:
    def test_withdrawing_tells_the_front_end_and_a_data_owner_hears_why(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with running_federation(tmp_path / "federation") as federation:
            config = written(federation, federation.folder / "registry", url=federation.front_end_url)
            assert command("withdraw", "tiny-chest", "1.0.0", "--config", config) == 0
            assert "The front end no longer lists it." in capsys.readouterr().err
            with federation.client() as client:
                assert client.models() == ()
                with pytest.raises(ModelWithdrawn, match="was withdrawn by its owner, north-lab, on"):
                    client.open_session(model="tiny-chest", engine=Engine.CRYPTEN)
            assert command("withdraw", "tiny-chest", "1.0.0", "--config", config) == 0  # once more is no error
            with federation.client(Role.MODEL_OWNER) as client:
                withdraw_models(
                    ImportedModels(federation.folder / "registry", SEALING), client
                )  # as `serve` does when it starts

    def test_a_front_end_that_is_down_does_not_keep_a_model_in_service(
        self, federation: Federation, own_models: tuple[Federation, ImportedModels], capsys: pytest.CaptureFixture[str]
    ) -> None:
        _, registry = own_models
        folder = registry._models.parent
        config = written(federation, folder, url=f"http://127.0.0.1:{closed_port()}")
        assert command("withdraw", "tiny-chest", "1.0.0", "--config", config) == PeerUnreachable.exit_status
        assert "run this again, or `model-owner serve` will tell it" in capsys.readouterr().err
        assert registry.in_service() == ()
        assert [entry.event for entry in audit(folder)] == ["model-withdrawn"]

    @pytest.mark.usefixtures("unknown")
    def test_the_log_is_compared_with_what_the_front_end_remembers(
        self, federation: Federation, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = Party(role=Role.MODEL_OWNER, organisation="north-lab")
        log = AuditLog(tmp_path / "p1" / "audit", keep_days=1)
        for _ in range(40):
            head = log.record("session-begun", organisation=other.organisation)
        with federation.client(Role.MODEL_OWNER) as client:
            client.exchange_audit_heads(AuditHead(number=head.number, hash=head.hash))
        assert command("audit", "verify", "--config", config) == 0
        assert "1 of them are as others remember them" in capsys.readouterr().err
        (segment,) = (tmp_path / "p1" / "audit").glob("*.jsonl")
        segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:-2]))
        assert command("audit", "verify", "--offline", "--config", config) == 0
        assert command("audit", "verify", "--config", config) == AuditLogBroken.exit_status
        assert "ends at entry 38, but others have seen entry 40" in capsys.readouterr().err
        with federation.client(Role.MODEL_OWNER) as client, pytest.raises(Refused, match="was seen at entry 40"):
            client.exchange_audit_heads(AuditHead(number=38, hash="0" * 64))

    @pytest.mark.usefixtures("unknown")
    def test_the_log_says_who_asked_for_what(
        self, federation: Federation, config: Path, chest: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with federation.model_owner(data_folder=config.parent / "p1") as url:
            federation.diagnose(chest, model_owner_url=url)
            entry_of(config.parent / "p1", "head-seen")
        assert command("audit", "list", "--organisation", "st-mary", "--days", "1", "--config", config) == 0
        begun, ended = capsys.readouterr().out.splitlines()
        assert "session-begun" in begun
        assert "organisation=st-mary model=tiny-chest version=1.0.0" in begun
        assert "state=served" in ended
        assert command("audit", "heads", "--config", config) == 0
        assert set(json.loads(capsys.readouterr().out)) == {"number", "hash"}
