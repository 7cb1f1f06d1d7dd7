"""Settings: strict, frozen, from file and environment, without a secret in any message."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr, TypeAdapter, ValidationError

from contract.base import Strict
from contract.errors import ConfigurationError, SettingsWrong
from contract.identity import Credentials
from plumbing.settings import Address, HttpUrl, PartySettings, WebSocketUrl, load_settings, settings_config

SECRET = "correct-horse-battery"


class Limits(Strict):
    sessions: int = Field(default=4, ge=1)
    spool: Path = Path("spool")


class Example(PartySettings):
    model_config = settings_config("EXAMPLE_PARTY_")
    listen: Address
    provider: WebSocketUrl
    credentials: Credentials
    api_key: SecretStr
    peers: tuple[str, ...] = ()
    limits: Limits = Limits()
    database: Path = Path("state.sqlite")


GOOD = f"""
listen = "127.0.0.1:8443"
provider = "wss://dealer.example:9443/protocol"
api_key = "{SECRET}"
[credentials]
key = "keys/party.key"
certificate = "/etc/party.pem"
authority = "authority.pem"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "example.toml"
    path.write_text(GOOD)
    return path


def test_file_alone(file: Path, tmp_path: Path) -> None:
    settings = load_settings(Example, file)
    assert settings.listen == Address(host="127.0.0.1", port=8443)
    assert settings.provider == "wss://dealer.example:9443/protocol"
    assert settings.credentials.key == tmp_path / "keys/party.key"
    assert settings.credentials.certificate == Path("/etc/party.pem")
    assert settings.limits.spool == tmp_path / "spool"
    assert settings.database == tmp_path / "state.sqlite"
    assert settings.api_key.get_secret_value() == SECRET


def test_environment_goes_first(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXAMPLE_PARTY_LISTEN", "[::1]:0")
    monkeypatch.setenv("EXAMPLE_PARTY_CREDENTIALS__KEY", "elsewhere.key")
    monkeypatch.setenv("EXAMPLE_PARTY_LIMITS__SESSIONS", "9")
    monkeypatch.setenv("EXAMPLE_PARTY_PEERS", '["a", "b"]')
    settings = load_settings(Example, file)
    assert settings.listen == Address(host="::1", port=0)
    assert settings.credentials.key == tmp_path / "elsewhere.key"
    assert settings.credentials.authority == tmp_path / "authority.pem"
    assert settings.limits.sessions == 9
    assert settings.peers == ("a", "b")


def test_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(PartySettings):
        model_config = settings_config("SMALL_")
        listen: Address

    monkeypatch.setenv("SMALL_LISTEN", "localhost:1")
    assert load_settings(Small, None).listen.port == 1


def test_constructed_directly_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(PartySettings):
        model_config = settings_config("SMALL_")
        name: str = "default"

    monkeypatch.setenv("SMALL_NAME", "from the environment")
    assert Small().name == "default"


def test_frozen_and_secret(file: Path) -> None:
    settings = load_settings(Example, file)
    with pytest.raises(ValidationError):
        settings.listen = Address(host="0.0.0.0", port=1)
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("addition", "named"),
    [
        (("listen", "lisen"), "lisen"),
        (('"127.0.0.1:8443"', '"127.0.0.1"'), "listen"),
        (("wss://", "https://"), "provider"),
        (("wss://", f"wss://user:{SECRET}@"), "provider"),
        (("[credentials]", "colour = 1\n[credentials]"), "colour"),
        (("[credentials]", "[credentials]\ncolour = 1"), "credentials"),
        (("[credentials]", "[limits]\nsessions = 0\n[credentials]"), "limits.sessions"),
        (("[credentials]", "[limits]\ncolour = 0\n[credentials]"), "limits.colour"),
        ((f'"{SECRET}"', f'["{SECRET}"]'), "api_key"),
        ((f'"{SECRET}"', f'"{SECRET}'), "TOML"),
    ],
)
def test_mistakes_in_the_file_name_file_and_key(file: Path, addition: tuple[str, str], named: str) -> None:
    file.write_text(GOOD.replace(*addition, 1))
    with pytest.raises(ConfigurationError) as caught:
        load_settings(Example, file)
    message = str(caught.value)
    assert str(file) in message
    assert named in message
    assert "\n" not in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("addition", "words"),
    [
        (('listen = "127.0.0.1:8443"\n', ""), "listen: not set; add it to the file or set EXAMPLE_PARTY_LISTEN"),
        (("[credentials]", "colour = 1\n[credentials]"), "colour: no such setting; correct the file"),
        (("[credentials]", "[limits]\ncolour = 0\n[credentials]"), "limits.colour: no such setting; correct the file"),
        (
            ("[credentials]", '[limits]\nsessions = "many"\n[credentials]'),
            "limits.sessions: must be a whole number; correct the file",
        ),
    ],
)
def test_mistakes_are_told_in_words(file: Path, addition: tuple[str, str], words: str) -> None:
    assert addition[0] in GOOD
    file.write_text(GOOD.replace(*addition, 1))
    with pytest.raises(ConfigurationError) as caught:
        load_settings(Example, file)
    assert str(caught.value) == f"{file}: {words}"


