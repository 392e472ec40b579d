"""Edit JSON with comments (JSONC) as text, so that every part that is not edited keeps its bytes.

The accepted format is JSON with `//` and `/* */` comments, trailing commas and a byte order mark, as VS Code
accepts it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MAX_DEPTH = 200
BYTE_ORDER_MARK = "\ufeff"
DEFAULT_INDENT = "  "

_SPACE = " \t\r\n"
_TRIVIA = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"')
_LITERAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_NEWLINE = re.compile(r"\r\n|\n|\r")


class JsoncError(ValueError):
    """The text is not JSON with comments."""


@dataclass(frozen=True)
class Node:
    """A value and its position in the text.

    Attributes:
        kind: the type; numbers, booleans and null are literals.
        start: the position of its first character.
        end: the position after its last character.
        children: the elements of an array, or the values of an object in the order of `keys`.
        keys: the decoded keys of an object.
        child_starts: where each child begins: for a member of an object, at its key.
        has_trailing_comma: whether a comma follows the last child.
    """

    kind: Literal["object", "array", "string", "literal"]
    start: int
    end: int
    children: tuple[Node, ...] = ()
    keys: tuple[str, ...] = ()
    child_starts: tuple[int, ...] = ()
    has_trailing_comma: bool = False

    def find(self, key: str) -> Node | None:
        """Return the value of a key. Of duplicate keys, JSON parsers use the last one."""
        found = [child for name, child in zip(self.keys, self.children, strict=True) if name == key]
        return found[-1] if found and self.kind == "object" else None


@dataclass(frozen=True)
class Edit:
    """A replacement of the text between two positions."""

    start: int
    end: int
    text: str


class Document:
    """A parsed text. `root` is None if it holds no value, only white space and comments."""

    def __init__(self, text: str) -> None:
        """Parse the text.

        Raises:
            JsoncError: the text is not valid.
        """
        self.text = text
        self.root = _Parser(text).parse()

    def decode(self, node: Node) -> Any:  # noqa: ANN401 - of any JSON type
        """Return a node's value. Literals are returned as their text, so that no number loses its format."""
        if node.kind == "object":
            return {key: self.decode(child) for key, child in zip(node.keys, node.children, strict=True)}
        if node.kind == "array":
            return [self.decode(child) for child in node.children]
        source = self.text[node.start : node.end]
        return json.loads(source) if node.kind == "string" else source

    def is_null(self, node: Node) -> bool:
        """Return whether a node is null."""
        return self.text[node.start : node.end] == "null"

    def replace(self, node: Node, value: object) -> Edit:
        """Return the edit that replaces a node by a value."""
        return Edit(node.start, node.end, self._render(value, self._line_indent(node.start), self._is_inline(node)))

    def append(self, container: Node, children: Sequence[tuple[str | None, object]]) -> list[Edit]:
        """Return the edits that add children to an array, or to an object.

        They follow the last child and its comments, in the layout of the container.

        Args:
            container: the array or object.
            children: the values to add, each with its key; the key is None in an array.
        """
        if not children:
            return []
        inline = self._is_inline(container)
        indent = self._child_indent(container)
        lead = "" if inline else self._newline + indent
        rendered = [
            ("" if key is None else f"{json.dumps(key, ensure_ascii=False)}: ") + self._render(value, indent, inline)
            for key, value in children
        ]
        body = lead + (f",{lead}" if lead else ", ").join(rendered)
        place = len(self.text[: container.end - 1].rstrip(_SPACE))  # after the last child, comma or comment
        if not container.children:
            is_open = not inline and not _NEWLINE.search(self.text, place, container.end - 1)
            closing = self._newline + self._line_indent(container.start) if is_open else ""
            return [Edit(place, place, body + closing)]
        body = f" {body}" if inline else body
        comma = container.children[-1].end
        if container.has_trailing_comma:
            return [Edit(place, place, body)]
        return [Edit(comma, comma, ","), Edit(place, place, body)]

    def remove(self, container: Node, at: int) -> list[Edit]:
        """Return the edits that remove a child and its comma. Comments stay.

        Lines that hold only the child are removed as a whole.

        Args:
            container: the array or object.
            at: the index of the child.
        """
        start, end = container.child_starts[at], container.children[at].end
        is_last = at == len(container.children) - 1
        has_own_comma = not is_last or container.has_trailing_comma
        edits = []
        if has_own_comma or at:
            comma = self._find_comma(end if has_own_comma else container.children[at - 1].end)
            if has_own_comma and not self.text[end:comma].strip(" \t"):
                end = comma + 1
            else:
                edits = [Edit(comma, comma + 1, "")]
        inner_start, inner_end = container.start + 1, container.end - 1
        if not (self.text[inner_start:start] + self.text[end:inner_end]).strip(_SPACE):
            return [Edit(inner_start, inner_end, "")]
        return [*edits, self._remove_with_blanks(start, end, follows=is_last)]

    def _remove_with_blanks(self, start: int, end: int, *, follows: bool) -> Edit:
        """Return the edit that removes a text with its lines or the blanks after it; if it `follows`, before it."""
        blanks = len(self.text[end:]) - len(self.text[end:].lstrip(" \t"))
        newline = _NEWLINE.match(self.text, end + blanks)
        if self._starts_line(start):
            return Edit(self._line_start(start), newline.end(), "") if newline else Edit(start, end, "")
        if follows:
            return Edit(len(self.text[:start].rstrip(" \t")), end, "")
        return Edit(start, end if newline else end + blanks, "")

    def _find_comma(self, position: int) -> int:
        """Return the position of the comma that follows a child, after its comments."""
        trivia = _TRIVIA.match(self.text, position)
        return trivia.end() if trivia else position

    @property
    def _newline(self) -> str:
        found = _NEWLINE.search(self.text)
        return found.group() if found else "\n"

    def _is_inline(self, node: Node) -> bool:
        """Return whether the members of a container belong on one line, as they do in a file without line breaks."""
        if _NEWLINE.search(self.text, node.start, node.end):
            return False
        root = self.root
        return bool(node.children) or (
            root is not None and bool(root.children) and not _NEWLINE.search(self.text, root.start, root.end)
        )

    def _child_indent(self, container: Node) -> str:
        for start in container.child_starts:
            if self._starts_line(start):
                return self._line_indent(start)
        return self._line_indent(container.start) + self._indent_unit()

    def _indent_unit(self) -> str:
        """Return the indentation of the first member of the root that starts a line."""
        starts = self.root.child_starts if self.root is not None else ()
        indents = (self._line_indent(start) for start in starts if self._starts_line(start))
        return next(indents, "") or DEFAULT_INDENT

    def _starts_line(self, position: int) -> bool:
        before = self.text[self._line_start(position) : position]
        return self._line_start(position) > 0 and not before.strip(" \t")

    def _line_indent(self, position: int) -> str:
        line = self.text[self._line_start(position) : position].lstrip(BYTE_ORDER_MARK)
        return line[: len(line) - len(line.lstrip(" \t"))]

    def _line_start(self, position: int) -> int:
        return max(self.text.rfind("\n", 0, position), self.text.rfind("\r", 0, position)) + 1

    def _render(self, value: object, indent: str, inline: bool) -> str:
        text = json.dumps(value, indent=None if inline else self._indent_unit(), ensure_ascii=False)
        return text.replace("\n", self._newline + indent)  # a JSON string never contains a line break itself


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """Return the text with edits that do not overlap. Insertions at the same position keep their order."""
    parts, position = [], 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        parts += [text[position : edit.start], edit.text]
        position = edit.end
    return "".join([*parts, text[position:]])


