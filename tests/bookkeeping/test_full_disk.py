"""What is kept on disk survives a disk that fills up in the middle of a write: whole or absent, and writable later."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from authority.enrolment import create_request, read_request
from authority.signing import Authority, Reason, create_authority
from bookkeeping.spending import Charge, SpendingBook
from bookkeeping.used_tickets import TicketUse
from contract.allowance import Allowance, Holder
from contract.errors import ConfigurationError, EncryptedInferenceError, PeerViolation
from contract.files import create, write_new
from contract.identity import Party, Role
from contract.ticket import Purpose, new_signing_key
from crypto_provider.dealer import load_or_make_key
from data_owner.masked_weights import MaskedWeightsFolder
from federated_learning.checkpoints import save
from federated_learning.rounds.hospital_session import HISTORY
from federated_learning.rounds.hospital_session import _read_history as kept_history
from federated_learning.rounds.participants import make_hospital_keys
from plumbing.settings import AtRest
from secure_computation.at_rest import StorageKey, write_sealed
from secure_computation.engines.masked.session.stock import stockable
from secure_computation.engines.masked.session.weights import linear_steps
from tests.federated_learning.secure_aggregation.rounds import make_terms, signing_keys
from tests.full_disk import is_limited, no_file_beyond

if TYPE_CHECKING:
    from tests.end_to_end.federation import Federation

OWNER = Party(role=Role.DATA_OWNER, organisation="st-mary")
KEY = StorageKey.of(AtRest.model_validate({"key": "ab" * 32}))


def sign(folder: Path) -> None:
    if not (folder / "authority").exists():
        create_authority(folder / "authority")
        create_request(OWNER, folder / "party")
    Authority.open(folder / "authority").sign(read_request(folder / "party" / "data-owner.csr"))


WRITERS: dict[str, tuple[Callable[[Path], object], int]] = {
    "a certificate": (sign, 300),
    "an authority's key": (lambda folder: create_authority(folder / "authority"), 100),
    "an authority's certificate": (lambda folder: create_authority(folder / "authority"), 300),
    "a party's key": (lambda folder: create_request(OWNER, folder / "party"), 100),
    "a party's request": (lambda folder: create_request(OWNER, folder / "party"), 250),
    "a ticket key": (new_signing_key, 30),
    "its other half": (new_signing_key, 115),
    "a hospital's keys": (lambda folder: make_hospital_keys("north", folder / "keys"), 300),
    "a new file": (lambda folder: write_new(folder / "file", bytes(100), mode=0o600), 50),
    "a clinician's file": (lambda folder: create(folder / "file", bytes(100)), 50),
    "a sealed file": (lambda folder: write_sealed(folder / "f", KEY, bytes(100), purpose="test", context="f"), 50),
    "a checkpoint": (lambda folder: save({"weights": np.zeros(100)}, folder / "round.npz"), 50),
    "the dealer's key": (lambda folder: load_or_make_key(folder, KEY), 50),
}


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", WRITERS)
def test_a_file_is_whole_or_absent_and_can_be_written_later(tmp_path: Path, what: str) -> None:
    write, length = WRITERS[what]
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    if what == "a certificate":
        write(folder)
    before = files_in(folder)
    assert is_limited(10, str(tmp_path / "probe"))
    with no_file_beyond(length), pytest.raises((EncryptedInferenceError, OSError)):
        write(folder)
    assert files_in(folder) == before
    write(folder)
    assert len(files_in(folder)) > len(before)


def test_revoking_goes_on_after_a_full_disk(tmp_path: Path) -> None:
    """A half-written certificate among those that were issued would stop it."""
    sign(tmp_path)
    authority = Authority.open(tmp_path / "authority")
    with no_file_beyond(300):
        with pytest.raises(ConfigurationError):
            sign(tmp_path)
        with pytest.raises(ConfigurationError):
            authority.revoke(authority.issued(), Reason.KEY_COMPROMISE)
    authority.revoke(authority.issued(), Reason.KEY_COMPROMISE)
    assert len(list(authority.revocations().parsed)) == 1


def test_a_book_of_budgets_counts_what_it_said_it_counted(tmp_path: Path) -> None:
    """What a full disk refused is not counted, and its ticket not used."""
    book = SpendingBook(tmp_path / "book.sqlite")
    holder = Holder(whose="st-mary", ask="somebody")

    def spend(session: str) -> None:
        order = Charge(peer="st-mary", subject="model", purpose=Purpose.DIAGNOSE, amount=1)
        ticket = TicketUse(name=session, until=1 << 40)
        book.spend(order, Allowance(images=2, sessions_per_minute=100), holder, ticket=ticket)

    spend("first")
    with no_file_beyond(4096), pytest.raises(ConfigurationError, match="free space"):
        spend("second")
    spend("second")
    with pytest.raises(EncryptedInferenceError, match="2 images"):
        spend("third")


def test_what_a_hospital_answered_in_training_is_whole(tmp_path: Path) -> None:
    """It answers nothing that it could not note, and reads its notes after a restart."""
    keys = signing_keys(3)
    history = kept_history(tmp_path)
    history.begin(make_terms(keys, round_number=1))
    with no_file_beyond(10), pytest.raises(ConfigurationError, match="cannot be written"):
        history.begin(make_terms(keys, round_number=2))
    again = kept_history(tmp_path)
    again.begin(make_terms(keys, round_number=2))
    with pytest.raises(PeerViolation, match="is run once"):
        again.begin(make_terms(keys, round_number=1))
    assert [path.name for path in tmp_path.iterdir()] == [HISTORY]


def test_halves_of_masked_weights_do_not_fill_the_disk_further(federation: "Federation", tmp_path: Path) -> None:
    lowering = stockable(federation.model.plan)
    zeros = {step.name: np.zeros(step.weight_shape, np.uint32) for _, step in linear_steps(lowering)}
    folder = MaskedWeightsFolder(tmp_path / "weights", key=KEY)
    with no_file_beyond(200), pytest.raises(ConfigurationError, match="free space"):
        folder.save("north-lab", "ab" * 16, lowering, zeros)
    assert list((tmp_path / "weights").iterdir()) == []
    folder.save("north-lab", "ab" * 16, lowering, zeros)
    assert len(list((tmp_path / "weights").iterdir())) == 1
