"""Replace tokens and keys in text that comes from outside, because a server or proxy may repeat what it received.

`remember` is called with each token or key before it is sent. From then on, `redact` replaces it: in responses where
they arrive (hub/session.py, inference/), in the text of errors (errors.py), and in everything that is shown, logged or
stored. Text must be redacted before it is shortened. A part of a secret is found too if it has its first
`PART_CHARS` characters.
"""

from __future__ import annotations

import base64
import re
import sys
from functools import lru_cache
from typing import TextIO, cast

REPLACEMENT = "REDACTED"
MIN_CHARS = 8  # shorter keys, such as `EMPTY` or `ollama`, are placeholders and may be words of any text
PART_CHARS = 10

_forms: tuple[_Form, ...] = ()  # of all secrets, the longest first


def remember(secret: str | None) -> None:
    """Redact a token or key from now on, in this process."""
    global _forms  # noqa: PLW0603 - the secrets of a process, which every layer needs
    if secret and len(secret) >= MIN_CHARS:
        new = {secret: _Form(secret), **{text: _Form(text, exact=True) for text in _encode(secret)}}
        known = {form.text: form for form in _forms}
        if not new.keys() <= known.keys():
            _forms = tuple(sorted({**new, **known}.values(), key=lambda form: -len(form.text)))


def has_secrets() -> bool:
    """Return whether this process uses a token or key."""
    return bool(_forms)


def redact(text: str) -> str:
    """Return the text without the tokens and keys that this process uses, in any encoding."""
    for form in _forms:
        text = form.replace(text)
    return text


def redact_bytes(data: bytes) -> bytes:
    """Return a response's body without the tokens and keys that this process uses."""
    return redact(data.decode("latin-1")).encode("latin-1") if _forms else data


class StreamRedactor:
    """Redacts a text that arrives in pieces. The end of a piece is kept back while it may be the start of a secret."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """Return the text that is certain to contain no start of a secret."""
        if not _forms:
            return text
        text = self._held + text
        held = max(form.count_started(text) for form in _forms)
        self._held = text[len(text) - held :]
        return redact(text[: len(text) - held])

    def end(self) -> str:
        """Return the rest."""
        rest, self._held = self._held, ""
        return redact(rest)


def redact_stderr() -> None:
    """Redact what this process prints on stderr: messages of other packages, warnings and tracebacks."""
    if sys.stderr is not None and not isinstance(sys.stderr, _RedactedStream):
        sys.stderr = cast("TextIO", _RedactedStream(sys.stderr))


class _RedactedStream:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class _Form:
    """One spelling of a secret. Each character may be escaped as in URLs, JSON or HTML, and its case does not count.

    In an exact spelling, the letters and digits at its start are never escaped, and their case counts.
    """

    def __init__(self, text: str, *, exact: bool = False) -> None:
        self.text, self._folded = text, text.casefold()
        self._needed = re.split("[^A-Za-z0-9]", text[:PART_CHARS])[0] if exact else ""
        start = text[:PART_CHARS]
        self._start = re.compile(_match_first(start[0]) + "".join(_match_char(char) for char in start[1:]))
        self._rest = text[PART_CHARS:]

    def replace(self, text: str) -> str:
        """Return the text without this spelling, and without the parts of it that begin as it does."""
        found = self._start.search(text) if self._needed in text else None  # `in` is much faster than a search
        if found is None:
            return text
        parts, copied = [], 0
        while found is not None:
            parts += [text[copied : found.start()], REPLACEMENT]
            copied = self._find_end(text, found.end())
            found = self._start.search(text, copied)
        return "".join([*parts, text[copied:]])

    def _find_end(self, text: str, at: int) -> int:
        for char in self._rest:
            if (found := _compile_char(char).match(text, at)) is None:
                break
            at = found.end()
        return at

    def count_started(self, text: str) -> int:
        """Return the length of the text's end that is the start of this spelling, without all of it."""
        folded = text[-len(self.text) + 1 :].casefold()
        return next((size for size in range(len(folded), 0, -1) if self._folded.startswith(folded[-size:])), 0)


def _encode(secret: str) -> set[str]:
    """Return the secret in base64, alone and within a longer text, and in hexadecimal."""
    data = secret.encode("utf-8", "surrogateescape")
    forms = {data.hex(), data.hex().upper()}
    for offset in range(3):
        # The first and the last character also contain bits of the text around the secret.
        start, end = -(-offset * 8 // 6), (offset + len(data)) * 8 // 6
        padded = b"\0" * offset + data
        forms |= {base64.b64encode(padded).decode()[start:end], base64.urlsafe_b64encode(padded).decode()[start:end]}
    return {form for form in forms if len(form) >= PART_CHARS}


@lru_cache(maxsize=512)
def _compile_char(char: str) -> re.Pattern[str]:
    return re.compile(_match_char(char))


def _list_codes(char: str) -> tuple[str, str, str]:
    """Return patterns for a character in either case: literal, as hexadecimal code and as decimal code."""
    cases = dict.fromkeys((char, char.lower()[:1], char.upper()[:1]))
    codes = [f"{ord(case):02x}" for case in cases]
    hexadecimal = [re.sub("[a-f]", lambda digit: f"[{digit[0]}{digit[0].upper()}]", code) for code in codes]
    return "".join(map(re.escape, cases)), "|".join(hexadecimal), "|".join(str(ord(case)) for case in cases)


def _match_char(char: str) -> str:
    literal, code, decimal = _list_codes(char)
    escaped = "" if char.isalnum() else r"\\*"  # JSON may write `\/`
    return (
        rf"(?:%(?:25)*(?:{code})|\\+(?:u00|x)(?:{code})|&#(?:0*(?:{decimal})|[xX]0*(?:{code}));|{escaped}[{literal}])"
    )


def _match_first(char: str) -> str:
    """Return the pattern that `_match_char` returns, in a form that a search finds six times faster."""
    literal, code, decimal = _list_codes(char)
    return (
        rf"[{literal}%\\&](?:(?<=[{literal}])|(?<=%)(?:25)*(?:{code})|(?<=\\)\\*(?:(?:u00|x)(?:{code})|[{literal}])"
        rf"|(?<=&)#(?:0*(?:{decimal})|[xX]0*(?:{code}));)"
    )
