"""Clean external text for display to a person or a model, and suggest corrections of mistyped words."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable

from llm_hf_models.redaction import redact

DEFAULT_MAX_CHARS = 500
MAX_LABEL_CHARS = 60
MAX_WORD_CHARS = 100  # the comparison takes quadratic time

# Escape sequences (ECMA-48) are removed as a whole: ESC [ … letter, ESC ] … BEL or ST (also with P, X, ^ and _), and
# two-character sequences. 0x80-0x9f are their one-character forms.
_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b."
)
_HIDDEN = ("Cc", "Cf", "Cs", "Co")
# Other characters that are not visible (Unicode's Default_Ignorable_Code_Point, and the empty Braille pattern). A text
# can be hidden in them. U+FE0F is kept, because emojis need it.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0e\uffa0\U000e0000-\U000e0fff]"
)
_PLAIN_LABEL = re.compile(r"[A-Za-z0-9._+/@:-]+")


def clean_text(text: str, max_chars: int = DEFAULT_MAX_CHARS, *, keep_lines: bool = False) -> str:
    """Return the text without secrets, control, bidi and other invisible format characters, cut to `max_chars`.

    Args:
        text: external text, such as a repo's name, a model card or the last output of an engine.
        max_chars: the maximum length of the result in characters. A cut is marked by `…`.
        keep_lines: True to keep line breaks and tabs; otherwise all white space becomes single spaces.
    """
    if max_chars < 1:
        return ""
    text = redact(text)
    if len(text) <= max_chars and text.isascii() and text.isprintable():  # the usual case, fast
        return text if keep_lines else " ".join(text.split())
    # Only a part of a huge text is processed: enough for the result and for the characters that are removed.
    limit = max_chars * 8 + 1024
    cut, text = len(text) > limit, _ESCAPE_SEQUENCE.sub("", text[:limit])
    if keep_lines:
        text = re.sub("\r\n?|\u2028|\u2029", "\n", text)
        text = "".join(char for char in text if char in "\n\t" or not is_hidden(char))
    else:
        text = "".join(char for char in text if char.isspace() or not is_hidden(char))
        text = " ".join(text.split())
    text = redact(text)  # again, because a secret may have been split by hidden characters
    return f"{text[: max_chars - 1]}…" if cut or len(text) > max_chars else text


def strip_credentials(address: str) -> str:
    """Return a URL without the user name and password."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", address)


def describe_error(error: BaseException) -> str:
    """Return the text of an exception without the number of the operating system, or the name of its class."""
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__


def is_hidden(char: str) -> bool:
    """Return whether a character is a control, format, surrogate, private-use or other invisible character."""
    return unicodedata.category(char) in _HIDDEN or _INVISIBLE.match(char) is not None


def quote_label(name: str, max_chars: int = MAX_LABEL_CHARS) -> str:
    """Return a foreign name, such as a label from a file name: shortened, and in quotes unless it is one plain word."""
    short = clean_text(name, max_chars)
    return short if _PLAIN_LABEL.fullmatch(short.removesuffix("…")) else json.dumps(short, ensure_ascii=False)


def suggest_word(word: str, known: Iterable[str]) -> str:
    """Return the start of a hint such as `Did you mean 'search'? `, or an empty text if no known word is similar."""
    similar = find_similar_word(word, known)
    return "" if similar is None else f"Did you mean {similar!r}? "


def find_similar_word(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most similar to a mistyped one, in any capitals; None if none is similar."""
    from difflib import get_close_matches

    by_folded = {one.casefold(): one for one in known}
    matches = get_close_matches(word[:MAX_WORD_CHARS].casefold(), list(by_folded), n=1)
    return by_folded[matches[0]] if matches else None
