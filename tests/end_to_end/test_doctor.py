"""`data-owner doctor` on a healthy machine, and on ones that cannot take part."""

import json
from collections.abc import Iterator
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from data_owner import doctor
from demonstration.commands import call
from demonstration.deployment import Deployment, deploy
from tests.end_to_end.command_line import changed_settings, in_process
from tests.end_to_end.federation import closed_port
from tests.end_to_end.models import write_tiny_model
from tests.fake_proxy import dead_proxy, refusing_proxy


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    model = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    with deploy(tmp_path_factory.mktemp("deployment"), [model]) as running:
        yield running


def doctors_findings(
    capfd: pytest.CaptureFixture[str], settings: Path
) -> tuple[int, dict[str, tuple[str, str, str | None]]]:
    done = in_process(capfd, "doctor", "--json", "--config", settings)
    assert done.stderr == ""
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    return done.status, {one["name"]: (one["verdict"], one["found"], one["advice"]) for one in checks}


PARTIES_SEEN = ("model-owner of north-lab", "crypto-provider of trust-centre")
"""Dialled, and left before a ticket was due."""


def test_the_doctor_finds_a_healthy_machine(deployment: Deployment, capfd: pytest.CaptureFixture[str]) -> None:
    status, found = doctors_findings(capfd, deployment.data_owner_settings)
    assert status == 0, found
    ways = ("front end: address", "front end: certificate", "clock", "account")
    assert tuple(found) == (
        "private key",
        "certificate",
        "authority",
        "revocations",
        "front end's key",
        "storage key",
        "disk",
        "proxy",
        *ways,
        "models",
        *PARTIES_SEEN,
    )
    assert {verdict for verdict, _, _ in found.values()} <= {"good", "doubtful"}
    shown = in_process(capfd, "doctor", "--config", deployment.data_owner_settings)
    assert "good     account: accepted; 1 model(s) in the catalog" in shown.stdout.splitlines()
    assert "good     models: 1 as signed by north-lab" in shown.stdout.splitlines()
    logs = [server.log.read_text() for server in deployment.servers.values()]
    assert not any("Traceback" in log for log in logs)


ILL: dict[str, tuple[dict[str, Any], str, str]] = {
    "front end down": (
        {"inference_service": {"url": f"https://127.0.0.1:{closed_port()}"}},
        "front end: address",
        "IT department: allow TCP from here",
    ),
    "unknown name": (
        {"inference_service": {"url": "https://no-such-host.invalid:8443"}},
        "front end: address",
        "IT department: make no-such-host.invalid known to DNS",
    ),
    "another account's key": (
        {"inference_service": {"api_key": "ei-00000000-CANARYCANARYCANARY"}},
        "account",
        "key",
    ),
    "no key of this account": (
        {"inference_service": {"api_key": "set DATA_OWNER_INFERENCE_SERVICE__API_KEY instead"}},
        "account",
        "the API key is not set: put it into the variable DATA_OWNER_INFERENCE_SERVICE__API_KEY",
    ),
    "no key of the front end": (
        {"ticket_keys": ["/nowhere/ticket-key.public.pem"]},
        "front end's key",
        "No such file or directory",
    ),
    "no storage key": ({"at_rest": {"key_file": "/nowhere/at-rest.key"}}, "storage key", "head -c 32 /dev/urandom"),
    "no list at the front end": (
        {"inference_service": {"revocations": "/nowhere/revoked.crl"}},
        "account",
        "/nowhere/revoked.crl",
    ),
    "no authority of the front end": (
        {"inference_service": {"authority": "/nowhere/authority.pem"}},
        "front end: certificate",
        "correct inference_service.authority in the settings",
    ),
    "nobody's model": (
        {"model_owners": [{"organisation": "south-lab"}]},
        "account",
        "the models in the catalog are of north-lab, and the settings' model_owners are south-lab",
    ),
    "reference pictures of a model that has none": (
        {"references": "/nowhere"},
        "reference pictures",
        "has no reference pictures: ask north-lab to import it with --references",
    ),
    "model owner down": (
        {"model_owners": [{"organisation": "north-lab", "url": f"ws://127.0.0.1:{closed_port()}/v2/inference"}]},
        "model-owner of north-lab",
        "check the address and that the party runs",
    ),
}


