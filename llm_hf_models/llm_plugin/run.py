"""Run one prompt of llm on one model of the library.

llm's model classes (llm_plugin/models.py) call this module. It chooses the endpoint with inference/model_endpoint.py,
and inference/protocol/client.py sends the request.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import click
import llm
from llm.models import AsyncResponse, Response
from llm.parts import StreamEvent

from llm_hf_models import paths
from llm_hf_models.errors import EngineRequestError
from llm_hf_models.inference.engine import Endpoint
from llm_hf_models.inference.model_endpoint import ensure_endpoint, record_use, resolve_options
from llm_hf_models.inference.protocol import json_schema
from llm_hf_models.inference.protocol.openai_protocol import LOOP, Finish, Piece, Turn, format_count_if_known
from llm_hf_models.inference.protocol.tool_calls import ToolCall, parse_arguments
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalModel
from llm_hf_models.llm_plugin.attachments import list_accepted_types
from llm_hf_models.llm_plugin.messages import build_turn
from llm_hf_models.system.status_line import StatusLine

LOADING_NOTE_SECONDS = 1.0  # a model that is loaded within this time needs no note
_SHOWN_CHARS = 60
_LOOP_REASON = "the model repeats the same text"
_status_line = StatusLine()
_shown_notices: set[str] = set()


def open_database() -> Database:
    """Open the library as a context manager.

    Raises:
        LibraryError: The library can't be used.
    """
    return Database(paths.library_path())


@dataclass
class PromptRun:
    """A running prompt: the request, its endpoint, and the response received so far."""

    model: LocalModel
    endpoint: Endpoint
    turn: Turn
    max_tokens: int | None
    schema: Mapping[str, Any] | None  # that the response must match
    text: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    end: Finish | None = None

    def process_item(self, item: Piece | ToolCall | Finish) -> Iterator[StreamEvent]:
        """Record one item of the response, and yield the events that llm shows for it."""
        if isinstance(item, Finish):
            self.end = item
        elif isinstance(item, ToolCall):
            self.calls.append(item)
        else:
            if item.kind == "text":
                self.text.append(item.text)
            yield StreamEvent(item.kind, item.text)

    def finish(self, response: Response | AsyncResponse, db: Database) -> list[StreamEvent]:
        """Record the usage in llm's response and in the library, and check that the response is complete.

        Returns:
            The events of the tool calls. They are known only now, because a server may repeat or replace parts of a
            call until the response ends.

        Raises:
            EngineRequestError: The response or the arguments of a tool call are not complete, valid JSON, or the
                response does not match the schema.
        """
        end = self.end or Finish(None)
        record_use(self.model.model_id, self.endpoint, db, end.tokens_per_second)
        cached = {"prompt_tokens_details": {"cached_tokens": end.cached_tokens}} if end.cached_tokens else None
        response.set_usage(input=end.input_tokens, output=end.output_tokens, details=cached)
        response.set_resolved_model(_describe_resolved_model(self.model, end))
        response.response_json = self._build_response_json(end)
        if self.schema is not None and not self.calls:
            self._check_schema(self.schema, self._parse_json("".join(self.text), "The response", json.loads))
        elif not self.calls:
            self._report_early_end(end)
        return list(self._add_tool_calls(response))

    def _check_schema(self, schema: Mapping[str, Any], value: object) -> None:
        if mismatch := json_schema.find_mismatch(schema, value):
            raise EngineRequestError(
                "The response does not match the schema",
                cause=mismatch,
                hint="Run the prompt again, or replace that part of the schema.",
            )

    def _report_early_end(self, end: Finish) -> None:
        """Show a notice if the response was ended by something other than the model or max_tokens."""
        if end.reason == "length" and self._is_below_max_tokens(end):
            more = " Allow more with -o context N." if self.endpoint.can_grow_context else ""
            self._show_end_notice(f"The response was cut off: {self._describe_limit(end)}.{more}")
        elif end.reason == LOOP:
            self._show_end_notice(f"The response was stopped: {_LOOP_REASON}. To let it continue: -o loop_limit 0")
        elif end.reason == "content_filter":
            self._show_end_notice("The response was cut off: the server's content filter ended it.")

    def _show_end_notice(self, text: str) -> None:
        """Show a notice below the response, which may have left the terminal's cursor within a line."""
        if self.turn.stream and sys.stdout.isatty() and self.text and not self.text[-1].endswith("\n"):
            click.echo(err=True)
        _show_notice(text)

    def _add_tool_calls(self, response: Response | AsyncResponse) -> Iterator[StreamEvent]:
        """Add the tool calls to llm's response, and yield their events."""
        ids: set[str] = set()
        for call in self.calls:
            if not call.name:
                raise EngineRequestError(
                    "The response calls a tool without a name",
                    cause=f"Its arguments begin {call.arguments[:_SHOWN_CHARS]!r}.",
                )
            arguments = self._parse_json(call.arguments, f"The call of tool {call.name}", parse_arguments)
            is_new = call.call_id is not None and call.call_id not in ids
            call_id = call.call_id if is_new and call.call_id else f"call_{uuid4().hex}"
            ids.add(call_id)
            yield StreamEvent("tool_call_name", call.name, tool_call_id=call_id)
            yield StreamEvent("tool_call_args", json.dumps(arguments), tool_call_id=call_id)
            response.add_tool_call(llm.ToolCall(call.name, arguments, call_id))

    def _is_below_max_tokens(self, end: Finish) -> bool:
        """Return whether the response is shorter than max_tokens."""
        return self.max_tokens is None or (end.output_tokens or 0) < self.max_tokens

    def _describe_limit(self, end: Finish) -> str:
        if not self._is_below_max_tokens(end):
            return f"max_tokens is {self.max_tokens}"
        return (
            f"the context of {self.endpoint.context:,} tokens is full"
            if self.endpoint.context
            else "the server's limit"
        )

    def _parse_json(self, text: str, subject: str, parse: Callable[[str], Any]) -> Any:  # noqa: ANN401 - any JSON value
        try:
            return parse(text)
        except ValueError as error:
            if self.end is not None and self.end.reason == "length":
                tokens = format_count_if_known(self.end.output_tokens)
                raise EngineRequestError(
                    f"{subject} was cut off before its JSON was complete",
                    cause=f"It has {tokens} tokens: {self._describe_limit(self.end)}.",
                    hint="Allow more with -o max_tokens N"
                    + (" or -o context N." if self.endpoint.can_grow_context else "."),
                ) from None
            if self.end is not None and self.end.reason == LOOP:
                raise EngineRequestError(
                    f"{subject} was stopped before its JSON was complete",
                    cause=f"The reason is that {_LOOP_REASON}.",
                    hint="To let it continue: -o loop_limit 0",
                ) from None
            problem = "has invalid arguments" if parse is parse_arguments else "is not valid JSON"
            raise EngineRequestError(
                f"{subject} {problem}", cause=f"{error}; it begins {text[:_SHOWN_CHARS]!r}"
            ) from None

    def _build_response_json(self, end: Finish) -> dict[str, Any]:
        """Return the JSON that llm logs for the response."""
        timings = {
            "load_seconds": self.endpoint.load_seconds,
            "prompt_per_second": end.prompt_per_second,
            "tokens_per_second": end.tokens_per_second,
        }
        record = {
            "model": self.model.model_id,
            "commit": self.model.commit,
            "sha256": {file.path: file.sha256 for file in self.model.files if file.sha256},
            "context": self.endpoint.context,
            "finish_reason": end.reason,
            "timings": {key: round(value, 3) for key, value in timings.items() if value is not None},
        }
        return {key: value for key, value in record.items() if value}


