"""Render signatures and trusted signers as text. `max_width` is in columns; None means no limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import Column, format_fields, format_table
from llm_hf_models.cli.views.collections import count_things
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_models.models.signature_types import SignatureReport, TrustChange, TrustedSigner
    from llm_hf_models.signatures.types import SigningResult

SHORT_FINGERPRINT = 16
MAX_FILES = 20


def render_signers(signers: Sequence[TrustedSigner], max_width: int | None) -> str:
    """Return a table of trusted signers."""
    columns = [
        Column("NUMBER", right=True),
        Column("OWNER", min_width=16),
        Column("SIGNER", 1, min_width=30, wrap=True),
        Column("ADDED", 2),
    ]
    rows = [[str(each.number), each.owner, _describe(each), cli_format.format_date(each.added)] for each in signers]
    return format_table(columns, rows, max_width=max_width)


def _describe(signer: TrustedSigner) -> str:
    if signer.method == "keyless":
        return f"{signer.identity}, confirmed by {signer.issuer}"
    return f"{signer.method} {(signer.fingerprint or '')[:SHORT_FINGERPRINT]}"


def render_trust_change(done: TrustChange) -> str:
    """Return a line for each signer that was, or would be, added or removed."""
    verbs = ("Trusted", "No longer trusted") if done.done else ("Would trust", "Would no longer trust")
    pairs = ((verbs[0], done.added), (verbs[1], done.removed))
    return "\n".join(f"{verb} for {each.owner}: {_describe(each)}." for verb, signers in pairs for each in signers)


def render_signature(report: SignatureReport | None) -> str:
    """Return the facts about a repo's signature, a line each; empty for a repo without one."""
    return report.summary if report else ""


def render_signing(result: SigningResult, max_width: int | None) -> str:
    """Return the files that were signed, or would be signed, and the signature file."""
    names = [clean_text(file) for file in result.files[:MAX_FILES]]
    if len(result.files) > MAX_FILES:
        names.append(f"and {len(result.files) - MAX_FILES} more")
    return format_fields(
        [
            ("Signed" if result.done else "Would sign", count_things(len(result.files), "file")),
            ("Files", "\n".join(names)),
            ("To read", None if result.done or not result.hashed_bytes else format_size(result.hashed_bytes)),
            ("Signature file", result.file),
            ("Method", result.method),
            ("Key", result.key_hint),
            ("Digest", result.digest),
        ],
        max_width=max_width,
    )
