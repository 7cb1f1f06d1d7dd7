"""Clocks, revocation and renewal: what changes in the files holds from the next connection on, and not before."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from authority.certificates import PartyCertificate
from authority.enrolment import (
    create_renewal,
    create_request,
    install_certificate,
    install_revocations,
    locate_credentials,
    read_request,
)
from authority.signing import Authority, Reason, create_authority
from contract.errors import CertificateRefused, ConfigurationError, PeerReported, PeerViolation
from contract.identity import Credentials, Party
from secure_computation.channel.tls import TlsContext, tls_context
from tests.secure_computation.channel.conftest import HOSPITAL, LABORATORY
from tests.secure_computation.channel.handshakes import at, meet


@pytest.fixture
def federation(tmp_path: Path) -> Authority:
    create_authority(tmp_path / "authority")
    return Authority.open(tmp_path / "authority")


def enrolled(authority: Authority, party: Party, folder: Path, *, days: int = 365) -> Credentials:
    request = create_request(party, folder)
    signed = folder / "signed.pem"
    signed.write_bytes(authority.sign(read_request(request), days=days))
    install_certificate(
        party,
        folder,
        signed,
        authority=authority.folder / "authority.pem",
        revocations=authority.folder / "revoked.crl",
    )
    return locate_credentials(party, folder)


@pytest.fixture
def owner(federation: Authority, tmp_path: Path) -> Credentials:
    return enrolled(federation, HOSPITAL, tmp_path / "hospital")


@pytest.fixture
def lab(federation: Authority, tmp_path: Path) -> Credentials:
    return enrolled(federation, LABORATORY, tmp_path / "laboratory")


def extend(federation: Authority, *holders: Credentials) -> None:
    """A list that is good for longer than the certificates."""
    path = federation.revoke([], Reason.SUPERSEDED, days=800)
    for holder in holders:
        assert holder.revocations is not None
        install_revocations(holder.revocations, path, federation.certificate)


def both(owner: Credentials, lab: Credentials) -> tuple[TlsContext, TlsContext]:
    return tls_context(owner, server_side=False), tls_context(lab, server_side=True)


# Clocks


def test_clocks_within_the_tolerance_are_accepted(owner: Credentials, lab: Credentials, federation: Authority) -> None:
    """A certificate begins five minutes before it was signed."""
    extend(federation, owner, lab)
    for apart in (timedelta(minutes=-5, seconds=-20), timedelta(days=365, seconds=20)):
        server = at(lab, server_side=True, seconds=apart.total_seconds())
        assert meet(tls_context(owner, server_side=False), server) == (LABORATORY, HOSPITAL)


def test_a_larger_tolerance_is_configured(owner: Credentials, federation: Authority, tmp_path: Path) -> None:
    lab = enrolled(federation, LABORATORY, tmp_path / "lab", days=800)
    extend(federation, lab)
    for skew, accepted in ((3000.0, False), (3600.0, True)):
        tolerant = replace(lab, clock_skew_seconds=skew)
        ahead = at(tolerant, server_side=True, days=365, minutes=55)
        _, judged = meet(tls_context(owner, server_side=False), ahead)
        assert (judged == HOSPITAL) is accepted


def test_a_clock_that_is_behind_is_named(owner: Credentials, federation: Authority, tmp_path: Path) -> None:
    """The server enrolled long ago; the client's certificate is from a time that its clock has not reached."""
    moved = tls_context(enrolled(federation, LABORATORY, tmp_path / "lab"), server_side=True)
    trust = moved.trust()
    early = replace(trust.own, begins=trust.own.begins - timedelta(days=9))
    moved._trust = replace(trust, own=early, clock=lambda: early.begins + timedelta(days=8))
    client, server = meet(tls_context(owner, server_side=False), moved)
    assert isinstance(server, CertificateRefused)
    assert isinstance(client, PeerReported)
    for words in (str(server), str(client)):
        assert "the clock of the model-owner of north-lab is behind by 24 hours or more" in words
        assert "tolerated: 30 s" in words


