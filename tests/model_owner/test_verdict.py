"""What a record of a violation shows to somebody who has the authority's certificate and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from authority.certificates import PartyCertificate, read_certificate
from authority.enrolment import locate_credentials
from authority.revocation import RevocationList
from authority.signing import Authority, Reason, create_authority
from authority.vouching import Domain
from contract.errors import CallerError, EncryptedInferenceError, PeerViolation
from contract.identity import Party
from contract.violation import (
    LAST_MOMENT,
    MAX_RECORD_BYTES,
    DecoyStatement,
    Found,
    ItemOfParties,
    ViolationRecord,
    hash_messages,
)
from model_owner.command import app
from model_owner.verdict import ThirdParty, judge, read_record
from plumbing.command_line import run
from tests.model_owner.violation_records import (
    HOSPITAL,
    LABORATORY,
    OTHER_HOSPITAL,
    WRONG,
    Parties,
    digest,
    enrol_parties,
    item,
    messages,
    unsigned,
)


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return enrol_parties(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def written(parties: Parties, tmp_path: Path) -> Callable[[ViolationRecord], Path]:
    def write(record: ViolationRecord) -> Path:
        path = tmp_path / f"{uuid4()}.json"
        path.write_bytes(record.encode())
        return path

    return write


def refusal(record: ViolationRecord, trust: ThirdParty) -> str:
    with pytest.raises(PeerViolation) as caught:
        judge(record, trust)
    words = str(caught.value)
    assert words.startswith("the record shows nothing: ")
    assert "\n" not in words
    return words


class TestWhatStands:
    def test_a_client_that_signed_a_wrong_answer_to_the_dealers_opening_cannot_deny_it(self, parties: Parties) -> None:
        verdict = judge(parties.record(), parties.outsider)
        assert verdict.stands
        assert "'answer, relu1 (1)'" in " ".join(verdict.shown)
        assert "Why: intent, a changed program and a faulty machine look the same." in verdict.not_shown

    @pytest.mark.parametrize("position", [1, 3, 5])
    def test_whichever_answer_was_the_first_wrong_one(self, parties: Parties, position: int) -> None:
        record = parties.record(seen=messages(wrong=position), position=position)
        assert judge(record, parties.outsider).stands

    def test_a_record_reads_back_as_it_was_written(
        self, parties: Parties, written: Callable[[ViolationRecord], Path]
    ) -> None:
        record = parties.record()
        assert read_record(written(record)) == record

    def test_a_client_that_hung_up_unsigned_is_accused_on_the_model_owners_word_alone(self, parties: Parties) -> None:
        seen = messages(wrong=WRONG, until=WRONG + 1)
        verdict = judge(unsigned(parties, seen), parties.outsider)
        assert not verdict.stands
        assert "before it had signed" in " ".join(verdict.not_shown)

    def test_an_upload_that_was_wrong_is_the_model_owners_word(self, parties: Parties) -> None:
        right = messages()
        record = parties.record(seen=right, found=Found.UPLOAD, position=0)
        verdict = judge(record, parties.outsider)
        assert not verdict.stands
        assert "'hidden share, relu0 (0)' was wrong" in " ".join(verdict.not_shown)
        assert "The data-owner of st-mary signed what it had sent ahead for this item." in verdict.shown


class TestFraming:
    """A model owner that wants an honest client to look like a cheat."""

    def test_the_right_answers_make_no_violation(self, parties: Parties) -> None:
        words = refusal(parties.record(seen=messages()), parties.outsider)
        assert "is the one that the crypto-provider of trust-centre says is right" in words

    def test_another_opening_than_the_dealers_explains_any_answer(self, parties: Parties) -> None:
        """P1 sends an opening of its own and gets the honest answer to that, signed."""
        seen = list(messages(wrong=WRONG))
        seen[2] = seen[2].model_copy(update={"sha256": digest("P1's own")})
        words = refusal(parties.record(seen=tuple(seen)), parties.outsider)
        assert (
            "message 3, 'opening, relu1 (1)', is not the one that the crypto-provider of trust-centre stated" in words
        )

    def test_openings_that_the_client_did_not_get_are_none_that_it_signed(self, parties: Parties) -> None:
        """P1 lists the dealer's opening in place of the one that it sent."""
        sent = list(messages(wrong=WRONG))
        sent[2] = sent[2].model_copy(update={"sha256": digest("P1's own")})
        signed = parties.state(messages=hash_messages(sent))
        assert "signed other messages" in refusal(parties.record(signed=signed), parties.outsider)

    def test_answers_in_another_order_or_place_are_none_of_the_dealers(self, parties: Parties) -> None:
        seen = messages()
        moved = (seen[0], seen[1], seen[2], seen[5])
        assert "stated no answer in the place" in refusal(parties.record(seen=moved, position=3), parties.outsider)

    def test_more_answers_than_the_dealer_stated_show_nothing(self, parties: Parties) -> None:
        decoy = DecoyStatement(item=item(), at=parties.now, messages=messages(until=2))
        record = parties.record(decoy=decoy)
        assert "message 3" in refusal(record, parties.outsider)
        just_after = DecoyStatement(item=item(), at=parties.now, messages=messages(until=3))
        assert "stated no answer" in refusal(parties.record(decoy=just_after), parties.outsider)

    @pytest.mark.parametrize(
        ("part", "signer"),
        [("by", LABORATORY), ("by", OTHER_HOSPITAL), ("dealt_by", LABORATORY), ("accuser", HOSPITAL)],
    )
    def test_nobody_signs_in_anothers_name(self, parties: Parties, part: str, signer: Party) -> None:
        named: dict[str, Any] = {part: signer}
        words = refusal(parties.record(**named), parties.outsider)
        assert f"is signed by the {signer}" in words

    def test_a_statement_of_one_kind_is_none_of_another(self, parties: Parties) -> None:
        record = parties.record()
        assert record.signed is not None
        voucher = parties.sign(HOSPITAL, record.signed.statement(), Domain.MODEL_ENTRY)
        record = parties.accuse(record.model_copy(update={"signed_voucher": voucher}))
        assert "its part of the data-owner of st-mary is not signed" in refusal(record, parties.outsider)

    def test_of_another_authority_nothing_counts(self, parties: Parties, tmp_path: Path) -> None:
        create_authority(tmp_path / "other")
        other = ThirdParty(authority=read_certificate(tmp_path / "other" / "authority.pem"))
        assert "not signed with a certificate of this authority" in refusal(parties.record(), other)


