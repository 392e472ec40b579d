"""Read and write signature files: Sigstore bundles v0.3 with a DSSE envelope. The content may come from anyone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from llm_hf_models.errors import BadSignatureError
from llm_hf_models.signatures.statement import PAYLOAD_TYPE, parse_statement
from llm_hf_models.signatures.strict_json import (
    check_keys,
    check_object,
    get_bytes,
    get_list,
    get_object,
    get_text,
    parse_object,
)
from llm_hf_models.signatures.types import Method, SignedManifest

FILE_NAME = "model.sig"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MEDIA_TYPES = (MEDIA_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3")
MAX_BUNDLE_BYTES = 8 << 20
MAX_CERTIFICATES = 10
MAX_LOG_ENTRIES = 32
MAX_CERTIFICATE_BYTES = 64 << 10
_MATERIALS: dict[str, Method] = {"publicKey": "key", "x509CertificateChain": "certificate", "certificate": "keyless"}
_HINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Bundle:
    """A parsed signature file. Nothing in it is verified yet."""

    manifest: SignedManifest
    payload: bytes  # the signed statement
    signature: bytes
    data: bytes  # the whole file


def parse_bundle(data: bytes) -> Bundle:
    """Parse a signature file strictly.

    Raises:
        BadSignatureError: it is not a signature file of OMS v1.0.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise BadSignatureError("The signature file is too large", cause=f"At most {MAX_BUNDLE_BYTES >> 20} MiB.")
    root = parse_object(data, "The signature file")
    check_keys(root, frozenset({"mediaType", "verificationMaterial", "dsseEnvelope"}), "The signature file")
    if get_text(root, "mediaType") not in MEDIA_TYPES:
        raise BadSignatureError("The signature file is not a Sigstore bundle v0.3")
    material = get_object(root, "verificationMaterial")
    payload, signature = _parse_envelope(get_object(root, "dsseEnvelope"))
    method = _find_method(material)
    statement = parse_statement(payload)
    manifest = SignedManifest(
        method,
        statement.name,
        statement.digest,
        statement.files,
        statement.algorithm,
        statement.shard_bytes,
        statement.ignored,
        _parse_hint(get_object(material, "publicKey")) if method == "key" else None,
        _parse_certificates(material, method),
    )
    return Bundle(manifest, payload, signature, data)


def build_bundle(payload: bytes, signature: bytes, hint: str, certificates: tuple[bytes, ...] = ()) -> bytes:
    """Return a signature file for the method `certificate` if there are certificates, otherwise for the method `key`.

    Args:
        payload: the signed statement.
        signature: the DSSE signature of the statement.
        hint: the sha256 of the public key's PEM form.
        certificates: in DER form, that of the signer first.
    """
    chain = [{"rawBytes": _encode(certificate)} for certificate in certificates]
    material = {"x509CertificateChain": {"certificates": chain}} if chain else {"publicKey": {"hint": hint}}
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {**material, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _encode(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": _encode(signature), "keyid": ""}],
        },
    }
    return (json.dumps(bundle, indent=2) + "\n").encode()


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _parse_envelope(envelope: dict[str, Any]) -> tuple[bytes, bytes]:
    check_keys(envelope, frozenset({"payload", "payloadType", "signatures"}), "The signature's envelope")
    if get_text(envelope, "payloadType") != PAYLOAD_TYPE:
        raise BadSignatureError(f"The signature's payload is not {PAYLOAD_TYPE}")
    signature = check_object(get_list(envelope, "signatures", 1)[0], "The signature")
    check_keys(signature, frozenset({"sig", "keyid"}), "The signature")
    if not isinstance(signature.get("keyid", ""), str | None):
        raise BadSignatureError("The signature's field keyid is not a text")
    return get_bytes(envelope, "payload"), get_bytes(signature, "sig")


def _find_method(material: dict[str, Any]) -> Method:
    methods = [method for key, method in _MATERIALS.items() if key in material]
    if len(methods) != 1:
        raise BadSignatureError("The signature file must have one of publicKey, x509CertificateChain and certificate")
    if methods[0] == "keyless":
        _check_log_entries(get_list(material, "tlogEntries", MAX_LOG_ENTRIES))
    elif not isinstance(material.get("tlogEntries", []), list):
        raise BadSignatureError("The signature's field tlogEntries is not a list")
    return methods[0]


def _check_log_entries(entries: list[Any]) -> None:
    for entry in entries:
        kind = get_object(check_object(entry, "A log entry of the signature"), "kindVersion").get("kind")
        if kind not in ("dsse", "intoto"):
            raise BadSignatureError("A log entry of the signature is not about a DSSE envelope")


def _parse_hint(key: dict[str, Any]) -> str:
    """Return the sha256 of the key's PEM form. Before v1.1.0, the reference implementation wrote the PEM itself."""
    if key.get("hint") is None and "rawBytes" in key:
        return hashlib.sha256(get_bytes(key, "rawBytes")).hexdigest()
    hint = get_text(key, "hint")
    if not _HINT.fullmatch(hint):
        raise BadSignatureError("The signature's key hint is not a sha256")
    return hint


def _parse_certificates(material: dict[str, Any], method: Method) -> tuple[bytes, ...]:
    if method == "key":
        return ()
    listed = [material.get("certificate")]
    if method == "certificate":
        listed = get_list(get_object(material, "x509CertificateChain"), "certificates", MAX_CERTIFICATES)
    chain = tuple(get_bytes(check_object(each, "A certificate of the signature"), "rawBytes") for each in listed)
    if any(len(certificate) > MAX_CERTIFICATE_BYTES for certificate in chain):
        raise BadSignatureError("A certificate of the signature is too large")
    if len(set(chain)) != len(chain):
        raise BadSignatureError("A certificate occurs twice in the signature")
    return chain
