"""Mirrors and proxies that remove or change fields and headers: the digest in the list of files decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Home
from tests.support.commands import run, run_json, run_json_one, run_process
from tests.support.ggufs import tiny_chat
from tests.support.hub_replies import MISSING, change_field, fetch_reply, send_reply
from tests.support.hub_server import (
    Compress,
    FlipBit,
    Headers,
    HubServer,
    IgnoreRange,
    Reset,
    Status,
    Truncate,
    run_hub,
)

REPO, FILE = "owner/tiny-GGUF", "tiny-Q8_0.gguf"
REQUESTS = 60  # more than any of these pulls needs
NGINX = '"66f1a2b3-5f5e100"'
RECORD = ("X-Repo-Commit", "X-Linked-Size", "X-Linked-Etag")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with run_hub(monkeypatch, retry_seconds="0.01", network_wait_seconds="5") as hub:
        hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE, weights_bytes=3_000_000), "README.md": "# Tiny"})
        yield hub


def assert_pulled(hub: HubServer, home: Home) -> None:
    """Pull the repo, and check that the file is whole and that nothing claims a change."""
    done = run("pull", REPO)
    assert "changed" not in done.output
    served = hub.list_repos()[0].find_file(FILE)
    assert served is not None
    assert [path.read_bytes() for path in home.cache.rglob("*.gguf")] == [served.location.read_bytes()]
    assert run_json("list")["models"][0]["state"] == "ready"
    assert hub.count(FILE) < REQUESTS


@pytest.mark.parametrize(
    "headers",
    [
        *({name: ""} for name in (*RECORD, "ETag", "Content-Length")),
        dict.fromkeys((*RECORD, "ETag", "Content-Length"), ""),
        {"X-Linked-Etag": "", "ETag": NGINX},
        {"X-Linked-Etag": NGINX, "X-Linked-Size": "unknown", "X-Repo-Commit": "main"},
        {"X-Linked-Etag": 'w/"{n}"'},
    ],
    ids=str,
)
@pytest.mark.parametrize("has_storage", [True, False])
def test_record_of_the_hub_is_not_needed(
    headers: dict[str, str], has_storage: bool, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with HubServer(storage=has_storage) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("LLM_HF_RETRY_SECONDS", "0.01")
        hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE, weights_bytes=3_000_000), "README.md": "# Tiny"})
        hub.fault(Headers(headers), on=f"resolve/{hub.list_repos()[0].commit}/{FILE}", side="hub", times=None)
        assert_pulled(hub, home)


@pytest.mark.parametrize(
    "fault",
    [
        *(Headers({name: ""}) for name in ("ETag", "Content-Range", "Content-Length", "Accept-Ranges", "Content-Type")),
        Headers(dict.fromkeys(("ETag", "Content-Range", "Content-Length"), "")),
        *(
            Headers({"ETag": etag})
            for etag in (NGINX, 'W/"x"', 'w/"x"', "unquoted", '"{n}"', 'W/"{n}"', '"' + "a" * 64)
        ),
        Headers({"ETag": '"{n}"', "Content-Range": ""}),
        Headers({"Content-Type": "text/html"}),
        Compress(),
        Compress(only_claim=True),
        IgnoreRange(),
    ],
    ids=str,
)
def test_headers_of_the_storage_are_not_needed(hub: HubServer, home: Home, fault: Headers | Compress) -> None:
    hub.fault(fault, on=FILE, side="storage", times=None)
    run("pull", REPO, "--dry-run")  # reads the header
    hub.fault(Reset(after=700_000), on=FILE, side="storage", times=3)  # later requests may have If-Range
    hub.fault(Truncate(after=800_000), on=FILE, side="storage", times=4)
    assert_pulled(hub, home)


def test_weak_digest_in_any_case_is_the_digest(hub: HubServer, home: Home) -> None:
    digest = hub.list_repos()[0].files[1].etag.upper()
    hub.fault(Headers({"X-Linked-Etag": f'w/"{digest}"'}), on=FILE, side="hub", times=None)
    remove_digests(hub)
    assert_pulled(hub, home)


def test_wrong_bytes_without_a_range_are_not_accepted(hub: HubServer, home: Home) -> None:
    hub.fault(Headers({"Content-Range": ""}), on=FILE, side="storage", times=None)
    hub.fault(FlipBit(at=2_000_000), on=FILE, side="storage", times=None)
    done = run("pull", REPO, code=1)
    assert "has the wrong digest" in done.stderr
    assert not list(home.cache.rglob("*.gguf"))


def test_unknown_compression_is_named(hub: HubServer) -> None:
    hub.fault(Compress(only_claim=True), on=FILE, side="storage", times=None)
    hub.fault(Headers({"Content-Encoding": "br"}), on=FILE, side="storage", times=None)
    done = run("pull", REPO, code=1)
    assert "Content-Encoding: br" in done.stderr
    assert hub.count(FILE) < REQUESTS


def remove_digests(hub: HubServer) -> None:
    """Let the Hub list files without digests."""
    path = f"/api/models/{REPO}"
    reply = fetch_reply(hub, f"{path}?blobs=true")
    for field in ("lfs", "blobId"):
        reply = change_field(reply, f"siblings.1.{field}", MISSING)
    send_reply(hub, f"{path}?", reply)
    hub.fault(Status(404), on="/tree/", times=None)


@pytest.mark.parametrize(
    "headers", [{"X-Linked-Etag": "", "ETag": NGINX}, dict.fromkeys((*RECORD, "ETag"), "")], ids=str
)
def test_file_that_nothing_can_prove_is_refused_with_the_header(
    hub: HubServer, home: Home, headers: dict[str, str]
) -> None:
    remove_digests(hub)
    hub.fault(Headers(headers), on=FILE, times=None)
    done = run("pull", REPO, code=1)
    assert "so it can't be verified" in done.stderr
    assert "X-Linked-Etag" in done.stderr
    assert "changed" not in done.stderr
    assert not list(home.cache.rglob("*.gguf"))
    assert hub.count(FILE) < REQUESTS


@pytest.mark.parametrize("headers", [{}, {"X-Linked-Size": ""}, {"X-Repo-Commit": ""}], ids=str)
def test_digest_of_the_response_proves_a_file_without_one(hub: HubServer, home: Home, headers: dict[str, str]) -> None:
    remove_digests(hub)
    hub.fault(Headers(headers), on=FILE, side="hub", times=None)
    assert_pulled(hub, home)


OPTIONAL_FIELDS = (
    "author", "createdAt", "disabled", "downloads", "gated", "gguf", "lastModified", "library_name", "likes", "modelId",
    "pipeline_tag", "private", "securityRepoStatus", "tags", "usedStorage",
)  # fmt: skip


@pytest.mark.parametrize("value", [None, "text", -5, [None], {"a": None}], ids=str)
def test_every_command_works_with_odd_metadata(hub: HubServer, home: Home, value: object) -> None:
    config = f'{{"top_k": 1{"0" * 400}, "top_p": 0.5}}'
    files = {file.path: file.location for file in hub.list_repos()[0].files}
    hub.add_repo(REPO, {**files, "generation_config.json": config})
    odd = dict.fromkeys(OPTIONAL_FIELDS, value)
    send_reply(hub, f"/api/models/{REPO}?", {**fetch_reply(hub, f"/api/models/{REPO}?blobs=true"), **odd})
    send_reply(hub, "/api/models?", [{"id": "other/x-GGUF"}, value, {**odd, "id": REPO}])
    send_reply(hub, "/paths-info/", [value, {"path": FILE, "securityFileStatus": value}])
    assert_pulled(hub, home)
    assert "Q8_0" in run("info", REPO, "--refresh").stdout
    assert [row["id"] for row in run_json("search", "tiny")["results"]] == ["other/x-GGUF", REPO]
    for words in (("search", "tiny"), ("list",), ("show", REPO)):
        assert "tiny" in run(*words).stdout
    config_values = run_json_one("show", REPO)["hub"]["generation_config"]
    assert config_values == {"top_p": 0.5}


# Names of files


def test_name_that_this_system_can_not_write(hub: HubServer, tmp_path: Path) -> None:
    ascii_names = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    hub.add_repo(REPO, {"tïny-Q4_K_M.gguf": tiny_chat(tmp_path / "tiny.gguf")})
    refused = run_process("llm", "hf", "pull", REPO, code=1, environment=ascii_names, starts_python=True)
    assert "can't be written\nFile names have the encoding ascii here." in refused.stderr
    assert "PYTHONUTF8=1" in refused.stderr
    run("pull", REPO)
    refused = run_process("llm", "hf", "uninstall", "--dry-run", code=1, environment=ascii_names, starts_python=True)
    assert "PYTHONUTF8=1" in refused.stderr