@pytest.mark.parametrize("case", ILL)
def test_the_doctor_says_what_is_wrong(
    deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    changes, name, words = ILL[case]
    status, found = doctors_findings(capfd, changed_settings(deployment, tmp_path / "settings.toml", **changes))
    assert status == int(found[name][0] == "bad")
    doubtful = case in {"nobody's model", "reference pictures of a model that has none"}
    assert found[name][0] == ("doubtful" if doubtful else "bad")
    assert words in " ".join(map(str, found[name]))
    assert "CANARY" not in str(found)
    if case == "nobody's model":
        assert not set(PARTIES_SEEN) & set(found), "what somebody else's entry says of addresses is not dialled"


def test_the_doctor_asks_the_proxy_first(
    deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://front.invalid:8080"
    settings = changed_settings(deployment, tmp_path / "settings.toml", inference_service={"url": url})
    monkeypatch.setenv("NO_PROXY", "")
    with dead_proxy() as dead, refusing_proxy(403) as refusing:
        for proxy, found_words, advice_words in (
            (dead, "cannot be reached (connection refused)", "correct HTTPS_PROXY"),
            (refusing, "does not let this machine through to front.invalid:8080 (HTTP 403)", "allow CONNECT to front."),
        ):
            where = proxy.removeprefix("http://")
            monkeypatch.setenv("HTTPS_PROXY", f"http://radiology:CANARY@{where}")
            status, found = doctors_findings(capfd, settings)
            assert status == 1
            verdict, words, advice = found["proxy"]
            assert verdict == "bad"
            assert f"the proxy {where}, which HTTPS_PROXY names, {found_words}" in words
            assert advice_words in words
            assert advice is None
            assert "CANARY" not in str(found)
            assert list(found)[-1] == "front end and parties"  # not looked at: the proxy stands before all of them


def test_the_doctor_finds_who_opens_tls_on_the_way(
    deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The data owner trusts another authority than the front end's: what an inspecting proxy looks like."""
    environment = deployment.environment
    call("federation", "init", "--folder", str(tmp_path / "other"), environment=environment)
    authority = str(tmp_path / "other" / "authority.pem")
    settings = changed_settings(deployment, tmp_path / "settings.toml", inference_service={"authority": authority})
    status, found = doctors_findings(capfd, settings)
    assert status == 1
    assert found["front end: certificate"][0] == "bad"
    assert "IT department: do not inspect TLS" in str(found["front end: certificate"][2])
    assert found["parties"][:2] == ("doubtful", "not looked at")


def test_the_doctor_looks_at_the_clock_and_at_files(
    deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    later = timedelta(minutes=2)
    monkeypatch.setattr(
        "data_owner.way_to_front_end.parsedate_to_datetime", lambda text: parsedate_to_datetime(text) + later
    )
    monkeypatch.setattr(doctor, "RENEW_BEFORE", timedelta(days=36500))
    monkeypatch.setattr(doctor, "NEEDED_BYTES", 1 << 60)
    key = tmp_path / "open.key"
    key.write_bytes((deployment.folder / "certificates" / "data-owner.key").read_bytes())
    key.chmod(0o644)
    settings = changed_settings(deployment, tmp_path / "settings.toml", credentials={"key": str(key)})
    status, found = doctors_findings(capfd, settings)
    assert status == 1
    assert found["clock"][0] == "bad"
    assert "NTP" in str(found["clock"][2])
    assert found["private key"][::2] == ("bad", f"chmod 600 {key}")
    assert [found[name][0] for name in ("certificate", "disk")] == ["doubtful", "doubtful"]
