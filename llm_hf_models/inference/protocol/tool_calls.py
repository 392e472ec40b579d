"""Assemble the tool calls of a response from the deltas of a stream, as different servers send them.

OpenAI's protocol identifies a call by its index, and sends its id and name once. Servers differ: the same index for
all calls (Ollama), no index, the id or the name in each delta, arguments as an object or as a JSON string in a JSON
string, and the complete arguments again in the last delta.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_NO_NAME = "null"  # some servers send the text in deltas without a name
_NO_ARGUMENTS = ("", "null", "{}")
_MAX_JSON_STRINGS = 3  # of JSON in a JSON string


@dataclass(frozen=True)
class ToolCall:
    """One complete tool call. `arguments` is the text that the server sent, which may be invalid JSON."""

    name: str
    arguments: str
    call_id: str | None


@dataclass(frozen=True)
class _Delta:
    """A part of a call. None and an empty text mean that the delta does not contain this value."""

    index: int | None
    call_id: str | None
    name: str
    arguments: str


@dataclass
class _Call:
    index: int | None
    call_id: str | None
    name: str = ""
    fragments: list[str] = field(default_factory=list)  # of the arguments

    def add(self, delta: _Delta) -> None:
        self.call_id = self.call_id or delta.call_id
        # A repeated name is not appended. A longer one with the same start replaces it.
        self.name = delta.name if delta.name.startswith(self.name) else self._append_name(delta.name)
        if delta.arguments:
            self.fragments.append(delta.arguments)

    def _append_name(self, name: str) -> str:
        return self.name if self.fragments or self.name.endswith(name) else self.name + name

    def is_complete(self) -> bool:
        """Return whether the arguments received so far are a complete object."""
        ends = bool(self.fragments) and self.fragments[-1].rstrip().endswith(("}", '"'))  # fast, for long arguments
        return ends and _parse_object(_join_fragments(self.fragments)) is not None

    def is_followed_by(self, delta: _Delta) -> bool:
        """Return whether a delta with a name, but without an id, starts another call."""
        if not self.name:
            return False  # the arguments arrived before the name
        if delta.name == self.name:
            arguments = _parse_object(_join_fragments(self.fragments)) if self.fragments else None
            return arguments is not None and bool(delta.arguments) and _parse_object(delta.arguments) != arguments
        if delta.index is None or self.fragments:
            return True
        # The name may arrive in parts, or grow.
        return bool(delta.arguments) and not delta.name.startswith(self.name)


class ToolCallAssembler:
    """The tool calls of one response, received so far."""

    def __init__(self) -> None:
        """Start without calls."""
        self._calls: list[_Call] = []

    def add_deltas(self, values: object) -> None:
        """Add the `tool_calls` of one event of a stream."""
        deltas, earlier = _read_deltas(values), list(self._calls)
        for position, delta in enumerate(deltas):
            by_position = earlier[position - len(deltas)] if len(deltas) <= len(earlier) else None
            call = self._find_call(delta, earlier, by_position)
            if call is None:
                call = _Call(delta.index, delta.call_id)
                self._calls.append(call)
            call.add(delta)

    def add_complete_calls(self, values: object) -> None:
        """Add the `tool_calls` of an unstreamed message: each item is a call."""
        for delta in _read_deltas(values):
            call = _Call(delta.index, delta.call_id)
            call.add(delta)
            self._calls.append(call)

    def get_calls(self) -> list[ToolCall]:
        """Return the calls, in the order in which they started."""
        return [ToolCall(call.name, _join_fragments(call.fragments), call.call_id) for call in self._calls]

    def _find_call(self, delta: _Delta, earlier: Sequence[_Call], by_position: _Call | None) -> _Call | None:
        """Return the call that a delta continues, or None if the delta starts a call.

        Args:
            delta: The delta.
            earlier: The calls that had started before this event.
            by_position: The call that the delta continues if it has no index.
        """
        if delta.call_id:
            known = _find_last(self._calls, lambda call: call.call_id == delta.call_id)
            if known is not None and (None in (known.index, delta.index) or known.index == delta.index):
                return known
        # Calls with a name in the same event are different calls.
        calls = earlier if delta.name else self._calls
        last = by_position if delta.index is None else _find_last(calls, lambda call: call.index == delta.index)
        if last is None:
            return None
        if delta.call_id:
            # A new id starts a call, unless the delta continues a call without an id, or one whose arguments are
            # not complete yet: some servers send a new id with each delta.
            is_continued = last.call_id is None or (bool(last.fragments) and not last.is_complete())
            return last if is_continued and not delta.name else None
        return None if delta.name and last.is_followed_by(delta) else last


def _find_last(calls: Sequence[_Call], has_property: Any) -> _Call | None:  # noqa: ANN401 - a predicate
    return next((call for call in reversed(calls) if has_property(call)), None)


def _read_deltas(values: object) -> list[_Delta]:
    items = [values] if isinstance(values, Mapping) else values if isinstance(values, list) else []
    return [_read_delta(item) for item in items if isinstance(item, Mapping)]


def _read_delta(value: Mapping[str, Any]) -> _Delta:
    function = value.get("function", value)  # some servers put name and arguments next to the id
    function = function if isinstance(function, Mapping) else {}
    index, call_id, name = value.get("index"), value.get("id"), function.get("name")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = "" if arguments is None else json.dumps(arguments)
    return _Delta(
        index=int(index) if isinstance(index, int) or (isinstance(index, str) and index.isdecimal()) else None,
        call_id=str(call_id) if isinstance(call_id, (str, int)) and str(call_id).strip() else None,
        name=name if isinstance(name, str) and name != _NO_NAME else "",
        arguments=arguments,
    )


def _join_fragments(fragments: Sequence[str]) -> str:
    """Return the text of the arguments, without fragments that repeat it or contain no arguments."""
    text = "".join(fragments)
    if _parse_object(text) is not None:
        return text
    kept = list(_strip_empty(fragments))
    whole = kept[-1].strip() if kept else ""
    arguments = _parse_object(whole) if len(kept) > 1 else None
    if arguments is None:
        return "".join(kept)
    earlier = [fragment for fragment in kept if fragment.strip() != whole]
    # Repeated at the end, or in each fragment from the start.
    is_repeated = _parse_object("".join(earlier)) == arguments or all(map(whole.startswith, earlier))
    return whole if is_repeated else "".join(kept)


def _strip_empty(fragments: Sequence[str]) -> Iterable[str]:
    """Return the fragments without those at both ends that stand for no arguments."""
    filled = [at for at, fragment in enumerate(fragments) if fragment.strip() not in _NO_ARGUMENTS]
    return fragments[filled[0] : filled[-1] + 1] if filled else fragments[:1]


def _parse_object(text: str) -> dict[str, Any] | None:
    try:
        return parse_arguments(text) if text.strip() else None
    except ValueError:
        return None


def parse_arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a call.

    Blank text and `null` mean no arguments. A JSON string may contain the JSON object.

    Raises:
        ValueError: The text is not valid JSON, or not an object.
    """
    value: object = text
    for _ in range(_MAX_JSON_STRINGS):
        if not isinstance(value, str):
            break
        try:
            value = json.loads(value) if value.strip() else None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - as for invalid JSON
    return value
