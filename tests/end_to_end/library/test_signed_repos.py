"""Signed repos: whom a person trusts, what a pull refuses, and how the facts about a signature are reported."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models import Library, PullOptions
from llm_hf_models.errors import BadInputError, BadKeyError, SignatureRefusedError, UnknownSignerError
from llm_hf_models.library.database import Database
from llm_hf_models.paths import library_path
from llm_hf_models.signatures import keyless
from llm_hf_models.signatures.sign import sign_files
from tests.support import mcp_hub
from tests.support.commands import run, run_json
from tests.support.ggufs import tiny_chat
from tests.support.hub_faults import Delay, Status
from tests.support.hub_server import HubServer
from tests.support.signatures import (
    OTHER_SIGNER,
    SIGNED_FILES,
    make_certificate,
    make_key,
    make_keyless_material,
    make_payload,
    sign_payload,
    to_private_pem,
    to_public_pem,
)

hub = mcp_hub.hub

REPO, FILE = "acme/signed-GGUF", "signed-Q4_K_M.gguf"
KEY, OTHER_KEY = make_key(), make_key()


def add_repo(
    hub: HubServer, folder: Path, signature: bytes | None = None, *, repo: str = REPO, digests: Mapping[str, str] = {}
) -> str:
    """Add a repo of one model with a signature, by default a true one of KEY. Return the digest of the model."""
    path = tiny_chat(folder / FILE)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    signed = sign_files({FILE: digest, **digests}, to_private_pem(KEY), name="signed")
    hub.add_repo(repo, {FILE: path, "model.sig": signature or signed}, task="text-generation")
    return digest


def write_key(folder: Path, key: Any = KEY) -> Path:
    path = folder / "key.pub"
    path.write_bytes(to_public_pem(key))
    return path


def test_signature_by_a_trusted_key_is_reported_everywhere(hub: HubServer, tmp_path: Path) -> None:
    add_repo(hub, tmp_path)
    added = run_json("trust", "add", "acme", "--key", write_key(tmp_path))["added"][0]
    info = run_json("info", REPO)["results"][0]["signature"]
    assert (info["facts"]["verdict"], info["trusted"], info["facts"]["key_hint"]) == (
        "valid",
        True,
        added["fingerprint"],
    )
    plan = run_json("pull", REPO, "--dry-run")["results"][0]["signature"]
    assert plan["facts"]["coverage"] == {
        "files": 1, "matching": 1, "differing": [], "unlisted": [], "unchecked": [], "unchecked_reason": None,
        "not_in_model": 0,
    }  # fmt: skip
    assert hub.count(FILE, side="storage") < 5, "only the header was read"
    result = run("pull", REPO, "-q")
    assert "signature" not in result.stderr, "nothing to warn of"
    shown = run("show", REPO).stdout
    assert "Signature" in shown
    assert "valid: a manifest of files signed by the key" in shown
    assert "you trust this signer for acme" in shown
    assert "lists 1 of 1 files of this variant with the same digest" in shown
    (verified,) = run_json("verify", REPO)["results"]
    assert verified["signature"]["trusted"] is True


@pytest.mark.usefixtures("hub")
def test_nobody_is_trusted_because_of_a_signature(hub: HubServer, tmp_path: Path) -> None:
    add_repo(hub, tmp_path)
    report = Library().info(REPO).signature
    assert report is not None
    assert report.facts is not None
    assert (report.facts.verdict, report.trusted, report.warnings) == ("not_checked", None, ())
    assert "No known key has the fingerprint" in report.summary


def test_new_trust_is_seen_by_the_next_verify_without_requests(hub: HubServer, tmp_path: Path) -> None:
    add_repo(hub, tmp_path)
    Library().pull(REPO)
    hub.forget_requests()
    Library().add_trusted_signer("acme", key=write_key(tmp_path))
    report = Library().verify(REPO).signature
    assert report is not None
    assert report.trusted is True
    assert hub.requests == []
    (check,) = [each for each in Library().show(REPO).checks if each.kind == "signature"][:1]
    assert check.result == "valid"


def test_copied_signature_is_reported_as_such(hub: HubServer, tmp_path: Path) -> None:
    add_repo(hub, tmp_path, repo="copycat/signed-GGUF")
    Library().add_trusted_signer("acme", key=write_key(tmp_path))
    report = Library().info("copycat/signed-GGUF").signature
    assert report is not None
    assert (report.trusted, report.trusted_for) == (False, ("acme",))
    assert "you trust this signer for acme, not for copycat: the signature may be copied from acme" in report.summary
    stderr = run("pull", "copycat/signed-GGUF").stderr
    assert "Warning: signature: you trust this signer for acme" in stderr.replace("\n  ", " ")
    (check,) = [each for each in Library().show("copycat/signed-GGUF").checks if each.kind == "signature"]
    assert check.result == "valid, signer not trusted"


def test_keyless_signature_that_names_another_owners_signer_is_reported(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyless._create_verifier.cache_clear()
    monkeypatch.setitem(sys.modules, "sigstore.verify", None)  # as if it were not installed
    material, leaf = make_keyless_material("sign@acme.com", "https://login.example")
    add_repo(hub, tmp_path, sign_payload(make_payload(), leaf.key, material=material))
    found = Library().info(REPO).signature
    assert found is not None
    assert found.facts is not None
    assert found.facts.method == "keyless"
    Library().add_trusted_signer("someone", identity=str(found.facts.identity), issuer=str(found.facts.issuer))
    again = Library().info(REPO).signature
    assert again is not None
    assert again.trusted_for == ("someone",)


def test_file_that_differs_from_a_proven_manifest_is_refused(hub: HubServer, tmp_path: Path) -> None:
    add_repo(hub, tmp_path, digests={FILE: "0" * 64})
    Library().pull(REPO)  # nobody knows the key, so that the manifest proves nothing
    Library().remove(REPO)
    Library().add_trusted_signer("acme", key=write_key(tmp_path))
    hub.forget_requests()
    result = run("pull", REPO, code=1)
    assert f"'{FILE}': not the signed content" in result.stderr or f"{FILE}: not the signed content" in result.stderr
    assert Library().list() == ()
    assert Library().downloads() == ()


@pytest.mark.parametrize(
    ("mode", "signer", "owner", "refusal"),
    [
        ("off", OTHER_KEY, "acme", None),
        ("if-present", KEY, "acme", None),
        ("if-present", OTHER_KEY, "acme", "is not proven"),
        ("if-present", KEY, "other", "by a signer of another owner, other"),
        ("owners", KEY, "acme", None),
        ("owners", OTHER_KEY, "acme", "is not proven"),
    ],
)
def test_setting_requires_a_proven_signature(
    mode: str, signer: Any, owner: str, refusal: str | None, hub: HubServer, tmp_path: Path
) -> None:
    add_repo(hub, tmp_path)
    Library().set_setting("require_signature", mode)
    Library().add_trusted_signer(owner, key=write_key(tmp_path, signer))
    if refusal is None:
        assert Library().pull(REPO).id
        return
    with pytest.raises(SignatureRefusedError, match=refusal):
        Library().plan(REPO)


@pytest.mark.parametrize(("mode", "refused"), [("off", False), ("if-present", False), ("owners", True)])
def test_repo_without_a_signature_is_refused_for_owners_with_signers(
    mode: str, refused: bool, hub: HubServer, tmp_path: Path
) -> None:
    hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE)})
    Library().set_setting("require_signature", mode)
    assert Library().plan(REPO), "nobody is trusted for this owner"
    Library().add_trusted_signer("ACME", key=write_key(tmp_path))
    if refused:
        with pytest.raises(SignatureRefusedError, match="has no signature, and you trust signers for acme"):
            Library().plan(REPO)
    else:
        assert Library().plan(REPO)


def test_owners_mode_refuses_a_file_that_is_not_listed(hub: HubServer, tmp_path: Path) -> None:
    digest = hashlib.sha256(tiny_chat(tmp_path / FILE).read_bytes()).hexdigest()
    hub.add_repo(
        REPO, {FILE: tmp_path / FILE, "model.sig": sign_files({"x.bin": digest}, to_private_pem(KEY), name="x")}
    )
    Library().add_trusted_signer("acme", key=write_key(tmp_path))
    report = Library().plan(REPO).signature
    assert report is not None
    assert report.warnings == (f"lists 0 of 1 files of this variant with the same digest; not listed: {FILE}",)
    Library().set_setting("require_signature", "owners")
    with pytest.raises(SignatureRefusedError, match="does not list"):
        Library().plan(REPO)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"mediaType": 5}', b"x" * 1_100_000])
def test_broken_signature_warns_and_is_refused_if_required(content: bytes, hub: HubServer, tmp_path: Path) -> None:
    add_repo(hub, tmp_path, content or b" ")
    assert "Warning: signature:" in run("pull", REPO).stderr
    Library().remove(REPO)
    Library().set_setting("require_signature", "if-present")
    with pytest.raises(SignatureRefusedError, match="is not proven"):
        Library().plan(REPO)


def test_signature_file_that_can_not_be_read_is_a_fact(hub: HubServer, tmp_path: Path) -> None:
    add_repo(hub, tmp_path)
    hub.fault(Status(403), on="model.sig", times=None)
    report = Library().info(REPO).signature
    assert report is not None
    assert report.facts is None
    assert report.problem
    assert Library().pull(REPO).id, "the digests are compared with the Hub's in any case"


def test_other_files_named_sig_are_no_signatures(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE), f"{FILE}.sig": "-----BEGIN PGP SIGNATURE-----\n"})
    assert Library().info(REPO).signature is None


def test_signature_under_another_name_is_found(hub: HubServer, tmp_path: Path) -> None:
    digest = hashlib.sha256(tiny_chat(tmp_path / FILE).read_bytes()).hexdigest()
    signed = sign_files({FILE: digest}, to_private_pem(KEY), name="signed")
    hub.add_repo(REPO, {FILE: tmp_path / FILE, "signed.sigstore.json": signed})
    Library().add_trusted_signer("acme", key=write_key(tmp_path))
    report = Library().info(REPO).signature
    assert report is not None
    assert (report.file, report.trusted) == ("signed.sigstore.json", True)


def test_certificate_of_a_trusted_authority_is_proven(hub: HubServer, tmp_path: Path) -> None:
    root = make_certificate("Root", is_authority=True, usages=["key_cert_sign"])
    leaf = make_certificate("Signer", root, usages=["digital_signature"])
    digest = hashlib.sha256(tiny_chat(tmp_path / FILE).read_bytes()).hexdigest()
    signed = sign_files({FILE: digest}, to_private_pem(leaf.key), name="signed", chain_pem=leaf.pem)
    add_repo(hub, tmp_path, signed)
    (tmp_path / "root.pem").write_bytes(root.pem)
    run("trust", "add", "acme", "--cert", tmp_path / "root.pem")
    report = Library().info(REPO).signature
    assert report is not None
    assert (report.trusted, report.facts and report.facts.identity) == (True, "CN=Signer")


def test_trust_is_listed_and_removed_by_number_or_owner(tmp_path: Path) -> None:
    run("trust", "add", "acme", "--key", write_key(tmp_path))
    run("trust", "add", "Acme", "--key", write_key(tmp_path))  # the same again
    run("trust", "add", "ibm-granite", "--identity", "a@ibm.com", "--issuer", "https://issuer.example")
    shown = run("trust", "list")
    assert "a@ibm.com, confirmed by https://issuer.example" in " ".join(shown.stdout.split())
    assert "No signer is trusted for nobody." in run("trust", "list", "nobody").stderr
    first, second = run_json("trust")["signers"]
    assert (first["owner"], second["method"]) == ("acme", "keyless")
    assert run("trust", "remove", str(first["number"]), "--dry-run").stderr.startswith("Would no longer trust")
    run("trust", "remove", str(first["number"]))
    run("trust", "remove", "IBM-granite")
    assert run_json("trust", "list")["signers"] == []
    with pytest.raises(UnknownSignerError, match="'nobody'"):
        Library().remove_trusted_signers("nobody")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Describe the signer in one way"),
        (("--identity", "a"), "The issuer is missing"),
        (("--issuer", "a"), "The identity is missing"),
        (("--identity", "a", "--issuer", "b", "--key", "c"), "Describe the signer in one way"),
        (("--identity", "a\x1b[31m", "--issuer", "b"), "visible characters"),
        (("--key", "missing.pem"), "Can't read missing.pem"),
        (("--key", "."), "Can't read ."),
        (("--key", "secret.pem"), "private key"),
        (("--cert", "secret.pem"), "private key"),
        (("--key", "text.pem"), "not a public key"),
        (("--cert", "text.pem"), "no certificate"),
        (("--cert", "chain.pem"), "has 2 certificates"),
    ],
)
def test_bad_description_of_a_signer_is_explained(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.pem").write_bytes(to_private_pem(KEY))
    Path("text.pem").write_text("hello")
    Path("chain.pem").write_bytes(make_certificate("Signer").pem + make_certificate("Root").pem)
    result = run("trust", "add", "acme", *words, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert json.loads(run("trust", "list", "--json").stdout)["signers"] == []


@pytest.mark.parametrize("owner", ["", "a/b", "../x", "a b", "x" * 200, "\x1b[31m"])
def test_bad_owner_is_refused(owner: str) -> None:
    with pytest.raises(BadInputError):
        Library().add_trusted_signer(owner, identity="a", issuer="b")


def test_public_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rsa.pem").write_bytes((OTHER_SIGNER / "p256.pem").read_bytes().replace(b"A", b"B", 3))
    with pytest.raises(BadKeyError):
        Library().add_trusted_signer("acme", key=tmp_path / "rsa.pem")


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("name", ["blake2-files", "blake2-shards", "sha256-shards"])
def test_digests_that_the_hub_lacks_are_compared_after_the_download(name: str, fake: bool, hub: HubServer) -> None:
    files = {**SIGNED_FILES, "a.gguf": b"GGUF two\n"} if fake else SIGNED_FILES
    hub.add_repo(REPO, {**files, "model.sig": (OTHER_SIGNER / f"{name}.sig").read_bytes()}, lfs=set(SIGNED_FILES))
    Library().add_trusted_signer("acme", key=OTHER_SIGNER / "p256.pem")
    plan = Library().plan(f"{REPO}:a.gguf", PullOptions(file_only=True))
    assert plan.signature is not None
    assert plan.signature.facts is not None
    assert plan.signature.facts.coverage is not None
    assert plan.signature.facts.coverage.unchecked == ("a.gguf",)
    if fake:
        with pytest.raises(SignatureRefusedError, match="not the signed content"):
            Library().pull(plan)
        return
    done = Library().pull(plan).plan.signature
    assert done is not None
    assert "lists 1 of 1 files" in done.summary


def test_repo_that_was_moved_to_another_owner_needs_that_owners_signers(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("evil/signed-GGUF", {FILE: tiny_chat(tmp_path / FILE)})
    hub.add_other_name(REPO, "evil/signed-GGUF", redirect=True)
    Library().add_trusted_signer("acme", key=write_key(tmp_path))
    assert Library().plan(REPO)
    Library().set_setting("require_signature", "owners")
    with pytest.raises(SignatureRefusedError, match="trust signers for acme, and its repo is now evil/signed-GGUF"):
        Library().plan(REPO)
    assert Library().plan("evil/signed-GGUF"), "nobody is trusted for this owner"


def test_owners_mode_refuses_digests_that_can_not_be_computed(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "blake3", None)  # as if it were not installed
    kind = ("serialization.hash_type", "resources.0.algorithm", "resources.1.algorithm")
    payload = make_payload({f"predicate.{path}": "blake3" for path in kind})
    hub.add_repo(REPO, {**SIGNED_FILES, "model.sig": sign_payload(payload, KEY)}, lfs=set(SIGNED_FILES))
    Library().add_trusted_signer("acme", key=write_key(tmp_path))
    only = PullOptions(file_only=True)
    report = Library().plan(f"{REPO}:a.gguf", only).signature
    assert report is not None
    assert "not compared: blake3 needs the package blake3" in report.summary
    Library().set_setting("require_signature", "owners")
    with pytest.raises(SignatureRefusedError, match="can't be compared: blake3 needs the package blake3"):
        Library().plan(f"{REPO}:a.gguf", only)


def test_signature_that_is_no_longer_proven_stops_a_planned_pull(hub: HubServer) -> None:
    signature = (OTHER_SIGNER / "blake2-files.sig").read_bytes()
    hub.add_repo(REPO, {**SIGNED_FILES, "model.sig": signature}, lfs=set(SIGNED_FILES))
    Library().add_trusted_signer("acme", key=OTHER_SIGNER / "p256.pem")
    plan = Library().plan(f"{REPO}:a.gguf", PullOptions(file_only=True))
    Library().remove_trusted_signers("acme")
    with pytest.raises(SignatureRefusedError, match="no longer the one that was checked"):
        Library().pull(plan)


def test_slow_signature_is_judged_by_the_background_download(hub: HubServer, tmp_path: Path) -> None:
    add_repo(hub, tmp_path, digests={FILE: "0" * 64})
    Library().add_trusted_signer("acme", key=write_key(tmp_path))
    Library().set_setting("require_signature", "if-present")
    hub.fault(Delay(3), on="model.sig", times=1)
    plan = Library().plan(REPO, draft_after=2)
    assert (plan.is_draft, plan.signature) == (True, None)
    with pytest.raises(SignatureRefusedError, match="not the signed content"):
        Library().pull(plan)
    assert Library().list() == ()


def test_identity_that_looks_like_a_trusted_one_is_invalid(hub: HubServer, tmp_path: Path) -> None:
    Library().add_trusted_signer("acme", identity="sign@acme.com", issuer="https://login.example")
    material, leaf = make_keyless_material("sign@acme.com", "https://login.example\x07")
    add_repo(hub, tmp_path, sign_payload(make_payload(), leaf.key, material=material))
    report = Library().info(REPO).signature
    assert report is not None
    assert report.facts is not None
    assert (report.facts.verdict, report.trusted, report.trusted_for) == ("invalid", None, ())
    assert "invisible characters" in report.summary


def test_verify_without_the_signature_file_repeats_no_old_verdict(hub: HubServer, tmp_path: Path) -> None:
    add_repo(hub, tmp_path)
    Library().add_trusted_signer("acme", key=write_key(tmp_path))
    Library().pull(REPO)
    Library().remove_trusted_signers("acme")
    with Database(library_path()) as db:
        db.delete_old_metadata(time.time() + 1)
    report = Library().verify(REPO).signature
    assert report is not None
    assert report.trusted is None
    assert "not checked: The signature file is no longer on this machine" in report.summary
    Library().info(REPO)
    again = Library().verify(REPO).signature
    assert again is not None
    assert "No known key has the fingerprint" in again.summary


def test_update_of_a_repo_that_was_moved_to_another_owner_is_refused(hub: HubServer, tmp_path: Path) -> None:
    add_repo(hub, tmp_path)
    Library().add_trusted_signer("acme", key=write_key(tmp_path))
    Library().set_setting("require_signature", "owners")
    model_id = str(Library().pull(REPO).id)
    hub.rename_repo(REPO, "evil/signed-GGUF")
    hub.add_repo("evil/signed-GGUF", {FILE: tiny_chat(tmp_path / "new.gguf", seed=3)}, task="text-generation")
    Library().info("evil/signed-GGUF")
    (step,) = Library().plan_update([model_id]).models
    assert step.action == "refuse"
    assert step.reason == "You trust signers for acme, and its repo is now evil/signed-GGUF"
    run("update", model_id, "-y", code=1)
    assert Library().show(model_id).state == "ready"
