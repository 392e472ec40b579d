"""Redirects of a Hub on the internet, through a proxy that knows its name, and passwords in redirects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llm_hf_models.errors import RedirectRefusedError
from llm_hf_models.network.connection import RangeConnection
from tests.conftest import Home
from tests.support.commands import run_process
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Status
from tests.support.proxies import Proxy
from tests.support.storage_server import StorageServer

REPO = "acme/tiny-GGUF"
FILE = "tiny-Q8_0.gguf"


@pytest.fixture
def hub(home: Home, tmp_path: Path) -> Iterator[HubServer]:  # noqa: ARG001
    with HubServer(storage=False) as hub:  # whose address is internal
        hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE), "README.md": "# Tiny\n"})
        yield hub


@pytest.fixture
def internal(home: Home) -> Iterator[HubServer]:  # noqa: ARG001
    """Provide a service of this machine."""
    with HubServer() as internal:
        yield internal


@pytest.fixture
def remote(hub: HubServer) -> Iterator[dict[str, str]]:
    """Provide the environment of a process for which the Hub is a host on the internet."""
    with Proxy() as proxy:
        proxy.hosts["hub.example"] = "127.0.0.1"
        url = proxy.make_url()
        yield {
            "HF_ENDPOINT": hub.endpoint.replace("127.0.0.1", "hub.example"),
            "HTTP_PROXY": url,
            "http_proxy": url,
            "LLM_HF_RETRY_SECONDS": "0.01",
        }


def test_remote_hub_is_reached_through_the_proxy(remote: dict[str, str]) -> None:
    assert REPO in run_process("llm", "hf", "search", "tiny", environment=remote).stdout
    run_process("llm", "hf", "pull", REPO, environment=remote)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("info", REPO), f"/api/models/{REPO}"),
        (("search", "tiny"), "/api/models"),
        (("info", REPO, "--card"), "/README.md"),
        (("pull", REPO), f"/{FILE}"),
    ],
    ids=["details", "search", "card", "file"],
)
@pytest.mark.parametrize(
    "target", ["http://ann:secret@127.0.0.1:{}", "http://localhost:{}", "http://[::ffff:7f00:1]:{}"]
)
def test_remote_hub_can_not_redirect_to_this_machine(
    words: tuple[str, ...], path: str, target: str, hub: HubServer, internal: HubServer, remote: dict[str, str]
) -> None:
    location = target.format(urlsplit(internal.endpoint).port)
    hub.fault(Status(302, {"Location": f"{location}/api/models"}), on=path, times=None)
    done = run_process("llm", "hf", *words, code=None, environment=remote)
    assert "hub.example redirected to an internal address" in done.stdout + done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert done.returncode == (0 if "--card" in words else 1)  # a missing card is a note
    assert internal.requests == []


def test_storage_host_can_not_redirect_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy, StorageServer(b"x") as internal, StorageServer(b"y") as storage:
        proxy.hosts["storage.example"] = "127.0.0.1"
        monkeypatch.setenv("http_proxy", proxy.make_url())
        storage.redirect_to = internal.url
        connection = RangeConnection(connect_seconds=5, stall_seconds=5)
        with pytest.raises(RedirectRefusedError):
            connection.get(storage.url.replace("127.0.0.1", "storage.example"), {}, {"Range": "bytes=0-0"})
        connection.close()
        assert len(storage.requests) == 1
        assert internal.requests == []


def test_local_hub_may_redirect_to_this_machine_without_a_password(hub: HubServer, internal: HubServer) -> None:
    port = urlsplit(internal.endpoint).port
    internal.add_repo(REPO, {FILE: b"x"})
    location = f"http://ann:secret@localhost:{port}/api/models"
    hub.fault(Status(302, {"Location": location}), on="/api/models", times=None)
    done = run_process("llm", "hf", "search", "tiny", environment={"HF_ENDPOINT": hub.endpoint})
    assert REPO in done.stdout
    assert internal.requests
    assert not [request for request in internal.requests if "authorization" in request.headers]
