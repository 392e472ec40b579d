"""Render trusted signers and the facts about signatures as text. `max_width` is in columns; None means no limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import Column, format_table

if TYPE_CHECKING:
    from llm_hf_models.models.signature_types import SignatureReport, TrustChange, TrustedSigner

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
