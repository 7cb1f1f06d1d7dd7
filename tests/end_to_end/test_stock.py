"""Material that is prepared ahead: kept by both parties, spent by one diagnosis, never twice."""

import dataclasses
import errno
import logging
import os
import re
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from contract.api import SessionState
from contract.errors import CallerError, ConfigurationError, EncryptedInferenceError, PeerReported
from contract.identity import Party, Role
from contract.ticket import Engine, Purpose
from data_owner import session, session_desk
from data_owner.stock import DataOwnerStock, TakenItem
from model_owner.stocked_items import ModelOwnerStock
from secure_computation.admission import STOCKED_ITEM_STEP, present_ticket
from secure_computation.channel.channel import Channel
from secure_computation.channel.websocket import connect_channel
from secure_computation.material import ConsumptionLedger, ItemName
from secure_computation.randomness import Seed
from secure_computation.stock_folder import Binding, StockFolder
from tests.end_to_end.federation import (
    HOSPITAL,
    LABORATORY,
    SEALING,
    SILENT,
    TRUST_CENTRE,
    Federation,
)
from tests.end_to_end.models import PATIENT, radiograph
from tests.end_to_end.stocking import Parties, answer, answer_to, running
from tests.secure_computation.test_stock_folder import CLAIMS


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# What it is for


def test_a_stocked_item_gives_the_references_answer_without_the_dealer(parties: Parties, chest: Path) -> None:
    with parties.diagnoser() as (diagnoser, client):
        entry = diagnoser.choose_model(None)
        stocked = diagnoser.stock(entry, engine=Engine.MASKED, progress=SILENT)
        assert stocked.warnings == ()
        assert sorted(parties.dealt) == [Role.DATA_OWNER, Role.MODEL_OWNER]
        assert parties.items(parties.data_owner_stock) == parties.items(parties.model_owner_stock)
        prepared, (item,) = client.session(client.opened[0].id), parties.items(parties.data_owner_stock)
        assert (prepared.state, prepared.purpose) == (SessionState.COMPLETED, Purpose.PREPARE)
        diagnosis = diagnoser.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=SILENT)
        parties.check(diagnosis, chest, stocked=True)
        assert len(parties.dealt) == 2
        assert diagnosis.bytes.crypto_provider_sent == 0
        assert diagnosis.bytes.offline < 10_000 < stocked.bytes.offline
        assert client.session(client.opened[1].id).state is SessionState.COMPLETED
        assert parties.items(parties.data_owner_stock) == parties.items(parties.model_owner_stock) == []
        assert parties.consumed("p0", item)
        assert parties.consumed("p1", item)
        again = diagnoser.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=SILENT)
        parties.check(again, chest, stocked=False)
        assert len(parties.dealt) == 4
    parties.never_twice()


def test_a_stock_outlives_its_processes_and_is_spent_oldest_first(parties: Parties, tmp_path: Path) -> None:
    paths = [radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(3)]
    for _ in range(2):
        parties.stock()
    for path, stocked in zip(paths, (True, True, False), strict=True):
        parties.check(parties.diagnose(path), path, stocked=stocked)
    parties.never_twice()
    assert len(parties.taken) == 4


