"""The mirror, used by huggingface_hub's own command."""

from __future__ import annotations

from functools import partial

from tests.conftest import Home
from tests.support import mirror_repos
from tests.support.commands import run_process
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