def prepare_prompt(
    model_id: str,
    prompt: llm.Prompt,
    db: Database,
    *,
    stream: bool,
    is_continued: bool,
    key: str | None = None,
) -> PromptRun:
    """Prepare a prompt: resolve its options, build the request and start the engine if it is not running.

    Args:
        model_id: The model's id in the library.
        prompt: The prompt from llm.
        db: The open library.
        stream: Whether the engine streams the response.
        is_continued: Whether the prompt belongs to a conversation.
        key: The API key for a remote endpoint; None uses the stored key.

    Raises:
        MissingFileError, FileChangedError: The model's files are missing or differ from the pulled ones.
        BadInputError: The prompt is empty, or an option or an attachment is not accepted.
        EngineError: The engine can't be started.
    """
    model = db.get_model(model_id)
    fields = [name for name, value in (("json_schema", prompt.schema), ("tools", prompt.tools)) if value]
    options, system = resolve_options(model, prompt.options, fields)
    raw = model.facts.kind == "base"
    types = list_accepted_types(model.facts.modalities, remote=model.endpoint is not None)
    turn = build_turn(prompt, options, stream=stream, raw=raw, system=system, types=types, is_continued=is_continued)
    schema = prompt.schema if isinstance(prompt.schema, Mapping) else None  # llm has converted a pydantic class
    if schema:
        _check_schema(schema, remote=model.endpoint is not None)
    elif options.get("json_object"):
        schema = {"type": "object"}
    endpoint = _ensure_endpoint(model, options, db, key)
    return PromptRun(model, endpoint, turn, options.get("max_tokens"), schema)


def _check_schema(schema: object, *, remote: bool) -> None:
    """Refuse an invalid schema, and show the parts that only the check of the response enforces.

    Raises:
        BadInputError: The schema is not valid.
    """
    unenforced = json_schema.find_unenforced(schema)
    if unenforced and not remote:
        _show_notice(
            f"The engine can't enforce these parts of the schema: {', '.join(unenforced)}. The response is checked."
        )


def start_embedding_endpoint(model_id: str, db: Database, *, key: str | None = None) -> tuple[Endpoint, bool]:
    """Return the endpoint of an embedding model, starting its engine if it is not running.

    The second value is whether to cut texts that are too long.

    `key` has the same meaning as for `prepare`.

    Raises:
        MissingFileError, FileChangedError, EngineError: As for `prepare`.
    """
    model = db.get_model(model_id)
    options, _ = resolve_options(model, ())
    return _ensure_endpoint(model, options, db, key), bool(options.get("truncate"))


def _ensure_endpoint(model: LocalModel, options: Mapping[str, Any], db: Database, key: str | None) -> Endpoint:
    """Return the endpoint of a model. While its engine loads it, a line on the terminal has the elapsed time."""
    with _status_line.show_elapsed(f"Loading {model.model_id}…", after=LOADING_NOTE_SECONDS):
        return ensure_endpoint(model, options, db, _show_notice, key=key)


def _describe_resolved_model(model: LocalModel, end: Finish) -> str:
    """Return the exact identity of the model: repo, commit and the first file's digest.

    For a remote endpoint, return the name that the server reports for its model.
    """
    if model.endpoint is not None:
        return end.model or model.model_id
    name = f"{model.repo}@{model.commit}" if model.repo and model.commit else model.model_id.removeprefix("hf/")
    digest = model.files[0].sha256 if model.files else None
    return f"{name} sha256:{digest}" if digest else name


def _show_notice(text: str) -> None:
    """Print a notice to stderr, once per process."""
    if text not in _shown_notices:
        _shown_notices.add(text)
        _status_line.clear()
        click.echo(text, err=True)
