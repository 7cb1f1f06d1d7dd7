"""Who may speak to whom: certificates that must pass, and those that must not."""

import logging
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from contract.errors import (
    CertificateRefused,
    ConfigurationError,
    PeerReported,
    PeerViolation,
)
from contract.identity import Credentials, Party, Role
from secure_computation.channel.asgi import _serve
from secure_computation.channel.channel import LOOK_STEP, Channel
from secure_computation.channel.identity import Expected, require_identity
from secure_computation.channel.memory import MemoryStream, memory_pair
from secure_computation.channel.stream import Deadline
from secure_computation.channel.tls import TlsStream, tls_context
from secure_computation.channel.trust import _ssl_context
from secure_computation.channel.websocket import connect_channel
from tests.secure_computation.channel.conftest import DEADLINES, HOSPITAL, LABORATORY, Authority, Server
from tests.secure_computation.channel.handshakes import Bare, at, contexts, meet, run


def test_each_side_learns_the_others_party(hospital: Credentials, laboratory: Credentials) -> None:
    assert meet(*contexts(hospital, laboratory)) == (LABORATORY, HOSPITAL)


def test_a_client_of_another_authority_is_refused(
    laboratory: Credentials, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path).issue(HOSPITAL.uri)
    half = Credentials(key=stranger.key, certificate=stranger.certificate, authority=authority.path)
    client, server = meet(*contexts(half, laboratory))
    assert isinstance(server, PeerViolation)
    assert "the client has a certificate that this party does not accept" in str(server)
    assert isinstance(client, ConfigurationError)
    assert "refuses the certificate of this party (unknown ca)" in str(client)


def test_a_server_of_another_authority_is_refused(hospital: Credentials, tmp_path: Path) -> None:
    client, server = meet(*contexts(hospital, Authority(tmp_path).issue(LABORATORY.uri)))
    assert isinstance(client, PeerViolation)
    assert "the server has a certificate that this party does not accept" in str(client)
    assert isinstance(server, ConfigurationError)


def test_an_expired_certificate_is_refused(laboratory: Credentials, authority: Authority) -> None:
    late = at(authority.issue(HOSPITAL.uri, days=-1), server_side=False, days=-2)
    client, server = meet(late, tls_context(laboratory, server_side=True))
    assert isinstance(server, CertificateRefused)
    assert isinstance(client, PeerReported)
    for side in (server, client):
        assert ", the data-owner of st-mary, ended at" in str(side)


def test_a_client_without_certificate_is_refused(laboratory: Credentials, authority: Authority) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(authority.path)
    client, server = meet(
        Bare(tls_context(laboratory, server_side=False), bare), tls_context(laboratory, server_side=True)
    )
    assert isinstance(server, PeerViolation)
    assert "showed no certificate" in str(server)
    assert isinstance(client, ConfigurationError)


def test_tls_1_2_is_refused(laboratory: Credentials, hospital: Credentials) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.load_verify_locations(hospital.authority)
    old.load_cert_chain(hospital.certificate, hospital.key)
    _, server = meet(Bare(tls_context(hospital, server_side=False), old), tls_context(laboratory, server_side=True))
    assert isinstance(server, PeerViolation)


@pytest.mark.parametrize(
    ("uris", "words"),
    [
        ((), "names 0 parties"),
        ((HOSPITAL.uri, "party://data-owner/other"), "names 2 parties"),
        (("https://example.org/",), "not a party"),
        (("party://janitor/st-mary",), "not a party"),
        (("party://data-owner/St%20Mary",), "is not a name"),
    ],
)
def test_a_certificate_that_names_no_single_party_is_refused(
    uris: tuple[str, ...], words: str, laboratory: Credentials, authority: Authority
) -> None:
    bad = _ssl_context(authority.issue(*uris), server_side=False)
    _, server = meet(Bare(tls_context(laboratory, server_side=False), bad), tls_context(laboratory, server_side=True))
    assert isinstance(server, PeerViolation)
    assert words in str(server)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(5), b"\x16\x03\x01\x00\x05hello", b"\xff" * 99])
def test_garbage_instead_of_tls_is_a_violation(garbage: bytes, laboratory: Credentials) -> None:
    left, right = MemoryStream.pair()
    left.write((garbage,), Deadline(peer="x", step="x", seconds=1))
    server = TlsStream(right, tls_context(laboratory, server_side=True), server_side=True)
    with pytest.raises(PeerViolation, match=r"the client broke the protocol .* not valid TLS"):
        server.handshake(Deadline(peer="the client", step="handshake", seconds=1))


