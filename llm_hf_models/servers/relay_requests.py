"""Check the requests of the relay's clients, and complete them with the model's default options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llm_hf_models.errors import BadInputError
from llm_hf_models.inference.model_endpoint import resolve_options
from llm_hf_models.inference.protocol import json_schema
from llm_hf_models.inference.protocol.options import build_request_fields
from llm_hf_models.library.records import LocalModel
from llm_hf_models.servers.chat_messages import check_tools, normalize_messages
from llm_hf_models.servers.embedding_requests import check_embedding_request
from llm_hf_models.servers.http_errors import HttpResponseError

CHAT, COMPLETIONS, EMBEDDINGS = ROUTES = ("chat/completions", "completions", "embeddings")
MAX_INT_CHARS = 20  # of a number with 64 bits
SPARE_DEPTH = 100


@dataclass(frozen=True)
class RelayedRequest:
    """A request as it is sent to the engine, and the form in which the client wants the response."""

    path: str
    body: Mapping[str, Any]
    wants_stream: bool  # whether the client requested a stream
    drop_progress: bool = False
    schema: object = None  # that the response must match; None if there is none
    truncate: bool = False  # whether to cut texts to embed that are too long

    def with_disconnect_detection(self) -> RelayedRequest:
        """Return a copy with which llama.cpp detects that the relay closed the connection.

        llama.cpp detects this only while it sends: chunks of a response, or the progress of reading the prompt.
        """
        added: dict[str, Any] = {"stream": True, "return_progress": True}
        if not self.wants_stream:
            added["stream_options"] = {"include_usage": True}
        drop = "return_progress" not in self.body
        return replace(self, body={**self.body, **added}, drop_progress=drop)


def parse_body(data: bytearray) -> dict[str, Any]:
    """Parse the body of a request.

    Raises:
        HttpResponseError: The body is not a JSON object, or has a value that the engine can't read.
    """
    try:
        fields = json.loads(data, parse_int=_parse_int)
        nested = fields
        for _ in range(SPARE_DEPTH):  # so that later steps, which call more functions, can process it too
            nested = [nested]
        json.dumps(nested, ensure_ascii=False, allow_nan=False).encode()  # as the client of the engine does
    except (ValueError, RecursionError) as error:
        raise HttpResponseError(400, "invalid_request", _explain_error(error)) from None
    if not isinstance(fields, dict):
        raise HttpResponseError(400, "invalid_request", "The body is not a JSON object")
    return fields


def _explain_error(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "The body has too many nested values"
    if isinstance(error, UnicodeEncodeError):
        return "A text in the body has half of a surrogate pair"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "The body is not valid JSON"
    return "A number in the body is NaN, infinite or too long"


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_INT_CHARS:  # llama.cpp can't read it
        raise ValueError(digits[:MAX_INT_CHARS])
    return int(digits)


def prepare_request(route: str, model: LocalModel, fields: Mapping[str, Any]) -> tuple[RelayedRequest, dict[str, Any]]:
    """Check a request and add the model's default options for fields that the client does not set.

    Returns:
        The request, without the name that the engine has for the model, and all options that apply to it.

    Raises:
        BadInputError: The request is invalid, or the model does not support it.
    """
    check_kind(route, model)
    given = {key: value for key, value in fields.items() if value is not None}
    if not isinstance(given.get("stream", False), bool):
        raise BadInputError("'stream' must be true or false")
    schema = None
    if route == EMBEDDINGS:
        check_embedding_request(model, given)
    else:
        schema = _find_schema(given)
        given = _check_tools(model, given)
    if route == CHAT:
        known = None if model.endpoint else model.facts.modalities
        given["messages"] = normalize_messages(given.get("messages"), known)
    elif route == COMPLETIONS and given.pop("response_format", None) and schema is not None:
        given["json_schema"] = schema  # llama.cpp ignores response_format on this route
    options, system = resolve_options(model, (), given)
    body = given if route == EMBEDDINGS else _add_defaults(route, given, options, system)
    if schema is None and "response_format" in body:
        schema = _find_schema(body)
    relayed = RelayedRequest(
        f"/v1/{route}",
        body,
        wants_stream=given.get("stream") is True,
        schema=schema,
        truncate=bool(options.get("truncate")),
    )
    return relayed, options


def check_kind(route: str, model: LocalModel) -> None:
    """Check that a model's kind fits the route, before its engine starts. A remote endpoint checks this itself.

    Raises:
        BadInputError: An embedding model got a prompt, or another model a request for embeddings.
    """
    embeds = model.facts.kind == "embedding"
    if model.endpoint is None and embeds != (route == EMBEDDINGS):
        raise BadInputError(
            f"{model.model_id} is {'an' if embeds else 'a'} {model.facts.kind} model and can't "
            + ("be prompted" if embeds else "embed text"),
            hint="GET /v1/models lists the served models.",
        )


def _check_tools(model: LocalModel, given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields, without an empty list of tools.

    Raises:
        BadInputError: A tool is invalid, or the model has no tools.
    """
    if "tools" not in given:
        return given
    check_tools(given["tools"])
    if not given["tools"]:
        return {key: value for key, value in given.items() if key not in ("tools", "tool_choice")}
    if model.endpoint is None and not model.facts.tools and given.get("tool_choice") != "none":
        raise BadInputError(
            f"{model.model_id} can't use tools: its chat template does not support them",
            hint="Send the request without 'tools'.",
        )
    return given


def _find_schema(fields: Mapping[str, Any]) -> object:
    """Return the schema that a request sets for its response, or None.

    Raises:
        BadInputError: The response format or the schema is invalid.
    """
    response_format = fields.get("response_format", {"type": "text"})
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    schema = fields.get("json_schema")
    if kind == "json_object":
        schema = response_format.get("schema", {"type": "object"})
    elif kind == "json_schema":
        inner = response_format.get("json_schema")
        schema = (inner if isinstance(inner, Mapping) else response_format).get("schema")
        if schema is None:
            raise BadInputError("response_format.json_schema.schema is missing")
    elif kind != "text":
        raise BadInputError("response_format.type must be 'text', 'json_object' or 'json_schema'")
    if schema is not None:
        json_schema.find_unenforced(schema)
    return schema


def _add_defaults(
    route: str, given: Mapping[str, Any], options: Mapping[str, Any], system: str | None
) -> dict[str, Any]:
    """Return a client's request, with the model's default options for fields that it does not set."""
    body = {**build_request_fields(options), **given}
    if options.get("json_object"):
        body |= {"response_format": {"type": "json_object"}} if route == CHAT else {"json_schema": {"type": "object"}}
    messages = given.get("messages")
    if route == CHAT and system and isinstance(messages, list):
        roles = [message["role"] for message in messages]
        if "system" not in roles and "developer" not in roles:
            body["messages"] = [{"role": "system", "content": system}, *messages]
    return body
