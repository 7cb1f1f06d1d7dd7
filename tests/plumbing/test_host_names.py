"""What can be no host's name is refused in words, wherever it is written."""

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from contract.errors import ConfigurationError
from inference_service.client import InferenceServiceClient
from plumbing.listening import is_host_name, take_port
from plumbing.settings import Address, HttpUrl, WebSocketUrl
from secure_computation.channel.stream import Deadline
from secure_computation.channel.websocket import connect_websocket

NONE = ("front..example", ".example", "x" * 64 + ".example", "\u00fc" * 64)


@pytest.mark.parametrize("host", ["front.example", "127.0.0.1", "::1", "localhost", "m\u00fcnchen.example", "a."])
def test_what_can_be_one(host: str) -> None:
    assert is_host_name(host)


@pytest.mark.parametrize("host", NONE)
def test_what_can_be_none_is_refused_everywhere(host: str) -> None:
    for kind, scheme in ((HttpUrl, "https"), (WebSocketUrl, "wss")):
        with pytest.raises(ValidationError, match="no host's name"):
            TypeAdapter[str](kind).validate_python(f"{scheme}://{host}/path")
    with pytest.raises(ValueError, match="host:port"):
        Address.parse(f"{host}:80")
    with pytest.raises(ConfigurationError, match="no host's name"):
        take_port(host, 0, setting="--listen")
    with pytest.raises(ConfigurationError, match="no host's name"):
        InferenceServiceClient(f"https://{host}", SecretStr("key"))
    with pytest.raises(ConfigurationError, match="must look like"):
        connect_websocket(f"wss://{host}/session", Deadline(peer="somebody", step="connect", seconds=1))
