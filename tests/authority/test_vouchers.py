"""What a card's hash and a model owner's signature cover: every field, however it is written or kept."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from authority.certificates import read_certificate
from authority.enrolment import create_request, install_certificate, locate_credentials
from authority.signing import create_authority
from authority.vouching import find_signer, sign_voucher
from contract.api import ModelEntry, PartyAddress, Voucher
from contract.errors import ConfigurationError
from contract.identity import Credentials, Party, Role
from contract.model_card import Arithmetic, ModelCard, OutputPolicy, Task
from contract.ticket import Engine
from tests.signed_requests import sign_request

CARD = ModelCard.model_validate(
    {
        "name": "tiny",
        "version": "1.2.3",
        "title": "Tiny, für Kinder \u2013 \U0001fac1",
        "intended_use": "tests\nof several lines",
        "task": "multi-label",
        "input": {
            "modalities": ["CR", "DX"],
            "body_parts": ["CHEST", "THORAX"],
            "views": ["AP", "PA"],
            "ages": {"youngest": 1, "oldest": 5},
            "channels": 3,
            "height": 224,
            "width": 320,
            "window": {"center": 40.5, "width": 400},
            "frame": "first",
            "colour": "luminance",
            "mean": [0.1, 0.2, 0.30000000000000004],
            "standard_deviation": [0.25, 1e-5, 123456.789],
        },
        "classes": ["normal", "bacteria", "virus"],
        "thresholds": {"normal": 0.4, "virus": 0.6},
        "calibration_temperature": 1.37,
        "output_policy": "logits-and-heat-map",
        "metrics": [
            {"name": "auc", "value": 0.9, "interval_95": [0.85, 0.95], "data_set": "a", "split": "b", "examples": 624}
        ],
        "training": "somewhere",
        "federation": {
            "hospitals": ["st-mary", "st-anne"],
            "rounds": 20,
            "chosen_round": 12,
            "restarted_rounds": 1,
            "method": "FedAvg",
            "local_batches": 16,
            "examples": 5000,
            "class_counts": {"normal": 1000, "virus": 4000},
            "secure_aggregation": {"bits": 32, "clip": 1.5, "group": "x25519"},
            "software": {"torch": "2.5"},
        },
        "citations": ["one", "two"],
        "model_sha256": "ab" * 32,
        "references": {
            "plan_hash": "cd" * 32,
            "pictures": [
                {
                    "file_sha256": "ef" * 32,
                    "input_sha256": "12" * 32,
                    "numbers": [-70000, 0, 123456, 5, -6, 7],
                    "tolerances": [8, 9, 10, 1, 2, 3],
                },
            ],
        },
    }
)
ENTRY = ModelEntry(
    card=CARD,
    version="1.2.3",
    plan_hash="cd" * 32,
    engines=(Engine.MASKED, Engine.CRYPTEN),
    model_owner=PartyAddress(organisation="north-lab", address="wss://north.example/v2"),
    crypto_provider=PartyAddress(organisation="trust-centre", address="wss://trust.example/v2"),
)
NOT_ALONE = {
    "version",
    "plan_hash",
    "model_owner",
    "crypto_provider",
    "card.version",
    "card.task",
    "card.input.resize",
    "card.input.channels",
    "card.classes.0",
    "card.classes.2",
    "card.uncertain_below",
    "card.output_policy",
    "card.arithmetic",
    "card.references.plan_hash",
    "card.references.pictures",
}
"""What has one value only, or none that fits if nothing else is changed with it."""

Place = tuple[str | int, ...]


def places(content: Any, place: Place = ()) -> Iterator[Place]:
    """Of every value that holds no others, of every list and of every object."""
    if place:
        yield place
    if isinstance(content, dict | list):
        for key, inner in content.items() if isinstance(content, dict) else enumerate(content):
            yield from places(inner, (*place, key))


def others(value: Any) -> Iterator[Any]:
    """Values of the same kind that a field might have in place of this one."""
    match value:
        case dict():
            yield from ({key: inner for key, inner in value.items() if key != left_out} for left_out in value)
            yield None
        case list():
            yield [*value[1:], value[0]]
            yield value[:-1]
            yield []
        case str():
            words = {
                "classification",
                "middle",
                "refuse",
                "exact",
                "logits",
                "label-only",
                "MG",
                "LL",
                "masked",
                "crypten",
                "dithered",
            }
            yield from (f"{value}x", value[:-1], value.replace("a", "b"), *(words - {value}), "1.2.4", "0" * 64)
        case int():
            yield from (value + 1, 1 if value == 3 else 3)
        case float():
            yield from (value * 1.0000000001, value / 2)
        case None:
            yield from (0.5, {"certificate": "x"})


def changed(content: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return dict(copy)


def valid(content: dict[str, Any]) -> ModelEntry | None:
    try:
        return ModelEntry.model_validate_json(json.dumps(content))
    except ValidationError:
        return None


def at(content: Any, place: Place) -> Any:
    for key in place:
        content = content[key]
    return content


def test_the_entry_of_these_tests_has_every_field() -> None:
    """Else a new field could be left out of what follows."""
    written = ENTRY.model_dump(mode="json")
    empty = {".".join(map(str, place)) for place in places(written) if at(written, place) in (None, [], {})}
    assert empty == {"card.uncertain_below", "voucher"}


def test_a_statement_reads_back_as_the_entry_so_no_other_entry_has_it() -> None:
    assert ModelEntry.model_validate_json(ENTRY.statement()) == ENTRY
    assert ENTRY.model_copy(update={"voucher": Voucher(certificate="x", signature="ab" * 20)}).statement() == (
        ENTRY.statement()
    )


def test_any_field_that_is_changed_changes_the_statement_and_the_hash() -> None:
    written = ENTRY.model_dump(mode="json")
    del written["voucher"]
    unchanged = set[str]()
    for place in places(written):
        name = ".".join(str(part) for part in place)
        found = [valid(changed(written, place, value)) for value in others(at(written, place))]
        different = [entry for entry in found if entry is not None and entry != ENTRY]
        if not different:
            unchanged.add(name)
        for entry in different:
            assert entry.statement() != ENTRY.statement(), name
            assert (entry.card.card_hash() != CARD.card_hash()) == (place[0] == "card"), name
    assert unchanged == NOT_ALONE


def test_what_cannot_be_changed_alone_counts_as_well() -> None:
    for field, value in (
        ("version", "9.9.9"),
        ("task", Task.BINARY),
        ("classes", ("a", "b")),
        ("uncertain_below", 0.7),
        ("output_policy", OutputPolicy.LOGITS),
        ("arithmetic", Arithmetic.EXACT),
        ("references", CARD.references and CARD.references.model_copy(update={"plan_hash": "0" * 64})),
        ("references", CARD.references and CARD.references.model_copy(update={"pictures": ()})),
    ):
        assert CARD.model_copy(update={field: value}).card_hash() != CARD.card_hash()
    assert ENTRY.model_copy(update={"plan_hash": "0" * 64}).statement() != ENTRY.statement()
    for field, value in (("channels", 1), ("height", 8)):
        other = CARD.input.model_copy(update={field: value})
        assert CARD.model_copy(update={"input": other}).card_hash() != CARD.card_hash()


def test_how_a_card_is_written_does_not_count() -> None:
    """Order, spaces, escapes, 400 or 400.0, and whether a default is written."""
    written = json.loads(CARD.model_dump_json())
    del written["input"]["resize"], written["uncertain_below"]
    backwards = dict(reversed(written.items()))
    backwards["input"]["window"]["width"] = 400
    backwards["thresholds"] = {"virus": 6e-1, "normal": 0.40}
    for text in (json.dumps(backwards, indent=3), json.dumps(backwards, ensure_ascii=False)):
        assert ModelCard.model_validate_json(text).card_hash() == CARD.card_hash()


def test_a_card_keeps_its_hash_through_any_number_of_databases() -> None:
    card = CARD
    for _ in range(3):
        card = ModelCard.model_validate_json(card.model_dump_json())
        assert card.card_hash() == CARD.card_hash()


def test_the_hash_is_the_same_in_every_release() -> None:
    """Change this only with the version of the statement that is signed: other parties would refuse the card."""
    small = CARD.model_copy(update={"federation": None, "metrics": (), "title": "Tiny"})
    assert small.card_hash() == "9744fe448a815630a97799eab994e502837165cf77cfb75c72c1f67fe650405d"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_json_does_not_have_is_in_no_card(number: str) -> None:
    """It would be kept as null, and be another card when it is read again."""
    for place in (
        ("metrics", 0, "value"),
        ("metrics", 0, "interval_95", 1),
        ("federation", "secure_aggregation", "clip"),
    ):
        written = changed(CARD.model_dump(mode="json"), place, "HERE")
        with pytest.raises(ValidationError):
            ModelCard.model_validate_json(json.dumps(written).replace('"HERE"', number))


def test_unknown_fields_are_in_no_card_and_no_entry() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        ModelCard.model_validate(CARD.model_dump() | {"more": 1})
    with pytest.raises(ValidationError, match="Extra inputs"):
        ModelEntry.model_validate(ENTRY.model_dump() | {"more": 1})


# Signatures


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return enrolled(tmp_path_factory.mktemp("laboratory"))


def enrolled(folder: Path) -> Credentials:
    party = Party(role=Role.MODEL_OWNER, organisation="north-lab")
    create_authority(folder / "authority")
    signed = folder / "signed.pem"
    signed.write_bytes(sign_request(folder / "authority", create_request(party, folder / "own")))
    authority = folder / "authority"
    install_certificate(
        party, folder / "own", signed, authority=authority / "authority.pem", revocations=authority / "revoked.crl"
    )
    return locate_credentials(party, folder / "own")


def test_a_voucher_holds_for_what_was_signed_and_by_its_authority(laboratory: Credentials, tmp_path: Path) -> None:
    statement, authority = ENTRY.statement(), read_certificate(laboratory.authority)
    voucher = Voucher.model_validate_json(sign_voucher(statement, laboratory).model_dump_json())
    assert find_signer(voucher, statement, authority) is not None
    assert find_signer(voucher, statement + b" ", authority) is None
    other = enrolled(tmp_path)
    assert find_signer(voucher, statement, read_certificate(other.authority)) is None
    of_others = sign_voucher(statement, other)
    mixed = Voucher(certificate=of_others.certificate, signature=voucher.signature)
    assert find_signer(mixed, statement, read_certificate(other.authority)) is None


def test_a_certificate_that_is_none_holds_for_nothing(laboratory: Credentials) -> None:
    statement, authority = ENTRY.statement(), read_certificate(laboratory.authority)
    voucher = sign_voucher(statement, laboratory)
    for text in (
        "",
        "x",
        voucher.certificate * 2,
        voucher.certificate.replace("M", "N"),
        "\u00fc",
        laboratory.key.read_text(),
    ):
        assert find_signer(voucher.model_copy(update={"certificate": text}), statement, authority) is None
    for signature in ("00" * 40, "30" * 80, voucher.signature[:-2]):
        assert find_signer(voucher.model_copy(update={"signature": signature}), statement, authority) is None


def test_any_byte_of_a_certificate_that_is_changed_makes_it_hold_for_nothing(laboratory: Credentials) -> None:
    """Nor does the library's opinion of a serial number below 0, or of an algorithm that it lacks, get out."""
    statement, authority = ENTRY.statement(), read_certificate(laboratory.authority)
    voucher = sign_voucher(statement, laboratory)
    encoded = read_certificate(laboratory.certificate).public_bytes(Encoding.DER)
    for place in range(len(encoded)):
        damaged = encoded[:place] + bytes([encoded[place] ^ 0x81]) + encoded[place + 1 :]
        text = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(damaged).decode()}\n-----END CERTIFICATE-----\n"
        assert find_signer(voucher.model_copy(update={"certificate": text}), statement, authority) is None


def test_a_key_of_another_certificate_signs_nothing(laboratory: Credentials, tmp_path: Path) -> None:
    mixed = Credentials(key=enrolled(tmp_path).key, certificate=laboratory.certificate, authority=laboratory.authority)
    with pytest.raises(ConfigurationError, match="restore them"):
        sign_voucher(b"", mixed)
