"""Hosts for the MCP server's tests: the official client over real stdio, in either era, with or without a user."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ElicitResult, TextContent

from tests.support.fork_server import fork_script

Era = Literal["legacy", "auto"]
ERAS: tuple[Era, ...] = ("legacy", "auto")


def run_async(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make an async test callable by pytest."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        asyncio.run(test(*arguments, **fixtures))

    return run


@asynccontextmanager
async def connect_stdio(
    *flags: str, era: Era = "auto", person: User | None = None, **more: Any
) -> AsyncIterator[Client]:
    """Connect a host that starts the server as its child, in the current environment."""
    program, *words = fork_script("llm-hf-mcp", *flags)
    command = StdioServerParameters(command=program, args=words, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    callback = person.answer_question if person is not None else None
    async with Client(command, mode=era, elicitation_callback=callback, **more) as client:
        yield client


class User:
    """A user who answers the server's questions."""

    def __init__(self, answer: Literal["agree", "disagree", "decline", "cancel"] = "agree") -> None:
        self.answer = answer
        self.questions: list[str] = []

    async def answer_question(self, context: object, params: Any) -> ElicitResult:  # noqa: ARG002 - the client's signature
        self.questions.append(params.message)
        if self.answer in ("decline", "cancel"):
            return ElicitResult(action=self.answer)  # type: ignore[arg-type]
        return ElicitResult(action="accept", content={"agree": self.answer == "agree"})


def get_text(result: CallToolResult) -> str:
    """Return the text that a model reads."""
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def call_tool(client: Client, tool: str, **arguments: Any) -> Any:
    """Call a tool and return its structured content; the client has checked it against the tool's schema."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, get_text(result)
    assert result.structured_content is not None
    return result.structured_content


async def call_refused(client: Client, tool: str, **arguments: Any) -> str:
    """Call a tool that must refuse, and return its message."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, get_text(result)
    return get_text(result)


@dataclass(frozen=True)
class HttpServer:
    """A listening server."""

    url: str
    token: str | None

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


@contextmanager
def serve_http(*flags: str, port: int = 0) -> Iterator[HttpServer]:
    command = fork_script("llm-hf-mcp", "--http", str(port), *flags)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        url = process.stderr.readline().strip()
        assert url.startswith("http://"), url + process.stderr.read()
        output = process.stderr.readline().strip()
        token = output.removeprefix("Authorization: Bearer ") if output.startswith("Authorization") else None
        yield HttpServer(url, token or os.environ.get("LLM_HF_MCP_TOKEN"))
    finally:
        process.terminate()
        process.wait(10)
        process.stderr.close()


@asynccontextmanager
async def connect_http(server: HttpServer, era: Era, person: User | None = None) -> AsyncIterator[Client]:
    """Connect a host to a listening server."""
    async with httpx2.AsyncClient(headers=server.headers, timeout=60, trust_env=False) as http:
        transport = streamable_http_client(server.url, http_client=http)
        async with Client(
            transport, mode=era, elicitation_callback=person.answer_question if person else None
        ) as client:
            yield client
