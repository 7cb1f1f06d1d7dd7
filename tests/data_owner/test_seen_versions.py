"""A front end that goes back to an older version of a model, which its owner has signed as well, is noticed."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from contract.files import replace
from contract.model_card import OutputPolicy
from contract.ticket import Engine, Purpose, TicketClaims
from data_owner.seen_versions import CODE, FILE, SeenVersions


def claims(version: str, *, model: str = "tiny", owner: str = "north-lab") -> TicketClaims:
    now = int(datetime.now(UTC).timestamp())
    return TicketClaims(
        jti=uuid4(),
        session=uuid4(),
        purpose=Purpose.DIAGNOSE,
        account="test",
        model=model,
        version=version,
        plan_hash="0" * 64,
        card_hash="0" * 64,
        engine=Engine.MASKED,
        data_owner="st-mary",
        model_owner=owner,
        crypto_provider="trust-centre",
        output_policy=OutputPolicy.LOGITS,
        iat=now,
        exp=now + 300,
    )


def test_an_older_version_than_was_used_before_is_warned_of(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert SeenVersions(folder).note(claims("1.9.0")) == ()
    assert SeenVersions(folder).note(claims("1.10.0")) == ()
    assert SeenVersions(folder).note(claims("1.10.0")) == ()
    (warned,) = SeenVersions(folder).note(claims("1.9.0"))
    assert warned.code == CODE
    assert "this is version 1.9.0, and version 1.10.0 of this model was used here before" in warned.text
    assert len(SeenVersions(folder).note(claims("1.9.0"))) == 1, "not the first time only"
    assert SeenVersions(folder).note(claims("1.0.0", model="another")) == ()
    assert SeenVersions(folder).note(claims("1.0.0", owner="south-lab")) == ()
    assert SeenVersions(folder).note(claims("2.0.0")) == ()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"versions": {"a": "x"}}', b"[" * 100_000, b"\xff"])
def test_a_damaged_file_stops_no_answer(tmp_path: Path, content: bytes) -> None:
    replace(tmp_path / FILE, content)
    assert SeenVersions(tmp_path).note(claims("1.0.0")) == ()
    assert len(SeenVersions(tmp_path).note(claims("0.9.0"))) == 1


def test_a_folder_that_cannot_be_written_stops_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert SeenVersions(tmp_path / "file").note(claims("1.0.0")) == ()
