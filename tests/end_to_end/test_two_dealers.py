"""Two dealers with one certificate: a second replica, or one that was restored from a backup."""

from pathlib import Path

import pytest

from contract.errors import DealMismatch, PeerReported
from contract.ticket import Engine
from tests.end_to_end.federation import SILENT, Federation
from tests.end_to_end.stocking import running


@pytest.mark.parametrize("engine", Engine)
def test_parties_that_dial_different_dealers_get_no_answer(federation: Federation, chest: Path, engine: Engine) -> None:
    with (
        federation.dealer() as second,
        federation.diagnoser(dealer_url=second) as (diagnoser, client),
        pytest.raises((DealMismatch, PeerReported), match="dealt different material to this party") as failed,
    ):
        diagnoser.diagnose(chest, diagnoser.choose_model(None), engine=engine, force=False, progress=SILENT)
    assert "tell its operator" in str(failed.value)
    assert federation.ended(client.opened[0]).state.value == "failed"


def test_parties_that_dial_different_dealers_stock_nothing(federation: Federation, tmp_path: Path) -> None:
    with running(federation, tmp_path / "parties") as parties, federation.dealer() as second:
        with pytest.raises((DealMismatch, PeerReported), match="dealt different material"):
            parties.stock(dealer_url=second)
        assert parties.items(parties.data_owner_stock) == parties.items(parties.model_owner_stock) == []
