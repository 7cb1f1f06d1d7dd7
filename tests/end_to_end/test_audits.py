"""Decoys between real servers: an image is evaluated again by itself, budgets do not count what was a check."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bookkeeping.audit_log import read_log
from contract.allowance import Allowance
from contract.ticket import Engine
from secure_computation.engines.masked.session import sides
from secure_computation.engines.masked.session.sides import MaskedDealer
from tests.end_to_end.federation import SILENT, Federation
from tests.end_to_end.models import DITHER
from tests.end_to_end.stocking import Parties, running


class Coin:
    """Falls as it is told, then shows a real item for good."""

    def __init__(self) -> None:
        self.next: list[bool] = []
        self.shares: list[float] = []

    def __call__(self, share: float) -> bool:
        self.shares.append(share)
        return self.next.pop(0) if self.next else False


@pytest.fixture
def coin(monkeypatch: pytest.MonkeyPatch) -> Coin:
    coin = Coin()
    deal = MaskedDealer.deal

    def deal_by_this_coin(self: MaskedDealer, *arguments: object, **named: object) -> None:
        self._toss = coin
        deal(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(sides.MaskedDealer, "deal", deal_by_this_coin)
    return coin


@pytest.fixture
def audited(federation: Federation, tmp_path: Path, coin: Coin) -> Iterator[Parties]:
    del coin
    with running(
        federation, tmp_path / "parties", audit_share=0.1, allowance=Allowance(images=1, sessions_per_minute=1000)
    ) as parties:
        yield parties


def test_an_image_is_evaluated_again_and_counts_once(audited: Parties, chest: Path, coin: Coin) -> None:
    coin.next = [True, True]
    with audited.diagnoser() as (diagnoser, client):
        entry = diagnoser.choose_model(None)
        diagnosis = diagnoser.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=SILENT)
        states = [client.session(view.id) for view in client.opened]
    audited.check(diagnosis, chest, stocked=False)  # its one image was allowed a third time
    assert diagnosis.repeats == 2
    assert coin.shares == [0.1] * 3
    assert [view.audited for view in states] == [1, 1, 0]
    log = list(read_log(audited.folder / "p1" / "audit"))
    checked = [entry for entry in log if entry.event == "data-owner-checked"]
    assert [entry.images for entry in checked] == [1, 1]


def test_stocked_decoys_look_like_other_items_and_are_spent_as_such(
    federation: Federation, tmp_path: Path, chest: Path, coin: Coin
) -> None:
    """One of each kind; which is spent first is by their names."""
    coin.next = [True, False]
    with running(federation, tmp_path / "parties", audit_share=0.1) as parties:
        for _ in range(2):
            parties.stock()
        for folder in (parties.data_owner_stock, parties.model_owner_stock):
            assert len({path.stat().st_size for path in folder.iterdir()}) == 1
        diagnoses = [parties.diagnose(chest) for _ in range(2)]
        for diagnosis in diagnoses:
            np.testing.assert_allclose(diagnosis.logits or (), parties.expected(chest), atol=DITHER)
        assert sum(diagnosis.repeats for diagnosis in diagnoses) == 1
        assert parties.items(parties.data_owner_stock) == parties.items(parties.model_owner_stock) == []
        parties.never_twice()