class TestReplay:
    """Signatures that are genuine, and of something else."""

    @pytest.mark.parametrize(
        "change",
        [
            {"item": item("another")},
            {"item": item(deal_tag="f0" * 16)},
            {"item": item(plan_hash=digest("another plan"))},
            {"session": UUID(int=9)},
            {"ticket": UUID(int=9)},
        ],
        ids=["item", "dealing", "plan", "session", "ticket"],
    )
    def test_what_the_client_signed_elsewhere_says_nothing_here(self, parties: Parties, change: dict[str, Any]) -> None:
        words = refusal(parties.record(signed=parties.state(**change)), parties.outsider)
        assert "data-owner of st-mary signed is about another item or session" in words

    @pytest.mark.parametrize(
        "other",
        [item("another"), item(deal_tag="f0" * 16), item(data_owner="st-anne")],
        ids=["item", "dealing", "whom"],
    )
    def test_what_the_dealer_signed_of_another_item_says_nothing_here(
        self, parties: Parties, other: ItemOfParties
    ) -> None:
        decoy = DecoyStatement(item=other, at=parties.now, messages=messages())
        words = refusal(parties.record(decoy=decoy), parties.outsider)
        assert "crypto-provider of trust-centre signed is about another item" in words

    def test_parts_that_cannot_have_come_about_in_this_order_are_refused(self, parties: Parties) -> None:
        late = DecoyStatement(item=item(), at=parties.now + 4000, messages=messages())
        assert "not signed in the order" in refusal(parties.record(decoy=late), parties.outsider)


