"""A second hospital is enrolled and served; certificates are renewed and revoked around sessions that run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from authority.certificates import PartyCertificate
from authority.enrolment import create_renewal, install_certificate, install_revocations, read_request
from authority.signing import Authority, Reason
from bookkeeping.audit_log import AuditLog
from contract.errors import PeerReported
from contract.identity import Party, Role
from contract.ticket import Engine
from data_owner.checks import Verdict
from data_owner.doctor import examine
from data_owner.progress import Progress
from data_owner.session import Diagnoser
from data_owner.settings import DataOwnerSettings
from inference_service.accounts import AccountRole, Accounts
from inference_service.client import InferenceServiceClient
from inference_service.settings import DATABASE_FILE
from inference_service.storage import Database
from plumbing.settings import FrontEnd, Peer
from tests.end_to_end.federation import HOSPITAL, LABORATORY, SILENT, TRUST_CENTRE, Federation
from tests.end_to_end.models import DITHER

SECOND = Party(role=Role.DATA_OWNER, organisation="st-anne")


@pytest.fixture(scope="module")
def second_key(federation: Federation) -> SecretStr:
    database = Database(federation.folder / "front-end" / DATABASE_FILE)
    try:
        audit = AuditLog(federation.folder / "front-end" / "audit", keep_days=1)
        return Accounts(database, audit=audit).add(role=AccountRole.CLINICIAN, organisation=SECOND.organisation)[1]
    finally:
        database.close()


@contextmanager
def hospital(federation: Federation, key: SecretStr) -> Iterator[Diagnoser]:
    front_end = FrontEnd(url=federation.front_end_url, api_key=key)
    settings = DataOwnerSettings(
        **federation._common(SECOND)
        | {
            "inference_service": front_end,
            "model_owners": (Peer(organisation=LABORATORY.organisation),),
            "crypto_providers": (Peer(organisation=TRUST_CENTRE.organisation),),
        }
    )
    with InferenceServiceClient.of(front_end) as client:
        yield Diagnoser(settings, client)


def diagnose(diagnoser: Diagnoser, path: Path, progress: Progress = SILENT) -> tuple[float, ...] | None:
    entry = diagnoser.choose_model(None)
    return diagnoser.diagnose(path, entry, engine=Engine.MASKED, force=False, progress=progress).logits


def test_a_second_hospital_is_served_beside_the_first(
    federation: Federation, second_key: SecretStr, chest: Path
) -> None:
    first = federation.diagnose(chest, engine=Engine.MASKED)
    with hospital(federation, second_key) as diagnoser:
        assert diagnose(diagnoser, chest) == pytest.approx(first.logits, abs=DITHER)


def test_a_hospital_that_is_not_pinned_is_not_served(
    federation: Federation, second_key: SecretStr, chest: Path
) -> None:
    """Neither by a model owner that pins its data owners nor by a crypto provider that does."""
    pinned = (HOSPITAL.organisation,)
    words = "is data-owner of st-anne, but data-owner of st-mary.* was expected"
    with federation.model_owner(data_owners=pinned) as url, federation.dealer(data_owners=pinned) as dealer:
        for at, peer in ((url, LABORATORY), (dealer, TRUST_CENTRE)):
            with federation.dial(at, SECOND, peer) as channel, pytest.raises(PeerReported, match=words):
                channel.receive_seed(step="anything")
            with federation.dial(at, HOSPITAL, peer) as channel:
                channel.send_hello({"ticket": "none"}, step="ticket")
                with pytest.raises(PeerReported, match="ticket is malformed"):
                    channel.receive_seed(step="anything")


def renew(federation: Federation, party: Party) -> PartyCertificate:
    folder = federation.credentials(party).key.parent
    authority = Authority.open(federation.folder / "authority")
    wanted = read_request(create_renewal(party, folder))
    authority.require_renewal(wanted)
    signed = folder / "renewed.pem"
    signed.write_bytes(authority.sign(wanted))
    return install_certificate(party, folder, signed)


def test_a_renewal_in_the_middle_of_a_session(
    federation: Federation, second_key: SecretStr, chest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model owner and hospital renew while they compute: the session ends as any other, the next shows the new ones."""
    renewed: list[PartyCertificate] = []

    def at_layer(index: int, total: int, name: str) -> None:
        if not renewed:
            renewed.extend(renew(federation, party) for party in (LABORATORY, SECOND))

    expected = pytest.approx(federation.diagnose(chest, engine=Engine.MASKED).logits, abs=DITHER)
    shown: list[int] = []
    parse = PartyCertificate.from_der

    def watched(encoded: bytes) -> PartyCertificate:
        found = parse(encoded)
        shown.append(found.serial)
        return found

    with hospital(federation, second_key) as diagnoser:
        assert diagnose(diagnoser, chest, Progress(stage=lambda _: None, layer=at_layer)) == expected
        monkeypatch.setattr(PartyCertificate, "from_der", watched)
        assert diagnose(diagnoser, chest) == expected
    assert {certificate.serial for certificate in renewed} <= set(shown)


def test_a_revoked_hospital_is_refused_and_the_others_are_served(
    federation: Federation, second_key: SecretStr, chest: Path
) -> None:
    authority = Authority.open(federation.folder / "authority")
    with hospital(federation, second_key) as diagnoser:
        diagnose(diagnoser, chest)
        path = authority.revoke(authority.issued_to(SECOND), Reason.KEY_COMPROMISE)
        for party in (LABORATORY, TRUST_CENTRE):
            revocations = federation.credentials(party).revocations
            assert revocations is not None
            install_revocations(revocations, path, authority.certificate)
        with pytest.raises(PeerReported, match=r"the data-owner of st-anne, was revoked on .*: it must enrol again"):
            diagnose(diagnoser, chest)
        found = {check.name: check for check in examine(diagnoser._settings)}
        for party in (LABORATORY, TRUST_CENTRE):
            seen = found[str(party)]
            assert seen.verdict is Verdict.BAD
            assert "refuses this machine: the certificate of the other end, the data-owner of st-anne" in seen.found
            assert "enrol again with a new key" in seen.found
        assert found["certificate"].verdict is Verdict.GOOD, "the list has not come to the hospital yet"
        own = federation.credentials(SECOND).revocations
        assert own is not None
        install_revocations(own, path, authority.certificate)
        told = next(check for check in examine(diagnoser._settings) if check.name == "certificate")
        assert (told.verdict, "was revoked" in told.found) == (Verdict.BAD, True)
        assert "federation request --replace" in str(told.advice)
    assert federation.diagnose(chest, engine=Engine.MASKED).logits
