"""Redirects to internal addresses, by name and by address, and passwords in redirects."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from llm_hf_models.errors import NetworkError, RedirectRefusedError
from llm_hf_models.network.redirects import resolve_redirect

NAMES = {
    "hub.example": "93.184.216.34",
    "storage.example": "93.184.216.35",
    "rebound.example": "127.0.0.1",
    "six.example": "::1",
    "metadata.example": "169.254.169.254",
    "hub.corp": "10.1.2.3",
}
HUB = "https://hub.example/api/models"


@pytest.fixture(autouse=True)
def _resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        if host not in NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "unknown name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (NAMES[host], port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


INTERNAL = [
    "127.0.0.1", "127.9.9.9", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "0.0.0.0", "0", "localhost",
    "LOCALHOST.", "a.localhost", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[fe80::1]",
    "[fe80::1%25eth0]", "169.254.169.254", "169.254.1.1", "100.100.100.200", "[fd00:ec2::254]", "rebound.example",
    "six.example", "metadata.example", "rebound.example.", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[::127.0.0.1]",
]  # fmt: skip


@pytest.mark.parametrize("host", INTERNAL)
@pytest.mark.parametrize("form", ["http://{}/x", "https://{}:8443/x", "//{}/x", "http://ann:secret@{}/x"])
def test_redirect_from_the_internet_to_an_internal_address_is_refused(host: str, form: str) -> None:
    with pytest.raises(RedirectRefusedError) as caught:
        resolve_redirect(HUB, form.format(host))
    assert "hub.example redirected to an internal address" in caught.value.message
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["storage.example", "unknown.example", "8.8.8.8", "10.0.0.1", "[2001:db8::1]", "[64:ff9b::808:808]", "hub.corp"],
)
def test_other_redirects_are_followed(host: str) -> None:
    assert resolve_redirect(HUB, f"https://{host}/x?a=b") == f"https://{host}/x?a=b"
    assert resolve_redirect(HUB, "/other") == "https://hub.example/other"


@pytest.mark.parametrize(
    "hub", ["http://127.0.0.1:8642", "http://localhost:8642", "http://[::1]:8642", "http://10.0.0.1", "http://hub.corp"]
)
def test_local_hub_may_redirect_to_this_machine(hub: str) -> None:
    assert resolve_redirect(f"{hub}/api", "http://127.0.0.1:9000/x") == "http://127.0.0.1:9000/x"
    assert resolve_redirect(f"{hub}/api", "http://rebound.example/x") == "http://rebound.example/x"


def test_names_are_left_to_a_proxy_and_addresses_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert resolve_redirect(HUB, "https://metadata.example/x") == "https://metadata.example/x"
    for host in ("127.0.0.1", "localhost", "2130706433", "[::ffff:169.254.169.254]"):
        with pytest.raises(RedirectRefusedError):
            resolve_redirect(HUB, f"https://{host}/x")


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("https://ann:secret@storage.example/x@y", "https://storage.example/x@y"),
        ("//ann:secret@storage.example/", "https://storage.example/"),
        ("https://a@b:secret@storage.example/", "https://storage.example/"),
        ("https://@storage.example/", "https://storage.example/"),
    ],
)
def test_password_in_a_redirect_is_ignored(target: str, url: str) -> None:
    assert resolve_redirect(HUB, target) == url


@pytest.mark.parametrize(
    "target",
    ["http://ann:secret@[::1/", "//ann:secret@[::1/", "ftp://ann:secret@storage.example/", "ftp:ann:secret@x",
     "http://ann:secret@storage.example:99999/"],
)  # fmt: skip
def test_password_in_an_invalid_redirect_is_not_shown(target: str) -> None:
    with pytest.raises(NetworkError) as caught:
        resolve_redirect(HUB, target)
    assert "secret" not in str(caught.value)
