"""A Hub, a proxy or an endpoint that repeats the token or key in all it sends. Nothing shows, logs or stores it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from llm_hf_models.errors import HfModelsError
from llm_hf_models.redaction import REPLACEMENT
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support.commands import run, run_llm
from tests.support.downloads import wait_for_state
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Status
from tests.support.mcp_hosts import connect_stdio, run_async
from tests.support.openai_server import END, format_delta, run_server
from tests.support.relays import run_relay

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
KEY = "sk-proj/Aa+Bb=Cc.Dd-0123456789_ABCDEF"
REPO = "owner/echo-GGUF"
FILE = "echo-Q4_K_M.gguf"
PART_CHARS = 10


def spell(secret: str) -> list[str]:
    spellings = [secret, secret.upper(), quote(secret, safe=""), "".join(f"%{ord(char):02X}" for char in secret)]
    encoded = [base64.b64encode(f"{before}{secret}".encode()).decode() for before in ("", "u:", "us:")]
    return [*spellings, *encoded]


def repeat(secret: str) -> str:
    return f"Authorization: Bearer {' '.join(spell(secret))} \u200b{chr(0x200B).join(secret)} Basic {spell(secret)[-1]}"


def find_parts(text: str, secret: str) -> list[str]:
    """Return the parts of the secret, in any spelling, that a text contains."""
    found = []
    for spelling in [*spell(secret), secret.lower()]:
        parts = (spelling[at : at + PART_CHARS] for at in range(len(spelling) - PART_CHARS + 1))
        found += [part for part in parts if part in text]
    return found


def check(text: str, secret: str = TOKEN) -> str:
    assert find_parts(text, secret) == [], text[:3000]
    return text


def check_files(folder: Path, secret: str = TOKEN) -> None:
    """Check every file that the package has written."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("token"):
            check(path.read_bytes().decode("latin-1"), secret)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Provide a Hub that repeats the token in each field and header that it can."""
    echo = repeat(TOKEN)
    weights = tiny_chat(tmp_path / FILE, name=f"Echo {echo}")
    with HubServer() as hub:
        token = hub.add_token(TOKEN, name=echo, token_name=echo, organisations=(echo,), scopes=(echo,))
        card = f"---\nlicense: mit\n---\n# Echo\n{echo}\n" + "x" * 5000 + echo
        repo = hub.add_repo(
            REPO, {FILE: weights, "README.md": card, f"{TOKEN}.txt": "x"}, task=f"text-{TOKEN}", license=TOKEN,
            tags=(echo, TOKEN), library=echo, base_models=(f"{TOKEN}/x", echo), revisions=("main", TOKEN),
            gguf={"total": 84_000, "architecture": TOKEN, "context_length": 4096, "chat_template": echo},
        )  # fmt: skip
        hub.report(repo, FILE, f"safe {echo}", avScan=f"safe: {echo}")
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setenv("LLM_HF_RETRIES", "1")
        yield hub


COMMANDS = [
    ("search", "echo"), ("info", REPO), ("info", REPO, "--card"), ("info", REPO, "--files"),
    ("pull", REPO, "--dry-run"), ("pull", REPO), ("list",), ("show", REPO), ("inspect", REPO), ("downloads", "--all"),
    ("whoami",), ("status",), ("inspect", f"{REPO}:{FILE}"), ("info", f"{REPO}@nowhere"), ("downloads", "log", "1"),
]  # fmt: skip


def test_no_command_shows_or_stores_a_token_in_a_reply(hub: HubServer, home: Home) -> None:
    shown = ""
    for command in COMMANDS:
        for form in ((), ("--json",)):
            done = run(*command, *([] if "--card" in command else form), code=None)
            shown += check(done.stdout) + check(done.stderr)
    assert shown.count(REPLACEMENT) > 20
    assert hub.count("echo") > 5
    check_files(home.llm)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 407, 408, 418, 429, 500, 503])
def test_no_error_repeats_the_token(hub: HubServer, code: int) -> None:
    echo = repeat(TOKEN).replace("\u200b", "")
    headers = {"X-Error-Message": f"{'x' * 150}{echo}", "ETag": TOKEN, "Retry-After": TOKEN, "X-Error-Code": TOKEN}
    hub.fault(Status(code, headers, json.dumps({"error": echo}).encode()), times=None)
    for command in (("info", REPO), ("search", "x"), ("pull", REPO), ("whoami",), ("status",)):
        for form in ((), ("--json",)):
            done = run(*command, *form, code=None)
            check(done.stdout + done.stderr)


@pytest.mark.parametrize("body", [b"%s", b'{"sha": "%s"}', b'[{"id": 1, "%s": 2}]', b'{"id": "%s"'])
def test_no_malformed_reply_repeats_the_token(hub: HubServer, body: bytes) -> None:
    hub.fault(Status(200, {"ETag": f'"{TOKEN}"'}, body % TOKEN.encode()), times=None)
    for command in (("info", REPO), ("search", "x"), ("pull", REPO), ("whoami",)):
        done = run(*command, code=None)
        check(done.stdout + done.stderr)


@pytest.mark.parametrize("target", ["http://{}.localhost:1/x", "ftp://{}/x", "http://127.0.0.1:1/{}", "http://u:{}@[x"])
def test_no_redirect_shows_the_token_in_its_address(hub: HubServer, target: str) -> None:
    hub.fault(Status(302, {"Location": target.format(TOKEN)}), times=None)
    for command in (("info", REPO), ("pull", REPO)):
        done = run(*command, code=None)
        assert done.exit_code == 1
        check(done.stdout + done.stderr)


def test_no_row_and_no_log_of_a_worker_has_the_token(hub: HubServer, home: Home) -> None:
    library = Library()
    plan = library.plan(f"{REPO}:Q4_K_M")
    echo = repeat(TOKEN).replace("\u200b", "")
    hub.fault(Status(403, {"X-Error-Message": echo, "ETag": TOKEN}, echo.encode()), on=FILE, times=None)
    number = library.enqueue(plan).id
    wait_for_state(library, number, "failed", "paused")
    done = run("downloads", "--all", "--json")
    assert REPLACEMENT in done.stdout
    check(done.stdout + run("downloads", "log", str(number), code=None).output)
    check_files(home.llm)


@run_async
async def test_no_answer_of_the_mcp_server_has_the_token(hub: HubServer, home: Home) -> None:
    assert hub
    async with connect_stdio() as client:
        calls: list[tuple[str, dict[str, Any]]] = [
            ("hf_search_models", {"query": "echo", "verbosity": "full"}),
            ("hf_get_model", {"repo": REPO, "card": True, "files": True, "verbosity": "full"}),
            ("hf_inspect_gguf", {"model": f"{REPO}:{FILE}", "metadata": True, "template": True}),
            ("hf_download_model", {"ref": f"{REPO}:Q4_K_M", "wait_seconds": 45}), ("hf_get_downloads", {"id": 1}),
            ("hf_list_models", {"verbosity": "full"}), ("hf_status", {}),
        ]  # fmt: skip
        for tool, arguments in calls:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, result
            check(result.model_dump_json())
        hub.fault(Status(403, {"X-Error-Message": repeat(TOKEN).replace("\u200b", "")}), times=None)
        for tool, arguments in calls:
            check((await client.call_tool(tool, arguments)).model_dump_json())
    check_files(home.llm)


@pytest.mark.usefixtures("hub")
def test_other_packages_and_tracebacks_print_no_token() -> None:
    code = (
        "import logging, sys, warnings; from llm_hf_models import redaction; "
        "from llm_hf_models.service import Library; redaction.redact_stderr(); Library().whoami(); "
        f"logging.warning('a %s', '{TOKEN}'); warnings.warn('b {TOKEN}'); raise ValueError('c {TOKEN}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last == f"ValueError: c {REPLACEMENT}"
    lines = [line for line in done.stderr.splitlines() if line.startswith(("WARNING", "ValueError", "<string>"))]
    check("\n".join(lines))


# Endpoints


def echo_key(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Repeat the key in the text and in the reasoning, over several pieces if the prompt is `hello`."""
    key = handler.headers["Authorization"].removeprefix("Bearer ")
    text = f"It is {key}, {base64.b64encode(key.encode()).decode()} "
    if body["messages"][-1]["content"] != "hello":
        pieces = [format_delta(content=text), format_delta(reasoning_content=text)]
    else:
        pieces = [format_delta(content=char) for char in text]
        pieces += [format_delta(reasoning_content=key[:20]), format_delta(reasoning_content=key[20:])]
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    handler.wfile.write(b"".join(pieces) + END)


