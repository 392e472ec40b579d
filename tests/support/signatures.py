"""Keys, certificates and signature files for tests, also malformed ones that no signer writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from llm_hf_models.signatures.statement import build_statement, encode_for_signing

# Signatures of the folder {"a.gguf": …, "sub/b.gguf": …, "sub-c.txt": …} by the command `model_signing sign`.
OTHER_SIGNER = Path(__file__).parents[1] / "unit/signatures/other_signer"
SIGNED_FILES = {
    "a.gguf": b"GGUF one\n",
    "sub/b.gguf": b"a second file, longer than the first one\n",
    "sub-c.txt": b"x",
}

NOW = datetime.now(timezone.utc)
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_HASHES = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def make_key(curve: str = "P-256") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(CURVES[curve])


def to_private_pem(key: Any, passphrase: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def to_public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Authority:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


def make_certificate(
    name: str,
    issuer: Authority | None = None,
    *,
    is_authority: bool = False,
    usages: Sequence[str] | None = None,
    code_signing: bool = False,
    valid_days: tuple[int, int] = (-1, 365),
    extensions: Sequence[x509.ExtensionType] = (),
) -> Authority:
    """Make a certificate; without an issuer, it is signed by itself."""
    key = make_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=valid_days[0]))
        .not_valid_after(NOW + timedelta(days=valid_days[1]))
    )
    if is_authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if usages is not None:
        usage = x509.KeyUsage(**{name: name in usages for name in _USAGES})
        builder = builder.add_extension(usage, critical=True)
    if code_signing:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Authority(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def make_payload(changes: Mapping[str, Any] | None = None, digests: Mapping[str, str] | None = None) -> bytes:
    """Make a statement and change members of it, by their paths such as `predicate.resources.0.name`."""
    statement = json.loads(build_statement("model", digests or {"a.gguf": "a" * 64, "b.gguf": "b" * 64}))
    return json.dumps(change(statement, changes or {})).encode()


def change(value: Any, changes: Mapping[str, Any]) -> Any:
    """Set members of a JSON value by their paths, and remove those for which the new value is `...`."""
    for path, new in changes.items():
        *parents, last = path.split(".")
        parent = value
        for name in parents:
            parent = parent[int(name) if isinstance(parent, list) else name]
        if new is ...:
            del parent[last]
        else:
            parent[int(last) if isinstance(parent, list) else last] = new
    return value


def sign_payload(
    payload: bytes,
    key: Any,
    *,
    material: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> bytes:
    """Sign any bytes with any verification material, then change members of the signature file."""
    signature = key.sign(encode_for_signing(payload), ec.ECDSA(_HASHES[key.curve.key_size]))
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": material or {"publicKey": {"rawBytes": encode(to_public_pem(key))}},
        "dsseEnvelope": {
            "payload": encode(payload),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": encode(signature)}],
        },
    }
    return json.dumps(change(bundle, changes or {})).encode()


def make_chain_material(*certificates: Authority) -> dict[str, Any]:
    return {"x509CertificateChain": {"certificates": [{"rawBytes": encode(each.der)} for each in certificates]}}


def make_keyless_material(identity: str, issuer: str) -> tuple[dict[str, Any], Authority]:
    """Make the material of a keyless signature whose certificate imitates one of Sigstore's authority."""
    extensions = [
        x509.SubjectAlternativeName([x509.RFC822Name(identity)]),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), issuer.encode()),
        x509.UnrecognizedExtension(
            x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8"), bytes([0x0C, len(issuer)]) + issuer.encode()
        ),
    ]
    leaf = make_certificate("", usages=["digital_signature"], code_signing=True, extensions=extensions)
    entry = {
        "logIndex": "1",
        "logId": {"keyId": encode(b"k" * 32)},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": "1760062339",
        "inclusionPromise": {"signedEntryTimestamp": encode(b"signature")},
        "inclusionProof": {
            "logIndex": "1",
            "rootHash": encode(b"r" * 32),
            "treeSize": "2",
            "hashes": [encode(b"h" * 32)],
            "checkpoint": {"envelope": "log\n2\nroot\n\n- log AAAA\n"},
        },
        "canonicalizedBody": encode(b'{"apiVersion":"0.0.1","kind":"dsse","spec":{}}'),
    }
    return {"certificate": {"rawBytes": encode(leaf.der)}, "tlogEntries": [entry]}, leaf


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
