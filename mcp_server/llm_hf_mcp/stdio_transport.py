"""Serve MCP over stdin and stdout, with one JSON-RPC message per line. A line that is no message gets an error.

The SDK's transport ignores such lines, replaces invalid UTF-8, and reads lines of any length into memory. Its writer is
used here, which keeps the output of other code away from stdout.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from functools import partial
from typing import IO, TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from llm_hf_mcp import sdk_workarounds, strict_json

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectSendStream
    from mcp.server.mcpserver import MCPServer
    from mcp.shared._stream_protocols import WriteStream

MAX_LINE_BYTES = 4 << 20  # as much as the body of a request over HTTP


class InvalidLineError(Exception):
    """A line that is not a message of the protocol. `reply` is the error for the client."""

    def __init__(self, code: int, message: str, request_id: RequestId | None = None) -> None:
        super().__init__(message)
        self.reply = JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=code, message=message))


def serve(server: MCPServer[Any]) -> None:
    """Serve the client at stdin and stdout until it closes stdin."""
    anyio.run(_serve, server)


async def _serve(server: MCPServer[Any]) -> None:
    lines = _claim_stdin()
    sender, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    # The SDK's reader gets no lines, and its stream is not used.
    async with stdio_server(stdin=cast("Any", _read_nothing())) as (unused, replies):
        await unused.aclose()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read_messages, lines, sender, replies)
            await sdk_workarounds.serve_streams(server, received, replies)


def _claim_stdin() -> IO[bytes]:
    """Return stdin, and give the null device to other code and to child processes instead."""
    private, null = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return os.fdopen(private, "rb", closefd=False)  # a thread may still read it when the server ends


async def _read_nothing() -> AsyncIterator[str]:
    no_lines: tuple[str, ...] = ()
    for line in no_lines:
        yield line


async def _read_messages(
    lines: IO[bytes],
    sender: MemoryObjectSendStream[SessionMessage | Exception],
    replies: WriteStream[SessionMessage],
) -> None:
    """Forward each message, and answer each line that is none, until stdin is closed."""
    async with sender:
        while line := await anyio.to_thread.run_sync(partial(_read_line, lines)):
            if line.isspace():
                continue
            try:
                await sender.send(SessionMessage(_parse_message(line)))
            except InvalidLineError as error:
                await replies.send(SessionMessage(error.reply))


def _read_line(lines: IO[bytes]) -> bytes:
    """Read one line; empty at the end. The rest of a line that is too long is read and discarded."""
    line = part = lines.readline(MAX_LINE_BYTES + 1)
    while len(line) > MAX_LINE_BYTES and part and not part.endswith(b"\n"):
        part = lines.readline(MAX_LINE_BYTES)
    return line


def _parse_message(line: bytes) -> JSONRPCMessage:
    """Parse a line.

    Raises:
        InvalidLineError: The line is too long, is not JSON in UTF-8, or is not a JSON-RPC message.
    """
    if len(line) > MAX_LINE_BYTES:
        raise InvalidLineError(PARSE_ERROR, f"The line is longer than {MAX_LINE_BYTES} bytes")
    try:
        content = strict_json.parse(line)
    except strict_json.InvalidJsonError as error:
        raise InvalidLineError(PARSE_ERROR, f"The line is {error}", strict_json.find_request_id(line)) from None
    try:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if any(each["type"] == "json_invalid" for each in found):
            raise InvalidLineError(PARSE_ERROR, "The line is not valid JSON in UTF-8") from None
        request_id = strict_json.find_request_id(line)
        raise InvalidLineError(INVALID_REQUEST, "The line is not a JSON-RPC 2.0 message", request_id) from None
    if isinstance(message, JSONRPCNotification) and "id" in content:  # with a valid id it would be a request
        raise InvalidLineError(INVALID_REQUEST, "The id of a request must be a string or an integer")
    return message
