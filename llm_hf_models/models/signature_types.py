"""Define the results about signatures and trusted signers. Contains no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_hf_models.signatures.types import SignatureFacts
from llm_hf_models.system.json_values import Result, UnixTime

RequireSignature = Literal["off", "if-present", "owners"]


@dataclass(frozen=True)
class SignatureReport(Result):
    """The facts about the signature file of a repo, as it concerns some of the repo's files. None implies another.

    `trusted` is None unless it is proven who signed. `trusted_for` are other owners that the signer is trusted for.
    """

    file: str  # the path of the signature file in the repo
    owner: str  # of the repo
    facts: SignatureFacts | None  # None if the file was not read
    trusted: bool | None  # whether the signer is trusted for this owner (`llm hf trust`)
    trusted_for: tuple[str, ...] = ()
    problem: str | None = None  # why the file was not read
    file_digest: str | None = None  # of the signature file: sha256, or its git blob id
    summary: str = ""  # the facts in words, a line each
    warnings: tuple[str, ...] = ()  # what a person should read before a pull


@dataclass(frozen=True)
class TrustedSigner(Result):
    """A person, key or certificate authority that may sign the models of an owner."""

    number: int  # for `llm hf trust remove`
    owner: str
    method: Literal["keyless", "key", "certificate"]
    identity: str | None
    issuer: str | None
    fingerprint: str | None  # sha256 of the public key, or of the first certificate
    added: UnixTime


@dataclass(frozen=True)
class TrustedSigners(Result):
    """The trusted signers, sorted by owner."""

    signers: tuple[TrustedSigner, ...]


@dataclass(frozen=True)
class TrustChange(Result):
    """The trusted signers that `trust add` or `trust remove` changed, or would change."""

    added: tuple[TrustedSigner, ...] = ()
    removed: tuple[TrustedSigner, ...] = ()
    done: bool = True
