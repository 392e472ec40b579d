"""Render what `sign` wrote. `max_width` is in columns; None means no limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_hf_models.cli.format import count_things
from llm_hf_models.cli.layout import format_fields
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_models.signatures.types import SigningResult

MAX_FILES = 20


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
