from __future__ import annotations

import http.client
import json
import socket
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_hf_models.errors import HfModelsError, NotWritableError
from llm_hf_models.servers.catalog import ServedFile, ServedRepo
from llm_hf_models.servers.hub_mirror import make_server
from llm_hf_models.system.hashing import compute_digests
from tests.support import mirror_repos
from tests.support.mirror_repos import COMMIT, OLD, SECRET, WEIGHTS, RepoList, make_file, run_server

folder = mirror_repos.folder
repo_list = mirror_repos.repo_list
endpoint = mirror_repos.endpoint


@pytest.fixture
def api(endpoint: str) -> HfApi:
    return HfApi(endpoint, token=False)


def ask(
    endpoint: str, path: str, headers: dict[str, str] | None = None, method: str = "GET", body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send one request on a connection of its own, with the path unchanged."""
    with closing(http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)) as connection:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


RESOLVE = f"/acme/tiny-GGUF/resolve/{COMMIT}/tiny-Q4_K_M.gguf"


def test_name_in_other_capitals_is_answered_with_the_repos_own(api: HfApi) -> None:
    assert api.model_info("ACME/Tiny-gguf").id == "acme/tiny-GGUF"


def test_search_matches_words_of_the_name_in_any_order_and_case(api: HfApi) -> None:
    assert [row.id for row in api.list_models(search="gguf TINY")] == ["acme/tiny-GGUF"]
    assert not list(api.list_models(search="tiny nothing"))


@pytest.mark.parametrize(
    ("narrowed", "found"),
    [
        ({"filter": "gguf"}, ["acme/tiny-GGUF"]),
        ({"filter": ["license:mit", "en"]}, ["acme/tiny-GGUF"]),
        ({"filter": ["license:mit", "fr"]}, []),
        ({"filter": "base_model:quantized:acme/tiny"}, ["acme/tiny-GGUF"]),
        ({"author": "Umbrella"}, ["umbrella/many"]),
        ({"pipeline_tag": "text-generation"}, ["acme/tiny-GGUF"]),
        ({"gated": True}, ["umbrella/many"]),
        ({"gated": False}, ["acme/tiny-GGUF"]),
        ({"apps": "llama.cpp"}, ["acme/tiny-GGUF"]),
        ({"num_parameters": "min:500K,max:1M"}, ["acme/tiny-GGUF"]),
        ({"num_parameters": "min:2M"}, []),
        ({"sort": "downloads"}, ["umbrella/many", "acme/tiny-GGUF"]),
        ({"sort": "last_modified"}, ["acme/tiny-GGUF", "umbrella/many"]),
        ({"limit": 1}, ["umbrella/many"]),
    ],
)
def test_search_is_filtered_and_sorted_as_on_the_hub(api: HfApi, narrowed: dict[str, object], found: list[str]) -> None:
    assert [row.id for row in api.list_models(**narrowed)] == found  # type: ignore[arg-type]


def test_expanded_rows_have_only_the_requested_properties(api: HfApi) -> None:
    (row,) = api.list_models(author="acme", expand=["gguf", "siblings", "downloads", "usedStorage"])
    assert row.gguf == {"total": 1_000_000, "architecture": "llama", "context_length": 4096}
    assert [sibling.rfilename for sibling in row.siblings or ()][-1] == "tiny-Q4_K_M.gguf"
    assert (row.downloads, row.used_storage) == (5, 2 * len(WEIGHTS) + 28)
    assert row.likes is None


def test_unknown_property_is_a_bad_request(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="unknown property 'secrets'"):
        list(api.list_models(expand=["secrets"]))  # type: ignore[list-item]


def test_repo_has_sizes_digests_and_scans(api: HfApi, folder: Path) -> None:
    info = api.model_info("acme/tiny-GGUF", files_metadata=True, securityStatus=True)
    files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    weights, card = files["tiny-Q4_K_M.gguf"], files["README.md"]
    assert info.sha == COMMIT
    assert weights.lfs is not None
    assert (weights.size, weights.lfs.sha256) == (len(WEIGHTS), compute_digests(folder / "weights").sha256)
    assert (card.lfs, card.blob_id) == (None, compute_digests(folder / "card").git_sha1)
    assert info.security_repo_status == {
        "scansDone": True,
        "filesWithIssues": [{"path": "tiny-Q4_K_M.gguf", "level": "suspicious"}],
    }
    assert info.card_data is not None
    assert info.card_data.base_model == "acme/tiny"


def test_pointer_of_an_lfs_file_has_its_git_blob_id(endpoint: str, tmp_path: Path) -> None:
    _, _, body = ask(endpoint, "/api/models/acme/tiny-GGUF?blobs=true")
    weights = json.loads(body)["siblings"][-1]
    pointer = tmp_path / "pointer"
    pointer.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{weights['lfs']['sha256']}\nsize {weights['size']}\n"
    )
    git = subprocess.run(["git", "hash-object", pointer], capture_output=True, text=True, check=True)
    assert weights["blobId"] == git.stdout.strip()
    assert weights["lfs"]["pointerSize"] == pointer.stat().st_size


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_main_its_commit_and_no_revision_are_equal(api: HfApi, revision: str | None) -> None:
    assert api.model_info("acme/tiny-GGUF", revision=revision).sha == COMMIT


@pytest.mark.parametrize("revision", ["v1", "refs/pr/3", OLD])
def test_older_commit_is_served_under_its_own_names(api: HfApi, revision: str) -> None:
    info = api.model_info("acme/tiny-GGUF", revision=revision)
    assert (info.sha, len(info.siblings or ())) == (OLD, 1)
    assert [file.path for file in api.list_repo_tree("acme/tiny-GGUF", revision=revision)] == ["README.md"]


def test_revision_is_resolved_and_refs_are_listed(api: HfApi) -> None:
    assert api.resolve_revision("acme/tiny-GGUF", revision="v1").resolved == OLD
    branches = {ref.name: ref.target_commit for ref in api.list_repo_refs("acme/tiny-GGUF").branches}
    assert branches == {"main": COMMIT, "v1": OLD, "refs/pr/3": OLD}


def test_tree_lists_folders_and_everything_recursively(api: HfApi) -> None:
    top = [entry.path for entry in api.list_repo_tree("acme/tiny-GGUF")]
    every = [entry.path for entry in api.list_repo_tree("acme/tiny-GGUF", recursive=True)]
    assert top == ["README.md", "a b", "empty.txt", "tiny-Q4_K_M.gguf"]
    assert every == ["README.md", "a b", "a b/odd #1%.gguf", "empty.txt", "tiny-Q4_K_M.gguf"]
    assert [entry.path for entry in api.list_repo_tree("acme/tiny-GGUF", "a b")] == ["a b/odd #1%.gguf"]


@pytest.mark.parametrize("expand", [False, True])
def test_long_tree_comes_in_pages_and_is_complete(api: HfApi, expand: bool) -> None:
    entries = list(api.list_repo_tree("umbrella/many", recursive=True, expand=expand))
    assert len(entries) == 1100 + 7
    assert len({entry.path for entry in entries}) == len(entries)


def test_paths_have_their_commit_and_unknown_ones_are_omitted(api: HfApi) -> None:
    entries = api.get_paths_info("acme/tiny-GGUF", ["README.md", "a b", "nothing", "../secret"], expand=True)
    assert [entry.path for entry in entries] == ["README.md", "a b"]
    assert entries[0].last_commit is not None
    assert entries[0].last_commit.oid == COMMIT


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda api: api.model_info("acme/none"), RepositoryNotFoundError),
        (lambda api: api.model_info("acme/tiny-GGUF", revision="v9"), RevisionNotFoundError),
        (lambda api: api.model_info("acme/tiny-GGUF", revision="f" * 40), RevisionNotFoundError),
        (lambda api: list(api.list_repo_tree("acme/tiny-GGUF", "none")), RemoteEntryNotFoundError),
        (lambda api: api.hf_hub_download("acme/tiny-GGUF", "none.gguf"), RemoteEntryNotFoundError),
        (lambda api: api.hf_hub_download("acme/none", "none.gguf"), RepositoryNotFoundError),
        (lambda api: api.whoami(token="hf_any"), HfHubHTTPError),
    ],
)
def test_missing_repo_file_or_revision_gives_the_error_of_the_hub(
    api: HfApi, call: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        call(api)  # type: ignore[operator]


def test_file_metadata_has_digest_size_and_commit(endpoint: str, folder: Path) -> None:
    url = huggingface_hub.hf_hub_url("acme/tiny-GGUF", "a b/odd #1%.gguf", endpoint=endpoint)
    found = huggingface_hub.get_hf_file_metadata(url, token=False, endpoint=endpoint)
    assert (found.etag, found.size) == (compute_digests(folder / "weights").sha256, len(WEIGHTS))
    assert (found.commit_hash, found.location) == (COMMIT, url)


def test_snapshot_download_gets_an_older_commit(endpoint: str, tmp_path: Path) -> None:
    path = huggingface_hub.snapshot_download(
        "acme/tiny-GGUF", revision="v1", endpoint=endpoint, token=False, cache_dir=tmp_path
    )
    assert [file.name for file in Path(path).iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("requested", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=3071990-", 3_071_990, len(WEIGHTS)),
        ("bytes=3071990-99999999", 3_071_990, len(WEIGHTS)),
        ("bytes=-7", len(WEIGHTS) - 7, len(WEIGHTS)),
        ("bytes=-99999999", 0, len(WEIGHTS)),
    ],
)
def test_range_returns_exactly_its_bytes(endpoint: str, requested: str, start: int, stop: int) -> None:
    status, headers, body = ask(endpoint, RESOLVE, {"Range": requested})
    assert (status, headers["content-range"]) == (206, f"bytes {start}-{stop - 1}/{len(WEIGHTS)}")
    assert body == WEIGHTS[start:stop]


@pytest.mark.parametrize("requested", ["bytes=3072000-", "bytes=9999999-99999999", "bytes=-0"])
def test_range_outside_the_file_is_refused(endpoint: str, requested: str) -> None:
    status, headers, _ = ask(endpoint, RESOLVE, {"Range": requested})
    assert (status, headers["content-range"]) == (416, f"bytes */{len(WEIGHTS)}")


@pytest.mark.parametrize("requested", ["bytes=5-2", "bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=a-b"])
def test_invalid_range_returns_the_whole_file(endpoint: str, requested: str) -> None:
    status, _, body = ask(endpoint, RESOLVE, {"Range": requested})
    assert (status, body) == (200, WEIGHTS)


def test_if_range_with_another_etag_returns_the_whole_file(endpoint: str, folder: Path) -> None:
    etag = f'"{compute_digests(folder / "weights").sha256}"'
    same, _, part = ask(endpoint, RESOLVE, {"Range": "bytes=0-9", "If-Range": etag})
    other, _, whole = ask(endpoint, RESOLVE, {"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (same, part, other, whole) == (206, WEIGHTS[:10], 200, WEIGHTS)


def test_head_returns_everything_except_the_bytes(endpoint: str) -> None:
    status, headers, body = ask(endpoint, RESOLVE, {"Range": "bytes=0-9"}, method="HEAD")
    assert (status, headers["content-length"], body) == (200, str(len(WEIGHTS)), b"")
    assert headers["accept-ranges"] == "bytes"
    assert headers["x-repo-commit"] == COMMIT


@pytest.mark.parametrize("path", ["/api/models?search=tiny", "/api/models/acme/tiny-GGUF?blobs=true", RESOLVE])
def test_client_with_the_current_etag_gets_304(endpoint: str, path: str) -> None:
    _, headers, body = ask(endpoint, path)
    status, _, nothing = ask(endpoint, path, {"If-None-Match": headers["etag"]})
    assert body
    assert (status, nothing) == (304, b"")


def test_empty_file_is_served(endpoint: str) -> None:
    path = f"/acme/tiny-GGUF/resolve/{COMMIT}/empty.txt"
    assert ask(endpoint, path)[::2] == (200, b"")
    assert ask(endpoint, path, {"Range": "bytes=0-"})[0] == 416


def test_file_changed_on_disk_is_not_served(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"12345")
    repo = ServedRepo("acme/moving", COMMIT, (make_file("x.gguf", path, lfs=True),))
    with run_server(make_server(_Just(repo))) as endpoint:
        assert ask(endpoint, "/acme/moving/resolve/main/x.gguf")[::2] == (200, b"12345")
        for change in (lambda: path.write_bytes(b"1234"), path.unlink):
            change()
            status, headers, _ = ask(endpoint, "/acme/moving/resolve/main/x.gguf")
            assert (status, headers["x-error-code"]) == (404, "EntryNotFound")


@pytest.mark.parametrize(
    ("error", "message"),
    [(HfModelsError("disk"), "The catalog could not be read"), (RuntimeError("disk"), "Internal server error")],
)
def test_error_of_the_catalog_is_logged_and_not_sent(
    error: Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def list_repos(self) -> tuple[ServedRepo, ...]:
            raise error

    with run_server(make_server(Broken())) as endpoint:
        status, headers, body = ask(endpoint, "/api/models")
        assert ask(endpoint, "/health")[0] == 200
    assert (status, headers["x-error-message"], json.loads(body)) == (500, message, {"error": message})
    assert caplog.text.count("disk") == 1


class _Just:
    def __init__(self, *repos: ServedRepo) -> None:
        self._repos = repos

    def list_repos(self) -> tuple[ServedRepo, ...]:
        return self._repos


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_file_of_any_size_is_served_in_constant_memory(tmp_path: Path) -> None:
    import resource

    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(256 << 20)
    repo = ServedRepo("acme/large", COMMIT, (ServedFile("x.gguf", large, 256 << 20, "0" * 64, None),))
    with run_server(make_server(_Just(repo))) as endpoint:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with closing(http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=30)) as connection:
            connection.request("GET", "/acme/large/resolve/main/x.gguf")
            answer = connection.getresponse()
            read = sum(len(block) for block in iter(lambda: answer.read(1 << 16), b""))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert read == 256 << 20
    assert grown < 32 << 10 if sys.platform == "linux" else grown < 32 << 20  # kB on Linux, bytes on macOS


def test_one_connection_serves_many_requests(endpoint: str) -> None:
    with closing(http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)) as connection:
        connection.connect()
        port = connection.sock.getsockname()
        for path, status in ((RESOLVE, 200), ("/api/models/acme/none", 404), ("/health", 200), (RESOLVE, 200)):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
            assert connection.sock.getsockname() == port


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/models/acme/tiny-GGUF/preupload/main", b"{}", 405),
        ("POST", "/api/models/acme/tiny-GGUF/paths-info/main", b"[1]", 400),
        ("POST", "/api/models/acme/tiny-GGUF/paths-info/main", b"{" * 2_000, 400),
        ("DELETE", "/api/models/acme/tiny-GGUF", None, 405),
        ("POST", "/api/models/acme/tiny-GGUF/paths-info/main", b"x" * (2 << 20), 413),
        ("GET", "/api/models?num_parameters=many", None, 400),
        ("GET", "/api/models?sort=size", None, 400),
        ("GET", "/api/models?limit=-1", None, 400),
        ("GET", "/api/models?cursor=x", None, 400),
        ("GET", "/api/models/acme%FF/x", None, 400),
        ("GET", "/api/nothing", None, 404),
    ],
)
def test_bad_requests_get_an_error_status(
    endpoint: str, method: str, path: str, body: bytes | None, status: int
) -> None:
    headers = {"Content-Type": "application/json"} if body else {}
    found, sent, answer = ask(endpoint, path, headers, method, body)
    assert found == status
    assert json.loads(answer) == {"error": sent["x-error-message"]}


def test_request_to_write_is_refused_as_the_mirror_is_read_only(endpoint: str) -> None:
    for method, path in (("POST", "/api/repos/create"), ("DELETE", "/api/repos/delete"), ("PUT", RESOLVE)):
        status, headers, _ = ask(endpoint, path, {}, method, b"{}")
        assert (status, headers["x-error-message"]) == (405, "This mirror is read-only")
        assert set(headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_body_beyond_the_limit_is_not_read(endpoint: str) -> None:
    headers = {"Content-Length": str(10**8)}
    assert ask(endpoint, "/api/models/acme/tiny-GGUF/paths-info/main", headers, "POST", b"")[0] == 413


@pytest.mark.parametrize(("count", "status"), [(1, 200), (300_000, 413)])
def test_body_in_chunks_is_read_up_to_the_limit(endpoint: str, count: int, status: int) -> None:
    with closing(http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)) as connection:
        form = iter([b"paths=READ", b"ME.md", b"&p=x" * count])
        path = "/api/models/acme/tiny-GGUF/paths-info/main"
        connection.request("POST", path, form, encode_chunked=True)
        answer = connection.getresponse()
        found = json.loads(answer.read())
    assert answer.status == status
    assert status == 413 or [entry["path"] for entry in found] == ["README.md"]


def test_client_that_leaves_a_download_leaves_no_traceback(endpoint: str, capfd: pytest.CaptureFixture[str]) -> None:
    address = (urlsplit(endpoint).hostname, urlsplit(endpoint).port)
    for count in (0, 100_000):
        with closing(socket.create_connection(address, 10)) as raw, raw.makefile("rb") as received:
            raw.sendall(f"GET {RESOLVE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert len(received.read(count)) == count
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ask(endpoint, RESOLVE)[2] == WEIGHTS
    assert capfd.readouterr() == ("", "")


def test_root_describes_the_server_and_health_is_ok(endpoint: str) -> None:
    assert b"HF_ENDPOINT" in ask(endpoint, "/")[2]
    assert ask(endpoint, "/health")[::2] == (200, b"ok\n")


@settings(max_examples=150, deadline=None)
@given(path=st.one_of(st.text(max_size=60), st.lists(st.sampled_from(
    ["..", "%2e%2e", "%2f", "secret", "card", "acme", "tiny-GGUF", "main", "resolve", "api", "models", "", "%00", "\\"]
)).map("/".join)))  # fmt: skip
def test_no_path_reaches_a_file_outside_the_catalog(endpoint: str, path: str) -> None:
    for start in ("/", "/acme/tiny-GGUF/resolve/main/"):
        status, _, body = ask(endpoint, start + quote(path, safe="/%\\"))
        assert status < 500
        assert SECRET not in body


def test_port_in_use_gives_a_clear_error(endpoint: str, repo_list: RepoList) -> None:
    with pytest.raises(NotWritableError, match="Can't listen on"):
        make_server(repo_list, port=urlsplit(endpoint).port or 0)


def test_mirror_listens_on_ipv6(repo_list: RepoList) -> None:
    try:
        server = make_server(repo_list, "::1")
    except NotWritableError:
        pytest.skip("no IPv6 on this machine")
    with run_server(server) as endpoint:
        api = HfApi(endpoint, token=False)
        assert len(list(api.list_repo_tree("umbrella/many", recursive=True, expand=True))) == 1107
