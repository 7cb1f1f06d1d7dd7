"""What accounts and hospitals may use at the front end, who may order material, and what the audit log says of it."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from bookkeeping.audit_log import read_log, verify_log
from bookkeeping.audit_segments import Entry
from contract.allowance import Allowance, ModelAllowances
from contract.api import AuditHead, Failure, SessionEvent, SessionReport, SessionRequest
from contract.api import SessionEventName as Event
from contract.errors import AuditLogBroken, BudgetSpent, CallerError, ConfigurationError, Refused, TooFast
from contract.ticket import Engine, Purpose
from inference_service.accounts import OPENS_SESSIONS, Account, AccountRole
from inference_service.app import create_app
from inference_service.command import app
from inference_service.log import new_log
from inference_service.problems import Conflict, NotFound
from plumbing.command_line import run
from tests.inference_service.builders import card, registration
from tests.inference_service.conftest import FrontEnd, Keys

DIAGNOSE = SessionRequest(model="resnet", engine=Engine.MASKED)
PREPARE = SessionRequest(model="resnet", engine=Engine.MASKED, purpose=Purpose.PREPARE)


@pytest.fixture
def accounts(front_end: FrontEnd, keys: Keys) -> dict[str, Account]:
    return {name: front_end.service.accounts.authenticate(key) for name, key in vars(keys).items()}


@pytest.fixture
def model(front_end: FrontEnd, accounts: dict[str, Account]) -> None:
    serve(front_end, accounts, None)


def serve(front_end: FrontEnd, accounts: dict[str, Account], allowances: ModelAllowances | None) -> None:
    body = registration(engines=(Engine.MASKED,), allowances=allowances)
    front_end.service.catalog.register(accounts["model_owner"], name="resnet", version="1.0.0", registration=body)


def allowed(front_end: FrontEnd, account: Account, **allowance: int) -> Account:
    return front_end.service.accounts.allow(account.prefix, Allowance(**allowance))


def use(front_end: FrontEnd, account: Account, request: SessionRequest = DIAGNOSE, times: int = 1) -> None:
    for _ in range(times):
        opened = front_end.service.sessions.open(account, request)
        front_end.service.sessions.apply(account, opened.id, SessionEvent(event=Event.CANCEL))


@pytest.mark.usefixtures("model")
class TestAccounts:
    def test_images_are_counted_until_the_period_ends(
        self, front_end: FrontEnd, accounts: dict[str, Account], keys: Keys
    ) -> None:
        account = allowed(front_end, accounts["clinician"], images=5)
        use(front_end, account, DIAGNOSE.model_copy(update={"images": 4}))
        with pytest.raises(BudgetSpent, match="has 1 left, and 2 were asked for"):
            use(front_end, account, DIAGNOSE.model_copy(update={"images": 2}))
        use(front_end, account)
        answer = front_end.ask("POST", "/v2/sessions", key=keys.clinician, json={"model": "resnet", "engine": "masked"})
        assert answer.status_code == 429
        problem = answer.json()
        assert problem["type"] == "urn:encrypted-inference:problem:budget-spent"
        assert problem["code"] == "budget-spent"
        assert problem["detail"].startswith(
            f"the budget of account {account.prefix}, 5 images a day, is used up: it renews"
        )
        assert problem["detail"].endswith("ask the operator of the inference service")
        assert 0 < problem["retry_after_seconds"] <= 24 * 3600
        assert answer.headers["Retry-After"] == str(problem["retry_after_seconds"])
        front_end.clock.move(seconds=problem["retry_after_seconds"])
        use(front_end, account)

    def test_images_by_which_the_model_owner_checked_do_not_count(
        self, front_end: FrontEnd, accounts: dict[str, Account]
    ) -> None:
        account, sessions = allowed(front_end, accounts["clinician"], images=4), front_end.service.sessions
        audit = SessionEvent(event=Event.AUDIT, report=SessionReport(audited=3))
        opened = sessions.open(account, DIAGNOSE.model_copy(update={"images": 4}))
        sessions.apply(account, opened.id, SessionEvent(event=Event.RUN))
        with pytest.raises(BudgetSpent):
            use(front_end, account)
        with pytest.raises(Refused, match="only the model owner"):
            sessions.apply(account, opened.id, audit)
        for _ in range(2):  # said twice, it is so once
            assert sessions.apply(accounts["model_owner"], opened.id, audit).audited == 3
        with pytest.raises(CallerError, match="has 4 images: so many may be audited, not 5"):
            sessions.apply(
                accounts["model_owner"],
                opened.id,
                SessionEvent(event=Event.AUDIT, report=SessionReport(audited=5)),
            )
        use(front_end, account, times=3)
        with pytest.raises(BudgetSpent):
            use(front_end, account)

    def test_what_failed_or_was_cancelled_counts_as_well(
        self, front_end: FrontEnd, accounts: dict[str, Account]
    ) -> None:
        account = allowed(front_end, accounts["clinician"], images=3)
        use(front_end, account, times=3)  # every one is cancelled
        with pytest.raises(BudgetSpent):
            use(front_end, account)

    def test_what_was_turned_away_counts_for_the_pace_alone(
        self, front_end: FrontEnd, accounts: dict[str, Account]
    ) -> None:
        account = allowed(front_end, accounts["clinician"], images=1, sessions_per_minute=3)
        failure = SessionReport(failure=Failure(code="busy", message="every place is taken"))
        for _ in range(3):
            session = front_end.service.sessions.open(account, DIAGNOSE)
            front_end.service.sessions.apply(
                accounts["model_owner"], session.id, SessionEvent(event=Event.TURN_AWAY, report=failure)
            )
        with pytest.raises(TooFast):
            front_end.service.sessions.open(account, DIAGNOSE)

    def test_the_rate_is_limited_and_says_how_long_to_wait(
        self, front_end: FrontEnd, accounts: dict[str, Account], keys: Keys
    ) -> None:
        account = allowed(front_end, accounts["clinician"], sessions_per_minute=2)
        use(front_end, account, times=2)
        answer = front_end.ask("POST", "/v2/sessions", key=keys.clinician, json={"model": "resnet", "engine": "masked"})
        assert (answer.status_code, answer.json()["code"]) == (429, "too-fast")
        assert answer.headers["Retry-After"] == "60"
        front_end.clock.move(seconds=60)
        use(front_end, account)

    def test_accounts_of_one_hospital_have_budgets_apart(
        self, front_end: FrontEnd, accounts: dict[str, Account]
    ) -> None:
        first = allowed(front_end, accounts["clinician"], images=1)
        use(front_end, first)
        with pytest.raises(BudgetSpent):
            use(front_end, first)
        use(front_end, accounts["colleague"])

    def test_material_has_a_budget_of_its_own_and_may_be_none(
        self, front_end: FrontEnd, accounts: dict[str, Account]
    ) -> None:
        account = allowed(front_end, accounts["clinician"], items=1)
        use(front_end, account, PREPARE)
        with pytest.raises(BudgetSpent, match="1 items of material a day, is used up"):
            use(front_end, account, PREPARE)
        use(front_end, account)
        none = allowed(front_end, accounts["colleague"], items=0)
        with pytest.raises(BudgetSpent, match="no items of material at all: ask the operator"):
            use(front_end, none, PREPARE)

    def test_each_role_has_its_own_default(self, front_end: FrontEnd, accounts: dict[str, Account]) -> None:
        changes = {"clinician_allowance": Allowance(images=1), "gateway_allowance": Allowance(images=2)}
        other = create_app(
            front_end.settings.model_copy(update=changes), clock=front_end.clock, log=new_log(StringIO())
        )
        smaller = replace(front_end, app=other)
        for who, times in (("clinician", 1), ("gateway", 2)):
            use(smaller, accounts[who], times=times)
            with pytest.raises(BudgetSpent):
                use(smaller, accounts[who])
        other.state.service.database.close()

    @pytest.mark.parametrize("who", ["model_owner", "operator", "crypto_provider"])
    def test_accounts_that_open_no_sessions_are_given_no_allowance(
        self, front_end: FrontEnd, accounts: dict[str, Account], who: str
    ) -> None:
        assert accounts[who].role not in OPENS_SESSIONS
        with pytest.raises(CallerError, match="opens no sessions"):
            allowed(front_end, accounts[who])
        for request in (DIAGNOSE, PREPARE):
            with pytest.raises(Refused, match="only a clinician's or a gateway's account"):
                use(front_end, accounts[who], request)


class TestModels:
    def test_a_hospital_is_counted_whole_over_accounts_and_versions(
        self, front_end: FrontEnd, accounts: dict[str, Account]
    ) -> None:
        allowances = ModelAllowances(every=Allowance(images=3), exceptions={"elsewhere": Allowance(images=4)})
        serve(front_end, accounts, allowances)
        newer = registration(card=card(version="1.1.0"), engines=(Engine.MASKED,), allowances=allowances)
        front_end.service.catalog.register(accounts["model_owner"], name="resnet", version="1.1.0", registration=newer)
        use(front_end, accounts["clinician"])
        use(front_end, accounts["colleague"], DIAGNOSE.model_copy(update={"version": "1.0.0"}))
        use(front_end, accounts["gateway"])
        with pytest.raises(BudgetSpent) as caught:
            use(front_end, accounts["clinician"])
        assert str(caught.value).startswith(
            "the budget of st-mary for resnet, 3 images a day, is used up: it renews on"
        )
        assert str(caught.value).endswith("for more before then, ask the model's owner, north-lab")
        use(front_end, accounts["stranger"], times=4)
        with pytest.raises(BudgetSpent):
            use(front_end, accounts["stranger"])

    def test_the_owner_may_change_them_and_others_are_not_told(
        self, front_end: FrontEnd, accounts: dict[str, Account], keys: Keys
    ) -> None:
        serve(front_end, accounts, ModelAllowances(every=Allowance(images=1)))
        use(front_end, accounts["clinician"])
        with pytest.raises(BudgetSpent):
            use(front_end, accounts["clinician"])
        serve(front_end, accounts, ModelAllowances(every=Allowance(images=2)))
        use(front_end, accounts["clinician"])
        assert "allowances" not in front_end.ask("GET", "/v2/models/resnet", key=keys.clinician).json()


@pytest.mark.usefixtures("model")
class TestGateways:
    def test_a_gateway_sees_its_own_sessions_and_no_others(
        self, front_end: FrontEnd, accounts: dict[str, Account]
    ) -> None:
        sessions = front_end.service.sessions
        own = sessions.open(accounts["gateway"], DIAGNOSE).id
        others = sessions.open(accounts["clinician"], DIAGNOSE).id
        assert sessions.view(accounts["gateway"], own).data_owner == "st-mary"
        assert sessions.view(accounts["clinician"], own).id == own  # people see what their hospital's machines do
        with pytest.raises(NotFound):
            sessions.view(accounts["gateway"], others)
        with pytest.raises(NotFound):
            sessions.apply(accounts["gateway"], others, SessionEvent(event=Event.CANCEL))

    def test_it_registers_nothing(self, front_end: FrontEnd, accounts: dict[str, Account]) -> None:
        with pytest.raises(Refused, match="model owner"):
            front_end.service.catalog.register(
                accounts["gateway"], name="resnet", version="1.0.0", registration=registration()
            )


def audit(front_end: FrontEnd) -> list[Entry]:
    return list(read_log(front_end.settings.audit_folder))


@pytest.mark.usefixtures("model")
class TestAudit:
    def test_everything_that_changes_something_is_recorded(
        self, front_end: FrontEnd, accounts: dict[str, Account]
    ) -> None:
        before = len(audit(front_end))
        account = allowed(front_end, accounts["clinician"], images=2)
        use(front_end, account, DIAGNOSE.model_copy(update={"images": 2}))
        for _ in range(3):
            with pytest.raises(BudgetSpent):
                use(front_end, account)
        front_end.service.sessions.open(accounts["colleague"], DIAGNOSE)
        front_end.clock.move(minutes=16)
        front_end.service.sessions.sweep()
        front_end.service.catalog.withdraw(accounts["model_owner"], name="resnet", version="1.0.0")
        front_end.service.accounts.revoke(account.prefix)
        entries = audit(front_end)[before:]
        assert [(entry.event, entry.state) for entry in entries] == [
            ("account-allowed", None),
            ("session-opened", None),
            ("session-changed", "cancelled"),
            ("session-refused", "budget-spent"),  # once a minute, however often
            ("session-opened", None),
            ("session-changed", "expired"),
            ("model-withdrawn", None),
            ("account-revoked", None),
        ]
        opened = entries[1]
        assert (opened.account, opened.organisation, opened.model) == (str(account.id), "st-mary", "resnet")
        assert (opened.version, opened.images, opened.purpose) == ("1.0.0", 2, Purpose.DIAGNOSE)
        assert entries[5].account is None  # the clock's doing
        verify_log(front_end.settings.audit_folder)

    def test_what_cannot_be_recorded_does_not_happen(
        self, front_end: FrontEnd, accounts: dict[str, Account], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: object, **named: object) -> None:
            raise ConfigurationError("the disk is full; free space")

        with monkeypatch.context() as patch:
            patch.setattr(type(front_end.service.audit), "record", full)
            with pytest.raises(ConfigurationError):
                front_end.service.sessions.open(accounts["clinician"], DIAGNOSE)
            with pytest.raises(ConfigurationError):
                front_end.service.accounts.revoke(accounts["clinician"].prefix)
        allowed(front_end, accounts["clinician"], images=1)
        use(front_end, accounts["clinician"])  # nothing was counted, nobody was revoked

    def test_heads_are_exchanged_and_go_forward_only(
        self, front_end: FrontEnd, accounts: dict[str, Account], keys: Keys
    ) -> None:
        heads = [AuditHead(number=number, hash=f"{number:064d}") for number in (3, 4)]
        own = front_end.service.audit_heads
        with pytest.raises(NotFound):
            own.known(accounts["model_owner"])
        own.exchange(accounts["model_owner"], heads[0])
        body = heads[1].model_dump(mode="json")
        answer = front_end.ask("POST", "/v2/audit-heads", key=keys.model_owner, json=body)
        theirs = AuditHead.model_validate_json(answer.content)
        last = front_end.service.audit.head()
        assert last is not None
        assert (theirs.number, theirs.hash) == (last.number, last.hash)
        entry = audit(front_end)[-1]
        assert (entry.event, entry.organisation, entry.entry, entry.hash) == (
            "head-seen",
            "north-lab",
            4,
            heads[1].hash,
        )
        own.exchange(accounts["model_owner"], heads[1])  # once more is no step back
        for wrong in (heads[0], AuditHead(number=4, hash="f" * 64)):
            with pytest.raises(Conflict, match="has another end now: check it with"):
                own.exchange(accounts["model_owner"], wrong)
        assert own.known(accounts["model_owner"]) == heads[1]
        with pytest.raises(NotFound):
            own.known(accounts["other_model_owner"])
        for who in ("clinician", "gateway", "operator", "crypto_provider"):
            with pytest.raises(Refused, match="model owner's account"):
                own.exchange(accounts[who], heads[1])
            with pytest.raises(Refused, match="model owner's account"):
                own.known(accounts[who])


@pytest.fixture
def config(front_end: FrontEnd, tmp_path: Path) -> str:
    path = tmp_path / "service.toml"
    path.write_text('data_folder = "data"\n')
    return str(path)


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(app, name="inference-service", arguments=arguments)
    return int(caught.value.code or 0)


class TestCommandLine:
    def test_an_allowance_is_given_shown_and_taken_back(
        self, accounts: dict[str, Account], config: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        prefix = accounts["gateway"].prefix
        assert command("account", "allow", prefix, "--images", "7", "--days", "30", "--config", config) == 0
        words = "7 images and 10000 items in 30 days, 600 sessions a minute"
        assert f"{prefix} (gateway, st-mary): {words}." in capsys.readouterr().err
        assert command("account", "list", "--config", config) == 0
        assert words in capsys.readouterr().out
        assert command("account", "allow", prefix, "--config", config) == 0
        assert "10000 images and 10000 items a day" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "words"),
        [(["--images", "-1"], "--images"), (["--days", "0"], "--days"), (["--sessions-per-minute", "0"], "--sessions")],
    )
    def test_an_allowance_beyond_its_limits(
        self,
        accounts: dict[str, Account],
        config: str,
        capsys: pytest.CaptureFixture[str],
        options: list[str],
        words: str,
    ) -> None:
        assert command("account", "allow", accounts["gateway"].prefix, *options, "--config", config) == 2
        assert words in capsys.readouterr().err

    def test_the_audit_log_is_listed_and_verified(
        self,
        front_end: FrontEnd,
        accounts: dict[str, Account],
        config: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        front_end.service.audit_heads.exchange(accounts["model_owner"], AuditHead(number=9, hash="a" * 64))
        seen = front_end.service.audit.head()
        assert seen is not None
        assert command("audit", "verify", "--config", config) == 0
        assert "Nobody else's memory was compared" in capsys.readouterr().err
        assert command("audit", "list", "--organisation", "st-mary", "--config", config) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3
        assert all("account-added" in line and "organisation=st-mary" in line for line in lines)
        assert command("audit", "list", "--event", "head-seen", "--json", "--config", config) == 0
        assert json.loads(capsys.readouterr().out)["entry"] == 9
        assert command("audit", "heads", "--organisation", "north-lab", "--config", config) == 0
        assert json.loads(capsys.readouterr().out) == {"number": 9, "hash": "a" * 64}
        heads = tmp_path / "heads.jsonl"
        heads.write_text(AuditHead(number=seen.number, hash=seen.hash).model_dump_json() + "\n")
        assert command("audit", "verify", "--heads", str(heads), "--config", config) == 0
        assert "as others remember them" in capsys.readouterr().err
        (segment,) = front_end.settings.audit_folder.glob("*.jsonl")
        segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:-1]))
        assert command("audit", "verify", "--heads", str(heads), "--config", config) == AuditLogBroken.exit_status
        assert "its end was cut off" in capsys.readouterr().err

    def test_accounts_that_audit_logs_name_are_found(
        self, accounts: dict[str, Account], config: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command("audit", "list", "--json", "--config", config) == 0
        named = {json.loads(line).get("account") for line in capsys.readouterr().out.splitlines()} - {None}
        assert command("account", "list", "--config", config) == 0
        listed = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
        assert named == set(listed.values()) == {str(account.id) for account in accounts.values()}
        clinician = accounts["clinician"]
        assert listed[clinician.prefix] == str(clinician.id)
        assert command("audit", "list", "--account", str(clinician.id), "--config", config) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1
        assert command("account", "revoke", str(clinician.id), "--config", config) == 0
        assert f"Revoked {clinician.prefix}" in capsys.readouterr().err

    @pytest.mark.parametrize("content", ["garbage", '{"number": 0, "hash": "x"}'])
    def test_heads_that_are_none(
        self, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
    ) -> None:
        (tmp_path / "heads").write_text(content)
        assert command("audit", "verify", "--heads", str(tmp_path / "heads"), "--config", config) == 2
        assert "is not what `audit heads` writes" in capsys.readouterr().err


def test_every_role_is_known() -> None:
    """Whoever adds a role decides here what it may do."""
    assert set(AccountRole) == {"clinician", "gateway", "model-owner", "crypto-provider", "operator"}
    assert {AccountRole.CLINICIAN, AccountRole.GATEWAY} == OPENS_SESSIONS