def join_texts(stream: str) -> str:
    """Return the text and the reasoning that a client assembles from a stream."""
    events = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    joined = ["".join(delta.get(name) or "" for delta in deltas) for name in ("content", "reasoning_content")]
    assert joined[0].startswith(f"It is {REPLACEMENT}, {REPLACEMENT}"), joined
    assert REPLACEMENT in joined[1]
    return "\n".join(joined)


def refuse_with_key(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    key = handler.headers["Authorization"]
    text = json.dumps({"error": {"message": f"{'x' * 480} invalid {key}", "type": key}})
    handler.send_response(int(body["messages"][-1]["content"]))
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    handler.wfile.write(text.encode())


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FAR_KEY", KEY)
    return KEY


def test_a_completion_does_not_repeat_the_key(key: str, home: Home) -> None:
    with run_server(echo_key) as url:
        run("attach", "far", "--endpoint", url, "--key-env", "FAR_KEY", "--model", "m")
        for options in ((), ("--no-stream",)):
            done = run_llm("-m", "far", "hello", *options, code=0)
            assert done.stdout.startswith(f"It is {REPLACEMENT}, {REPLACEMENT}")
            check(done.output, key)
        check(run_llm("logs", "--json", "-n", "0", code=0).output, key)
        done_prompt = Library().prompt("far", "hello")
        check(repr(done_prompt), key)
        with run_relay("far") as (server, address):
            for stream, text in ((True, "hi"), (False, "hi"), (False, "hello"), (True, "hello")):
                request = {"model": "far", "messages": [{"role": "user", "content": text}]}
                reply = httpx2.post(
                    f"{address}/v1/chat/completions", json={**request, "stream": stream},
                    headers={"Authorization": f"Bearer {server.key}"}, trust_env=False,
                )  # fmt: skip
                assert reply.status_code == 200
                check(reply.text, key)
                check(join_texts(reply.text) if stream else "", key)
    check_files(home.llm, key)


@pytest.mark.parametrize("code", [400, 401, 404, 500])
def test_no_error_of_an_endpoint_repeats_the_key(key: str, code: int) -> None:
    with run_server(refuse_with_key) as url:
        run("attach", "far", "--endpoint", url, "--key-env", "FAR_KEY", "--model", "m")
        check(run_llm("-m", "far", str(code)).output, key)
        with pytest.raises(HfModelsError) as caught:
            Library().prompt("far", str(code))
        check(str(caught.value), key)
        with run_relay("far") as (server, address):
            reply = httpx2.post(
                f"{address}/v1/chat/completions",
                json={"model": "far", "messages": [{"role": "user", "content": str(code)}]},
                headers={"Authorization": f"Bearer {server.key}"}, trust_env=False,
            )  # fmt: skip
            check(reply.text, key)