class _Parser:
    """A recursive-descent parser that records positions."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = len(BYTE_ORDER_MARK) if text.startswith(BYTE_ORDER_MARK) else 0

    def parse(self) -> Node | None:
        self._skip_trivia()
        if self._position == len(self._text):
            return None
        root = self._parse_value(0)
        self._skip_trivia()
        if self._position < len(self._text):
            raise self._make_error("there is more text after the end of the value")
        return root

    def _skip_trivia(self) -> None:
        found = _TRIVIA.match(self._text, self._position)
        self._position = found.end() if found else self._position

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _parse_value(self, depth: int) -> Node:
        start, first = self._position, self._peek()
        if depth > MAX_DEPTH:
            raise self._make_error(f"values are nested deeper than {MAX_DEPTH} levels")
        if first and first in "{[":
            return self._parse_container(depth)
        kind: Literal["string", "literal"] = "string" if first == '"' else "literal"
        found = (_STRING if kind == "string" else _LITERAL).match(self._text, start)
        if not found:
            raise self._make_error("a value is missing or invalid")
        self._position = found.end()
        return Node(kind, start, found.end())

    def _parse_container(self, depth: int) -> Node:
        """Parse an object or an array; the position is at its bracket."""
        start, is_object = self._position, self._peek() == "{"
        closing, has_comma = "}" if is_object else "]", False
        children: list[Node] = []
        keys: list[str] = []
        starts: list[int] = []
        self._position += 1
        self._skip_trivia()
        while self._peek() != closing:
            if children and not has_comma:
                raise self._make_error(f"',' or {closing!r} is missing")
            starts.append(self._position)
            if is_object:
                keys.append(self._parse_key())
            children.append(self._parse_value(depth + 1))
            self._skip_trivia()
            has_comma = self._peek() == ","
            if has_comma:
                self._position += 1
                self._skip_trivia()
        self._position += 1
        kind: Literal["object", "array"] = "object" if is_object else "array"
        return Node(kind, start, self._position, tuple(children), tuple(keys), tuple(starts), has_comma)

    def _parse_key(self) -> str:
        found = _STRING.match(self._text, self._position)
        if not found:
            raise self._make_error("a key is missing or invalid")
        self._position = found.end()
        self._skip_trivia()
        if self._peek() != ":":
            raise self._make_error("':' is missing")
        self._position += 1
        self._skip_trivia()
        return str(json.loads(found.group()))

    def _make_error(self, reason: str) -> JsoncError:
        before = self._text[: self._position]
        line = len(_NEWLINE.findall(before)) + 1
        column = len(before) - max(before.rfind("\n"), before.rfind("\r"))
        return JsoncError(f"Line {line}, column {column}: {reason}.")
