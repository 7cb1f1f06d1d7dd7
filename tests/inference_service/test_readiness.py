"""Whether the front end says truly that a session could be opened."""

import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authority.certificates import require_file_in_time
from authority.enrolment import create_request, read_request
from authority.signing import Authority, create_authority
from contract.errors import ConfigurationError
from contract.identity import Party, Role
from inference_service.renewal import follow_renewals
from tests.full_disk import no_file_beyond
from tests.inference_service.conftest import FrontEnd, Keys


def asked(front_end: FrontEnd) -> tuple[int, list[str]]:
    answer = front_end.ask("GET", "/v2/health/ready")
    return answer.status_code, answer.json()["reasons"]


def altered(folder: Path) -> None:
    (path,) = (folder / "audit").glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-3] + b"x}\n")


def gone(folder: Path) -> None:
    for path in folder.glob("inference-service.sqlite*"):
        path.write_bytes(b"no database" * 1000)


def test_it_is_ready_when_all_is_well(front_end: FrontEnd) -> None:
    assert asked(front_end) == (200, [])


def test_with_a_full_disk_it_is_not_ready_and_says_no_more(front_end: FrontEnd) -> None:
    with no_file_beyond(100):
        answer = front_end.ask("GET", "/v2/health/ready")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["disk", "database", "audit-log"]
    assert str(front_end.settings.data_folder) not in answer.text
    assert str(front_end.settings.data_folder) in front_end.log.getvalue()


@pytest.mark.parametrize(("harm", "reason"), [(altered, "audit-log-broken"), (gone, "database")])
def test_what_was_harmed_is_named(front_end: FrontEnd, harm: Callable[[Path], None], reason: str) -> None:
    harm(front_end.settings.data_folder)
    assert asked(front_end) == (503, [reason])


def test_after_a_full_disk_sessions_go_on_without_a_restart(
    front_end: FrontEnd, keys: Keys, registered: object
) -> None:
    """The audit log was cut in the middle of a line by the disk."""
    assert registered
    (log,) = front_end.settings.audit_folder.glob("*.jsonl")
    body = {"model": "resnet", "engine": "crypten"}
    with no_file_beyond(log.stat().st_size + 50):
        assert front_end.ask("POST", "/v2/sessions", key=keys.clinician, json=body).status_code >= 500
    assert front_end.ask("POST", "/v2/sessions", key=keys.clinician, json=body).status_code == 201
    assert asked(front_end) == (200, [])


class TestCertificate:
    @pytest.fixture
    def certificates(self, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
        """Certificate and key, signed so many days ago for so many days."""
        create_authority(tmp_path / "authority")
        authority = Authority.open(tmp_path / "authority")

        def sign(*, days_ago: int, days: int = 10) -> tuple[Path, Path]:
            folder = tmp_path / f"front-end{days_ago}"
            request = create_request(Party(role=Role.INFERENCE_SERVICE, organisation="registry"), folder)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Authority, "_now", lambda _self: datetime.now(UTC) - timedelta(days=days_ago))
                (folder / "front.pem").write_bytes(authority.sign(read_request(request), days=days))
            return folder / "front.pem", folder / "inference-service.key"

        return sign

    @pytest.mark.parametrize(
        ("days_ago", "words"), [(11, "ended at .* or set the clock if it is ahead"), (-5, "the clock .* is behind")]
    )
    def test_one_that_is_not_valid_today_is_told(
        self, certificates: Callable[..., tuple[Path, Path]], days_ago: int, words: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=words):
            require_file_in_time(certificates(days_ago=days_ago)[0])

    def test_one_that_has_ended_does_not_replace_one_that_serves(
        self, certificates: Callable[..., tuple[Path, Path]], caplog: pytest.LogCaptureFixture
    ) -> None:
        shown, key = certificates(days_ago=1)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(shown, key)
        follow_renewals(context, certificate=shown, key=key)
        ended, its_key = certificates(days_ago=11)
        shown.write_bytes(ended.read_bytes())
        key.write_bytes(its_key.read_bytes())
        connection = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
        with caplog.at_level(logging.WARNING):
            context.sni_callback(connection, "front", context)  # type: ignore[misc]
        assert connection.context is context
        assert "the one before stays in use" in caplog.text
