"""A prompt of llm as a Turn in OpenAI's protocol: messages, attachments, tools, schema. Runs nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import llm
from llm.parts import AttachmentPart, Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llm_hf_models.errors import BadInputError
from llm_hf_models.inference.openai_protocol import Turn
from llm_hf_models.inference.options import build_request_fields
from llm_hf_models.llm_plugin.attachments import build_message_part

Json = dict[str, Any]


def build_turn(
    prompt: llm.Prompt,
    options: Mapping[str, Any],
    *,
    stream: bool,
    raw: bool,
    system: str | None,
    types: Collection[str],
) -> Turn:
    """What to ask for.

    Args:
        prompt: llm's.
        options: all that hold for this prompt, by name.
        stream: piece by piece.
        raw: the model has no chat template and completes text.
        system: the system prompt where the prompt brings none.
        types: the types of attachments that the model takes.

    Raises:
        BadInputError: an attachment of another type or one that can't be read; options that exclude each other.
    """
    fields = build_request_fields(options)
    wanted = _build_response_format(prompt.schema, options)
    if wanted is not None and "grammar" in fields:
        raise BadInputError(
            "Option 'grammar' and a schema or 'json_object' exclude each other", hint="Use one of them."
        )
    if raw:
        # The completion endpoint has no response_format: llama.cpp reads the schema itself there.
        fields |= {"json_schema": prompt.schema or {"type": "object"}} if wanted is not None else {}
        return Turn((), fields, stream=stream, raw=True, prompt=_build_plain_prompt(prompt.messages, system))
    return Turn(
        convert_messages(prompt.messages, system=system, types=types),
        fields,
        tools=[_convert_tool(tool) for tool in prompt.tools if isinstance(tool, llm.Tool)],
        response_format=wanted,
        stream=stream,
    )


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
    """What a model without a chat template goes on from."""
    texts = [_join_text(message.parts) for message in messages]
    if system and not any(message.role == "system" for message in messages):
        texts.insert(0, system)
    return "\n".join(text for text in texts if text)


def convert_messages(messages: Sequence[Message], *, system: str | None, types: Collection[str]) -> list[Json]:
    """Messages of llm in OpenAI's form.

    Many chat templates allow a system message at the head only, and only one: all that there are stand there.
    `system` stands in for them where there are none.
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
        found["reasoning_content"] = reasoning  # templates show it to the model while a chain of tool calls lasts
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
    if attachments:  # a tool message holds text alone
        yield {"role": "user", "content": _build_content(attachments, types)}


def _build_content(parts: Sequence[Part], types: Collection[str]) -> str | list[Json]:
    """A string where there is only text: every template takes that."""
    attachments = [part.attachment for part in parts if isinstance(part, AttachmentPart) and part.attachment]
    if not attachments:
        return _join_text(parts)
    items = [build_message_part(attachment, types) for attachment in attachments]
    text = _join_text(parts)
    return [*items, {"type": "text", "text": text}] if text else items
