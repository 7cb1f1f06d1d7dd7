"""Files of stocked material: whole or absent, bound, consumed once, dropped where damaged or old."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from contract.base import Strict
from contract.errors import ConfigurationError, MaterialSpent
from contract.files import INCOMING, replacing_file
from contract.model_card import OutputPolicy
from contract.ticket import Engine, Purpose, TicketClaims
from secure_computation import stock_folder
from secure_computation.at_rest import StorageKey
from secure_computation.birth_mark import BirthMark
from secure_computation.material import ConsumptionLedger, ItemName
from secure_computation.stock_folder import DAY_SECONDS, Binding, Body, StockFolder, Wanted
from tests.secure_computation.test_birth_mark import let_time_pass

SECRET = bytes(range(100, 132))
KEY = StorageKey(bytes(32))
SIZES = (32, 5, 0)
NOW = 1_800_000_000.0
CLAIMS = TicketClaims(
    jti=UUID(int=1),
    session=UUID(int=2),
    purpose=Purpose.DIAGNOSE,
    account="7",
    model="tiny",
    version="1.0.0",
    plan_hash="0" * 64,
    card_hash="1" * 64,
    engine=Engine.MASKED,
    data_owner="st-mary",
    model_owner="north-lab",
    crypto_provider="trust-centre",
    output_policy=OutputPolicy.LOGITS,
    iat=1,
    exp=2,
)
WANTED = Wanted(**{one.name: getattr(CLAIMS, one.name) for one in fields(Wanted)})


def bodies() -> list[Body]:
    return [np.frombuffer(SECRET, np.uint8), np.arange(5, dtype=np.uint8), np.empty(0, np.uint8)]


def name_of(number: int) -> ItemName:
    return ItemName(f"{number:064x}")


class Kept:
    """A stock with a clock and a ledger, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "stock"
        self.ledger = ConsumptionLedger(folder / "consumed")
        self.said: list[str] = []
        self.now = NOW
        self.stock = self.opened()

    def opened(self) -> StockFolder:
        return StockFolder(
            self.path, key=KEY, days=7, ledger=self.ledger, warn=self.said.append, clock=lambda: self.now
        )

    def put(self, number: int = 1, **claims: Any) -> Binding:
        binding = Binding.of(
            CLAIMS.model_copy(update=claims), item=name_of(number), weights_version="ab" * 16, now=self.now
        )
        self.stock.put(binding, bodies())
        return binding

    def forget(self) -> None:
        """As if the ledger were set back to an earlier state, and the process began anew."""
        shutil.rmtree(self.path.parent / "consumed")
        self.ledger = ConsumptionLedger(self.path.parent / "consumed")
        self.stock = self.opened()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def same(taken: list[Body] | None) -> bool:
    return taken is not None and [body.tobytes() for body in taken] == [body.tobytes() for body in bodies()]


def test_what_is_put_comes_back_once(kept: Kept) -> None:
    binding = kept.put()
    assert kept.names() == [binding.item]
    assert kept.stock.bindings() == [binding]
    assert same(kept.opened().take(binding, SIZES))
    assert kept.names() == []
    assert kept.ledger.consumed(binding.name)
    assert kept.stock.take(binding, SIZES) is None
    assert kept.said == []


def test_an_item_whose_file_outlived_its_use_is_not_given_again(kept: Kept) -> None:
    binding = kept.put()
    content = (kept.path / binding.item).read_bytes()
    kept.stock.take(binding, SIZES)
    (kept.path / binding.item).write_bytes(content)
    with pytest.raises(MaterialSpent, match="never used twice"):
        kept.stock.take(binding, SIZES)
    assert kept.stock.bindings() == []
    assert kept.names() == []


def test_of_many_who_take_one_item_one_gets_it(kept: Kept) -> None:
    binding = kept.put()

    def attempt(_: int) -> bool:
        stock = kept.opened()
        try:
            return same(stock.take(binding, SIZES)) if stock.bindings() else False
        except MaterialSpent:
            return False

    with ThreadPoolExecutor(max_workers=8) as pool:
        assert sum(pool.map(attempt, range(32))) == 1