def test_a_clock_that_is_ahead_is_suspected(owner: Credentials, lab: Credentials) -> None:
    """Both certificates have ended by the server's clock: it cannot be the client's fault alone."""
    ahead = tls_context(lab, server_side=True)
    ahead._trust = replace(ahead.trust(), clock=lambda: ahead._trust.own.ends + timedelta(days=1), revocations=None)
    _, server = meet(tls_context(owner, server_side=False), ahead)
    assert isinstance(server, CertificateRefused)
    assert "that of the model-owner of north-lab has ended by this clock as well, so that clock is ahead" in str(server)


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        ({"days": -1}, "the clock of this machine is behind"),
        ({"days": 366}, "federation request --replace"),
    ],
)
def test_an_own_certificate_that_is_not_valid_is_told_before_anybody_is_dialled(
    ahead: dict[str, float], words: str, owner: Credentials
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        at(owner, server_side=False, **ahead)


def test_nobody_is_accepted_once_the_authority_has_ended(owner: Credentials, lab: Credentials) -> None:
    context = tls_context(lab, server_side=True)
    trust = context.trust()
    context._trust = replace(trust, clock=lambda: trust.authority.not_valid_after_utc + timedelta(days=1))
    _, server = meet(tls_context(owner, server_side=False), context)
    assert isinstance(server, CertificateRefused)
    assert "the authority ended" in str(server)


# Revocation


def revoke(authority: Authority, party: Party, *holders: Credentials) -> None:
    path = authority.revoke(authority.issued_to(party), Reason.KEY_COMPROMISE)
    for holder in holders:
        assert holder.revocations is not None
        install_revocations(holder.revocations, path, authority.certificate)


def test_a_revoked_client_is_refused_at_its_next_connection(
    owner: Credentials, lab: Credentials, federation: Authority
) -> None:
    ends = both(owner, lab)
    assert meet(*ends) == (LABORATORY, HOSPITAL)
    revoke(federation, HOSPITAL, lab)
    client, server = meet(*ends)
    assert isinstance(server, CertificateRefused)
    assert isinstance(client, PeerReported)
    for words in (str(server), str(client)):
        assert "the data-owner of st-mary, was revoked on" in words
        assert "enrol again with a new key" in words


def test_a_revoked_server_is_refused_and_told(owner: Credentials, lab: Credentials, federation: Authority) -> None:
    ends = both(owner, lab)
    revoke(federation, LABORATORY, owner)
    client, server = meet(*ends)
    assert isinstance(client, CertificateRefused)
    assert isinstance(server, PeerReported)
    assert "the model-owner of north-lab, was revoked on" in str(server)


def test_others_of_the_federation_are_not_touched(
    owner: Credentials, lab: Credentials, federation: Authority, tmp_path: Path
) -> None:
    other = enrolled(federation, HOSPITAL, tmp_path / "again")
    path = federation.revoke([PartyCertificate.read(owner.certificate)], Reason.SUPERSEDED)
    assert lab.revocations is not None
    install_revocations(lab.revocations, path, federation.certificate)
    server = tls_context(lab, server_side=True)
    assert meet(tls_context(other, server_side=False), server) == (LABORATORY, HOSPITAL)
    assert isinstance(meet(tls_context(owner, server_side=False), server)[1], CertificateRefused)


def test_a_list_that_has_ended_is_not_relied_on(owner: Credentials, lab: Credentials) -> None:
    """Ninety days; the certificates are good for longer."""
    client, server = meet(tls_context(owner, server_side=False), at(lab, server_side=True, days=91))
    assert isinstance(server, CertificateRefused)
    assert isinstance(client, PeerReported)
    assert "the list of revoked certificates that the model-owner of north-lab has ended at" in str(client)


def test_an_extended_list_is_relied_on_again(owner: Credentials, lab: Credentials, federation: Authority) -> None:
    extend(federation, lab)
    assert meet(tls_context(owner, server_side=False), at(lab, server_side=True, days=91))[1] == HOSPITAL


def forged(path: Path, federation: Authority) -> None:
    """Signed by another authority of the same name."""
    create_authority(path.parent / "stranger")
    shutil.copy(path.parent / "stranger" / "revoked.crl", path)


def flipped(path: Path, federation: Authority) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


HOSTILE_LISTS: dict[str, Callable[[Path, Authority], object]] = {
    "absent": lambda path, _: path.unlink(),
    "empty": lambda path, _: path.write_bytes(b""),
    "not a list": lambda path, federation: shutil.copy(federation.folder / "authority.pem", path),
    "cut short": lambda path, _: path.write_bytes(path.read_bytes()[:-40]),
    "too long": lambda path, _: path.write_bytes(path.read_bytes() + bytes(2 << 20)),
    "altered": flipped,
    "another authority's": forged,
}


@pytest.mark.parametrize("kind", HOSTILE_LISTS)
def test_a_list_that_the_authority_did_not_sign_stops_a_start(
    kind: str, lab: Credentials, federation: Authority
) -> None:
    assert lab.revocations is not None
    HOSTILE_LISTS[kind](lab.revocations, federation)
    with pytest.raises(ConfigurationError, match=r"revoked\.crl"):
        tls_context(lab, server_side=True)


@pytest.mark.parametrize("kind", HOSTILE_LISTS)
def test_a_list_that_goes_bad_while_a_server_runs_revokes_what_it_did(
    kind: str, owner: Credentials, lab: Credentials, federation: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    revoke(federation, HOSPITAL, lab)
    ends = both(owner, lab)
    assert lab.revocations is not None
    HOSTILE_LISTS[kind](lab.revocations, federation)
    _, server = meet(*ends)
    assert isinstance(server, CertificateRefused)
    assert "those before stay in use" in caplog.text


def test_an_older_list_is_not_taken(
    owner: Credentials, lab: Credentials, federation: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = tmp_path / "old.crl"
    assert lab.revocations is not None
    shutil.copy(lab.revocations, old)
    revoke(federation, HOSPITAL, lab)
    ends = both(owner, lab)
    with pytest.raises(ConfigurationError, match="older"):
        install_revocations(lab.revocations, old, federation.certificate)
    shutil.copy(old, lab.revocations)
    assert isinstance(meet(*ends)[1], CertificateRefused)
    assert "is older (number 1) than the list in use (number 2)" in caplog.text


# Renewal


def renew(authority: Authority, party: Party, folder: Path) -> PartyCertificate:
    wanted = read_request(create_renewal(party, folder))
    authority.require_renewal(wanted)
    signed = folder / "renewed.pem"
    signed.write_bytes(authority.sign(wanted, hosts=wanted.hosts))
    return install_certificate(party, folder, signed)


def test_a_renewed_certificate_is_used_without_a_restart(
    owner: Credentials, lab: Credentials, federation: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """At both ends; and the old one, once revoked, is not missed."""
    client, server = both(owner, lab)
    assert meet(client, server) == (LABORATORY, HOSPITAL)
    before = client.trust(), server.trust()
    with caplog.at_level(logging.INFO):
        renew(federation, HOSPITAL, owner.key.parent)
        renewed = renew(federation, LABORATORY, lab.key.parent)
        assert meet(client, server) == (LABORATORY, HOSPITAL)
    assert "certificates and revocations were read again" in caplog.text
    assert server.trust().own.serial == renewed.serial != before[1].own.serial
    path = federation.revoke([trust.own for trust in before], Reason.SUPERSEDED)
    for holder in (owner, lab):
        assert holder.revocations is not None
        install_revocations(holder.revocations, path, federation.certificate)
    assert meet(client, server) == (LABORATORY, HOSPITAL)


def test_between_two_files_the_old_pair_serves(
    owner: Credentials, lab: Credentials, federation: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """The new key is there, its certificate not yet."""
    client, server = both(owner, lab)
    create_renewal(LABORATORY, lab.key.parent)
    (lab.key.parent / "model-owner.next.key").replace(lab.key)
    assert meet(client, server) == (LABORATORY, HOSPITAL)
    assert "those before stay in use" in caplog.text


def test_a_crash_between_two_files_is_mended_by_installing_again(lab: Credentials, federation: Authority) -> None:
    folder = lab.key.parent
    wanted = read_request(create_renewal(LABORATORY, folder))
    signed = folder / "renewed.pem"
    signed.write_bytes(federation.sign(wanted))
    (folder / "model-owner.next.key").replace(lab.key)
    with pytest.raises(ConfigurationError, match="do not belong together"):
        tls_context(lab, server_side=True)
    install_certificate(LABORATORY, folder, signed)
    tls_context(lab, server_side=True)


def test_a_renewal_is_of_the_same_party(owner: Credentials, federation: Authority, tmp_path: Path) -> None:
    """A hospital's key does not vouch for a laboratory."""
    with pytest.raises(ConfigurationError):
        create_renewal(LABORATORY, owner.key.parent)
    wanted = read_request(create_renewal(HOSPITAL, owner.key.parent))
    with pytest.raises(PeerViolation, match="does not prove that it holds the key"):
        federation.require_renewal(replace(wanted, party=LABORATORY))


def test_a_renewal_needs_the_current_key(owner: Credentials, federation: Authority, tmp_path: Path) -> None:
    """Whoever sees the certificate, which is public, cannot renew it."""
    thief = tmp_path / "thief"
    create_request(HOSPITAL, thief)
    shutil.copy(owner.certificate, thief / "data-owner.pem")
    with pytest.raises(ConfigurationError):
        create_renewal(HOSPITAL, thief)
    wanted, other = (read_request(create_renewal(HOSPITAL, owner.key.parent)) for _ in range(2))
    assert wanted.renewal is not None
    assert other.renewal is not None
    stolen = replace(other.renewal, signature=wanted.renewal.signature)
    with pytest.raises(PeerViolation, match="does not prove that it holds the key"):
        federation.require_renewal(replace(other, renewal=stolen))


def test_a_revoked_certificate_is_not_renewed(owner: Credentials, federation: Authority) -> None:
    wanted = read_request(create_renewal(HOSPITAL, owner.key.parent))
    federation.revoke(federation.issued_to(HOSPITAL), Reason.KEY_COMPROMISE)
    with pytest.raises(PeerViolation, match="was revoked: on the party's machine, ask"):
        federation.require_renewal(wanted)


def test_a_renewal_asks_for_no_new_hosts(owner: Credentials, federation: Authority) -> None:
    wanted = read_request(create_renewal(HOSPITAL, owner.key.parent))
    with pytest.raises(PeerViolation, match="more host names"):
        federation.require_renewal(replace(wanted, hosts=("front.example",)))


def test_another_federations_certificate_renews_nothing(owner: Credentials, tmp_path: Path) -> None:
    create_authority(tmp_path / "stranger")
    with pytest.raises(PeerViolation, match="not issued here"):
        Authority.open(tmp_path / "stranger").require_renewal(read_request(create_renewal(HOSPITAL, owner.key.parent)))


@pytest.mark.parametrize("wrong", ["another party's", "another authority's", "another key's", "garbage"])
def test_only_the_right_certificate_is_installed(
    wrong: str, owner: Credentials, lab: Credentials, federation: Authority, tmp_path: Path
) -> None:
    folder, given, before = owner.key.parent, tmp_path / "given.pem", owner.certificate.read_bytes()
    if wrong == "another party's":
        shutil.copy(lab.certificate, given)
    elif wrong == "another authority's":
        create_authority(tmp_path / "stranger")
        given.write_bytes(Authority.open(tmp_path / "stranger").sign(read_request(create_renewal(HOSPITAL, folder))))
    elif wrong == "another key's":
        given.write_bytes(federation.sign(read_request(create_request(HOSPITAL, tmp_path / "elsewhere"))))
    else:
        given.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigurationError, match=r"given\.pem"):
        install_certificate(HOSPITAL, folder, given)
    assert owner.certificate.read_bytes() == before
    tls_context(owner, server_side=False)
