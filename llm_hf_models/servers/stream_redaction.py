"""Remove tokens and keys from a stream's events: a remote endpoint may repeat the key, split between several events."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

from llm_hf_models.redaction import StreamRedactor, has_secrets, redact_bytes
from llm_hf_models.servers.stream_assembly import CONCATENATED_FIELDS

_Place = tuple[int, str, int]  # of a text: index of the choice, field, index of the tool call or 0
_TOOL_CALLS = "tool_calls"
_SENT_ONCE = ("choices", "usage", "timings")  # fields of an event that are not repeated


async def redact_events(events: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the events of a stream without secrets.

    The end of a text that may be the start of a secret follows in a later event, at the latest before the event that
    ends the choice or the stream.
    """
    redactor = _ChoiceRedactor()
    async for event in events:
        for clean in redactor.clean_event(event) if has_secrets() else (event,):
            yield redact_bytes(clean)
    for rest in redactor.end():
        yield redact_bytes(rest)


class _ChoiceRedactor:
    """Redacts the texts of all choices. Each text is split between events."""

    def __init__(self) -> None:
        self._redactors: defaultdict[_Place, StreamRedactor] = defaultdict(StreamRedactor)
        self._frame: dict[str, Any] = {}  # the newest event with choices, without them

    def clean_event(self, event: bytes) -> Iterator[bytes]:
        """Yield the event without the secrets in its texts, after events with texts that were kept back."""
        chunk = _parse_event(event)
        if chunk is None:
            if event.startswith(b"data:"):  # the end of the stream, or an error
                yield from self.end()
            yield event
            return
        self._frame = {key: value for key, value in chunk.items() if key not in _SENT_ONCE}
        for choice in chunk["choices"]:
            is_last = bool(choice.get("finish_reason"))
            for place, fields, name in _list_texts(choice):
                redactor = self._redactors[place]
                fields[name] = redactor.feed(fields[name]) + (redactor.end() if is_last else "")
            if is_last:
                yield from self.end(choice.get("index") or 0)
        yield _format_event(chunk)

    def end(self, index: int | None = None) -> Iterator[bytes]:
        """Yield events with the texts that were kept back, of one choice or of all."""
        for place, redactor in self._redactors.items():
            if index in (None, place[0]) and (rest := redactor.end()):
                yield _format_event({**self._frame, "choices": [_build_choice(place, rest)]})


def _parse_event(event: bytes) -> dict[str, Any] | None:
    """Return an event with choices. None for other events."""
    try:
        chunk = json.loads(event.removeprefix(b"data:")) if event.startswith(b"data:") else None
    except ValueError:
        return None
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    return chunk if isinstance(choices, list) and all(isinstance(each, dict) for each in choices) else None


def _list_texts(choice: dict[str, Any]) -> Iterator[tuple[_Place, dict[str, Any], str]]:
    """Yield the place of each text of a choice, with the object that contains it and its name there."""
    index, delta = choice.get("index") or 0, choice.get("delta")
    delta = delta if isinstance(delta, dict) else {}
    for fields in (choice, delta):
        for name in CONCATENATED_FIELDS:
            if isinstance(fields.get(name), str):
                yield (index, name, 0), fields, name
    calls = delta.get(_TOOL_CALLS)
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            yield (index, _TOOL_CALLS, call.get("index") or 0), function, "arguments"


def _build_choice(place: _Place, text: str) -> dict[str, Any]:
    index, name, call = place
    if name == "text":
        return {"index": index, "text": text, "finish_reason": None}
    part = {name: [{"index": call, "function": {"arguments": text}}]} if name == _TOOL_CALLS else {name: text}
    return {"index": index, "delta": part, "finish_reason": None}


def _format_event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