def test_the_oldest_comes_first_and_items_expire(kept: Kept) -> None:
    for number in (3, 1, 2):
        kept.put(number)
        kept.now += 100
    assert [binding.item for binding in kept.stock.bindings()] == [name_of(number) for number in (3, 1, 2)]
    kept.now = NOW + 7 * DAY_SECONDS + 50
    assert [binding.item for binding in kept.stock.bindings()] == [name_of(1), name_of(2)]
    assert name_of(3) not in kept.names()
    assert kept.stock.find(name_of(3)) is None
    assert kept.stock.find(name_of(1)) is not None
    assert not kept.ledger.consumed(name_of(3))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"version": "1.0.1"},
        {"plan_hash": "1" * 64},
        {"data_owner": "other"},
        {"model_owner": "other"},
        {"crypto_provider": "other"},
        {"output_policy": OutputPolicy.LABEL_ONLY},
    ],
)
def test_a_binding_fits_exactly_its_session(kept: Kept, change: dict[str, Any]) -> None:
    binding = kept.put()
    assert binding.fits(CLAIMS)
    assert not binding.fits(CLAIMS.model_copy(update=change))


def at(place: int) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        index = place % len(content)
        return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]

    return flip


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut by a byte": lambda content: content[:-1],
    "cut in its binding": lambda content: content[:90],
    "a byte more": lambda content: content + b"\0",
    "empty": lambda _: b"",
    "another format": at(5),
    "a longer binding": lambda content: content[:46] + b"\xff\xff\xff\xff" + content[50:],
    "a binding that is none": lambda content: content[:50] + b"[" * 50 + content[100:],
    "a changed binding": lambda content: content.replace(b'"tiny"', b'"puny"'),
    "a changed salt": at(40),
    "a changed seed": at(-160),
    "a changed tag": at(-1),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_dropped_with_a_warning_and_its_item_lost(kept: Kept, case: str) -> None:
    binding = kept.put()
    path = kept.path / binding.item
    path.write_bytes(DAMAGE[case](path.read_bytes()))
    assert kept.stock.take(binding, SIZES) is None
    assert not path.exists()
    (line,) = kept.said
    expected = r"stocked item 000000000000 was damaged and is dropped; check the disk under \S+ \(it .*\)"
    assert re.fullmatch(expected, line)


def test_an_item_sealed_under_another_key_is_kept_and_the_key_asked_for(kept: Kept) -> None:
    """A wrong key is a mistake in the settings: nothing is thrown away for it."""
    binding = kept.put()
    other = StockFolder(kept.path, key=StorageKey(bytes(31) + b"1"), days=7, ledger=kept.ledger, warn=kept.said.append)
    with pytest.raises(ConfigurationError, match="sealed under another key"):
        other.bindings()
    assert kept.names() == [binding.item]
    assert same(kept.stock.take(binding, SIZES))


@pytest.mark.parametrize("sizes", [(), (32,), (32, 6, 0), (31, 5, 0), (1 << 40, 5, 0)])
def test_lengths_that_the_plan_does_not_have_are_refused_before_memory_is_taken(
    kept: Kept, sizes: Sequence[int]
) -> None:
    assert kept.stock.take(kept.put(), sizes) is None
    assert len(kept.said) == 1


class _HeaderWithoutForm(Strict):
    """As it was written before headers said a form."""

    binding: Binding
    file: BirthMark


