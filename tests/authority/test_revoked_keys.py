"""A key that was revoked is never signed again, and nothing that was revoked is ever accepted again."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from typer.testing import CliRunner

from authority import command as federation_command
from authority import enrolment
from authority import signing as authority_module
from authority.certificates import PartyCertificate
from authority.enrolment import (
    create_renewal,
    create_request,
    install_certificate,
    install_revocations,
    load_key,
    locate_credentials,
    make_alternative_names,
    name_subject,
    read_request,
)
from authority.revocation import RevocationList
from authority.signing import Authority, Reason, create_authority
from contract.errors import CertificateRefused, ConfigurationError, EncryptedInferenceError, PeerViolation
from contract.files import replace as put
from contract.identity import Party, Role

HOSPITAL = Party(role=Role.DATA_OWNER, organisation="st-mary")
OTHER_ROLE = Party(role=Role.MODEL_OWNER, organisation="st-mary")
OTHER_HOSPITAL = Party(role=Role.DATA_OWNER, organisation="st-jane")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    create_authority(tmp_path / "authority")
    return Authority.open(tmp_path / "authority")


def certificate_of(pem: bytes) -> PartyCertificate:
    return PartyCertificate.parse(x509.load_pem_x509_certificate(pem))


def request_with(key_file: Path, party: Party, path: Path) -> Path:
    """A new request for a key that exists, as its thief makes it."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name_subject(party))
        .add_extension(make_alternative_names(party, ()), critical=False)
        .sign(load_key(key_file), hashes.SHA256())
    )
    path.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    return path


