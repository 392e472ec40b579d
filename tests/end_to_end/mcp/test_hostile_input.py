"""Input of a confused or hostile agent: refused with a message, nothing lost, nothing revealed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client

from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import mcp_hub
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Stall, Throttle
from tests.support.mcp_hosts import ERAS, Era, call_refused, call_tool, connect_stdio, get_text, run_async
from tests.support.mcp_hub import BIG_BYTES, Q8, REPO

hub = mcp_hub.hub
pulled = mcp_hub.pulled

LOCAL = f"hf/{REPO}:Q4_K_M"
SECRET = "hf_this_is_a_secret_token_0123456789"
# Every argument that is a name, with the other arguments that its tool requires.
NAMES: dict[tuple[str, str], dict[str, Any]] = {
    ("hf_get_model", "repo"): {},
    ("hf_get_model", "revision"): {"repo": REPO},
    ("hf_inspect_gguf", "model"): {},
    ("hf_download_model", "ref"): {},
    ("hf_download_model", "revision"): {"ref": REPO},
    ("hf_verify_model", "name"): {},
    ("hf_run_prompt", "name"): {"prompt": "Hello"},
    ("hf_delete_model", "name"): {},
    ("hf_update_model", "name"): {},
    ("hf_edit_aliases", "name"): {"add": ["x"]},
    ("hf_import_model", "name"): {"program": "ollama"},
    ("hf_list_collections", "name"): {},
    ("hf_edit_collection", "name"): {"action": "create"},
    ("hf_edit_collection", "source"): {"action": "import", "name": "x"},
}
WRONG_NAMES = (
    "../../../../etc/passwd",
    "/etc/passwd",
    "~/.ssh/id_rsa",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%252e%252e%252f%252e%252e%252fetc%252fpasswd",
    "owner/..",
    "owner/tiny-GGUF:../../../etc/passwd",
    "owner/tiny-GGUF@../../x",
    "owner\\..\\..\\x",
    "file:///etc/passwd",
    "https://huggingface.co/../../etc/passwd",
    "C:\\Windows\\system.ini",
    "\x00\x1b[2J\u202e",
    "-rf",
    "$(id)",
    "",
    "A" * 3_000_000,
)


@pytest.mark.usefixtures("pulled")
@run_async
async def test_path_like_names_are_refused_by_every_tool(tmp_path: Path) -> None:
    (tmp_path / "relative").mkdir()
    tiny_chat(tmp_path / "relative/file.gguf")
    models = Library().list()
    async with connect_stdio("--allow-delete") as client:
        for (tool, argument), others in NAMES.items():
            for wrong in (*WRONG_NAMES, str(tmp_path / "relative/file.gguf")):
                if not wrong and (argument == "revision" or tool == "hf_list_collections"):
                    continue  # no revision means the default branch, and no name all collections
                output = await call_refused(client, tool, **{argument: wrong}, **others)
                assert len(output) < 3000, (tool, wrong[:40])
                for leak in ("root:", "Traceback", "\x1b", "\u202e", "site-packages"):
                    assert leak not in output, (tool, argument, wrong[:40], output)
        assert (await call_tool(client, "hf_list_models"))["models"][0]["id"] == LOCAL
    assert [model.id for model in Library().list()] == [model.id for model in models]
    assert Library().downloads(include_finished=True)[0].id == 1, "no name became a download"


@pytest.mark.usefixtures("hub")
@run_async
async def test_relative_path_does_not_open_a_file_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "owner"
    folder.mkdir()
    tiny_chat(folder / "private")
    monkeypatch.chdir(tmp_path)
    async with connect_stdio() as client:
        assert "no public repo owner/private" in await call_refused(client, "hf_inspect_gguf", model="owner/private")


@pytest.mark.parametrize("era", ERAS)
@run_async
async def test_wrong_types_and_sizes_are_reported_and_the_server_continues(era: Era) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("hf_search_models", {"query": 5}),
        ("hf_search_models", {"query": "A" * 3_000_000}),
        ("hf_search_models", {"limit": 0}),
        ("hf_search_models", {"limit": 10**30}),
        ("hf_search_models", {"sort": "best"}),
        ("hf_search_models", {"min_params": "lots"}),
        ("hf_search_models", {"cursor": "YWZ0ZXI6LTU="}),
        ("hf_search_models", {"cursor": "\u0661"}),
        ("hf_get_model", {}),
        ("hf_get_model", {"repo": None}),
        ("hf_get_model", {"repo": ["owner/x"]}),
        ("hf_download_model", {"ref": "owner/x", "aliases": ["a"] * 1000}),
        ("hf_download_model", {"ref": "owner/x", "wait_seconds": 46}),
        ("hf_download_model", {"ref": "owner/x", "wait_seconds": -1}),
        ("hf_get_downloads", {"id": 0}),
        ("hf_get_downloads", {"id": 2**63}),
        ("hf_get_downloads", {"id": 77}),
        ("hf_get_downloads", {"id": "1; drop table downloads"}),
        ("hf_control_download", {"id": 1, "action": "explode"}),
        ("hf_control_download", {"id": 1, "action": "cancel"}),
        ("hf_run_prompt", {"name": "x", "prompt": ""}),
        ("hf_run_prompt", {"name": "x", "prompt": "y", "max_tokens": 10**9}),
        ("hf_run_prompt", {"name": "x", "prompt": "y", "temperature": "NaN"}),
        ("hf_edit_aliases", {"name": "x", "add": [{"nested": True}]}),
        ("no_such_tool", {}),
    ]
    async with connect_stdio(era=era) as client:
        for tool, arguments in wrong:
            try:
                result = await client.call_tool(tool, arguments)
            except MCPError as error:
                assert tool == "no_such_tool", error  # noqa: PT017
                continue
            assert result.is_error, (tool, str(arguments)[:80])
            output = get_text(result)
            assert output.removeprefix(f"Error executing tool {tool}").strip(": \n"), (tool, "says nothing")
            assert len(output) < 3000
            assert "Traceback" not in output
        assert (await call_tool(client, "hf_get_downloads"))["downloads"] == []


@run_async
async def test_unknown_or_missing_argument_error_lists_the_arguments() -> None:
    takes = "It accepts name (required), add, remove, confirm."
    async with connect_stdio() as client:
        output = await call_refused(client, "hf_edit_aliases", name="x", add_aliases=["y"])
        assert output == f"hf_edit_aliases: unknown argument 'add_aliases'. {takes}"
        output = await call_refused(client, "hf_edit_aliases", nam="x")
        wrong = "missing argument 'name'; unknown argument 'nam'"
        assert output == f"hf_edit_aliases: {wrong}. Did you mean 'name'? {takes}"
        output = await call_refused(client, "hf_get_downloads", wait_seconds=46)
        assert output == "hf_get_downloads: wait_seconds: Input should be less than or equal to 45."
        output = await call_refused(client, "hf_status", **{f"\x1b[31m{number}" * 1000: 1 for number in range(100)})
        assert len(output) < 1000
        assert "\x1b" not in output


@pytest.mark.usefixtures("pulled")
@run_async
async def test_parallel_deletes_delete_once_and_the_others_report_it() -> None:
    async with connect_stdio("--allow-delete") as one, connect_stdio("--allow-delete", era="legacy") as other:
        results: list[bool] = []

        async def delete(client: Any) -> None:
            result = await client.call_tool("hf_delete_model", {"name": LOCAL, "confirm": LOCAL})
            results.append(not result.is_error)
            assert not result.is_error or "no local model" in get_text(result)

        async with anyio.create_task_group() as tasks:
            for client in (one, other) * 5:
                tasks.start_soon(delete, client)
    assert results.count(True) >= 1
    assert len(results) == 10
    assert Library().list() == ()


@run_async
async def test_two_hosts_that_request_one_model_share_a_download(hub: HubServer) -> None:
    hub.fault(Stall(after=1_000_000), on=Q8, side="storage", times=None)
    numbers: set[int] = set()
    async with connect_stdio() as one, connect_stdio(era="legacy") as other:

        async def download(client: Any) -> None:
            numbers.add((await call_tool(client, "hf_download_model", ref=f"{REPO}:Q8_0"))["download"]["id"])

        async with anyio.create_task_group() as tasks:
            for client in (one, other, one, other):
                tasks.start_soon(download, client)
        assert len(numbers) == 1
        (number,) = numbers

        async def cancel(client: Any) -> None:
            result = await client.call_tool("hf_control_download", {"id": number, "action": "cancel"})
            assert not result.is_error, get_text(result)

        async with anyio.create_task_group() as tasks:
            for client in (one, other, one, other):
                tasks.start_soon(cancel, client)
        (row,) = (await call_tool(one, "hf_get_downloads", id=number, wait_seconds=30))["downloads"]
    assert row["state"] == "cancelled"


@pytest.mark.parametrize("era", ERAS)
@run_async
async def test_abandoned_call_stops_the_wait_and_not_the_download(
    era: Era,
    hub: HubServer,
) -> None:
    hub.fault(Throttle(1_500_000), on=Q8, side="storage", times=None)
    async with connect_stdio(era=era) as client:
        began = asyncio.Event()

        async def progress(*_: object) -> None:
            began.set()

        waiting = asyncio.create_task(
            client.call_tool(
                "hf_download_model", {"ref": f"{REPO}:Q8_0", "wait_seconds": 45}, progress_callback=progress
            )
        )
        await began.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        (row,) = (await call_tool(client, "hf_get_downloads", id=1, wait_seconds=45))["downloads"]
    assert row["state"] == "done"


def test_killed_host_and_server_lose_nothing(hub: HubServer) -> None:
    hub.fault(Throttle(1_500_000), on=Q8, side="storage", times=None)
    params: Any = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "0"}}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    arguments = {"ref": f"{REPO}:Q8_0", "wait_seconds": 45}
    ask = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "hf_download_model", "arguments": arguments},
    }
    with subprocess.Popen(
        [sys.executable, "-m", "llm_hf_mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(hello) + "\n")
        server.stdin.flush()
        assert json.loads(server.stdout.readline())["result"]["serverInfo"]
        server.stdin.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}\n' + json.dumps(ask) + "\n")
        server.stdin.flush()
        hub.wait_until(lambda: hub.sent(Q8) > BIG_BYTES // 2)  # far more than a header
        server.kill()
    assert [event.kind for event in Library().follow(1)][-1] == "done"
    assert Library().show(f"hf/{REPO}:Q8_0").state == "ready"


def test_garbage_on_stdin_is_answered_within_the_protocol() -> None:
    lines = [
        b"\xff\xfe\x00garbage",
        b"{}",
        b"[]",
        b'{"jsonrpc": "2.0", "id": 1}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "llm_hf_mcp"],
        input=b"\n".join(lines) + b"\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"


NOISE = """
import sys, os, llm_hf_models.service as service
honest = service.Library.status
def loud(self):
    print("a library prints"); sys.stdout.flush(); os.write(1, b"and another writes\\n"); os.system("echo and a child")
    return honest(self)
