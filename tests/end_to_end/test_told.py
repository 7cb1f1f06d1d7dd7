"""What a hospital and the front end are told when something is wrong at the laboratory: nothing of its machine."""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.errors import EncryptedInferenceError
from contract.ticket import Engine
from data_owner.doctor import examine
from tests.end_to_end.federation import SILENT, Federation, closed_port


def told(federation: Federation, chest: Path, url: str) -> list[str]:
    """What the data owner shows, and what the front end keeps, of a diagnosis that fails."""
    with federation.diagnoser(model_owner_url=url) as (diagnoser, front_end):
        entry = diagnoser.choose_model(None)
        with pytest.raises(EncryptedInferenceError) as caught:
            diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=SILENT)
        (view,) = front_end.opened
    failure = federation.ended(view).failure
    assert failure is not None
    return [str(caught.value), failure.message]


def break_book(folder: Path) -> None:
    for path in folder.glob("budgets.sqlite*"):
        path.unlink()
    (folder / "budgets.sqlite").mkdir()


def break_audit(folder: Path) -> None:
    (folder / "audit" / "000000000001.jsonl").write_text("nothing\n")


@pytest.mark.parametrize("harm", [break_book, break_audit, shutil.rmtree])
def test_a_hospital_is_told_no_path_of_the_laboratory(
    federation: Federation, chest: Path, tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    folder = tmp_path / "north-lab-private"
    with federation.model_owner(data_folder=folder) as url:
        harm(folder)
        for words in told(federation, chest, url):
            assert "something is wrong on the machine of the model-owner of north-lab" in words
            assert "north-lab-private" not in words


def test_a_hospital_is_not_told_where_the_laboratory_looks_for_the_dealer(federation: Federation, chest: Path) -> None:
    port = closed_port()
    with federation.model_owner(dealer_url=f"ws://127.0.0.1:{port}/v2/dealing") as url:
        for words in told(federation, chest, url):
            assert "crypto-provider of trust-centre cannot be reached by the model-owner of north-lab" in words
            assert str(port) not in words


def test_a_doctor_leaves_no_warning_at_the_parties(federation: Federation, caplog: pytest.LogCaptureFixture) -> None:
    settings = federation.data_owner_settings()
    with caplog.at_level(logging.DEBUG, logger="secure_computation.channel.asgi"):
        checks = list(examine(settings))
        limit = time.monotonic() + 20
        while caplog.text.count("looked whether this server answers, and left") < 2 and time.monotonic() < limit:
            time.sleep(0.02)
    assert {check.verdict.value for check in checks if check.name.endswith(("north-lab", "trust-centre"))} == {"good"}
    assert caplog.text.count("data-owner of st-mary looked whether this server answers, and left") == 2
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