def test_files_are_readable_by_their_owner_alone_and_say_nothing_secret(
    parties: Parties, chest: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    seeds: list[bytes] = []
    reveal = Seed.reveal_to_stock

    def watched(self: Seed) -> bytes:
        seeds.append(reveal(self))
        return seeds[-1]

    shown: list[str] = []
    restore = TakenItem.restore

    def restored(self: TakenItem) -> Any:
        item = restore(self)
        shown.extend((repr(self), repr(item)))
        return item

    monkeypatch.setattr(Seed, "reveal_to_stock", watched)
    monkeypatch.setattr(TakenItem, "restore", restored)
    parties.stock()
    for folder in (parties.data_owner_stock, parties.model_owner_stock):
        assert mode(folder) == 0o700
        (path,) = folder.iterdir()
        assert mode(path) == 0o600
        assert re.fullmatch(r"[0-9a-f]{64}", path.name)
    parties.diagnose(chest)
    assert len(seeds) == 4  # of each party: its own; of the image's second mask, and of masked weights
    text = caplog.text + "".join(shown)
    assert shown
    for secret in seeds:
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text
    assert PATIENT not in text


def test_the_command_line_lists_counts_and_ages(parties: Parties) -> None:
    parties.stock()
    ledger = ConsumptionLedger(parties.folder / "p0" / "consumed")
    now = [Path(parties.data_owner_stock / parties.items(parties.data_owner_stock)[0]).stat().st_mtime + 7200.0]
    stock = DataOwnerStock(
        parties.data_owner_stock,
        key=SEALING,
        days=7,
        most_items=9,
        ledger=ledger,
        clock=lambda: now[0],
    )
    (line,) = stock.summarise()
    assert (line.model, line.version, line.items) == ("tiny-chest", "1.0.0", 1)
    assert 7199 < line.oldest_seconds < 7202
    now[0] += 7 * 86400
    assert stock.summarise() == ()
    assert parties.items(parties.data_owner_stock) == []


# Refusals


def test_only_the_masked_engine_is_stocked(parties: Parties) -> None:
    with parties.diagnoser() as (diagnoser, client):
        with pytest.raises(CallerError, match="'crypten' cannot be prepared ahead; use --engine masked"):
            diagnoser.stock(diagnoser.choose_model(None), engine=Engine.CRYPTEN, progress=SILENT)
        assert client.opened == []


@pytest.mark.parametrize("peer", [LABORATORY, TRUST_CENTRE], ids=lambda party: party.role.value)
def test_a_replayed_ticket_to_prepare_is_refused(parties: Parties, peer: Party) -> None:
    with parties.diagnoser() as (diagnoser, client):
        diagnoser.stock(diagnoser.choose_model(None), engine=Engine.MASKED, progress=SILENT)
        ticket = client.opened[0].ticket or ""
    url = parties.model_owner_url if peer == LABORATORY else parties.federation.dealer_url
    with parties.federation.dial(url, HOSPITAL, peer) as channel:
        present_ticket(channel, ticket)
        with pytest.raises(PeerReported, match=r"material-spent|was dealt before"):
            channel.receive_hello(step="any")
    assert len(parties.items(parties.model_owner_stock)) == 1


@pytest.mark.parametrize(("patience", "expected"), [(60.0, 1), (0.0, 2)])
def test_a_front_end_that_takes_longer_than_the_model_owner_waits_costs_no_session(
    parties: Parties, chest: Path, monkeypatch: pytest.MonkeyPatch, patience: float, expected: int
) -> None:
    parties.stock()
    monkeypatch.setattr(session_desk, "FIRST_WORD_SECONDS", patience)
    dialled: list[str] = []

    def dial(url: str, **named: Any) -> Channel:
        dialled.append(url)
        return connect_channel(url, **named)

    monkeypatch.setattr(session, "connect_channel", dial)
    parties.check(parties.diagnose(chest), chest, stocked=True)
    assert dialled == [parties.model_owner_url] * expected


def test_an_item_is_not_spent_twice(parties: Parties, chest: Path) -> None:
    parties.stock()
    (item,) = parties.items(parties.model_owner_stock)
    parties.diagnose(chest)
    with pytest.raises(PeerReported, match="was used before and is never used twice; name another"):
        answer(parties, item)


def test_an_item_that_comes_back_from_a_backup_is_not_spent_again(parties: Parties, chest: Path) -> None:
    """The files of both parties are put back; their ledgers remember."""
    parties.stock()
    kept = {
        path: path.read_bytes()
        for folder in (parties.data_owner_stock, parties.model_owner_stock)
        for path in folder.iterdir()
    }
    parties.diagnose(chest)
    for path, content in kept.items():
        path.write_bytes(content)
    with pytest.raises(PeerReported, match="never used twice"):
        answer(parties, next(iter(kept)).name)
    parties.check(parties.diagnose(chest), chest, stocked=False)
    parties.never_twice()
    assert not any(path.exists() for path in kept)


def test_an_item_for_another_model_or_dealer_is_refused_and_stays(parties: Parties, chest: Path) -> None:
    model = parties.federation.model
    other = dataclasses.replace(model, card=model.card.model_copy(update={"version": "2.0.0"}))
    both = dataclasses.replace(parties.federation, models=parties.federation.models | {("tiny-chest", "2.0.0"): other})
    parties.stock()
    (item,) = parties.items(parties.model_owner_stock)
    words = "for tiny-chest 1.0.0 with other parties or another plan"
    with pytest.raises(PeerReported, match=words):
        answer(parties, item, crypto_provider="elsewhere")
    parties.stock()
    with both.model_owner(data_folder=parties.folder / "p1") as url, pytest.raises(PeerReported, match=words):
        answer(parties, item, url=url, version="2.0.0", card_hash=other.card.card_hash())
    assert len(parties.items(parties.model_owner_stock)) == 2
    parties.check(parties.diagnose(chest), chest, stocked=True)


def test_an_item_of_another_data_owner_is_not_there_for_this_one(parties: Parties, chest: Path) -> None:
    parties.stock()
    (item,) = parties.items(parties.model_owner_stock)
    stranger = Party(role=Role.DATA_OWNER, organisation="other-hospital")
    assert answer(parties, item, own=stranger, data_owner="other-hospital") is None
    parties.check(parties.diagnose(chest), chest, stocked=True)


def test_an_item_that_the_ticket_does_not_name_is_refused_and_stays(parties: Parties, chest: Path) -> None:
    parties.stock()
    (item,) = parties.items(parties.model_owner_stock)
    nameless = parties.federation.ticket(engine=Engine.MASKED)
    others = parties.federation.ticket(engine=Engine.MASKED, items=("0" * 64,))
    for ticket in (nameless, others):
        with pytest.raises(PeerReported, match="named stocked items that its ticket does not; name them when the"):
            answer_to(parties, ticket, [item])
    parties.check(parties.diagnose(chest), chest, stocked=True)


@pytest.mark.parametrize("named", ["../consumed", ["0" * 63], ["A" * 64], [7], [["0" * 64]], ["0" * 64] * 2, None, {}])
def test_names_that_are_none_are_refused(parties: Parties, named: object) -> None:
    with pytest.raises(PeerReported, match="named stocked items that its ticket does not"):
        answer_to(parties, parties.federation.ticket(engine=Engine.MASKED, items=("0" * 64,)), named)


@pytest.mark.parametrize("claimed", [pytest.param("f" * 64, marks=pytest.mark.slow), 7])
def test_a_model_owner_that_answers_with_another_item(parties: Parties, chest: Path, claimed: object) -> None:
    parties.stock()
    send = Channel.send_hello

    def lie(self: Channel, fields: Any, *, step: str) -> None:
        lies = step == STOCKED_ITEM_STEP and self.peer.role is Role.DATA_OWNER
        send(self, {"items": [claimed]} if lies else fields, step=step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Channel, "send_hello", lie)
        with pytest.raises(EncryptedInferenceError, match="answered with other stocked items; start a new session"):
            parties.diagnose(chest)
    parties.check(parties.diagnose(chest), chest, stocked=False)


def test_the_model_owner_limits_what_a_data_owner_stocks(federation: Federation, tmp_path: Path, chest: Path) -> None:
    with running(federation, tmp_path / "parties", stock_per_data_owner=1) as parties:
        parties.stock()
        with pytest.raises(PeerReported, match="1 items are stocked for st-mary, the most that it may have"):
            parties.stock()
        assert len(parties.items(parties.data_owner_stock)) == len(parties.items(parties.model_owner_stock)) == 1
        parties.check(parties.diagnose(chest), chest, stocked=True)
        parties.stock()


# Losses


@pytest.mark.parametrize("party", ["p0", "p1"])
def test_a_damaged_file_is_dropped_and_material_prepared_now(
    parties: Parties, chest: Path, caplog: pytest.LogCaptureFixture, party: str
) -> None:
    """Which damage is seen: tests/secure_computation/test_stock_folder.py."""
    parties.stock()
    folder = parties.data_owner_stock if party == "p0" else parties.model_owner_stock
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    diagnosis = parties.diagnose(chest)
    parties.check(diagnosis, chest, stocked=False)
    (warning,) = diagnosis.warnings
    assert warning.code == "stock-dropped"
    words = f"stocked item {path.name[:12]} was damaged and is dropped; check the disk"
    if party == "p0":
        assert words in warning.text
    else:
        assert f"no longer has what was stocked ({path.name[:12]})" in warning.text
        assert words in caplog.text
    assert not path.exists()
    assert parties.items(parties.data_owner_stock) == []
    assert parties.items(parties.model_owner_stock) == []  # no other ticket will name it


def test_a_model_owner_that_lost_its_half(parties: Parties, chest: Path) -> None:
    parties.stock()
    next(parties.model_owner_stock.iterdir()).unlink()
    parties.check(parties.diagnose(chest), chest, stocked=False)
    assert parties.items(parties.data_owner_stock) == []
    assert parties.diagnose(chest).warnings == ()


def test_weights_that_were_imported_anew_make_stocked_items_useless(parties: Parties, chest: Path) -> None:
    model = dataclasses.replace(parties.federation.model, weights_version="ab" * 16)
    anew = dataclasses.replace(parties.federation, models={("tiny-chest", "1.0.0"): model})
    parties.stock()
    with anew.model_owner(data_folder=parties.folder / "p1") as url:
        parties.check(parties.diagnose(chest, model_owner_url=url), chest, stocked=False)
    assert parties.items(parties.model_owner_stock) == []


def test_items_expire_where_the_server_starts(federation: Federation, tmp_path: Path, chest: Path) -> None:
    with running(federation, tmp_path / "parties") as parties:
        parties.stock()
    with running(federation, tmp_path / "parties", stock_days=1e-7) as parties:
        assert parties.items(parties.model_owner_stock) == []
        parties.check(parties.diagnose(chest), chest, stocked=False)


def test_a_disk_that_is_full_leaves_no_half(parties: Parties, monkeypatch: pytest.MonkeyPatch) -> None:
    put = DataOwnerStock.put

    def full(self: DataOwnerStock, *arguments: Any, **named: Any) -> None:
        def fail(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            put(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(DataOwnerStock, "put", full)
        with parties.diagnoser() as (diagnoser, client):
            with pytest.raises(ConfigurationError, match=r"cannot be read or written \(No space left") as caught:
                diagnoser.stock(diagnoser.choose_model(None), engine=Engine.MASKED, progress=SILENT)
            assert "\n" not in str(caught.value)
            assert parties.federation.ended(client.opened[0]).state is SessionState.FAILED
    assert parties.items(parties.data_owner_stock) == []
    limit = time.monotonic() + 10  # for the model owner to hear of it
    while parties.items(parties.model_owner_stock) and time.monotonic() < limit:
        time.sleep(0.02)
    assert parties.items(parties.model_owner_stock) == []


def test_what_another_hospital_left_expires_with_anybodys_session(tmp_path: Path) -> None:
    """Of a server that runs for long: looked at once an hour."""
    now = [1_800_000_000.0]
    ledger = ConsumptionLedger(tmp_path / "consumed")
    stock = ModelOwnerStock(
        tmp_path / "stock",
        key=SEALING,
        days=1,
        most_items=9,
        ledger=ledger,
        warn=lambda _: None,
        clock=lambda: now[0],
    )
    claims = CLAIMS.model_copy(update={"data_owner": "st-anne"})
    binding = Binding.of(claims, item=ItemName("ab" * 32), weights_version="ab" * 16, now=now[0])
    folder = tmp_path / "stock" / "st-anne"
    StockFolder(folder, key=SEALING, days=1, ledger=ledger, warn=lambda _: None).put(binding, [])
    for hours, kept in ((12, 1), (24.5, 0)):
        now[0] = 1_800_000_000.0 + hours * 3600
        with stock.room(CLAIMS):
            assert len(list(folder.iterdir())) == kept


def test_the_data_owners_own_limit(parties: Parties) -> None:
    """Refused before a session is opened, which would cost the model owner an item."""
    parties.stock(stock_items=1)
    with pytest.raises(CallerError, match="1 items are stocked, the most that stock_items in the settings allows"):
        parties.stock(stock_items=1)
    assert len(parties.items(parties.model_owner_stock)) == 1


def test_a_file_in_the_place_of_the_folder(parties: Parties) -> None:
    (parties.folder / "p0").mkdir(parents=True)
    (parties.folder / "p0" / "stock").write_text("")
    with pytest.raises(ConfigurationError, match=r"stock cannot be made \(a file is in its place\)"):
        parties.stock()


# Races and ends


def test_of_two_diagnoses_that_race_for_one_item_one_gets_it(parties: Parties, tmp_path: Path) -> None:
    paths = [radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(3)]
    parties.stock()
    with ThreadPoolExecutor(max_workers=3) as pool:
        diagnoses = list(pool.map(parties.diagnose, paths))
    assert sorted(diagnosis.stocked for diagnosis in diagnoses) == [False, False, True]
    for path, diagnosis in zip(paths, diagnoses, strict=True):
        parties.check(diagnosis, path, stocked=diagnosis.stocked)
    parties.never_twice()
