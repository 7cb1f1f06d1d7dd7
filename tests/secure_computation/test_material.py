"""Material is used once: the ledger between threads, between processes, on disk, and item names."""

import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from contract.errors import ConfigurationError, MaterialSpent
from secure_computation.material import ConsumptionLedger, DealtSeeds, ItemName, item_name

FIELDS: dict[str, Any] = {
    "session": "s",
    "plan_hash": "p",
    "data_owner": "hospital",
    "model_owner": "laboratory",
    "version": "1.0",
}
ITEM = item_name(**FIELDS)


def test_item_is_consumed_once(tmp_path: Path) -> None:
    ledger = ConsumptionLedger(tmp_path / "a" / "ledger")
    assert not ledger.consumed(ITEM)
    ledger.consume(ITEM)
    assert ledger.consumed(ITEM)
    with pytest.raises(MaterialSpent, match="never used twice"):
        ledger.consume(ITEM)
    ledger.consume(item_name(**FIELDS | {"session": "another"}))


def test_consumption_survives_a_restart(tmp_path: Path) -> None:
    ConsumptionLedger(tmp_path).consume(ITEM)
    with pytest.raises(MaterialSpent):
        ConsumptionLedger(tmp_path).consume(ITEM)


def test_entry_is_synced_before_consume_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ConsumptionLedger(tmp_path)
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "entry")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    ledger.consume(ITEM)
    assert synced == ["entry", "folder"]


def test_ledger_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    ConsumptionLedger(folder).consume(ITEM)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / ITEM).stat().st_mode) == 0o600


def test_one_of_many_threads_wins(tmp_path: Path) -> None:
    ledger = ConsumptionLedger(tmp_path)

    def attempt(_: int) -> bool:
        try:
            ledger.consume(ITEM)
        except MaterialSpent:
            return False
        return True

    with ThreadPoolExecutor(max_workers=8) as pool:
        assert sum(pool.map(attempt, range(32))) == 1


CONTENDER = """
import sys
from pathlib import Path
from typing import Any
from contract.errors import MaterialSpent
from secure_computation.material import ConsumptionLedger
ledger = ConsumptionLedger(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
won = 0
for index in range(50):
    try:
        ledger.consume(f"{index:064x}")
        won += 1
    except MaterialSpent:
        pass
print(won)
"""


def test_one_of_several_processes_wins_each_item(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    won = [int(process.communicate(timeout=30)[0]) for process in processes]
    assert sum(won) == 50
    assert len(list(tmp_path.iterdir())) == 50


@pytest.mark.parametrize("known_at", ["start", "run"])
def test_a_ledger_that_is_set_back_under_a_running_process_forgets_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, known_at: str
) -> None:
    folder, items = tmp_path / "ledger", [ItemName(f"{index:064x}") for index in range(5)]
    ledger = ConsumptionLedger(folder)
    ledger.consume(items[0])
    shutil.copytree(folder, tmp_path / "copy")
    for item in items[1:4]:
        ledger.consume(item)
    if known_at == "start":
        ledger = ConsumptionLedger(folder)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "copy", folder)
    for item in items[:4]:
        assert ledger.consumed(item)
        with pytest.raises(MaterialSpent, match="never used twice"):
            ledger.consume(item)
    ledger.consume(items[4])
    assert sorted(path.name for path in folder.iterdir()) == items
    assert "was set back while this program ran: 3 entries were missing and are noted again" in caplog.text


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        ConsumptionLedger(file / "ledger")
    folder = tmp_path / "gone"
    ledger = ConsumptionLedger(folder)
    folder.rmdir()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        ledger.consume(ITEM)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "0" * 63, "0" * 64 + "/x", "0" * 64 + ".", "0" * 64 + "\n"])
def test_only_item_names_reach_the_file_system(tmp_path: Path, name: str) -> None:
    ledger = ConsumptionLedger(tmp_path)
    with pytest.raises(ValueError, match="hexadecimal"):
        ledger.consume(ItemName(name))
    with pytest.raises(ValueError, match="hexadecimal"):
        ledger.consumed(ItemName(name))


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_item_name_depends_on_every_field(field: str) -> None:
    assert item_name(**FIELDS | {field: "other"}) != ITEM


def test_each_image_of_a_session_has_an_item_of_its_own() -> None:
    assert item_name(**FIELDS, index=0) == ITEM
    assert len({item_name(**FIELDS, index=index) for index in range(16)}) == 16


def test_fields_of_an_item_name_cannot_run_into_each_other() -> None:
    left = item_name(**FIELDS | {"session": "a\nb", "plan_hash": "c"})
    assert left != item_name(**FIELDS | {"session": "a", "plan_hash": "b\nc"})


def test_both_parties_get_their_own_seed() -> None:
    seeds = DealtSeeds.fresh()
    assert seeds.data_owner.reveal_to_channel() != seeds.model_owner.reveal_to_channel()
    assert seeds.data_owner.reveal_to_channel().hex() not in repr(seeds)
