"""A signed lockfile is used only if the required key signed exactly this file."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_hf_models.errors import BadSignatureError
from llm_hf_models.service import Library
from tests.support import lockfiles
from tests.support.commands import run, run_json
from tests.support.hub_server import HubServer
from tests.support.lockfiles import REPO, TINY_ID, use_machine
from tests.support.signatures import make_key, to_private_pem, to_public_pem

hub = lockfiles.hub


def write_keys(folder: Path, name: str, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """Return the files of a new private and public key."""
    key, private, public = make_key(), folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(to_private_pem(key, passphrase))
    public.write_bytes(to_public_pem(key))
    return private, public


def test_only_the_signed_lockfile_of_the_key_is_synced(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = write_keys(tmp_path, "team")
    _, other = write_keys(tmp_path, "other")
    lockfile, signature = tmp_path / "models.lock.toml", tmp_path / "models.lock.toml.sig"
    run("pull", REPO, "-q")
    assert run_json("lock", "-o", lockfile, "--sign", private)["signature"] == str(signature)
    use_machine(monkeypatch, tmp_path / "second")
    hub.forget_requests()
    content, signed = lockfile.read_text(), signature.read_bytes()
    for text, key, sig, message in (
        (content, other, signed, "is not of"),
        (content.replace("Q8_0", "Q4_0"), public, signed, "is not what the owner of"),
        (content, public, signed.replace(b"payload", b"payl0ad"), "is not of"),
        (content, public, None, "has no signature"),
    ):
        lockfile.write_text(text)
        signature.write_bytes(sig) if sig else signature.unlink()
        assert message in run("sync", lockfile, "--require-signature", key, code=1).stderr
    signature.write_bytes(signed)
    assert "only the public key is needed" in run("sync", lockfile, "--require-signature", private, code=2).stderr
    assert hub.requests == [], "nothing was requested or changed"
    assert Library().list() == ()
    with pytest.raises(BadSignatureError):
        Library().read_lockfile(lockfile, public_key=other)
    run("sync", lockfile, "--require-signature", public)
    assert [model.id for model in Library().list()] == [TINY_ID]


@pytest.mark.usefixtures("hub")
def test_lock_names_a_stale_signature_and_replaces_no_other_file(tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "team")
    lockfile, signature = tmp_path / "models.lock.toml", tmp_path / "models.lock.toml.sig"
    run("lock", "-o", lockfile, "--sign", private)
    run("sync", lockfile, "--require-signature", public)
    run("pull", REPO, "-q")
    assert "is the signature of an older lockfile" in run("lock", "-o", lockfile).stderr
    assert "is not what the owner of" in run("sync", lockfile, "--require-signature", public, code=1).stderr
    signature.write_text("mine")
    assert "exists and is not a signature file" in run("lock", "-o", lockfile, "--sign", private, code=2).stderr
    assert signature.read_text() == "mine"
    assert "requires -o" in run("lock", "--sign", private, code=2).stderr


def test_required_signature_of_a_repo_is_checked_by_a_sync_too(hub: HubServer, tmp_path: Path) -> None:
    _, public = write_keys(tmp_path, "acme")
    lockfile, folder = tmp_path / "models.lock.toml", tmp_path / "export"
    run("pull", REPO, "-q")
    run("lock", "-o", lockfile)
    run("export", folder, "-q")
    run("rm", REPO, "-y", "-q")
    run("trust", "add", "acme", "--key", public)
    run("settings", "require_signature", "owners")
    for source, reason in {
        (): "The repo has no signature, and you trust signers for acme",
        ("--from", folder): "The signature of acme's repo can't be checked without the Hub",
    }.items():
        refused = run("sync", lockfile, *source, code=1).stderr
        assert reason in " ".join(refused.split())
    assert Library().list() == ()
    run("trust", "remove", "acme")
    run("sync", lockfile, "--from", folder)
    assert hub.count("model.sig") == 0
