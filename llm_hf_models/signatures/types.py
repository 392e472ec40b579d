"""Define what a model signature lists, and the facts about it. Each fact is separate: none implies another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llm_hf_models.system.json_values import Result, UnixTime

Method = Literal["key", "certificate", "keyless"]
Algorithm = Literal["sha256", "blake2b", "blake3"]

# valid: a given key, a given root certificate, or Sigstore's roots prove who signed.
# issuer_unproven: the signature belongs to its own certificate, but nothing proves who made that certificate.
# not_checked: the key, or the software for this method, is missing.
# invalid: the file is malformed, or the signature is not of this content.
Verdict = Literal["valid", "issuer_unproven", "not_checked", "invalid"]


@dataclass(frozen=True)
class SignedFile(Result):
    """A file, or a byte range of one, with the digest that was signed."""

    path: str
    digest: str
    start: int | None = None  # the first byte of a shard; None for a whole file
    end: int | None = None  # the byte after the last one

    @property
    def name(self) -> str:
        """The name in the manifest."""
        return self.path if self.start is None else f"{self.path}:{self.start}:{self.end}"


@dataclass(frozen=True)
class SignedManifest(Result):
    """The content of a signature file. It is a claim: only a verdict tells whether the signature belongs to it."""

    method: Method
    name: str  # the signer's name for the model, which proves nothing
    digest: str  # sha256 over the digests of all files, one after another
    files: tuple[SignedFile, ...]
    algorithm: Algorithm
    shard_bytes: int | None = None  # files are hashed in ranges of this size; None: as a whole
    ignored: tuple[str, ...] = ()  # paths that the signer left out
    key_hint: str | None = None  # sha256 of the public key's PEM form
    certificates: tuple[bytes, ...] = field(default=(), repr=False)  # DER, that of the signer first

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the listed files, in order and once each."""
        return tuple(dict.fromkeys(file.path for file in self.files))

    def is_single_file(self) -> bool:
        """Return whether the model is one file, which the signer listed without its name."""
        return self.files[0].path == "."

    def group_entries(self) -> dict[str, list[SignedFile]]:
        """Return the entries of all files in the order of their bytes, by path."""
        entries: dict[str, list[SignedFile]] = {}
        for each in sorted(self.files, key=lambda each: each.start or 0):
            entries.setdefault(each.path, []).append(each)
        return entries

    def find_entries(self, path: str) -> list[SignedFile]:
        """Return the entries of a file in the order of its bytes. Any path is that of a model that is one file."""
        return self.group_entries().get("." if self.is_single_file() else path, [])


@dataclass(frozen=True)
class Coverage(Result):
    """Which files of a model a manifest lists with the same digest."""

    files: int  # of the model
    matching: int  # listed with the same digest
    differing: tuple[str, ...] = ()  # listed with another digest or size
    unlisted: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()  # listed, but the digest of the manifest's kind is unknown
    unchecked_reason: str | None = None
    not_in_model: int = 0  # listed files that the model does not have, such as other quantizations


@dataclass(frozen=True)
class SignatureFacts(Result):
    """The facts about one signature file."""

    verdict: Verdict
    reason: str | None = None  # why the verdict is not `valid`
    method: Method | None = None  # None: the file is malformed
    identity: str | None = None  # as the certificate states it; proven only if the verdict is `valid`
    issuer: str | None = None  # of the identity, such as the address of a login service
    key_hint: str | None = None  # sha256 of the public key's PEM form
    signed_at: UnixTime | None = None  # as a transparency log or timestamp proves it; None if nothing does
    digest: str | None = None  # the manifest's root digest
    coverage: Coverage | None = None  # None: no files were compared


@dataclass(frozen=True)
class SigningResult(Result):
    """A signature file that `sign` wrote, or would write."""

    file: str  # the signature file
    id: str | None  # of the local model; None for a folder
    name: str  # of the model, as the signature states it
    method: Method
    files: tuple[str, ...]  # the signed files, in the order of the manifest
    hashed_bytes: int  # of the files that were read, because no digest of their current content was known
    key_hint: str | None = None  # sha256 of the public key's PEM form; None if nothing was signed
    digest: str | None = None  # the manifest's root digest; likewise
    replaces: bool = False  # another signature file had this name
    done: bool = False
