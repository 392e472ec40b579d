"""Repos on a mirror, for tests of the mirror."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_hf_models.servers.asgi_server import HttpServer
from llm_hf_models.servers.catalog import ServedFile, ServedRepo
from llm_hf_models.servers.hub_mirror import make_server
from llm_hf_models.system.hashing import compute_digests

COMMIT, OLD = "a" * 40, "b" * 40
WEIGHTS = bytes(range(256)) * 12_000
SECRET = b"not served"


class RepoList:
    """A catalogue whose repos are served at once."""

    def __init__(self) -> None:
        self.all: list[ServedRepo] = []

    def list_repos(self) -> list[ServedRepo]:
        return self.all


def make_file(path: str, location: Path, *, lfs: bool) -> ServedFile:
    digests = compute_digests(location)
    size = location.stat().st_size
    return ServedFile(path, location, size, digests.sha256 if lfs else None, None if lfs else digests.git_sha1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "weights").write_bytes(WEIGHTS)
    (folder / "card").write_text("---\nlicense: mit\n---\n# Tiny\n")
    (folder / "empty").touch()
    (folder / "secret").write_bytes(SECRET)
    return folder


@pytest.fixture(scope="module")
def repo_list(folder: Path) -> RepoList:
    library = RepoList()
    card, weights = folder / "card", folder / "weights"
    tiny = ServedRepo(
        "acme/tiny-GGUF",
        COMMIT,
        (
            make_file("README.md", card, lfs=False),
            make_file("empty.txt", folder / "empty", lfs=False),
            make_file("a b/odd #1%.gguf", weights, lfs=True),
            make_file("tiny-Q4_K_M.gguf", weights, lfs=True),
        ),
        task="text-generation",
        tags=("en", "conversational"),
        license="mit",
        downloads=5,
        likes=1,
        updated=1_700_000_000,
        created=1_600_000_000,
        gguf={"total": 1_000_000, "architecture": "llama", "context_length": 4096},
        base_models=("acme/tiny",),
        scans_done=True,
        files_with_issues=(("tiny-Q4_K_M.gguf", "suspicious"),),
    )
    old = ServedRepo("acme/tiny-GGUF", OLD, (make_file("README.md", card, lfs=False),), revisions=("v1", "refs/pr/3"))
    many = ServedRepo(
        "umbrella/many", "c" * 40, tuple(make_file(f"d{n % 7}/{n:04}.txt", card, lfs=False) for n in range(1100)),
        downloads=9, trending=3, gated="manual",
    )  # fmt: skip
    library.all = [tiny, old, many]
    return library


@contextmanager
def run_server(server: HttpServer) -> Iterator[str]:
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host, port = server.server_address[:2]
        try:
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def endpoint(repo_list: RepoList) -> Iterator[str]:
    with run_server(make_server(repo_list)) as endpoint:
        yield endpoint
