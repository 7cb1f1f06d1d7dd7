"""A front end alters one value of a card, whichever: the data owner refuses in one line, before it reads a picture.

Every value of a card with every field is tried, so a new field is tried from the day on which it is added
(`test_vouchers` checks that the card has them all).
"""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from authority.enrolment import load_key
from authority.vouching import sign_voucher
from contract.api import ModelEntry
from contract.errors import NotVouchedFor
from contract.identity import Credentials
from data_owner.catalog import require_vouched
from secure_computation.channel.tls import tls_context
from secure_computation.channel.trust import Trust
from tests.authority.test_vouchers import ENTRY, NOT_ALONE, Place, at, changed, enrolled, others, places, valid

WRITTEN: dict[str, Any] = json.loads(ENTRY.statement())
PLACES = {".".join(map(str, place)): place for place in places(WRITTEN) if place != ("voucher",)}


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return enrolled(tmp_path_factory.mktemp("laboratory"))


@pytest.fixture(scope="module")
def trust(laboratory: Credentials) -> Trust:
    return tls_context(laboratory, server_side=False).trust()


@pytest.fixture(scope="module")
def signed(laboratory: Credentials) -> ModelEntry:
    return ENTRY.model_copy(update={"voucher": sign_voucher(ENTRY.statement(), laboratory)})


def test_what_the_owner_signed_is_not_refused(signed: ModelEntry, trust: Trust) -> None:
    require_vouched(signed, trust)
    require_vouched(ModelEntry.model_validate_json(signed.model_dump_json()), trust)


@pytest.mark.parametrize("name", PLACES)
def test_one_altered_value_is_refused_in_one_line(name: str, signed: ModelEntry, trust: Trust) -> None:
    """Values that no card can have are refused as the front end's answer is read."""
    place: Place = PLACES[name]
    content = json.loads(signed.model_dump_json())
    altered = [valid(changed(content, place, value)) for value in others(at(WRITTEN, place))]
    readable = [entry for entry in altered if entry is not None and entry != signed]
    assert readable or name in NOT_ALONE
    for entry in readable:
        with pytest.raises(NotVouchedFor) as refused:
            require_vouched(entry, trust)
        assert "\n" not in str(refused.value)
        assert "nothing was sent" in str(refused.value)


def reordered(entry: ModelEntry) -> ModelEntry:
    first, second, *rest = entry.card.classes
    return entry.model_copy(update={"card": entry.card.model_copy(update={"classes": (second, first, *rest)})})


def newer(entry: ModelEntry) -> ModelEntry:
    return entry.model_copy(update={"version": "1.2.4", "card": entry.card.model_copy(update={"version": "1.2.4"})})


def renamed(entry: ModelEntry) -> ModelEntry:
    return entry.model_copy(update={"card": entry.card.model_copy(update={"name": "another"})})


def with_plan(entry: ModelEntry) -> ModelEntry:
    assert entry.card.references is not None
    references = entry.card.references.model_copy(update={"plan_hash": "0" * 64})
    card = entry.card.model_copy(update={"references": references})
    return entry.model_copy(update={"plan_hash": "0" * 64, "card": card})


def without_references(entry: ModelEntry) -> ModelEntry:
    return entry.model_copy(update={"card": entry.card.model_copy(update={"references": None})})


@pytest.mark.parametrize("alter", [reordered, newer, renamed, with_plan, without_references])
def test_a_signature_holds_for_no_other_version_model_or_plan(alter: Any, signed: ModelEntry, trust: Trust) -> None:
    """An old signature is put under another statement, whose values all fit together."""
    with pytest.raises(NotVouchedFor, match="is not what its owner, north-lab, signed"):
        require_vouched(alter(signed), trust)


def test_a_signature_of_an_earlier_form_of_the_statement_is_refused(laboratory: Credentials, trust: Trust) -> None:
    statement = b"encrypted-medical-inference/model-entry/2\n" + ENTRY.statement()
    signature = load_key(laboratory.key).sign(statement, ec.ECDSA(hashes.SHA256())).hex()
    voucher = sign_voucher(ENTRY.statement(), laboratory).model_copy(update={"signature": signature})
    with pytest.raises(NotVouchedFor, match="runs another release"):
        require_vouched(ENTRY.model_copy(update={"voucher": voucher}), trust)


def test_a_signature_of_another_federation_is_refused(trust: Trust, tmp_path: Path) -> None:
    """Its laboratory has the same name, and a certificate of its own authority."""
    voucher = sign_voucher(ENTRY.statement(), enrolled(tmp_path))
    with pytest.raises(NotVouchedFor, match="is not what its owner, north-lab, signed"):
        require_vouched(ENTRY.model_copy(update={"voucher": voucher}), trust)