class TestCertificates:
    @pytest.mark.parametrize("away", [-3600, 400 * 24 * 3600])
    def test_one_that_was_not_valid_when_it_signed_signs_nothing(self, parties: Parties, away: int) -> None:
        at = parties.now + away
        words = refusal(parties.record(signed=parties.state(at=at)), parties.outsider)
        assert "the certificate of the data-owner of st-mary was not valid on" in words
        words = refusal(parties.record(at=at), parties.outsider)
        assert "the certificate of the model-owner of north-lab was not valid on" in words

    def test_the_last_moment_that_a_record_can_name_has_a_date(self, parties: Parties) -> None:
        last = LAST_MOMENT - 1
        assert "was not valid on" in refusal(parties.record(signed=parties.state(at=last), at=last), parties.outsider)

    def test_one_that_was_revoked_later_has_signed_all_the_same(self, parties: Parties, tmp_path: Path) -> None:
        folder = tmp_path / "authority"
        folder.mkdir()
        for path in (parties.folder / "authority").iterdir():
            if path.is_file():
                (folder / path.name).write_bytes(path.read_bytes())
        (folder / "issued").mkdir()
        authority = Authority.open(folder)
        certificate = PartyCertificate.read(locate_credentials(HOSPITAL, parties.folder / "st-mary").certificate)
        listed = RevocationList.read(authority.revoke([certificate], Reason.KEY_COMPROMISE), authority.certificate)
        trust = ThirdParty(authority=authority.certificate, revocations=listed)
        revoked = listed.revoked_at(certificate.serial)
        assert revoked is not None
        before = int(revoked.timestamp()) - 1
        assert judge(parties.record(signed=parties.state(at=before), at=before + 60), trust).stands
        assert "had been revoked" in refusal(parties.record(signed=parties.state(at=before + 60)), trust)

    def test_without_a_list_it_says_that_nobody_looked(self, parties: Parties) -> None:
        assert "Whether a certificate was revoked before" in judge(parties.record(), parties.outsider).not_shown[-1]


class TestFiles:
    def test_any_byte_that_is_altered_makes_it_show_nothing(
        self, parties: Parties, written: Callable[[ViolationRecord], Path], tmp_path: Path
    ) -> None:
        content = written(parties.record()).read_bytes()
        path = tmp_path / "altered.json"
        for place in range(0, len(content), 61):
            flip = (0x01, 0x20)[
                place % 2
            ]  # the second turns capitals into small letters, and a line's end into an asterisk
            path.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
            with pytest.raises(EncryptedInferenceError):
                judge(read_record(path), parties.outsider)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{}",
            b"[" * 100_000,
            b'{"at":1,"at":1}',
            b"\xff\xfe",
            b'{"at":' + b"9" * 5000 + b"}",
            b"null\n",
        ],
        ids=["empty", "no fields", "nested", "twice", "no text", "a long number", "null"],
    )
    def test_what_is_no_record_is_refused_in_one_line(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "record.json"
        path.write_bytes(content)
        with pytest.raises(CallerError) as caught:
            read_record(path)
        assert str(caught.value) == (
            f"{path}: is not a record of a violation as it was written; give the file that the model owner kept"
        )

    def test_spaces_or_another_order_are_no_record(
        self, parties: Parties, written: Callable[[ViolationRecord], Path]
    ) -> None:
        path = written(parties.record())
        path.write_bytes(path.read_bytes().replace(b'"account":', b'"account": '))
        with pytest.raises(CallerError):
            read_record(path)

    def test_a_file_beyond_the_bound_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "record.json"
        with path.open("wb") as file:
            file.truncate(MAX_RECORD_BYTES + 1)
        with pytest.raises(EncryptedInferenceError, match="larger than"):
            read_record(path)


class TestCommand:
    def verdict(self, parties: Parties, path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
        authority = parties.folder / "authority" / "authority.pem"
        with pytest.raises(SystemExit) as caught:
            run(app, name="model-owner", arguments=["verdict", str(path), "--authority", str(authority)])
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    def test_it_says_in_plain_words_what_is_shown_and_what_is_not(
        self, parties: Parties, written: Callable[[ViolationRecord], Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, out, err = self.verdict(parties, written(parties.record()), capsys)
        assert (status, err) == (0, "")
        assert "against the data-owner of st-mary\nShown:\n" in out
        assert "\nNot shown:\n" in out

    def test_what_stands_on_the_model_owners_word_is_told_apart_by_the_exit_status(
        self, parties: Parties, written: Callable[[ViolationRecord], Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        seen = messages(wrong=WRONG, until=WRONG + 1)
        status, out, err = self.verdict(parties, written(unsigned(parties, seen)), capsys)
        assert status == PeerViolation.exit_status
        assert "before it had signed" in out
        assert err.endswith("shows nobody but the model owner that data-owner of st-mary deviated\n")

    def test_one_that_the_model_owner_made_up_is_refused_in_one_line(
        self, parties: Parties, written: Callable[[ViolationRecord], Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, out, err = self.verdict(parties, written(parties.record(seen=messages())), capsys)
        assert (status, out, err.count("\n")) == (PeerViolation.exit_status, "", 1)
        assert err.startswith("model-owner: the record shows nothing: ")