service.Library.status = loud
from llm_hf_mcp.main import main
main([])
"""


@run_async
async def test_prints_of_libraries_do_not_reach_stdout() -> None:
    from mcp import Client

    received: list[object] = []

    async def hear(message: object) -> None:
        received.append(message)

    command = StdioServerParameters(command=sys.executable, args=["-c", NOISE], env=dict(os.environ))
    async with Client(stdio_client(command), message_handler=hear) as client:
        assert (await call_tool(client, "hf_status"))["models"] == 0
    assert not [message for message in received if isinstance(message, Exception)]


@run_async
async def test_token_and_environment_are_never_revealed(
    pulled: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    home: Home,
) -> None:
    monkeypatch.setenv("HF_TOKEN", pulled.add_token(SECRET, name="ann"))
    monkeypatch.setenv("UNRELATED_PASSWORD", "correct horse battery staple")
    reported: list[str] = []
    async with connect_stdio("--allow-delete") as client:
        status = await client.call_tool("hf_status", {})
        assert "token of ann" in get_text(status)
        reported.append(status.model_dump_json())
        for tool in (await client.list_tools()).tools:
            reported.append(tool.model_dump_json())
            assert "token" not in tool.input_schema["properties"]
        for name, arguments in (
            ("hf_get_model", {"repo": REPO}),
            ("hf_list_models", {}),
            ("hf_get_model", {"repo": "a/b"}),
        ):
            reported.append((await client.call_tool(name, arguments)).model_dump_json())
        pulled.revoke_token(SECRET)
        reported.append((await client.call_tool("hf_download_model", {"ref": f"{REPO}:Q8_0"})).model_dump_json())
    reported.append((home.llm / "hf/agents.log").read_text("utf-8") if (home.llm / "hf/agents.log").exists() else "")
    for secret in (SECRET, "correct horse"):
        assert not [text for text in reported if secret in text]
