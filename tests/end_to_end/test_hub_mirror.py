"""The mirror, used by huggingface_hub's own command and by raw requests."""

from __future__ import annotations

import json
import socket
from functools import partial
from pathlib import Path

import pytest

from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import mirror_repos
from tests.support.commands import run_process
from tests.support.ggufs import tiny_chat
from tests.support.http_servers import ServerProcess, run_server_command
from tests.support.mirror_repos import COMMIT, WEIGHTS

folder = mirror_repos.folder
repo_list = mirror_repos.repo_list
endpoint = mirror_repos.endpoint


def test_hf_command_downloads_from_the_mirror_and_verifies(endpoint: str, home: Home) -> None:
    hf = partial(run_process, "hf", environment={"HF_ENDPOINT": endpoint})
    assert "acme/tiny-GGUF" in hf("models", "ls", "--search", "tiny", "--format", "json").stdout
    assert COMMIT in hf("models", "info", "acme/tiny-GGUF").stdout
    hf("download", "acme/tiny-GGUF")
    assert "Verified 4 file(s)" in hf("cache", "verify", "acme/tiny-GGUF").stdout
    snapshot = home.cache / "models--acme--tiny-GGUF/snapshots" / COMMIT
    assert (snapshot / "a b/odd #1%.gguf").read_bytes() == WEIGHTS


def get(server: ServerProcess, path: str, host: str = "127.0.0.1") -> tuple[int, bytes, bytes]:
    """Return the status, the headers and the body."""
    response = server.exchange(server.build_head("GET", "Connection: close", f"Host: {host}", path=path))
    head, _, body = response.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


def test_imported_model_is_served_only_if_it_is_named(home: Home, tmp_path: Path) -> None:  # noqa: ARG001
    secret = tiny_chat(tmp_path / "secret.Q8_0.gguf", answer="Secret.")
    Library().import_file(secret)
    for flags, served in ((), ["acme/tiny"]), (("--allow", "local/secret"), ["acme/tiny", "local/secret"]):
        with run_server_command("mirror", tmp_path, *flags) as server:
            found = json.loads(get(server, "/api/models")[2])
            assert sorted(repo["id"] for repo in found) == served
            status = 200 if flags else 404
            assert get(server, "/api/models/local/secret")[0] == status
            assert get(server, "/local/secret/resolve/main/secret.Q8_0.gguf")[0] == status
        printed = server.log.read_text()
        assert [line.split()[1] for line in printed.splitlines() if line.startswith("Serving ")] == served
        hidden = "Not serving local/secret (imported from a local file). Use --allow to serve it."
        assert (hidden in printed) is (not flags)


def test_library_without_public_models_serves_nothing(home: Home, tmp_path: Path) -> None:  # noqa: ARG001
    Library().import_file(tiny_chat(tmp_path / "mine.gguf"), repo="acme/claimed")  # which no Hub has confirmed
    with Library().mirror() as server:
        assert server.list_repos() == []
        assert server.hidden_repos == ["acme/claimed (imported from a local file)"]


@pytest.mark.parametrize("path", ["/api/models?limit=1", "/health", "/nothing"])
def test_mirror_refuses_unknown_host_names_and_echoes_none(path: str, home: Home, tmp_path: Path) -> None:  # noqa: ARG001
    with run_server_command("mirror", tmp_path, "--allowed-host", "Models.example") as server:
        port = server.address[1]
        for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "0x7f.1", "2130706433"):
            status, head, body = get(server, path, host)
            assert (host, status) == (host, 421)
            assert host.partition(":")[0].encode() not in head + body
            assert "--allowed-host NAME" in json.loads(body)["error"]
        own = socket.gethostname()
        for host in ("127.0.0.1", f"LOCALHOST:{port}", "[::1]:80", "192.0.2.7", own, "models.example.", f"{own}:1"):
            assert (host, get(server, path, host)[0]) == (host, 404 if path == "/nothing" else 200)


def test_link_to_the_next_page_has_the_checked_host(home: Home, tmp_path: Path) -> None:  # noqa: ARG001
    Library().import_file(tiny_chat(tmp_path / "other.gguf", answer="Other."))
    with run_server_command("mirror", tmp_path, "--allow", "local/other") as server:
        head = get(server, "/api/models?limit=1", "LocalHost:81")[1]
        assert b"link: <http://localhost:81/api/models?limit=1&cursor=1>" in head
        head = get(server, "/api/models?limit=1", "[0:0:0::1]")[1]
        assert b"link: <http://[::1]/api/models?limit=1&cursor=1>" in head
