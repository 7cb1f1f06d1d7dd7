"""Keys and federation.json: who takes part, and what is refused."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contract.errors import CallerError, ConfigurationError
from federated_learning.rounds import participants as keys
from federated_learning.rounds.participants import (
    COORDINATOR_KEY,
    NODE_KEY,
    SIGNING_KEY,
    Participants,
    make_hospital_keys,
    make_participants,
    read_participant,
    read_participants,
    read_signing_key,
)


@pytest.fixture
def public(tmp_path: Path) -> list[Path]:
    return [make_hospital_keys(name, tmp_path / name) for name in ("north", "south", "west")]


def test_private_keys_are_for_their_owner_only(tmp_path: Path, public: list[Path]) -> None:
    make_participants(public, tmp_path / "coordinator", host="127.0.0.1", port=9092)
    private = [
        tmp_path / "north" / NODE_KEY,
        tmp_path / "north" / SIGNING_KEY,
        tmp_path / "coordinator" / COORDINATOR_KEY,
    ]
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in (*public, tmp_path / "coordinator" / "federation.json"):
        assert b"PRIVATE" not in path.read_bytes()


def test_a_federation_is_read_as_it_was_made(tmp_path: Path, public: list[Path]) -> None:
    federation = read_participants(make_participants(public, tmp_path / "c", host="training.example", port=9092))
    assert federation.names == ("north", "south", "west")
    assert federation.coordinator == "training.example:9092"
    assert len(federation.fingerprint) == 64
    key = read_signing_key(tmp_path / "south", federation.hospitals[1])
    assert key.public_key().public_bytes_raw() == federation.roster()["south"].public_bytes_raw()


def test_the_certificate_stays_when_a_hospital_joins(tmp_path: Path, public: list[Path]) -> None:
    before = read_participants(make_participants(public, tmp_path / "c", host="127.0.0.1", port=9092))
    more = [*public, make_hospital_keys("east", tmp_path / "east")]
    after = read_participants(make_participants(more, tmp_path / "c", host="127.0.0.1", port=9092))
    assert after.certificate == before.certificate
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("field", ["name", "node_key", "signing_key"])
def test_a_name_or_key_that_stands_twice_is_refused_naming_the_hospital(
    tmp_path: Path, public: list[Path], field: str
) -> None:
    north, south = (json.loads(path.read_text()) for path in public[:2])
    public[1].write_text(json.dumps(south | {field: north[field]}))
    with pytest.raises(ConfigurationError, match=r"hospital (north|south) (stands twice|has the same)"):
        make_participants(public, tmp_path / "c", host="127.0.0.1", port=9092)


def test_another_hospitals_key_is_refused(tmp_path: Path, public: list[Path]) -> None:
    federation = read_participants(make_participants(public, tmp_path / "c", host="127.0.0.1", port=9092))
    with pytest.raises(ConfigurationError, match="not the key of north"):
        read_signing_key(tmp_path / "south", federation.hospitals[0])


@pytest.mark.parametrize("content", ["", "{}", '{"name": "North"}', "[1]"])
def test_a_file_that_is_no_public_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "north.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"north\.json"):
        read_participant(path)


def test_keys_are_never_overwritten(tmp_path: Path, public: list[Path]) -> None:
    with pytest.raises(ConfigurationError, match="exists already"):
        make_hospital_keys("north", tmp_path / "north")


@pytest.mark.parametrize("name", ["North", "", "a b", "-", "x" * 65, "../x"])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(CallerError, match="lower-case"):
        make_hospital_keys(name, tmp_path)


def test_a_host_is_a_name_or_an_address(tmp_path: Path, public: list[Path]) -> None:
    with pytest.raises(CallerError, match="neither a DNS name"):
        make_participants(public, tmp_path / "c", host="a b", port=9092)


class TestRevokedKeys:
    """Keys that a hospital replaced, or that others may know, do not come back."""

    def gathered(self, public: list[Path], folder: Path, *revoked: Path) -> Participants:
        return read_participants(make_participants(public, folder, host="127.0.0.1", port=9092, revoked=revoked))

    def test_keys_that_a_hospital_replaced_are_refused(self, tmp_path: Path, public: list[Path]) -> None:
        before = self.gathered(public, tmp_path / "c")
        new = [make_hospital_keys("north", tmp_path / "new"), *public[1:]]
        after = self.gathered(new, tmp_path / "c")
        assert set(after.revoked) == set(before.hospitals[0].key_hashes())
        with pytest.raises(ConfigurationError, match="hospital north was revoked: it makes new keys"):
            self.gathered(public, tmp_path / "c")
        assert self.gathered(new[1:], tmp_path / "c").revoked == after.revoked

    @pytest.mark.parametrize("name", ["north", "elsewhere"])
    def test_keys_that_others_may_know_are_refused_under_any_name(
        self, tmp_path: Path, public: list[Path], name: str
    ) -> None:
        stolen, rest = public[0], public[1:]
        self.gathered(rest, tmp_path / "c", stolen)
        content = json.loads(stolen.read_text()) | {"name": name}
        again = tmp_path / "again.json"
        again.write_text(json.dumps(content))
        with pytest.raises(ConfigurationError, match="was revoked"):
            self.gathered([again, *rest], tmp_path / "c")

    def test_one_key_written_differently_is_one_key(self, tmp_path: Path, public: list[Path]) -> None:
        content = json.loads(public[0].read_text()) | {"name": "copy", "signing_key": "ab" * 32}
        content["node_key"] = f"\n{content['node_key']}\n"
        copy = tmp_path / "copy.json"
        copy.write_text(json.dumps(content))
        with pytest.raises(ConfigurationError, match="has the same node key as"):
            self.gathered([*public, copy], tmp_path / "c")

    def test_a_hospital_that_stays_away_for_a_while_may_come_back(self, tmp_path: Path, public: list[Path]) -> None:
        self.gathered(public, tmp_path / "c")
        self.gathered(public[1:], tmp_path / "c")
        assert self.gathered(public, tmp_path / "c").revoked == ()


@pytest.mark.parametrize(
    ("days", "words"), [(-826, "or set the clock if it is ahead"), (1, "the clock of this machine is behind")]
)
def test_a_coordinators_certificate_that_is_not_valid_today_is_told(
    tmp_path: Path, public: list[Path], monkeypatch: pytest.MonkeyPatch, days: int, words: str
) -> None:
    class Then(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "datetime":  # type: ignore[override]
            del tz
            return datetime.now(UTC) + timedelta(days=days)

    with monkeypatch.context() as patch:
        patch.setattr(keys, "datetime", Then)
        path = make_participants(public, tmp_path / "c", host="127.0.0.1", port=9092)
    federation = read_participants(path)
    with pytest.raises(ConfigurationError, match=words):
        federation.require_certificate_in_time()
