"""Who refuses an item that is to be spent twice, when what remembers it was set back and its data owner is willing.

docs/threat-model.md has the table that these tests walk through.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import pytest

from contract.errors import ItemsSeen, PeerReported, PeerUnreachable
from contract.ticket import Engine
from inference_service.settings import DATABASE_FILE
from secure_computation import stock_folder
from secure_computation.birth_mark import BirthMark
from tests.end_to_end.federation import SILENT, Federation, closed_port
from tests.end_to_end.models import NAME
from tests.end_to_end.stocking import Parties, answer_to, running

FRONT_END, LEDGER, MARK, NOBODY = "the front end", "the model owner's ledger", "the file's birth mark", "nobody"


def who_refuses(parties: Parties, item: str) -> str:
    """A data owner names an item again, at the front end and then at the model owner."""
    with parties.federation.client() as client:
        try:
            view = client.open_session(model=NAME, engine=Engine.MASKED, items=[item])
        except ItemsSeen:
            return FRONT_END
        client.cancel(view.id)
    try:
        answered = answer_to(parties, view.ticket or "", [item])
    except PeerReported as error:
        return LEDGER if error.reported == "material-spent" else str(error)
    return NOBODY if answered == [item] else MARK


def set_back_the_front_end(federation: Federation, item: str) -> None:
    with closing(sqlite3.connect(federation.folder / "front-end" / DATABASE_FILE, timeout=20)) as database:
        assert database.execute("DELETE FROM spent_items WHERE name = ?", (item,)).rowcount == 1
        database.commit()


@contextmanager
def set_back_afterwards(parties: Parties) -> Iterator[None]:
    """The model owner's `stock` and `consumed`, from a copy of their files with all times kept."""
    data, copy = parties.folder / "p1", parties.folder / "copy"
    for name in ("stock", "consumed"):
        shutil.copytree(data / name, copy / name)
    yield
    for name in ("stock", "consumed"):
        shutil.rmtree(data / name)
        shutil.copytree(copy / name, data / name)


def by_snapshot(patch: pytest.MonkeyPatch) -> None:
    """As if the whole file system were set back: every file is the one that it was."""
    patch.setattr(stock_folder, "birth_mark", lambda _: BirthMark(number=1, born=1))


ROWS = {
    "the model owner's files": (False, "files", False, FRONT_END),
    "a snapshot of the model owner's disk": (False, "snapshot", True, FRONT_END),
    "the front end": (True, "", False, LEDGER),
    "the front end, and files under the running model owner": (True, "files", False, LEDGER),
    "the front end, and a disk under the running model owner": (True, "snapshot", False, LEDGER),
    "the front end, and files of the model owner, which starts again": (True, "files", True, MARK),
    "everything: what A6 excludes": (True, "snapshot", True, NOBODY),
}


SLOW = {"a snapshot of the model owner's disk", "the front end, and a disk under the running model owner"}


@pytest.mark.parametrize("row", [pytest.param(row, marks=pytest.mark.slow if row in SLOW else ()) for row in ROWS])
def test_who_refuses_an_item_a_second_time(
    federation: Federation, tmp_path: Path, chest: Path, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    front_end, kind, restarted, expected = ROWS[row]
    if kind == "snapshot":
        by_snapshot(monkeypatch)
    with running(federation, tmp_path / "parties") as parties:
        parties.stock()
        (item,) = parties.items(parties.model_owner_stock)
        with set_back_afterwards(parties) if kind else nullcontext():
            parties.check(parties.diagnose(chest), chest, stocked=True)
        if front_end:
            set_back_the_front_end(federation, item)
        if not restarted:
            assert who_refuses(parties, item) == expected
            assert parties.items(parties.model_owner_stock) == [item] * (expected == FRONT_END and bool(kind))
            return
    with running(federation, tmp_path / "parties") as parties:
        assert who_refuses(parties, item) == expected


def test_a_data_owner_whose_item_the_front_end_has_seen_drops_it_and_goes_on(
    federation: Federation, tmp_path: Path, chest: Path
) -> None:
    with running(federation, tmp_path / "parties") as parties:
        parties.stock()
        (item,) = parties.items(parties.data_owner_stock)
        with federation.client() as client:
            client.cancel(client.open_session(model=NAME, engine=Engine.MASKED, items=[item]).id)
        diagnosis = parties.diagnose(chest)
        parties.check(diagnosis, chest, stocked=False)
        (warning,) = diagnosis.warnings
        assert f"stocked item {item[:12]} is dropped: the front end has seen it" in warning.text
        assert parties.items(parties.data_owner_stock) == []
        parties.stock()
        parties.check(parties.diagnose(chest), chest, stocked=True)


def test_while_the_model_owner_is_away_no_item_is_lost_and_no_session_counted(
    federation: Federation, tmp_path: Path, chest: Path
) -> None:
    with running(federation, tmp_path / "parties") as parties:
        parties.stock()
        away = f"ws://127.0.0.1:{closed_port()}/v2/inference"
        with parties.diagnoser(model_owner_url=away) as (diagnoser, client):
            entry = diagnoser.choose_model(None)
            with pytest.raises(PeerUnreachable):
                diagnoser.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=SILENT)
            assert client.opened == []
        parties.check(parties.diagnose(chest), chest, stocked=True)
