"""Parse Modelfiles, the format in which Ollama describes a model (docs/modelfile.mdx, parser/parser.go of Ollama).

Each instruction is a line `NAME value`, in any capitals. A value in double quotes, or in three of them, may have line
breaks; it ends at the first end of a line that follows the closing quotes. Lines that start with # are comments.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models.errors import BadInputError, MissingFileError
from llm_hf_models.system.text import clean_text

MAX_BYTES = 4 * 2**20
INSTRUCTIONS = frozenset(
    {
        "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message",
        "requires",
    }
)  # fmt: skip
ROLES = frozenset({"system", "user", "assistant"})
_WORD = re.compile(r"[A-Za-z]+")
_KEY = re.compile(r"[A-Za-z0-9_]+")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_START_CHARS = 10_000  # in which the first instruction is looked for


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Modelfile: its name in lower case, the key after PARAMETER or MESSAGE, and its value."""

    name: str
    value: str
    key: str = ""
    line: int = 0


def read_modelfile(path: Path) -> tuple[Instruction, ...]:
    """Return the instructions of a file.

    Raises:
        MissingFileError: it can't be read.
        BadInputError: it is no Modelfile; the message has the line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MissingFileError(f"Can't read {path}", cause=error.strerror) from None
    if len(content) > MAX_BYTES:
        raise BadInputError(f"{path.name} is too large for a Modelfile")
    return parse_modelfile(_decode(content))


def is_modelfile(path: Path) -> bool:
    """Return whether a file is meant as a Modelfile: by its name, or because its first word is an instruction."""
    try:
        if not path.is_file():
            return False
        if path.name.lower() == "modelfile" or path.suffix.lower() == ".modelfile":
            return True
        with path.open("rb") as file:
            text = _decode(file.read(_START_CHARS))
    except (OSError, ValueError):
        return False
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    word = _WORD.match(first)
    return "\0" not in text and word is not None and first[word.end() :][:1] in (" ", "\t") and (
        word[0].lower() in INSTRUCTIONS
    )  # fmt: skip


def _decode(content: bytes) -> str:
    encoding = "utf-16" if content.startswith(_UTF16) else "utf-8-sig"
    return content.decode(encoding, "replace")


def parse_modelfile(text: str) -> tuple[Instruction, ...]:
    """Return the instructions of a Modelfile, in order.

    Raises:
        BadInputError: the text is no Modelfile; the message has the line.
    """
    parser = _Parser(text.replace("\r\n", "\n").replace("\r", "\n"))
    instructions = tuple(parser.parse_all())
    if not any(instruction.name == "from" for instruction in instructions):
        raise BadInputError("The Modelfile has no FROM line", hint="Add a line such as: FROM ./model.gguf")
    return instructions


class _Parser:
    """Reads one text from its start to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse_all(self) -> list[Instruction]:
        found = []
        while self._skip_blank():
            found.append(self._parse_instruction())
        return found

    def _skip_blank(self) -> bool:
        """Go to the next instruction. Return False at the end."""
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif char in " \t\n":
                self._at += 1
            else:
                return True
        return False

    def _parse_instruction(self) -> Instruction:
        line = self._text.count("\n", 0, self._at) + 1
        start = self._at
        name = self._take(_WORD).lower()
        if name not in INSTRUCTIONS:
            shown = clean_text(self._text[start:].split("\n", 1)[0], 40)
            raise _make_error(line, f"{shown!r} starts with no instruction", _KNOWN)
        self._require_space(line, f"{name.upper()} has no value")
        key = ""
        if name in ("parameter", "message"):
            key = self._take(_KEY if name == "parameter" else _WORD)
            self._require_space(line, f"{name.upper()} has no value")
        if name == "message" and key not in ROLES:
            raise _make_error(line, f"{clean_text(key, 40)!r} is not a role", f"Roles: {', '.join(sorted(ROLES))}.")
        return Instruction(name, self._take_value(line), key, line)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return match[0] if match else ""

    def _require_space(self, line: int, problem: str) -> None:
        if self._text[self._at : self._at + 1] not in (" ", "\t"):
            raise _make_error(line, problem, None)
        while self._text[self._at : self._at + 1] in (" ", "\t"):
            self._at += 1

    def _take_value(self, line: int) -> str:
        """Return the rest of the line, or of the lines up to the closing quotes."""
        start = self._at
        while True:
            end = self._text.find("\n", self._at)
            self._at = len(self._text) if end < 0 else end
            value = _unquote(self._text[start : self._at].strip())
            if value is not None:
                return "".join(char for char in value if char.isprintable() or char in "\n\t")
            if end < 0:
                raise _make_error(line, "the quotes are never closed", 'End the text with the same quotes: " or """')
            self._at += 1


_KNOWN = f"Instructions: {', '.join(sorted(INSTRUCTIONS)).upper()}."


def _unquote(text: str) -> str | None:
    """Return a value without its quotes, or None if they are not closed."""
    quotes = '"""' if text.startswith('"""') else '"' if text.startswith('"') else ""
    size = len(quotes)
    if not quotes:
        return text
    return text[size:-size] if len(text) >= 2 * size and text.endswith(quotes) else None


def _make_error(line: int, problem: str, hint: str | None) -> BadInputError:
    return BadInputError(f"Line {line} of the Modelfile: {problem}", hint=hint)
