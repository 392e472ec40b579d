"""Makes text from outside fit to be shown to a person or a model. Not for parsing it."""

from __future__ import annotations

import re
import unicodedata

DEFAULT_MAX_CHARS = 500
# ESC [ … letter, ESC ] … BEL or ST, and two-character escapes: whole sequences go, not just their first byte.
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)|\x9b[0-?]*[ -/]*[@-~]")


def clean_text(text: str, max_chars: int = DEFAULT_MAX_CHARS, *, keep_lines: bool = False) -> str:
    """Text without control, bidi and other invisible format characters, cut to `max_chars` characters.

    Args:
        text: anything from outside: a repo's name, a card, an engine's last words.
        max_chars: the longest result, in characters; a cut is shown by `…`.
        keep_lines: keep line breaks and tabs; otherwise all white space becomes single spaces.
    """
    kept = "\n\t" if keep_lines else ""
    # One character past what a cut needs, with room for what is dropped: a huge card costs no more than its cut.
    text = _ESCAPE_SEQUENCE.sub("", text[: max_chars * 8 + 1024])
    text = text.replace("\r\n", "\n").replace("\r", "\n") if keep_lines else " ".join(text.split())
    text = "".join(c for c in text if c in kept or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
