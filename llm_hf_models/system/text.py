"""Makes text from outside fit to be shown, to a person or a model; guesses what a mistyped word was. Parses nothing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

DEFAULT_MAX_CHARS = 500
MAX_WORD_CHARS = 100  # of what was typed: comparing costs its square

# ESC [ … letter, ESC ] … BEL or ST (and P, X, ^, _ likewise), two-character escapes: whole sequences go, not just
# their first byte. ECMA-48 names them; 0x80-0x9f are their one-character forms.
_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b."
)
_HIDDEN = ("Cc", "Cf", "Cs", "Co")


def clean_text(text: str, max_chars: int = DEFAULT_MAX_CHARS, *, keep_lines: bool = False) -> str:
    """Text without control, bidi and other invisible format characters, cut to `max_chars` characters.

    Args:
        text: anything from outside: a repo's name, a card, an engine's last words.
        max_chars: the longest result, in characters; a cut is shown by `…`.
        keep_lines: keep line breaks and tabs; otherwise all white space becomes single spaces.
    """
    if max_chars < 1:
        return ""
    if len(text) <= max_chars and text.isascii() and text.isprintable():  # most of what there is, told at a stroke
        return text if keep_lines else " ".join(text.split())
    # One character past what a cut needs, with room for what is dropped: a huge card costs no more than its cut.
    room = max_chars * 8 + 1024
    cut, text = len(text) > room, _ESCAPE_SEQUENCE.sub("", text[:room])
    if keep_lines:
        text = re.sub("\r\n?|\u2028|\u2029", "\n", text)
        text = "".join(char for char in text if char in "\n\t" or not is_hidden(char))
    else:
        text = "".join(char for char in text if char.isspace() or not is_hidden(char))
        text = " ".join(text.split())
    return f"{text[: max_chars - 1]}…" if cut or len(text) > max_chars else text


def strip_user(address: str) -> str:
    """A web address without the user and the password that may stand in it."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", address)


def is_hidden(char: str) -> bool:
    """Whether it is a control, bidi or other format character, half of a pair, or of private use (Unicode, ch. 4.5)."""
    return unicodedata.category(char) in _HIDDEN


def suggest_word(word: str, known: Iterable[str]) -> str:
    """The beginning of a hint: `Did you mean 'search'? ` where a known word comes near what was typed, else nothing."""
    from difflib import get_close_matches

    near = get_close_matches(word[:MAX_WORD_CHARS], list(known), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""
