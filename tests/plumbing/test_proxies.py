"""Which proxy stands in between, and how errors name it, without its password."""

import pytest

from contract.errors import ConfigurationError
from plumbing.proxies import find_proxy, is_loopback
from tests.fake_proxy import VARIABLES


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("variables", "url", "where"),
    [
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, "https://front.example:8080", "proxy.example:3128"),
        ({"https_proxy": "proxy.example:3128"}, "https://front.example", "proxy.example:3128"),
        ({"ALL_PROXY": "https://proxy.example"}, "https://front.example", "proxy.example:443"),
        ({"HTTP_PROXY": "http://proxy.example"}, "ws://model.example:8081/x", "proxy.example:80"),
        ({"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://b:2"}, "ws://model.example:8081/x", "a:1"),
        ({"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://b:2"}, "http://front.example", "b:2"),
        ({"HTTP_PROXY": "http://a:1"}, "https://front.example", None),
        ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "front.example"}, "https://front.example:8080", None),
        ({"HTTPS_PROXY": "http://a:1"}, "https://127.0.0.1:8080", None),
        ({"HTTPS_PROXY": "http://a:1"}, "ws://localhost:8080/x", None),
        ({"HTTPS_PROXY": "http://a:1"}, "https://[::1]:8080", None),
        ({}, "https://front.example", None),
    ],
)
def test_the_proxy_of_an_address(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, where: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = find_proxy(url)
    assert (None if proxy is None else f"{proxy.host}:{proxy.port}") == where
    assert proxy is None or proxy.setting in variables


@pytest.mark.parametrize("value", ["socks5://proxy.example:1080", "http://proxy.example:port", "http://"])
def test_what_is_no_http_proxy_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY names no HTTP proxy: write it as http://HOST:PORT"):
        find_proxy("https://front.example")


def test_a_password_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://radiology:canary%21@proxy.example:3128")
    proxy = find_proxy("https://front.example")
    assert proxy is not None
    assert proxy.authorization == "Basic cmFkaW9sb2d5OmNhbmFyeSE="  # radiology:canary!
    words = f"{proxy} {proxy!r} {proxy.dead('front.example:443', 'refused')} {proxy.refuses('front.example:443', 407)}"
    assert "canary" not in words
    assert "the proxy proxy.example:3128, which HTTPS_PROXY names, cannot be reached (refused)" in words


def test_loopback_is_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("192.0.2.1", "front.example", "")))