def federation(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(federation_command.app, [str(argument) for argument in arguments])
    if isinstance(result.exception, EncryptedInferenceError):
        return result.exception.exit_status, str(result.exception)
    return result.exit_code, result.output


def test_a_revoked_party_gets_a_new_key_as_it_is_documented(authority: Authority, tmp_path: Path) -> None:
    """Beside the files of before, on both machines, under the same names."""
    folder, out, where = tmp_path / "credentials", tmp_path / "data-owner.pem", ("--authority", authority.folder)
    party = ("--role", "data-owner", "--organisation", "st-mary", "--folder", folder)
    given = ("--authority", authority.folder / "authority.pem", "--revocations", authority.folder / "revoked.crl")
    enroll = ("enroll", folder / "data-owner.csr", *where, "--out", out, "--yes")
    assert federation("request", *party, "--host", "here.example")[0] == 0
    assert federation(*enroll)[0] == 0
    assert federation("install", out, *given, *party)[0] == 0
    old = certificate_of(out.read_bytes())
    assert federation("revoke", *where, *party[:4])[0] == 0
    assert federation("install", "--revocations", given[3], *party)[0] == 0
    for command in ("renew", "request"):
        status, words = federation(command, *party)
        assert (status, "--replace" in words) == (5, True), words
    assert all(str(folder / name) in words for name in ("data-owner.key", "data-owner.csr")), "both at once"
    status, words = federation("request", "--replace", *party)
    wanted = read_request(folder / "data-owner.csr")
    assert (status, wanted.fingerprint in words, wanted.hosts) == (0, True, ("here.example",))
    assert load_key(folder / "data-owner.key").public_key() == old.key, "in use until the new one is installed"
    assert federation(*enroll)[0] == 0
    assert federation("install", out, *party)[0] == 0
    new = PartyCertificate.read(folder / "data-owner.pem")
    assert load_key(folder / "data-owner.key").public_key() == new.key != old.key
    assert not authority.revocations().refuses(new)


def test_a_certificate_that_has_ended_is_not_renewed(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = tmp_path / "signed.pem"
    signed.write_bytes(authority.sign(read_request(create_request(HOSPITAL, tmp_path / "a")), days=1))
    install_certificate(HOSPITAL, tmp_path / "a", signed, authority=authority.folder / "authority.pem")
    late = datetime.now(UTC) + timedelta(days=2)
    monkeypatch.setattr(enrolment, "datetime", SimpleNamespace(now=lambda _: late))
    with pytest.raises(ConfigurationError, match="federation request --replace"):
        create_renewal(HOSPITAL, tmp_path / "a")


def test_what_stands_at_the_certificates_place_is_told_before_anybody_is_telephoned(
    authority: Authority, tmp_path: Path
) -> None:
    request = create_request(HOSPITAL, tmp_path / "a")
    others = tmp_path / "others.pem"
    others.write_bytes(authority.sign(read_request(create_request(OTHER_HOSPITAL, tmp_path / "b"))))
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    for out in (others, notes):
        before = out.read_bytes()
        status, words = federation("enroll", request, "--authority", authority.folder, "--out", out)
        assert (status, out.read_bytes()) == (5, before)
        assert "name another file with --out" in words
        assert "fingerprint" not in words


@pytest.mark.parametrize("reason", Reason)
def test_the_old_request_is_refused_after_the_revocation(authority: Authority, tmp_path: Path, reason: Reason) -> None:
    request = create_request(HOSPITAL, tmp_path / "a")
    where = ("--authority", authority.folder)
    assert federation("enroll", request, *where, "--out", tmp_path / "1.pem", "--yes")[0] == 0
    party = ("--role", "data-owner", "--organisation", "st-mary")
    assert federation("revoke", *where, *party, "--reason", reason.value)[0] == 0
    status, words = federation("enroll", request, *where, "--out", tmp_path / "2.pem", "--yes")
    assert (status, (tmp_path / "2.pem").exists()) == (3, False)
    assert "was revoked and is never signed again: on the party's machine, ask for a certificate for a new key" in words
    new = create_request(HOSPITAL, tmp_path / "b")
    assert federation("enroll", new, *where, "--out", tmp_path / "3.pem", "--yes")[0] == 0


@pytest.mark.parametrize("party", [HOSPITAL, OTHER_ROLE, OTHER_HOSPITAL], ids=str)
def test_a_revoked_key_is_refused_in_any_request(authority: Authority, tmp_path: Path, party: Party) -> None:
    certificate = certificate_of(authority.sign(read_request(create_request(HOSPITAL, tmp_path / "a"))))
    authority.revoke([certificate], Reason.KEY_COMPROMISE)
    again = read_request(request_with(tmp_path / "a" / "data-owner.key", party, tmp_path / "again.csr"))
    with pytest.raises(PeerViolation, match="was revoked and is never signed again"):
        authority.sign(again)


@pytest.mark.parametrize("party", [OTHER_ROLE, OTHER_HOSPITAL], ids=str)
def test_one_key_serves_one_party(authority: Authority, tmp_path: Path, party: Party) -> None:
    authority.sign(read_request(create_request(HOSPITAL, tmp_path / "a")))
    with pytest.raises(PeerViolation, match="is the data-owner of st-mary's"):
        authority.sign(read_request(request_with(tmp_path / "a" / "data-owner.key", party, tmp_path / "again.csr")))


def test_the_authoritys_own_key_is_no_partys(authority: Authority, tmp_path: Path) -> None:
    request = request_with(authority.folder / "authority.key", HOSPITAL, tmp_path / "own.csr")
    with pytest.raises(PeerViolation, match="the authority's own key"):
        authority.sign(read_request(request))


def test_every_certificate_of_a_key_goes_with_one_of_them(authority: Authority, tmp_path: Path) -> None:
    wanted = read_request(create_request(HOSPITAL, tmp_path / "a"))
    first, second = (certificate_of(authority.sign(wanted)) for _ in range(2))
    authority.revoke([first], Reason.SUPERSEDED)
    assert authority.revocations().revoked_at(second.serial) is not None


def ended(authority: Authority, certificate: PartyCertificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a certificate's time be over."""
    late = certificate.ends + timedelta(days=1)

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "datetime":  # type: ignore[override]
            del tz
            return late

    monkeypatch.setattr(authority_module, "datetime", Later)


def test_the_key_of_a_certificate_that_has_ended_can_be_revoked(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = read_request(create_request(HOSPITAL, tmp_path / "a"))
    certificate = certificate_of(authority.sign(wanted, days=1))
    ended(authority, certificate, monkeypatch)
    assert authority.issued_to(HOSPITAL) == [certificate]
    authority.revoke(authority.issued_to(HOSPITAL), Reason.KEY_COMPROMISE)
    with pytest.raises(PeerViolation, match="never signed again"):
        authority.sign(wanted)


class TestRenewal:
    def enrolled(self, authority: Authority, folder: Path) -> PartyCertificate:
        pem = authority.sign(read_request(create_request(HOSPITAL, folder)))
        (folder / "signed.pem").write_bytes(pem)
        return install_certificate(
            HOSPITAL, folder, folder / "signed.pem", authority=authority.folder / "authority.pem"
        )

    def test_a_renewal_made_before_the_revocation_is_refused(self, authority: Authority, tmp_path: Path) -> None:
        current = self.enrolled(authority, tmp_path / "a")
        renewal = create_renewal(HOSPITAL, tmp_path / "a")
        authority.revoke([current], Reason.KEY_COMPROMISE)
        status, words = federation("enroll", renewal, "--authority", authority.folder, "--out", tmp_path / "2.pem")
        assert status == 3
        assert "wants to renew was revoked" in words

    def test_a_renewal_to_a_revoked_key_is_refused(self, authority: Authority, tmp_path: Path) -> None:
        """A good certificate vouches for a key that is known to others."""
        stolen = certificate_of(authority.sign(read_request(create_request(HOSPITAL, tmp_path / "stolen"))))
        authority.revoke([stolen], Reason.KEY_COMPROMISE)
        self.enrolled(authority, tmp_path / "a")
        wanted = read_request(create_renewal(HOSPITAL, tmp_path / "a"))
        with pytest.raises(PeerViolation, match="never signed again"):
            authority.sign(replace(wanted, key=stolen.key))

    def test_a_renewal_brings_a_new_key(self, authority: Authority, tmp_path: Path) -> None:
        current = self.enrolled(authority, tmp_path / "a")
        wanted = read_request(create_renewal(HOSPITAL, tmp_path / "a"))
        assert wanted.renewal is not None
        proof = replace(wanted.renewal, signed=b"", signature=b"")
        object.__setattr__(proof, "is_made_with", lambda _key: True)
        with pytest.raises(PeerViolation, match="brings no new key"):
            authority.require_renewal(replace(wanted, key=current.key, renewal=proof))

    def test_what_a_revoked_certificate_vouched_for_is_named(self, authority: Authority, tmp_path: Path) -> None:
        """Whoever had the key may have renewed it: the operator is told of what stays good."""
        self.enrolled(authority, tmp_path / "a")
        first = tmp_path / "first.pem"
        shutil.copy(tmp_path / "a" / "data-owner.pem", first)
        wanted = read_request(create_renewal(HOSPITAL, tmp_path / "a"))
        renewed = certificate_of(authority.sign(wanted))
        status, words = federation("revoke", first, "--authority", authority.folder)
        assert status == 0
        assert f"Certificate {renewed.serial:x} of the data-owner of st-mary stays good" in words

    def test_a_revoked_certificate_is_not_installed(self, authority: Authority, tmp_path: Path) -> None:
        current = self.enrolled(authority, tmp_path / "a")
        path = authority.revoke([current], Reason.SUPERSEDED)
        with pytest.raises(ConfigurationError, match="was revoked, or its key was"):
            install_certificate(HOSPITAL, tmp_path / "a", tmp_path / "a" / "signed.pem", revocations=path)


class TestRestoredFolder:
    """The authority's folder comes back from a backup that knows nothing of the revocation."""

    @pytest.fixture
    def held(self, authority: Authority, tmp_path: Path) -> Path:
        """The list that a party holds; the folder has been set back to before the revoked key was ever signed."""
        shutil.copytree(authority.folder, tmp_path / "backup")
        wanted = read_request(create_request(HOSPITAL, tmp_path / "a"))
        authority.revoke([certificate_of(authority.sign(wanted))], Reason.KEY_COMPROMISE)
        held = tmp_path / "held.crl"
        shutil.copy(authority.folder / "revoked.crl", held)
        shutil.rmtree(authority.folder)
        shutil.copytree(tmp_path / "backup", authority.folder)
        return held

    def test_the_list_of_a_party_brings_the_refused_keys_back(
        self, authority: Authority, held: Path, tmp_path: Path
    ) -> None:
        status, _ = federation("revoke", "--known", held, "--authority", authority.folder)
        assert status == 0
        with pytest.raises(PeerViolation, match="never signed again"):
            authority.sign(read_request(tmp_path / "a" / "data-owner.csr"))
        now = authority.revocations()
        assert now.number > RevocationList.read(held, authority.certificate).number
        install_revocations(held, now.path, authority.certificate)

    @pytest.mark.parametrize("lists", [0, 1, 4])
    def test_parties_take_no_list_that_forgets(self, authority: Authority, held: Path, lists: int) -> None:
        """Whether its number is lower, the same or higher."""
        for _ in range(lists):
            authority.revoke([], Reason.SUPERSEDED)
        with pytest.raises(ConfigurationError, match="is older" if lists == 0 else "forgets what the list in use has"):
            install_revocations(held, authority.revocations().path, authority.certificate)

    def test_a_list_of_somebody_else_is_no_help(self, authority: Authority, tmp_path: Path) -> None:
        create_authority(tmp_path / "stranger")
        status, words = federation(
            "revoke", "--known", tmp_path / "stranger" / "revoked.crl", "--authority", authority.folder
        )
        assert status == 5
        assert "is not a list of revoked certificates that the authority signed" in words


def without_keys(authority: Authority, certificates: Sequence[PartyCertificate]) -> None:
    """A list as releases before this one signed it."""
    entries = [
        x509.RevokedCertificateBuilder().serial_number(one.serial).revocation_date(datetime.now(UTC)).build()
        for one in certificates
    ]
    path = authority.folder / "revoked.crl"
    signed = authority_module._signed_list(
        authority.key, authority.certificate, entries, number=2, now=datetime.now(UTC), days=90
    )
    put(path, signed, mode=0o644)


def test_a_list_of_an_earlier_release_is_completed(authority: Authority, tmp_path: Path) -> None:
    wanted = read_request(create_request(HOSPITAL, tmp_path / "a"))
    without_keys(authority, [certificate_of(authority.sign(wanted))])
    assert authority.revocations().keys == frozenset()
    with pytest.raises(PeerViolation, match="never signed again"):
        authority.sign(wanted)
    authority.revoke([], Reason.SUPERSEDED)
    assert authority.revocations().keys == {wanted.fingerprint}


def test_a_party_refuses_the_key_whoever_signed_for_it_again(authority: Authority, tmp_path: Path) -> None:
    """As if the authority had been talked into it: the list at each party decides."""
    wanted = read_request(create_request(HOSPITAL, tmp_path / "a"))
    first = certificate_of(authority.sign(wanted))
    listed = RevocationList.read(authority.revoke([first], Reason.KEY_COMPROMISE), authority.certificate)
    again = replace(first, serial=first.serial + 1)
    with pytest.raises(CertificateRefused, match="the key of the client, the data-owner of st-mary, was revoked"):
        listed.require_not_revoked(again, found_at="the client")
    assert listed.refuses(again)


class TestClock:
    @pytest.mark.parametrize("what", ["sign", "revoke"])
    def test_an_authority_whose_clock_is_behind_signs_nothing(
        self, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        wanted = read_request(create_request(HOSPITAL, tmp_path / "a"))
        certificate = certificate_of(authority.sign(wanted))
        early = replace(certificate, ends=certificate.begins - timedelta(days=2))
        ended(authority, early, monkeypatch)  # the clock says a day after that
        with pytest.raises(ConfigurationError, match=r"the clock of this machine is behind by 24 hours or more"):
            _ = authority.sign(wanted) if what == "sign" else authority.revoke([], Reason.SUPERSEDED)

    def test_a_certificate_that_has_ended_is_not_installed(self, authority: Authority, tmp_path: Path) -> None:
        folder = tmp_path / "a"
        create_request(HOSPITAL, folder)
        files = locate_credentials(HOSPITAL, folder)
        wanted = read_request(files.key.with_suffix(".csr"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Authority, "_now", lambda _self: datetime.now(UTC) - timedelta(days=9))
            (folder / "signed.pem").write_bytes(authority.sign(wanted, days=3))
        with pytest.raises(ConfigurationError, match="or set the clock if it is ahead"):
            install_certificate(HOSPITAL, folder, folder / "signed.pem", authority=authority.folder / "authority.pem")

    @pytest.mark.parametrize(
        ("days", "words"), [(1, "the clock of this machine is behind"), (-91, "or set the clock if it is ahead")]
    )
    def test_a_list_that_is_out_of_date_by_this_clock_is_not_installed(
        self, authority: Authority, tmp_path: Path, days: int, words: str
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Authority, "_now", lambda _self: datetime.now(UTC) + timedelta(days=days))
            path = authority.revoke([], Reason.SUPERSEDED, days=90)
        with pytest.raises(ConfigurationError, match=words):
            install_revocations(tmp_path / "revoked.crl", path, authority.certificate)
        assert not (tmp_path / "revoked.crl").exists()