def test_what_is_missing_without_a_file_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsWrong) as caught:
        load_settings(Example, None)
    assert caught.value.faults == tuple(
        f"{name}: not set; set EXAMPLE_PARTY_{name.upper()} or give a file with --config"
        for name in ("listen", "provider", "credentials", "api_key")
    )
    assert str(caught.value) == "; also ".join(caught.value.faults)
    monkeypatch.setenv("EXAMPLE_PARTY_CREDENTIALS__KEY", "party.key")
    with pytest.raises(ConfigurationError, match="not set"):
        load_settings(Example, None)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EXAMPLE_PARTY_LISEN", "127.0.0.1:1"),
        ("EXAMPLE_PARTY_LISTEN", SECRET),
        ("EXAMPLE_PARTY_PEERS", SECRET),
        ("EXAMPLE_PARTY_LIMITS__SESSIONS", SECRET),
        ("EXAMPLE_PARTY_LIMITS__COLOUR", SECRET),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(Example, file)
    message = str(caught.value)
    assert variable.partition("__")[0].removeprefix("EXAMPLE_PARTY_").lower() in message.lower()
    assert "\n" not in message
    assert SECRET not in message


def test_missing_binary_and_oversized_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--config"):
        load_settings(Example, tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not a TOML file"):
        load_settings(Example, tmp_path / "binary.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigurationError, match="larger"):
        load_settings(Example, tmp_path / "large.toml")


@given(
    host=st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z]{1,20}(\.[a-z]{1,9}){0,2}", fullmatch=True)),
    port=st.integers(0, 65535),
)
def test_addresses_are_read_as_they_are_written(host: str, port: int) -> None:
    address = Address(host=host, port=port)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", ":1", "host:65536", "host:-1", "::1:80", "[::1]", "[a]:1", "h:٣"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (WebSocketUrl, "http://host"),
        (WebSocketUrl, "ws://"),
        (WebSocketUrl, "ws://host:99999"),
        (WebSocketUrl, "ws://host/?token=1"),
        (HttpUrl, "ws://host"),
        (HttpUrl, "http://user@host"),
    ],
)
def test_urls_that_are_refused(kind: type[str], text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(text)


def test_urls_lose_their_trailing_slash() -> None:
    assert TypeAdapter[str](HttpUrl).validate_python("https://front.example/") == "https://front.example"


def test_all_that_is_wrong_is_told_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(
        GOOD.replace("[credentials]", '[limits]\nsessions = "many"\n[credentials]', 1).replace("wss://", "https://", 1)
    )
    monkeypatch.setenv("EXAMPLE_PARTY_LISEN", "127.0.0.1:1")
    monkeypatch.setenv("EXAMPLE_PARTY_COLOUR", "red")
    with pytest.raises(SettingsWrong) as caught:
        load_settings(Example, file)
    first, second, *others = caught.value.faults
    assert first == "environment variable EXAMPLE_PARTY_COLOUR names no setting; unset it"
    assert second.startswith("environment variable EXAMPLE_PARTY_LISEN names no setting; unset it, or use one of ")
    assert {line.removeprefix(f"{file}: ").partition(":")[0] for line in others} == {"limits.sessions", "provider"}
