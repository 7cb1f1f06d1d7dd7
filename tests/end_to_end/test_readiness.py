"""Whether a party's server says truly that it could serve a session; the page is read as a stranger would."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr

from authority.signing import Authority, Reason, create_authority
from contract.identity import Party, Role
from plumbing.settings import FrontEnd
from tests.end_to_end.federation import LABORATORY, TRUST_CENTRE, Federation, closed_port
from tests.full_disk import no_file_beyond

SERVERS = (LABORATORY, TRUST_CENTRE)


def asked(url: str) -> tuple[int, list[str]]:
    """Status and reasons that stand on the page, and that nothing else does."""
    answer = httpx.get(f"http://{urlsplit(url).netloc}/v2/health/ready")
    content = answer.json()
    assert set(content) == {"status", "time", "reasons"}
    assert content["status"] == ("ready" if answer.status_code == 200 else "not-ready")
    return answer.status_code, content["reasons"]


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(running: ExitStack, federation: Federation, party: Party, **changes: Any) -> str:
    """Start a party's server; its URL."""
    start = federation.model_owner if party == LABORATORY else federation.dealer
    return running.enter_context(start(**changes))


@pytest.mark.parametrize("party", SERVERS, ids=str)
def test_a_party_that_could_serve_is_ready(running: ExitStack, federation: Federation, party: Party) -> None:
    assert asked(serve(running, federation, party)) == (200, [])


@pytest.mark.parametrize("party", SERVERS, ids=str)
def test_a_party_whose_disk_is_full_is_not_ready(
    running: ExitStack, federation: Federation, party: Party, tmp_path: Path
) -> None:
    url = serve(running, federation, party, data_folder=tmp_path)
    with no_file_beyond(100):
        status, reasons = asked(url)
    assert status == 503
    assert reasons == (["disk", "audit-log", "budgets"] if party == LABORATORY else ["disk", "budgets"])


def test_a_model_owner_whose_audit_log_was_altered_is_not_ready(
    running: ExitStack, federation: Federation, tmp_path: Path
) -> None:
    url = serve(running, federation, LABORATORY, data_folder=tmp_path)
    (tmp_path / "audit" / "000000000001.jsonl").write_text('{"number":1,"event":"nothing"}\n')
    assert asked(url) == (503, ["audit-log-broken"])


def test_a_model_owner_without_a_dealer_is_not_ready(running: ExitStack, federation: Federation) -> None:
    dead = f"ws://127.0.0.1:{closed_port()}/v2/dealing"
    assert asked(serve(running, federation, LABORATORY, dealer_url=dead)) == (503, ["crypto-provider"])


def test_a_model_owner_that_its_dealer_refuses_is_not_ready(running: ExitStack, federation: Federation) -> None:
    """TLS stands by then: the refusal comes after it."""
    with federation.fake(TRUST_CENTRE, lambda channel: None, expect=Role.DATA_OWNER) as refusing:
        assert asked(serve(running, federation, LABORATORY, dealer_url=refusing)) == (503, ["crypto-provider"])


def test_a_dealer_without_a_front_end_is_not_ready(running: ExitStack, federation: Federation) -> None:
    away = FrontEnd(url=f"http://127.0.0.1:{closed_port()}", api_key=SecretStr("ei-00000000-none"))
    assert asked(serve(running, federation, TRUST_CENTRE, inference_service=away)) == (503, ["inference-service"])


@pytest.mark.parametrize("party", SERVERS, ids=str)
def test_a_party_that_finds_itself_on_the_list_is_not_ready(
    running: ExitStack, federation: Federation, party: Party, tmp_path: Path
) -> None:
    """Under an authority of its own, so that nobody else is touched."""
    create_authority(tmp_path / "authority")
    os.symlink(federation.folder / "front-end", tmp_path / "front-end")  # noqa: PTH211 - a link is all that is needed
    own = replace(federation, folder=tmp_path, issued={})
    url = serve(running, own, party)
    authority, listed = Authority.open(tmp_path / "authority"), own.credentials(party).revocations
    assert listed is not None
    listed.write_bytes(authority.revoke(authority.issued_to(party), Reason.KEY_COMPROMISE).read_bytes())
    status, reasons = asked(url)
    assert status == 503
    assert reasons == (["certificate", "crypto-provider"] if party == LABORATORY else ["certificate"])
