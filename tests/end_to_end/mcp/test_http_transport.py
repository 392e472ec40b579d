"""The MCP server over Streamable HTTP: authentication, both protocol eras, more than one worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult, InputRequiredResult

from llm_hf_models.service import Library
from tests.support import mcp_hub
from tests.support.hub_server import HubServer, Throttle
from tests.support.mcp_hosts import ERAS, Era, HttpServer, User, call_tool, connect_http, run_async, serve_http
from tests.support.mcp_hub import BIG_BYTES, Q8, REPO

hub = mcp_hub.hub
pulled = mcp_hub.pulled

TOKEN = "a-token-for-tests-0123456789"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.usefixtures("hub")
@run_async
async def test_agent_finds_pulls_and_deletes_a_model_over_http(era: Era) -> None:
    person, reported = User(), []

    async def progress(done: float, total: float | None, message: str | None) -> None:  # noqa: ARG001
        reported.append(done)

    with serve_http("--allow-delete") as server:
        async with connect_http(server, era, person) as client:
            assert (await call_tool(client, "hf_search_models", query="tiny"))["results"][0]["id"] == REPO
            result = await client.call_tool(
                "hf_download_model", {"ref": REPO, "wait_seconds": 40}, progress_callback=progress
            )
            assert result.structured_content is not None
            assert result.structured_content["download"]["state"] == "done"
            assert reported == sorted(set(reported))
            assert reported
            assert (await call_tool(client, "hf_delete_model", name="tiny"))["done"]
    assert len(person.questions) == 1
    assert Library().list() == ()


@pytest.mark.parametrize(
    "shown", [None, "Bearer wrong", f"Bearer {TOKEN}x", TOKEN, f"Basic {TOKEN}", f"Bearer{TOKEN}", f"Bearer\t{TOKEN}"]
)
def test_request_without_the_token_is_refused(shown: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_MCP_TOKEN", TOKEN)
    with serve_http() as server, httpx2.Client(trust_env=False) as http:
        headers = {**ACCEPT, **({"Authorization": shown} if shown else {})}
        for method in ("POST", "GET", "DELETE", "OPTIONS"):
            answer = http.request(method, server.url, headers=headers, json=PING if method == "POST" else None)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert TOKEN not in answer.text
        assert http.get(server.url.removesuffix("/mcp") + "/other", headers=headers).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR", "bearer  "])
def test_scheme_of_the_token_is_accepted_in_any_case(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_MCP_TOKEN", TOKEN)
    with serve_http() as server, httpx2.Client(trust_env=False) as http:
        headers = {**ACCEPT, "Authorization": f"{scheme} {TOKEN}"}
        assert http.post(server.url, headers=headers, json=PING).status_code != 401


def test_foreign_browser_origins_and_host_names_are_refused() -> None:
    with serve_http() as server, httpx2.Client(trust_env=False, headers={**ACCEPT, **server.headers}) as http:
        assert http.post(server.url, json=PING, headers={"Host": "evil.example"}).status_code == 421
        assert http.post(server.url, json=PING, headers={"Origin": "https://evil.example"}).status_code == 403
        assert http.post(server.url, json=PING, headers={"Origin": "http://localhost.evil.example"}).status_code == 403
        assert http.post(server.url, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 400
        port = urlsplit(server.url).port
        own = http.post(server.url, json=PING, headers={"Origin": f"http://127.0.0.1:{port}"})
        assert own.status_code not in (401, 403, 421)


def test_body_that_is_not_strict_json_is_answered_by_a_json_rpc_error() -> None:
    with serve_http() as server, httpx2.Client(trust_env=False, headers={**ACCEPT, **server.headers}) as http:
        for value in (b"NaN", b"Infinity", b"-Infinity", b"1e400", b'"\\ud83d"'):
            body = b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"x": ' + value + b"}}"
            answer = http.post(server.url, content=body, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["id"], answer.json()["error"]["code"]) == (400, 7, -32700)
        assert http.post(server.url, json=PING).json()["error"]["code"] != -32700, "valid JSON reaches the SDK"


def test_too_large_body_is_refused_and_the_server_continues() -> None:
    with serve_http() as server, httpx2.Client(trust_env=False, headers={**ACCEPT, **server.headers}) as http:
        huge = {**PING, "params": {"x": "A" * (5 << 20)}}
        assert http.post(server.url, json=huge).status_code == 413
        assert http.post(server.url, json=PING).status_code != 413


@pytest.mark.parametrize(
    ("flags", "token", "output", "code"),
    [
        (("--host", "0.0.0.0"), TOKEN, "--allowed-host", 2),
        (("--host", "0.0.0.0", "--allowed-host", "me.example"), TOKEN, "--allowed-origin", 2),
        (("--host", "0.0.0.0", "--allowed-host", "m", "--allowed-origin", "http://m"), None, "a token", 2),
        (
            ("--host", "0.0.0.0", "--no-auth", "--allowed-host", "m", "--allowed-origin", "http://m"),
            TOKEN,
            "--no-auth",
            2,
        ),
        ((), "short", "must have at least 20", 2),
        (("--host", "203.0.113.7", "--allowed-host", "m", "--allowed-origin", "http://m"), TOKEN, "Can't listen", 1),
    ],
)
def test_server_open_to_strangers_does_not_start(
    flags: tuple[str, ...], token: str | None, output: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("LLM_HF_MCP_TOKEN", token)
    command = [sys.executable, "-m", "llm_hf_mcp", "--http", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert output in done.stderr
    assert "Traceback" not in done.stderr
    assert not token or token not in done.stderr


@run_async
async def test_no_auth_works_only_locally_and_is_announced() -> None:
    with serve_http("--no-auth") as server:
        assert server.token is None
        async with connect_http(server, "auto") as client:
            assert (await client.list_tools()).tools


@asynccontextmanager
async def balance_connections(*servers: HttpServer) -> AsyncIterator[str]:
    """Put one port in front of several workers: each connection goes to the next."""
    count = 0

    async def handle(client: anyio.abc.SocketStream) -> None:
        nonlocal count
        worker, count = servers[count % len(servers)], count + 1
        async with client, await anyio.connect_tcp("127.0.0.1", urlsplit(worker.url).port or 0) as upstream:

            async def pump(source: Any, target: Any) -> None:
                try:
                    async for data in source:
                        await target.send(data)
                    await target.send_eof()
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass

            async with anyio.create_task_group() as both:
                both.start_soon(pump, client, upstream)
                both.start_soon(pump, upstream, client)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/mcp"
        tasks.cancel_scope.cancel()


@pytest.mark.usefixtures("pulled")
@run_async
async def test_question_of_one_worker_is_answered_at_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_MCP_TOKEN", TOKEN)
    person = User()
    with ExitStack() as stack:
        workers = [stack.enter_context(serve_http("--allow-delete")) for _ in range(2)]
        async with balance_connections(*workers) as url:
            # A new connection for each request, so that the two alternate.
            headers = {**workers[0].headers, "Connection": "close"}
            async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
                transport = streamable_http_client(url, http_client=http)
                async with Client(transport, elicitation_callback=person.answer_question) as client:
                    for _ in range(4):
                        assert (await call_tool(client, "hf_list_models"))["models"]
                    assert (await call_tool(client, "hf_delete_model", name="tiny"))["done"]
    assert len(person.questions) == 1


@pytest.mark.usefixtures("pulled")
@run_async
async def test_answer_without_a_question_deletes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_MCP_TOKEN", TOKEN)
    with serve_http("--allow-delete") as server:
        async with connect_http(server, "auto", User()) as client:
            requested = await client.session.call_tool("hf_delete_model", {"name": "tiny"}, allow_input_required=True)
            assert isinstance(requested, InputRequiredResult)
            assert requested.request_state
            (key,) = (requested.input_requests or {}).keys()
            agreed = {key: ElicitResult(action="accept", content={"agree": True})}
            for forged in ("", "v1.AAAA", requested.request_state[:-4] + "AAAA"):
                try:
                    answered = await client.session.call_tool(
                        "hf_delete_model",
                        {"name": "tiny"},
                        input_responses=agreed,
                        request_state=forged,
                        allow_input_required=True,
                    )
                except MCPError as refused:
                    assert "requestState" in str(refused)  # noqa: PT017
                else:
                    assert isinstance(answered, InputRequiredResult), "asked again, as if nobody had answered"
            assert len(Library().list()) == 1


@run_async
async def test_client_that_vanishes_during_a_call_breaks_nothing(
    hub: HubServer,
) -> None:
    hub.fault(Throttle(1_000_000), on=Q8, side="storage", times=None)
    with serve_http("--no-auth") as server:
        address = urlsplit(server.url)
        arguments = {"ref": f"{REPO}:Q8_0", "wait_seconds": 45}
        async with connect_http(server, "legacy") as seen:
            version = seen.protocol_version
        hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "raw", "version": "0"}}
        async with httpx2.AsyncClient(headers=ACCEPT, timeout=60, trust_env=False) as http:
            begun = await http.post(
                server.url, json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
            )
            session = begun.headers["mcp-session-id"]
        body = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call",
                           "params": {"name": "hf_download_model", "arguments": arguments}})  # fmt: skip
        raw = await anyio.connect_tcp(str(address.hostname), address.port or 0)
        await raw.send(
            f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json, text/event-stream\r\nMcp-Session-Id: {session}\r\n"
            f"Mcp-Protocol-Version: {version}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        await anyio.to_thread.run_sync(hub.wait_until, lambda: hub.sent(Q8) > BIG_BYTES // 2)
        await raw.aclose()
        async with connect_http(server, "auto") as client:
            (row,) = (await call_tool(client, "hf_get_downloads", id=1, wait_seconds=45))["downloads"]
            assert row["state"] == "done"
            assert len((await call_tool(client, "hf_list_models"))["models"]) == 1
