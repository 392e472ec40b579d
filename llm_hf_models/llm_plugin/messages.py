"""Convert a prompt of llm to a Turn in OpenAI's protocol: messages, attachments, tools, schema."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import llm
from llm.parts import AttachmentPart, Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llm_hf_models.errors import BadInputError
from llm_hf_models.inference.protocol.openai_protocol import Turn
from llm_hf_models.inference.protocol.options import DEFAULT_LOOP_LIMIT, build_request_fields
from llm_hf_models.llm_plugin.attachments import build_message_part

Json = dict[str, Any]
_EMPTY = "The prompt is empty"
_EMPTY_HINT = "Add the text to send, such as: llm 'five names for a walrus'"


def build_turn(
    prompt: llm.Prompt,
    options: Mapping[str, Any],
    *,
    stream: bool,
    raw: bool,
    system: str | None,
    types: Collection[str],
    is_continued: bool = False,
) -> Turn:
    """Return the request to send to the engine.

    Args:
        prompt: The prompt from llm.
        options: All options that apply to this prompt, by name.
        stream: Whether the engine streams the response.
        raw: Whether the model has no chat template and completes text.
        system: The system prompt to use if the prompt has none.
        types: The MIME types of attachments that the model accepts.
        is_continued: Whether the prompt belongs to a conversation, so that it has to add a message.

    Raises:
        BadInputError: The prompt is empty, an attachment has another type or can't be read, or two options exclude
            each other.
    """
    fields, loop_limit = build_request_fields(options), options.get("loop_limit", DEFAULT_LOOP_LIMIT)
    response_format = _build_response_format(prompt.schema, options)
    if response_format is not None and "grammar" in fields:
        raise BadInputError(
            "Option 'grammar' can't be combined with a schema or 'json_object'", hint="Use one of them."
        )
    if raw:
        # llama.cpp's completion endpoint has no response_format; it reads the schema from json_schema.
        fields |= {"json_schema": prompt.schema or {"type": "object"}} if response_format is not None else {}
        text = _build_plain_prompt(prompt.messages, system)
        if not text.strip():
            raise BadInputError(_EMPTY, hint=_EMPTY_HINT)
        return Turn((), fields, stream=stream, raw=True, prompt=text, loop_limit=loop_limit)
    if not _can_be_answered(prompt.messages, is_continued=is_continued):
        raise BadInputError(_EMPTY, hint=_EMPTY_HINT)
    return Turn(
        convert_messages(prompt.messages, system=system, types=types),
        fields,
        tools=[_convert_tool(tool) for tool in prompt.tools if isinstance(tool, llm.Tool)],
        response_format=response_format,
        stream=stream,
        loop_limit=loop_limit,
    )


def _can_be_answered(messages: Sequence[Message], *, is_continued: bool) -> bool:
    """Return whether the last message has something to answer.

    Outside of a conversation, an answer may be the last message: the model continues it.
    """
    last = next((message for message in reversed(messages) if message.role != "system"), None)
    if last is None or last.role == "assistant":
        return last is not None and not is_continued
    has_attachment = any(isinstance(part, AttachmentPart) for part in last.parts)
    return last.role == "tool" or has_attachment or bool(_join_text(last.parts).strip())


def _build_response_format(schema: object, options: Mapping[str, Any]) -> Json | None:
    if schema:
        return {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
    return {"type": "json_object"} if options.get("json_object") else None


def _convert_tool(tool: llm.Tool) -> Json:
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def _join_text(parts: Iterable[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def _build_plain_prompt(messages: Iterable[Message], system: str | None) -> str:
    """Return the text that a model without a chat template completes."""
    texts = [_join_text(message.parts) for message in messages]
    if system and not any(message.role == "system" for message in messages):
        texts.insert(0, system)
    return "\n".join(text for text in texts if text)


def convert_messages(messages: Sequence[Message], *, system: str | None, types: Collection[str]) -> list[Json]:
    """Return llm's messages in OpenAI's format.

    Many chat templates allow only one system message, at the start. So all system messages are joined into that one.
    `system` is used if the messages contain none.
    """
    systems = list(dict.fromkeys(_join_text(message.parts) for message in messages if message.role == "system"))
    head = "\n\n".join(text for text in systems if text) or system
    found: list[Json] = [{"role": "system", "content": head}] if head else []
    for message in messages:
        if message.role == "tool":
            found += _convert_tool_results(message, types)
        elif message.role == "assistant":
            found.append(_convert_assistant_message(message))
        elif message.role != "system":
            content = _build_content(message.parts, types)
            if content:
                found.append({"role": "user", "content": content})
    return found


def _convert_assistant_message(message: Message) -> Json:
    found: Json = {"role": "assistant", "content": _join_text(message.parts)}
    reasoning = "".join(part.text for part in message.parts if isinstance(part, ReasoningPart))
    if reasoning:
        found["reasoning_content"] = reasoning  # templates include it during a chain of tool calls
    calls = [part for part in message.parts if isinstance(part, ToolCallPart) and not part.server_executed]
    if calls:
        found["tool_calls"] = [
            {
                "type": "function",
                "id": call.tool_call_id,
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call in calls
        ]
    return found


def _convert_tool_results(message: Message, types: Collection[str]) -> Iterator[Json]:
    results = [part for part in message.parts if isinstance(part, ToolResultPart) and not part.server_executed]
    for result in results:
        yield {"role": "tool", "tool_call_id": result.tool_call_id, "name": result.name, "content": result.output}
    attachments: list[Part] = [AttachmentPart(attachment) for result in results for attachment in result.attachments]
    if attachments:  # a tool message can contain only text
        yield {"role": "user", "content": _build_content(attachments, types)}


def _build_content(parts: Sequence[Part], types: Collection[str]) -> str | list[Json]:
    """Return message content: a string if there is only text, because every template accepts a string."""
    attachments = [part.attachment for part in parts if isinstance(part, AttachmentPart) and part.attachment]
    if not attachments:
        return _join_text(parts)
    items = [build_message_part(attachment, types) for attachment in attachments]
    text = _join_text(parts)
    return [*items, {"type": "text", "text": text}] if text else items