def test_an_item_of_an_earlier_form_is_dropped_in_plain_words(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(stock_folder, "_Header", _HeaderWithoutForm)
        old = kept.put(1)
    new = kept.put(2)
    assert kept.stock.bindings() == [new]
    assert kept.names() == [new.item]
    (line,) = kept.said
    assert f"stocked item {old.item[:12]}" in line
    assert "prepared by another version of this program" in line
    assert line.endswith("and is dropped; prepare material again")
    assert "\n" not in line


def test_a_file_under_another_items_name_is_dropped(kept: Kept) -> None:
    binding = kept.put()
    (kept.path / binding.item).rename(kept.path / name_of(2))
    assert kept.stock.bindings() == []
    assert kept.names() == []
    assert len(kept.said) == 1


def test_an_item_that_was_copied_or_restored_is_dropped(kept: Kept, tmp_path: Path) -> None:
    used, unused = kept.put(1), kept.put(2)
    shutil.copytree(kept.path, tmp_path / "copy")  # with every time kept
    kept.stock.take(used, SIZES)
    shutil.rmtree(kept.path)
    let_time_pass(tmp_path)
    shutil.copytree(tmp_path / "copy", kept.path)
    kept.forget()
    assert kept.stock.bindings() == []
    assert kept.names() == []
    assert len(kept.said) == 2
    assert all("was restored or copied: it may have been used, and is dropped; prepare" in line for line in kept.said)
    assert kept.stock.take(used, SIZES) is kept.stock.take(unused, SIZES) is None


def test_one_file_that_is_written_back_in_its_place_is_dropped(kept: Kept, tmp_path: Path) -> None:
    binding = kept.put()
    content, status = (kept.path / binding.item).read_bytes(), (kept.path / binding.item).stat()
    kept.stock.take(binding, SIZES)
    kept.forget()
    let_time_pass(tmp_path)
    (kept.path / binding.item).write_bytes(content)
    os.utime(kept.path / binding.item, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kept.stock.take(binding, SIZES) is None
    assert len(kept.said) == 1


def test_a_folder_that_is_moved_keeps_its_items(kept: Kept, tmp_path: Path) -> None:
    binding = kept.put()
    kept.path.rename(tmp_path / "elsewhere")
    kept.path = tmp_path / "elsewhere"
    assert same(kept.opened().take(binding, SIZES))


def test_another_name_of_a_consumed_items_file_is_empty(kept: Kept, tmp_path: Path) -> None:
    """A backup of hard links shares the file, and so its birth mark."""
    binding = kept.put()
    (tmp_path / "link").hardlink_to(kept.path / binding.item)
    assert same(kept.stock.take(binding, SIZES))
    assert (tmp_path / "link").read_bytes() == b""
    (tmp_path / "link").rename(kept.path / binding.item)
    kept.forget()
    assert kept.stock.take(binding, SIZES) is None


def test_what_is_reserved_is_reserved_for_one(kept: Kept) -> None:
    first, second = kept.put(1), kept.put(2)
    with kept.stock.reserved(WANTED, 1) as one, kept.opened().reserved(WANTED, 1) as other:
        assert (one, other) == ((first,), (second,))
        with kept.opened().reserved(WANTED, 1) as none:
            assert none == ()
    with kept.stock.reserved(WANTED, 2) as both:
        assert both == (first, second)
    with kept.stock.reserved(WANTED, 3) as too_many, kept.stock.reserved(WANTED, 2) as again:
        assert (too_many, again) == ((), ()) or again == (first, second)
    with kept.stock.reserved(replace(WANTED, version="2.0.0"), 1) as another:
        assert another == ()


def test_what_a_crash_left_is_cleaned_and_what_is_being_written_stays(kept: Kept) -> None:
    (kept.path / f"{INCOMING}{'0' * 16}").write_bytes(SECRET)
    with replacing_file(kept.path / name_of(1)) as file:
        file.write(SECRET)
        (writing,) = set(kept.names()) - {f"{INCOMING}{'0' * 16}"}
        assert kept.stock.bindings() == []
        assert kept.names() == [writing]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_nothing(kept: Kept, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(Path, "replace", fail)
        with pytest.raises(ConfigurationError) as caught:
            kept.put()
    assert "\n" not in str(caught.value)
    assert "No space left on device); free space or correct its permissions" in str(caught.value)
    assert kept.names() == []


def test_an_item_that_is_discarded_is_noted_and_one_that_is_not_kept_is_not(kept: Kept) -> None:
    binding = kept.put()
    for _ in range(2):
        kept.stock.discard(binding.name)
    kept.stock.discard(name_of(2))
    assert kept.names() == []
    assert kept.ledger.consumed(binding.name)
    assert not kept.ledger.consumed(name_of(2))


def test_an_unused_item_can_be_dropped(kept: Kept) -> None:
    binding = kept.put()
    kept.stock.drop(binding.name)
    kept.stock.drop(binding.name)
    assert kept.names() == []
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        kept.stock.drop(ItemName("../consumed"))
