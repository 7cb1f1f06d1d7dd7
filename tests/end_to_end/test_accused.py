"""A hospital whose software cheats, between real servers: it is caught, recorded, stopped, and the front end knows."""

from pathlib import Path
from typing import Any

import pytest

from authority.certificates import read_certificate
from bookkeeping.audit_log import read_log
from contract.api import SessionState
from contract.errors import PeerReported
from contract.ticket import Engine
from model_owner.stopped_accounts import RECORDS
from model_owner.verdict import ThirdParty, judge, read_record
from secure_computation.engines.masked.session import sides
from secure_computation.engines.masked.session.sides import MaskedDealer
from tests.end_to_end.federation import LABORATORY, SILENT, Federation
from tests.end_to_end.models import PATIENT
from tests.model_owner.test_accusing import Cheat


def cheating_side(plan: Any, _engine: Engine, *, store: Any, threads: int) -> Cheat:
    return Cheat(plan.engines.masked, store=store, threads=threads)


@pytest.fixture
def all_are_decoys(monkeypatch: pytest.MonkeyPatch) -> None:
    deal = MaskedDealer.deal

    def deal_decoys(self: MaskedDealer, *arguments: Any, **named: Any) -> None:
        self._toss = lambda _share: True
        deal(self, *arguments, **named)

    monkeypatch.setattr(sides.MaskedDealer, "deal", deal_decoys)


@pytest.mark.usefixtures("all_are_decoys")
def test_a_hospital_that_cheats_is_told_what_happened_and_is_served_no_more(
    federation: Federation, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_owner.session.data_owner_side", cheating_side)
    folder = tmp_path / "p1"
    with (
        federation.model_owner(data_folder=folder, audit_share=0.5) as url,
        federation.diagnoser(model_owner_url=url) as (diagnoser, client),
    ):
        entry, said = diagnoser.choose_model(None), []
        for _ in range(2):
            with pytest.raises(PeerReported) as caught:
                diagnoser.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=SILENT)
            said.append(caught.value)
        first, second = said
        accused = federation.ended(client.opened[0])
    assert (first.reported, second.reported) == ("deviation", "account-stopped")
    assert "did not follow the protocol" in str(first)
    assert "ask the operator of north-lab" in str(second)
    (path,) = (folder / RECORDS).iterdir()
    record = read_record(path)
    authority = read_certificate(federation.credentials(LABORATORY).authority)
    assert judge(record, ThirdParty(authority=authority)).stands
    assert record.session == client.opened[0].id
    log = [one for one in read_log(folder / "audit") if one.session == record.session]
    assert [one.event for one in log] == ["session-begun", "account-stopped", "session-ended"]
    assert log[1].record == record.hash()
    assert log[2].state == "deviation"
    assert accused.state is SessionState.ACCUSED
    assert accused.failure is not None
    assert accused.failure.code == "deviation"
    told = [one for one in read_log(federation.folder / "front-end" / "audit") if one.session == record.session]
    assert told[-1].state == "accused"
    assert PATIENT.encode() not in path.read_bytes()