def test_tampering_after_the_handshake_is_a_violation(hospital: Credentials, laboratory: Credentials) -> None:
    left, right = MemoryStream.pair()
    client_context, server_context = contexts(hospital, laboratory)
    ends = TlsStream(left, client_context, server_side=False), TlsStream(right, server_context, server_side=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, ends, ("the server", "the client")))
    deadline = Deadline(peer="the client", step="relu", seconds=1)
    left.write((b"\x17\x03\x03\x00\x20" + bytes(32),), deadline)
    with pytest.raises(PeerViolation, match=r"the client broke the protocol in step 'relu'"):
        ends[1].read_some(deadline)


@pytest.mark.parametrize(
    ("expected", "passes"),
    [
        (LABORATORY, True),
        (Role.MODEL_OWNER, True),
        ((Role.DATA_OWNER, Role.MODEL_OWNER), True),
        ((HOSPITAL, LABORATORY), True),
        (Role.DATA_OWNER, False),
        (Party(role=Role.MODEL_OWNER, organisation="south-lab"), False),
        (Party(role=Role.CRYPTO_PROVIDER, organisation="north-lab"), False),
        ((), False),
    ],
)
def test_only_an_expected_party_is_accepted(expected: Expected, passes: bool) -> None:
    left, right = MemoryStream.pair()
    channel = Channel(left, peer=LABORATORY, deadlines=DEADLINES)
    if passes:
        require_identity(channel, expected, found_at="it", step="handshake")
        return
    with pytest.raises(PeerViolation, match=r"it is model-owner of north-lab, but .* was expected"):
        require_identity(channel, expected, found_at="it", step="handshake")
    other = Channel(right, peer=HOSPITAL, deadlines=DEADLINES)
    with pytest.raises(PeerReported, match="was expected"):
        other.receive_seed(step="handshake")


@pytest.mark.parametrize("wrong", ["missing", "not pem", "other key", "open key"])
def test_files_that_cannot_serve_are_named(wrong: str, authority: Authority) -> None:
    good = authority.issue(HOSPITAL.uri)
    other = authority.issue(LABORATORY.uri)
    if wrong == "missing":
        bad = Credentials(key=good.key, certificate=good.certificate, authority=good.key.parent / "absent.pem")
    elif wrong == "not pem":
        good.certificate.write_text("nothing")
        bad = good
    elif wrong == "other key":
        bad = Credentials(key=other.key, certificate=good.certificate, authority=good.authority)
    else:
        good.key.chmod(0o644)
        bad = good
    with pytest.raises(ConfigurationError, match=str(good.key.parent)) as caught:
        tls_context(bad, server_side=True)
    assert "BEGIN" not in str(caught.value)


def test_the_wrong_role_is_refused_over_the_network(server: Server, authority: Authority) -> None:
    dealer = authority.issue(Party(role=Role.CRYPTO_PROVIDER, organisation="bank").uri)
    context = tls_context(dealer, server_side=False)
    channel = connect_channel(server.url, context=context, expect=LABORATORY, deadlines=DEADLINES)
    try:
        with pytest.raises(PeerReported, match="crypto-provider of bank, but a data-owner was expected"):
            channel.receive_seed(step="hello")
    finally:
        channel.close()
    assert server.accepted.empty()


def test_a_server_of_the_wrong_organisation_is_refused(server: Server, hospital: Credentials) -> None:
    context = tls_context(hospital, server_side=False)
    other = Party(role=Role.MODEL_OWNER, organisation="south-lab")
    with pytest.raises(PeerViolation, match=r"the party at 127\.0\.0\.1:\d+ is model-owner of north-lab"):
        connect_channel(server.url, context=context, expect=other, deadlines=DEADLINES)
    accepted = server.accepted.get(timeout=30)
    with pytest.raises(PeerReported, match="south-lab was expected"):
        accepted.receive_seed(step="hello")


def test_a_refused_client_learns_why_at_its_first_receive(server: Server, authority: Authority) -> None:
    context = at(authority.issue(HOSPITAL.uri, days=-1), server_side=False, days=-2)
    channel = connect_channel(server.url, context=context, expect=LABORATORY, deadlines=DEADLINES)

    def greet() -> None:
        channel.send_hello({}, step="hello")
        channel.receive_tensor((1,), np.uint8, step="hello")

    with pytest.raises(PeerReported, match=r"the data-owner of st-mary, ended at .*compare the two"):
        greet()
    channel.close()


def test_who_asks_whether_it_is_accepted_and_leaves_at_once_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    dialled, served = memory_pair(HOSPITAL, LABORATORY, DEADLINES)
    dialled.send_end(step=LOOK_STEP)
    dialled.close()
    _serve(
        served, lambda channel: channel.send_hello(channel.receive_hello(step="x"), step="x"), own="x", strangers=None
    )
    assert served.is_looked_at
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
