"""The Hugging Face cache on this machine: reading and freeing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir, snapshot_download

from llm_hf_models.errors import NotWritableError
from llm_hf_models.hub.cache_files import CachedFile, delete_cached_files, scan_cache
from tests.conftest import Home
from tests.support import hub_repos
from tests.support.hub_repos import FILES, REPO, WEIGHTS
from tests.support.hub_server import HubServer

server = hub_repos.server

# The cache on this machine


def locate(files: Iterable[CachedFile]) -> set[Path]:
    return {file.location for file in files}


@pytest.fixture
def cached(server: HubServer, home: Home) -> Path:
    """Provide a cache made by the real downloader: two commits of one repo that share a file, and another repo."""
    old = server.list_repos()[0]
    server.add_repo(str(REPO), {**FILES, "README.md": "new"})
    server.add_repo("acme/other", {"x.gguf": b"GGUF other"})
    for name, revision in ((str(REPO), old.commit), (str(REPO), "main"), ("acme/other", "main")):
        snapshot_download(name, revision=revision, endpoint=server.endpoint, token=False, cache_dir=home.cache)
    return home.cache


def test_cache_is_read_regardless_of_the_tool_that_filled_it(cached: Path) -> None:
    files = scan_cache(cached)
    assert {(str(file.repo), file.path) for file in files} == {
        *((str(REPO), path) for path in FILES),
        ("acme/other", "x.gguf"),
    }
    assert len(files) == 7
    for file in files:
        assert file.location.read_bytes() == file.blob.read_bytes()
        assert file.size == file.location.stat().st_size
        assert file.location.is_relative_to(
            cached / f"models--{file.repo.owner}--{file.repo.name}/snapshots/{file.commit}"
        )


def test_missing_cache_is_empty(tmp_path: Path) -> None:
    assert scan_cache(tmp_path / "none") == []
    (tmp_path / "file").touch()
    assert scan_cache(tmp_path / "file") == []
    assert delete_cached_files(tmp_path / "none", []) == 0


def test_unknown_folders_in_the_cache_are_skipped(cached: Path) -> None:
    files = scan_cache(cached)
    for name in ("models--gpt2", "datasets--a--b", "models--a--..", "nonsense", "blobs", ".locks"):
        (cached / name / "snapshots" / ("e" * 40)).mkdir(parents=True)
        (cached / name / "snapshots" / ("e" * 40) / "x.gguf").touch()
    assert scan_cache(cached) == files


@pytest.mark.parametrize("damage", ["a ref that is ahead", "a blob that was pruned"])
def test_rest_of_a_damaged_repo_is_read_and_freed(cached: Path, damage: str) -> None:
    before = [file for file in scan_cache(cached) if file.repo == REPO]
    if damage == "a ref that is ahead":
        (cached / "models--acme--tiny-GGUF/refs/ahead").write_text("f" * 40)
        kept = before
    else:
        gone = next(file.blob for file in before if file.path.startswith("sub dir"))
        gone.unlink()
        kept = [file for file in before if file.blob != gone]
    assert scan_cache_dir(cached).warnings, "huggingface_hub itself skips the repo"
    assert [file for file in scan_cache(cached) if file.repo == REPO] == kept
    weights = [file for file in kept if file.path == "tiny-Q4_K_M.gguf"]
    assert delete_cached_files(cached, locate(weights[:1])) == 0
    assert weights[1].location.read_bytes() == WEIGHTS
    assert delete_cached_files(cached, locate(weights[1:]), dry_run=True) == len(WEIGHTS)
    assert delete_cached_files(cached, locate(weights[1:])) == len(WEIGHTS)
    assert not weights[1].blob.exists()
    assert {file.path for file in scan_cache(cached) if file.repo == REPO} == {file.path for file in kept} - {
        weights[0].path
    }


def test_files_stored_in_the_snapshot_itself_are_freed(cached: Path) -> None:
    (file,) = (file for file in scan_cache(cached) if file.repo.name == "other")
    file.location.unlink()
    file.blob.rename(file.location)
    (file,) = (file for file in scan_cache(cached) if file.repo.name == "other")
    assert file.blob == file.location
    assert delete_cached_files(cached, locate([file])) == len(b"GGUF other")
    assert not file.location.exists()


def test_shared_blob_loses_only_the_link_of_the_repo(cached: Path) -> None:
    (file,) = (file for file in scan_cache(cached) if file.repo.name == "other")
    shared = cached / "elsewhere" / "shared"
    shared.parent.mkdir()
    file.blob.rename(shared)
    file.blob.symlink_to(shared)
    (file,) = (file for file in scan_cache(cached) if file.repo.name == "other")
    delete_cached_files(cached, locate([file]))
    assert not file.blob.is_symlink()
    assert shared.read_bytes() == b"GGUF other"


def test_blob_is_freed_with_its_last_user(cached: Path) -> None:
    weights = [file for file in scan_cache(cached) if file.path == "tiny-Q4_K_M.gguf"]
    assert len(weights) == 2
    assert delete_cached_files(cached, locate(weights[:1])) == 0
    assert weights[1].location.read_bytes() == WEIGHTS
    assert delete_cached_files(cached, locate(weights[1:])) == len(WEIGHTS)
    assert not weights[1].blob.exists()
    assert not scan_cache_dir(cached).warnings


def test_hard_link_elsewhere_keeps_the_data(cached: Path, tmp_path: Path) -> None:
    (file,) = (file for file in scan_cache(cached) if file.repo.name == "other")
    os.link(file.blob, tmp_path / "copy.gguf")
    assert delete_cached_files(cached, locate([file]), dry_run=True) == 0
    assert delete_cached_files(cached, locate([file])) == 0
    assert (tmp_path / "copy.gguf").read_bytes() == b"GGUF other"


def test_dry_run_counts_and_removes_nothing(cached: Path) -> None:
    files = scan_cache(cached)
    sizes = {file.blob: file.size for file in files}
    assert delete_cached_files(cached, locate(files), dry_run=True) == sum(sizes.values())
    assert scan_cache(cached) == files


def test_emptied_repo_leaves_no_trace(cached: Path) -> None:
    other = [file for file in scan_cache(cached) if file.repo.name == "other"]
    ref = cached / "models--acme--other/refs/llm-hf" / other[0].commit
    ref.parent.mkdir(parents=True)
    ref.write_text(other[0].commit)
    assert delete_cached_files(cached, locate(other)) == len(b"GGUF other")
    assert not (cached / "models--acme--other").exists()
    assert not scan_cache_dir(cached).warnings


def test_emptied_commit_is_removed_and_the_other_kept(cached: Path, server: HubServer) -> None:
    old = server.list_repos()[2].commit
    gone = [file for file in scan_cache(cached) if file.commit == old]
    delete_cached_files(cached, locate(gone))
    left = scan_cache(cached)
    assert {file.commit for file in left if file.repo == REPO} == {server.list_repos()[1].commit}
    assert all(file.location.exists() for file in left)
    assert not scan_cache_dir(cached).warnings


def test_files_of_other_tools_in_the_repo_are_never_removed(cached: Path) -> None:
    partial = cached / "models--acme--other/blobs/abc.incomplete"
    partial.write_bytes(b"half")
    delete_cached_files(cached, {file.location for file in scan_cache(cached) if file.repo.name == "other"})
    assert partial.read_bytes() == b"half"
    assert not scan_cache_dir(cached).warnings


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_cache_of_another_user_gives_a_clear_error(cached: Path) -> None:
    files = scan_cache(cached)
    folders = [file.location.parent for file in files]
    for folder in folders:
        folder.chmod(0o500)
    with pytest.raises(NotWritableError, match="Can't remove"):
        delete_cached_files(cached, locate(files))
    for folder in folders:
        folder.chmod(0o700)
