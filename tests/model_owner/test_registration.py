"""What a model owner puts into the catalog, and that it stays signed with a certificate that is good."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from authority.certificates import PartyCertificate, read_certificate
from authority.enrolment import create_renewal, install_certificate, install_revocations, read_request
from authority.signing import Authority, Reason
from authority.vouching import find_signer
from contract.api import ModelEntry
from contract.errors import CertificateRefused, ConfigurationError
from contract.identity import Role
from inference_service.client import InferenceServiceClient
from model_owner.imported_models import WITHDRAWN
from model_owner.registration import Registrar
from plumbing.settings import Address
from tests.end_to_end.federation import HOSPITAL, LABORATORY, Federation, closed_port
from tests.end_to_end.models import NAME


class Seen(InferenceServiceClient):
    """Notes what is registered, and answers as the front end does, or as one that knows this organisation."""

    def __init__(self, federation: Federation, organisation: str = "north-lab") -> None:
        super().__init__(federation.front_end_url, federation.front_end_keys[Role.MODEL_OWNER])
        self.entries: list[ModelEntry] = []
        self.organisation = organisation

    def register_model(self, entry: ModelEntry, **_: object) -> ModelEntry:
        self.entries.append(entry)
        known = entry.model_owner.model_copy(update={"organisation": self.organisation})
        return entry.model_copy(update={"model_owner": known})


def shown(federation: Federation) -> ModelEntry:
    with federation.client() as client:
        return client.model(NAME)


def signed_by(federation: Federation) -> int:
    entry = shown(federation)
    assert entry.voucher is not None
    authority = read_certificate(federation.credentials(LABORATORY).authority)
    certificate = find_signer(entry.voucher, entry.statement(), authority)
    assert certificate is not None
    return PartyCertificate.from_der(certificate).serial


def renew(federation: Federation) -> PartyCertificate:
    folder = federation.credentials(LABORATORY).key.parent
    signed = folder / "renewed.pem"
    signed.write_bytes(
        Authority.open(federation.folder / "authority").sign(read_request(create_renewal(LABORATORY, folder)))
    )
    return install_certificate(LABORATORY, folder, signed)


def test_a_renewed_certificate_signs_the_catalog_anew_while_the_server_runs(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the front end is down at the first look."""
    caplog.set_level(logging.INFO)
    with federation.client(Role.MODEL_OWNER) as client, federation.diagnoser() as (diagnoser, _):
        registrar = Registrar(federation.model_owner_settings(), federation.models, client)
        registrar.register()
        entry, first, url = shown(federation), signed_by(federation), client._url
        registrar.look()
        assert shown(federation) == entry  # nothing was renewed, so nothing is signed
        renewed = renew(federation)
        authority = Authority.open(federation.folder / "authority")
        old = [one for one in authority.issued_to(LABORATORY) if one.serial == first]
        revocations = federation.credentials(HOSPITAL).revocations
        assert revocations is not None
        install_revocations(revocations, authority.revoke(old, Reason.SUPERSEDED), authority.certificate)
        with pytest.raises(CertificateRefused, match="was revoked on"):
            diagnoser.choose_model(None)
        client._url = f"http://127.0.0.1:{closed_port()}"
        registrar.look()
        assert "was not signed with the renewed certificate: the inference service at" in caplog.text
        client._url = url
        registrar.look()
        assert signed_by(federation) == renewed.serial != first
        assert diagnoser.choose_model(None).statement() == entry.statement()
        assert "the catalog was signed with the renewed certificate" in caplog.text


def test_what_was_withdrawn_meanwhile_is_not_registered_again(federation: Federation, tmp_path: Path) -> None:
    (tmp_path / WITHDRAWN).touch()
    models = {(NAME, "1.0.0"): replace(federation.model, folder=tmp_path)}
    with Seen(federation) as client:
        Registrar(federation.model_owner_settings(), models, client).register()
        assert client.entries == []


def test_an_account_of_another_organisation_is_noticed_at_once(federation: Federation) -> None:
    """Else every data owner would refuse the model, and nobody would know why."""
    with Seen(federation, "south-lab") as client:
        registrar = Registrar(federation.model_owner_settings(), federation.models, client)
        with pytest.raises(ConfigurationError, match=r"as of south-lab, .* must name north-lab, as the certificate"):
            registrar.register()


def test_the_address_is_the_public_one_or_where_the_server_listens(federation: Federation) -> None:
    listen = Address(host="127.0.0.1", port=8081)
    with Seen(federation) as client:
        for public in (None, "wss://north.example/v2"):
            Registrar(
                federation.model_owner_settings(public_url=public, listen=listen), federation.models, client
            ).register()
        assert [entry.model_owner.address for entry in client.entries] == [
            "ws://127.0.0.1:8081/v2/inference",
            "wss://north.example/v2",
        ]


def test_files_that_do_not_belong_together_sign_nothing(federation: Federation) -> None:
    mixed = replace(federation.credentials(LABORATORY), key=federation.credentials(HOSPITAL).key)
    with Seen(federation) as client:
        with pytest.raises(ConfigurationError, match="restore them"):
            Registrar(federation.model_owner_settings(credentials=mixed), federation.models, client).register()
        assert client.entries == []
