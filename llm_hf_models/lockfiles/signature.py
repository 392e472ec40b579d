"""Sign a lockfile, and require the signature of a key before a lockfile is used. The signature is FILE.sig."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from llm_hf_models.errors import BadSignatureError, LockfileError
from llm_hf_models.models.key_files import read_key
from llm_hf_models.models.signing import is_signature_file, make_signer
from llm_hf_models.signatures.bundle import MAX_BUNDLE_BYTES
from llm_hf_models.signatures.verify import judge_signature

SUFFIX = ".sig"


def get_signature_path(lockfile: Path) -> Path:
    """Return the path of the signature of a lockfile."""
    return lockfile.with_name(lockfile.name + SUFFIX)


def sign_content(content: bytes, name: str, key: Path, ask_passphrase: Callable[[], str] | None) -> bytes:
    """Return a signature file for the content of a lockfile.

    Raises:
        BadKeyError: The key can't be used.
    """
    signer = make_signer(read_key(key), None, ask_passphrase)
    return signer.sign({name: hashlib.sha256(content).hexdigest()}, name, ())


def refuse_other_file(path: Path) -> None:
    """Raise an error if a file exists that is not a signature, so that it is not overwritten.

    Raises:
        LockfileError: The file is not a signature.
    """
    if path.exists() and not is_signature_file(path):
        raise LockfileError(f"{path} exists and is not a signature file", hint="Remove it, or choose another name.")


def require_signature(content: bytes, lockfile: Path, key: Path) -> None:
    """Raise an error unless the owner of a key signed exactly this content.

    Args:
        content: The content of the lockfile.
        lockfile: Its path, next to which its signature is.
        key: The file with the public key, or with the certificate of the signer or of its root.

    Raises:
        BadKeyError: The key can't be used.
        BadSignatureError: There is no signature, it is not of this key, or it is of another content.
    """
    path, pem = get_signature_path(lockfile), read_key(key)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError:
        raise BadSignatureError(f"{lockfile} has no signature", cause=f"{path} can't be read.") from None
    is_certificate = b"BEGIN CERTIFICATE" in pem
    judged = judge_signature(data, () if is_certificate else (pem,), (pem,) if is_certificate else ())
    if judged.facts.verdict != "valid" or judged.manifest is None:
        raise BadSignatureError(f"The signature of {lockfile} is not of {key}", cause=judged.facts.reason)
    digest = hashlib.sha256(content).hexdigest()
    signed = [file.digest for file in judged.manifest.files if file.start is None]
    if judged.manifest.algorithm != "sha256" or digest not in signed:
        raise BadSignatureError(
            f"{lockfile} is not what the owner of {key} signed",
            cause=f"Its sha256 is {digest}, which {path} does not list.",
        )
