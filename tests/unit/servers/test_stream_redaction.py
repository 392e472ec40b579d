"""Secrets that are split between the events of a stream are removed, and no other text is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from llm_hf_models.redaction import REPLACEMENT, remember
from llm_hf_models.servers.stream_redaction import redact_events

KEY = "sk-proj-0123456789abcdef"
DONE = b"data: [DONE]\n\n"


def build_event(choice: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


def redact_all(events: Sequence[bytes]) -> list[bytes]:
    async def send() -> AsyncIterator[bytes]:
        for event in events:
            yield event

    async def collect() -> list[bytes]:
        return [event async for event in redact_events(send())]

    return asyncio.run(collect())


def join_choices(events: Sequence[bytes], *path: str | int) -> str:
    """Return the text at a path in the choices, as a client assembles it."""
    texts = []
    for event in events:
        value: Any = json.loads(event.removeprefix(b"data:"))["choices"][0] if b"{" in event else {}
        for step in path:
            value = value.get(step) if isinstance(step, str) else value[step]
            if value is None:
                break
        texts.append(value if isinstance(value, str) else "")
    return "".join(texts)


def wrap(place: str, text: str) -> dict[str, Any]:
    if place == "text":
        return {"index": 0, "text": text}
    if place == "arguments":
        return {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}}
    return {"index": 0, "delta": {place: text}}


PATHS: dict[str, tuple[str | int, ...]] = {
    "text": ("text",), "content": ("delta", "content"), "reasoning": ("delta", "reasoning"),
    "reasoning_content": ("delta", "reasoning_content"),
    "arguments": ("delta", "tool_calls", 0, "function", "arguments"),
}  # fmt: skip


@pytest.mark.parametrize("place", PATHS)
@pytest.mark.parametrize("size", [1, 7, 40])
def test_split_secret_is_removed(place: str, size: int) -> None:
    remember(KEY)
    text = f"The key {KEY} ends; sk-pro is not one"
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    events = [build_event(wrap(place, part)) for part in parts]
    events.append(build_event({"index": 0, "delta": {}, "finish_reason": "stop"}))
    found = redact_all([*events, DONE])
    assert join_choices(found, *PATHS[place]) == f"The key {REPLACEMENT} ends; sk-pro is not one"
    assert found[-1] == DONE


def test_secret_that_the_last_event_completes_is_removed() -> None:
    remember(KEY)
    last = {"index": 0, "delta": {"content": f"{KEY[12:]} end"}, "finish_reason": "stop"}
    found = redact_all([build_event(wrap("content", KEY[:12])), build_event(last)])
    assert join_choices(found, "delta", "content") == f"{REPLACEMENT} end"


@pytest.mark.parametrize("end", [[DONE], [b'data: {"error": {"message": "lost"}}\n\n'], []])
def test_text_that_was_kept_back_is_sent_before_the_end(end: list[bytes]) -> None:
    remember(KEY)
    found = redact_all([build_event(wrap("content", "see sk-pro")), b": comment\n\n", *end])
    assert [event for event in found if event in end] == end
    sent = found[: len(found) - len(end)]
    assert join_choices([event for event in sent if event.startswith(b"data:")], "delta", "content") == "see sk-pro"


def test_events_are_not_changed_without_secrets() -> None:
    events = [b'data: {"choices":[{"delta":{"content":"a"}}],  "x": 1}\n\n', b"data: [1]\n\n", DONE]
    assert redact_all(events) == events
