"""Check the messages and tools of a chat request before an engine is started for it.

llama.cpp reports most of these errors as its own (HTTP 500), and without the place in the request.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from llm_hf_models.errors import BadInputError
from llm_hf_models.inference.protocol.tool_calls import parse_arguments
from llm_hf_models.system.text import clean_text

MAX_SHOWN_CHARS = 60
_MODALITY_OF_PART = {"image_url": "image", "input_audio": "audio"}


def normalize_messages(messages: object, modalities: Collection[str] | None) -> list[dict[str, Any]]:
    """Check the messages of a request. Return them with arguments of tool calls that an engine can parse.

    Args:
        messages: The value of `messages`.
        modalities: The input other than text that the model accepts; None if that is unknown.

    Raises:
        BadInputError: A message is invalid. The error names its place in the request.
    """
    if not isinstance(messages, list) or not messages:
        raise BadInputError("'messages' must be a list with at least one message")
    return [_normalize_message(f"messages[{index}]", one, modalities) for index, one in enumerate(messages)]


def _normalize_message(where: str, message: object, modalities: Collection[str] | None) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise BadInputError(f"{where} must be an object with a role and content")
    if not isinstance(message.get("role"), str):
        raise BadInputError(f"{where}.role must be a string, such as 'user'")
    content = message.get("content")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        _check_part(f"{where}.content[{index}]", part, modalities)
    normalized = dict(message)
    if message.get("tool_calls") is not None:
        calls = message["tool_calls"]
        if not isinstance(calls, list):
            raise BadInputError(f"{where}.tool_calls must be a list")
        normalized["tool_calls"] = [
            _normalize_call(f"{where}.tool_calls[{index}]", call) for index, call in enumerate(calls)
        ]
    return normalized


def _check_part(where: str, part: object, modalities: Collection[str] | None) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        raise BadInputError(f"{where} must be an object with a type, such as 'text'")
    if kind == "text" and not isinstance(part.get("text"), str):
        raise BadInputError(f"{where}.text must be a string")
    modality = _MODALITY_OF_PART.get(kind)
    if modality and modalities is not None and modality not in modalities:
        accepted = " and ".join(("text", *modalities))
        raise BadInputError(f"{where} has type {kind}, but this model accepts {accepted} only")


def _normalize_call(where: str, call: object) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise BadInputError(f"{where} must be an object with a function")
    if not isinstance(function.get("name"), str):
        raise BadInputError(f"{where}.function.name must be a string")
    arguments = _normalize_arguments(f"{where}.function.arguments", function.get("arguments"))
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def _normalize_arguments(where: str, arguments: object) -> object:
    """Return arguments as an object, or as text with a JSON object. An empty text is an empty object."""
    if isinstance(arguments, Mapping):
        return arguments
    if not isinstance(arguments, str | None):
        raise BadInputError(f"{where} must be a string with a JSON object")
    try:
        return json.dumps(parse_arguments(arguments or ""), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise BadInputError(
            f"{where} is not a JSON object: {_quote(arguments or '')}", cause=clean_text(str(error))
        ) from None


def check_tools(tools: object) -> None:
    """Check the tools of a request.

    Raises:
        BadInputError: A tool is invalid. The error names its place in the request.
    """
    if not isinstance(tools, list):
        raise BadInputError("'tools' must be a list")
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(tool, Mapping) or tool.get("type") != "function" or not isinstance(name, str):
            raise BadInputError(f"tools[{index}] must have the type 'function', and a function with a name")


def _quote(text: str) -> str:
    return clean_text(text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "…")
