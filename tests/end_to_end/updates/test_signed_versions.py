"""Updates and rollbacks of models from signed repos: no version comes into force that a pull would refuse."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.errors import SignatureRefusedError
from llm_hf_models.signatures.sign import sign_files
from tests.support import mcp_hub
from tests.support.commands import run_json
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.support.signatures import make_key, to_private_pem, to_public_pem

hub = mcp_hub.hub

REPO, FILE = "acme/signed-GGUF", "signed-Q4_K_M.gguf"
MODEL = f"hf/{REPO}:Q4_K_M"
KEY = make_key()


@pytest.fixture(autouse=True)
def stop_engines(hub: HubServer) -> Iterator[None]:  # noqa: ARG001
    yield
    Library().stop_engines()


def commit(hub: HubServer, folder: Path, seed: int, *, repo: str = REPO, signs: bool = True, lies: bool = False) -> str:
    """Commit a version, and return its commit. With `lies`, the signed manifest lists another digest."""
    path = tiny_chat(folder / f"{seed}.gguf", seed=seed)
    digest = "0" * 64 if lies else hashlib.sha256(path.read_bytes()).hexdigest()
    signature = {"model.sig": sign_files({FILE: digest}, to_private_pem(KEY), name="signed")} if signs else {}
    return hub.add_repo(repo, {FILE: path, **signature}, task="text-generation").commit


def trust(folder: Path) -> None:
    key = folder / "key.pub"
    key.write_bytes(to_public_pem(KEY))
    Library().add_trusted_signer("acme", key=key)
    Library().set_setting("require_signature", "owners")


@pytest.mark.parametrize("fault", ["unsigned", "another digest", "moved to another owner"])
def test_update_that_a_pull_would_refuse_keeps_the_version(hub: HubServer, tmp_path: Path, fault: str) -> None:
    old = commit(hub, tmp_path, 1)
    trust(tmp_path)
    Library().pull(REPO)
    if fault == "moved to another owner":
        hub.remove_repo(REPO)
        commit(hub, tmp_path, 2, repo="evil/signed-GGUF", signs=False)
        hub.add_other_name(REPO, "evil/signed-GGUF", redirect=True)
    else:
        commit(hub, tmp_path, 2, signs=fault != "unsigned", lies=fault == "another digest")
    (planned,) = run_json("update", MODEL, "--dry-run")["models"]
    assert planned["action"] == "refuse"
    assert {"unsigned": "no signature", "another digest": "not the signed content"}.get(fault, "is now evil/") in (
        planned["reason"]
    )
    (done,) = run_json("update", MODEL, "-y", code=1)["models"]
    assert done["outcome"] == "failed"
    assert (Library().show(MODEL).commit, Library().show(MODEL).state) == (old, "ready")


def test_rollback_needs_the_signature_of_that_version(hub: HubServer, tmp_path: Path) -> None:
    commit(hub, tmp_path, 1, signs=False)
    Library().pull(REPO)
    signed = commit(hub, tmp_path, 2)
    trust(tmp_path)
    assert Library().update([MODEL], keep_old=True).updated == 1
    with pytest.raises(SignatureRefusedError, match="has no signature"):
        Library().rollback(MODEL)
    assert Library().show(MODEL).commit == signed
    newest = commit(hub, tmp_path, 3)
    assert Library().update([MODEL], keep_old=True).updated == 1
    hub.forget_requests()
    assert Library().rollback(MODEL, keep_old=True).commit == signed
    assert hub.requests == []
    Library().remove_trusted_signers("acme")
    Library().set_setting("require_signature", "if-present")
    with pytest.raises(SignatureRefusedError, match="not proven"):
        Library().rollback(MODEL, to=newest)
