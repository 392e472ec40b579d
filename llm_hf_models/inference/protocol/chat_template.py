"""Fit a turn to a chat template that has refused it, and explain a refusal to the user.

Some templates refuse a conversation that others accept: two messages of one role in a row, a message between a tool's
result and the answer, or ids of tool calls that are not nine letters or digits (Mistral). The text of a template is not
known for a remote endpoint, so the refusal itself decides.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llm_hf_models.errors import TemplateRefusedError
from llm_hf_models.inference.engine import Endpoint
from llm_hf_models.inference.protocol.openai_protocol import Turn

Message = Mapping[str, Any]
_ID_LETTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9
_FITTING_ID = re.compile(rf"[A-Za-z0-9]{{{_ID_LENGTH}}}")
_SYSTEM_REFUSAL = re.compile(r"\bsystem\b|roles are supported", re.IGNORECASE)
_MERGED_ROLES = ("user", "assistant")


def fit_turn(turn: Turn, refusal: str) -> Turn:
    """Return the turn with the messages that `fit_messages` returns."""
    return replace(turn, messages=fit_messages(turn.messages, refusal))


def fit_messages(messages: Sequence[Message], refusal: str) -> list[Message]:
    """Return the messages in a form that stricter templates accept. If there is none, they stay the same.

    Media between the results of tools and the answer move into the last result, empty answers are left out, neighboring
    messages of one role are merged, and the ids of tool calls get nine letters or digits. If the template refuses this
    form because of the system prompt, that becomes the start of the first message.

    Args:
        messages: The messages that the template refused, in OpenAI's format.
        refusal: The template's message.
    """
    fitting = [_fit_ids(message) for message in messages if not _is_empty_answer(message)]
    fitted = _merge_neighbors(_move_media_into_results(fitting))
    if fitted == list(messages) and _SYSTEM_REFUSAL.search(refusal):
        fitted = _move_system_into_prompt(fitted)
    return fitted


def _move_system_into_prompt(messages: list[Message]) -> list[Message]:
    if len(messages) > 1 and messages[0]["role"] == "system" and messages[1]["role"] == "user":
        return [{**_merge(messages[0], messages[1]), "role": "user"}, *messages[2:]]
    return messages


def _is_empty_answer(message: Message) -> bool:
    return message["role"] == "assistant" and not message.get("content") and not message.get("tool_calls")


def _move_media_into_results(messages: Iterable[Message]) -> list[Message]:
    """Append a user message that consists of media to the result of a tool before it."""
    found: list[Message] = []
    for message in messages:
        if (
            found
            and found[-1]["role"] == "tool"
            and message["role"] == "user"
            and _has_only_media(message.get("content"))
        ):
            found[-1] = _merge(found[-1], message)
        else:
            found.append(message)
    return found


def _has_only_media(content: object) -> bool:
    return isinstance(content, list) and all(part.get("type") != "text" for part in content)


def _merge_neighbors(messages: Iterable[Message]) -> list[Message]:
    found: list[Message] = []
    for message in messages:
        if found and found[-1]["role"] == message["role"] in _MERGED_ROLES:
            found[-1] = _merge(found[-1], message)
        else:
            found.append(message)
    return found


def _merge(one: Message, other: Message) -> Message:
    merged = {**one, "content": _join_content(one.get("content"), other.get("content"))}
    if reasoning := [message["reasoning_content"] for message in (one, other) if message.get("reasoning_content")]:
        merged["reasoning_content"] = "\n\n".join(reasoning)
    if calls := [*(one.get("tool_calls") or ()), *(other.get("tool_calls") or ())]:
        merged["tool_calls"] = calls
    return merged


def _join_content(one: Any, other: Any) -> str | list[Any]:  # noqa: ANN401 - text, or a list of parts
    if isinstance(one, str) and isinstance(other, str):
        return "\n\n".join(text for text in (one, other) if text)
    return [*_list_parts(one), *_list_parts(other)]


def _list_parts(content: Any) -> Sequence[Any]:  # noqa: ANN401
    return content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []


def _fit_ids(message: Message) -> Message:
    if "tool_call_id" in message:
        return {**message, "tool_call_id": _shorten_id(message["tool_call_id"])}
    if message.get("tool_calls"):
        return {**message, "tool_calls": [_fit_call(call) for call in message["tool_calls"]]}
    return message


def _fit_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**call, "id": _shorten_id(call["id"])} if "id" in call else call


def _shorten_id(call_id: object) -> str:
    """Return nine letters or digits for an id: itself if it has this form, otherwise a hash."""
    text = str(call_id)
    if _FITTING_ID.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode()).digest()
    return "".join(_ID_LETTERS[byte % len(_ID_LETTERS)] for byte in digest[:_ID_LENGTH])


def explain_refusal(error: TemplateRefusedError, endpoint: Endpoint) -> TemplateRefusedError:
    """Return the error of a template's refusal, with the commands that show and replace the template."""
    if endpoint.fingerprint is None:
        owner = f"{endpoint.model} at {endpoint.base_url}" if endpoint.model else f"the model at {endpoint.base_url}"
        hint = "Its server applies the template. Start the server with another one."
    else:
        owner, hint = str(endpoint.model), describe_template_commands(str(endpoint.model), endpoint.has_custom_template)
    explained = TemplateRefusedError(
        f"The chat template of {owner} refused the conversation", cause=error.cause or error.message, hint=hint
    )
    explained.status = error.status
    return explained


def describe_template_commands(model_id: str, is_custom: bool) -> str:
    """Return the commands that show and replace a model's template."""
    if is_custom:
        return f"Use the header's template: llm hf set {model_id} --unset template"
    return f"Show it: llm hf inspect {model_id} --template. Replace it: llm hf set {model_id} template FILE"
