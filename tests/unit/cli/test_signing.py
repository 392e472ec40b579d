"""`llm hf sign`: what is signed, what is refused, and what is written."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from pathlib import Path

import pytest

from llm_hf_models.errors import BadInputError, BadKeyError, BadSignatureError, DigestMismatchError, StorageError
from llm_hf_models.service import Library
from llm_hf_models.signatures.verify import judge_signature
from tests.support.commands import run, run_json
from tests.support.ggufs import tiny_chat
from tests.support.signatures import SIGNED_FILES, make_certificate, make_key, to_private_pem, to_public_pem

KEY = make_key()
PEM = to_public_pem(KEY)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(to_private_pem(KEY))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of a model, and those that are left out."""
    folder = tmp_path / "my-model"
    left_out = (".git/config", ".gitattributes", ".github/ci.yml", ".cache/huggingface/x.metadata")
    for name, content in {**SIGNED_FILES, **dict.fromkeys(left_out, b"other"), "sub/.gitignore": b"kept"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read_signed(signature: Path) -> dict[str, str]:
    judged = judge_signature(signature.read_bytes(), [PEM])
    assert judged.facts.verdict == "valid", judged.facts.reason
    assert judged.manifest is not None
    return {file.path: file.digest for file in judged.manifest.files}


def test_folder_is_signed_without_what_verifiers_leave_out(folder: Path, key: Path) -> None:
    done = run("sign", str(folder), "--key", str(key))
    assert done.stdout.splitlines()[0].split() == ["Signed", "4", "files"]
    assert f"openssl pkey -in {key} -pubout" in " ".join(done.stderr.split())
    expected = {**SIGNED_FILES, "sub/.gitignore": b"kept"}
    assert read_signed(folder / "model.sig") == {
        path: hashlib.sha256(content).hexdigest() for path, content in expected.items()
    }
    planned = run("sign", str(folder), "--key", str(key), "--dry-run", "-o", str(folder / "sub"))
    assert str(folder / "sub/model.sig") in "".join(planned.stdout.split())
    assert "Would sign" in planned.stdout
    assert not (folder / "sub/model.sig").exists()


def test_existing_signature_is_replaced_after_a_question(folder: Path, key: Path) -> None:
    signature = folder / "model.sig"
    run("sign", str(folder), "--key", str(key), "-q")
    first = signature.read_bytes()
    refused = run("sign", str(folder), "--key", str(key), code=2)
    assert "Nothing was signed" in refused.stderr
    with pytest.raises(StorageError, match="exists"):
        Library().sign(str(folder), key)
    assert signature.read_bytes() == first
    replaced = run_json("sign", str(folder), "--key", str(key), "-y")
    assert (replaced["replaces"], replaced["done"], signature.read_bytes() != first) == (True, True, True)
    assert "model.sig" not in read_signed(signature)
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("name", ["a.gguf", "notes.txt", "link.sig", "folder.sig"])
def test_no_other_file_is_replaced(name: str, folder: Path, key: Path, tmp_path: Path) -> None:
    target = folder / name
    if name == "link.sig":
        run("sign", str(folder), "--key", str(key), "-q", "-o", str(tmp_path / "far.sig"))
        target = tmp_path / "link.sig"
        target.symlink_to(tmp_path / "far.sig")
    elif name == "folder.sig":
        target.mkdir()
        (target / "model.sig").write_bytes(b"{}")
    elif name == "notes.txt":
        target.write_bytes(b"text")
    replaced = target / "model.sig" if target.is_dir() else target
    before = replaced.lstat(), replaced.read_bytes()
    with pytest.raises(BadInputError, match="is not a signature file"):
        Library().sign(str(folder), key, output=target, overwrite=True)
    assert (replaced.lstat().st_ino, replaced.read_bytes()) == (before[0].st_ino, before[1])


def test_model_is_signed_from_its_record_without_reading(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tiny_chat(tmp_path / "tiny-Q8_0.gguf")
    Library().import_file(file, aliases=["tiny"])
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    done = Library().sign("tiny", key)
    assert (done.id, done.hashed_bytes, done.file) == (
        Library().show("tiny").id,
        0,
        str(tmp_path / "work/model.sig"),
    )
    expected = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    assert read_signed(Path(done.file)) == expected
    os.utime(file, (1, 1))  # its content could have changed
    again = Library().sign("tiny", key, overwrite=True)
    assert again.hashed_bytes == file.stat().st_size
    assert read_signed(Path(done.file)) == expected
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DigestMismatchError, match="is not the recorded file"):
        Library().sign("tiny", key, output="other.sig")
    assert not Path("other.sig").exists()


def test_certificate_and_encrypted_key(folder: Path, tmp_path: Path) -> None:
    root = make_certificate("Root", is_authority=True)
    leaf = make_certificate("Signer", root, usages=["digital_signature"])
    (tmp_path / "leaf.key").write_bytes(to_private_pem(leaf.key, b"open sesame"))
    (tmp_path / "chain.pem").write_bytes(leaf.pem)
    command = ("sign", str(folder), "--key", str(tmp_path / "leaf.key"), "--cert", str(tmp_path / "chain.pem"))
    refused = run(*command, code=2)
    assert "no input was given" in refused.stderr
    assert not (folder / "model.sig").exists()
    with pytest.raises(BadKeyError, match="passphrase is missing"):
        Library().sign(str(folder), tmp_path / "leaf.key")
    Library().sign(
        str(folder), tmp_path / "leaf.key", certificates=tmp_path / "chain.pem", ask_passphrase=lambda: "open sesame"
    )
    facts = judge_signature((folder / "model.sig").read_bytes(), roots=[root.pem]).facts
    assert (facts.verdict, facts.identity) == ("valid", "CN=Signer")


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and devices")
def test_key_comes_through_a_pipe_and_an_endless_one_is_refused(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(to_private_pem(KEY),))
    writer.start()
    run("sign", str(folder), "--key", str(tmp_path / "pipe"), "-q")
    writer.join()
    assert len(read_signed(folder / "model.sig")) == 4
    with pytest.raises(BadKeyError, match="too large"):
        Library().sign(str(folder), "/dev/zero", overwrite=True)


def test_private_key_among_the_files_is_refused(folder: Path, key: Path) -> None:
    inside = folder / "sub/key.pem"
    key.replace(inside)
    with pytest.raises(BadInputError, match=r"private key sub/key\.pem is among the files"):
        Library().sign(str(folder), inside)


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes")
@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "pipe", "name"])
def test_what_the_format_can_not_list_is_refused(kind: str, folder: Path, key: Path) -> None:
    if kind == "link to a file":
        (folder / "b.gguf").symlink_to(folder / "a.gguf")
    elif kind == "link to a folder":
        (folder / "more").symlink_to(folder / "sub")
    elif kind == "pipe":
        os.mkfifo(folder / "pipe")
    else:
        (folder / "b\nc.gguf").write_bytes(b"x")
    with pytest.raises(BadSignatureError):
        Library().sign(str(folder), key)
    assert not (folder / "model.sig").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "no local model ''"), ("nothing", "no local model 'nothing'"), ("./empty", "has no files")],
)
def test_nothing_to_sign_is_an_error(
    name: str, message: str, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert message in run("sign", name, "--key", str(key), code=None).stderr


def test_missing_folder_of_the_signature_file_is_an_error(folder: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="does not exist"):
        Library().sign(str(folder), key, output=tmp_path / "nowhere/model.sig")
