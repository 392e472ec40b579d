"""Chat templates that refuse conversations which others accept, in real engines and on attached servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx2
import llm
import pytest
from llm.parts import Message, ToolCallPart, ToolResultPart

from llm_hf_models.library.records import LocalFile, LocalModel
from tests.support import ggufs
from tests.support import tiny_library as tiny_library_support
from tests.support.commands import run, run_llm
from tests.support.images import RED, png
from tests.support.openai_server import END, format_delta, respond_with, run_server
from tests.support.relays import KEY, run_relay
from tests.support.remote_models import register_remote_model
from tests.support.tiny_library import CALL, FUNCTION, TinyLibrary, get_output, open_empty_library

MESSAGES = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}{{- message.content or '' }}"
    "{%- for call in message.tool_calls or [] %}"
    '{{- \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if messages[-1].role == 'tool' %}{{- '<|after_tool|>' }}{%- elif tools %}{{- '<|with_tools|>' }}{%- endif %}"
    "{%- endif %}"
)
# Gemma's condition.
ALTERNATING = (
    "{%- for message in messages %}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{%- endif %}{%- endfor %}" + MESSAGES
)
# Mistral's conditions.
NINE = "Tool call IDs should be alphanumeric strings with length 9!"
STRICT = (
    "{%- set ns = namespace(index=0) %}{%- for message in messages %}"
    "{%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) %}"
    "{%- if (message.role == 'user') != (ns.index % 2 == 0) %}"
    "{{- raise_exception('After the optional system message, conversation roles must alternate user and assistant "
    "roles except for tool calls and results.') }}{%- endif %}{%- set ns.index = ns.index + 1 %}{%- endif %}"
    "{%- if message.role == 'assistant' and not message.content and not message.tool_calls %}"
    "{{- raise_exception('Assistant message must have either content or tool calls') }}{%- endif %}"
    "{%- for call in message.tool_calls or [] %}{%- if call.id is not defined or call.id | length != 9 %}"
    "{{- raise_exception('" + NINE + "') }}{%- endif %}{%- endfor %}"
    "{%- if message.role == 'tool' and (message.tool_call_id is not defined or message.tool_call_id | length != 9) %}"
    "{{- raise_exception('" + NINE + "') }}{%- endif %}{%- endfor %}" + MESSAGES
)
TEMPLATES = {"alternating": ALTERNATING, "strict": STRICT, "looking": STRICT.replace("<|after_tool|>", "")}
REFUSING = (
    "{%- if 'coffee' in messages[-1].content %}{{- raise_exception('I want ' ~ 3 ~ ' coffees') }}{%- endif %}"
    + MESSAGES
)
_use_tiny_library = tiny_library_support.use_tiny_library


@pytest.fixture(scope="module")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    with open_empty_library(tmp_path_factory) as library:
        for name, template in TEMPLATES.items():
            path = ggufs.tiny_chat(library.files / f"{name}.gguf", template=template, tool_call=CALL, sees=True)
            mmproj = ggufs.tiny_mmproj(library.files / f"{name}-mmproj.gguf")
            add_seeing_model(library, name, path, mmproj)
        refusing = ggufs.tiny_chat(library.files / "refusing.gguf", template=REFUSING)
        library.add("hf/tiny/refusing:F16", refusing, aliases=("refusing",))
        yield library


def add_seeing_model(library: TinyLibrary, name: str, path: Path, mmproj: Path) -> LocalModel:
    model = library.add(f"hf/tiny/{name}:F16", path, aliases=(name,))
    projector = LocalFile(mmproj.name, "mmproj", mmproj.stat().st_size, str(mmproj), sha256="e" * 64)
    facts = replace(model.facts, modalities=("image",))
    with library.open_db() as db:
        return db.register(replace(model, files=(*model.files, projector), facts=facts))


HISTORIES: dict[str, list[Message]] = {
    "two prompts": [llm.user("one"), llm.user("two")],
    "two answers": [llm.user("one"), llm.assistant("yes"), llm.assistant("no"), llm.user("two")],
    "empty answer": [llm.user("one"), llm.assistant(""), llm.user("two")],
    "system prompt": [llm.system("be brief"), llm.user("one"), llm.user("two")],
}


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("name", ["alternating", "strict"])
def test_neighboring_messages_of_a_role_are_merged(name: str, history: str) -> None:
    assert llm.get_model(name).prompt(messages=HISTORIES[history]).text() == ggufs.ANSWER


@pytest.mark.parametrize("how", [(), ("--no-stream",), ("--async",)])
def test_tool_is_called_though_the_template_demands_other_ids(how: tuple[str, ...]) -> None:
    assert get_output("-m", "strict", "--functions", FUNCTION, "weather in Riga?", *how).endswith(ggufs.TOOL_ANSWER)


@pytest.mark.parametrize("call_id", ["call_0", "abcdefghi", "functions.weather:0", "ä" * 9, "1"])
def test_tool_calls_of_other_models_are_continued(call_id: str) -> None:
    call, result = ToolCallPart("weather", {}, call_id), ToolResultPart("weather", "sunny", call_id)
    history = [llm.user("weather?"), llm.assistant(call), llm.tool_message(result)]
    assert llm.get_model("strict").prompt(messages=history).text() == ggufs.TOOL_ANSWER


@pytest.mark.parametrize("stream", [False, True])
def test_relay_fits_the_messages_of_a_request(stream: bool) -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": {}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "sunny"},
    ]
    with run_relay("strict") as (_, url):
        body = {"model": "strict", "messages": messages, "stream": stream}
        response = httpx2.post(
            f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60
        )
    assert response.status_code == 200, response.text
    assert ggufs.TOOL_ANSWER.split()[-1] in response.text


def test_picture_of_a_tool_is_seen_though_roles_must_alternate(tmp_path: Path) -> None:
    picture = png(tmp_path / "red.png", RED)
    functions = (
        "import llm\ndef weather(town: str) -> llm.ToolOutput:\n    'The weather'\n"
        f"    return llm.ToolOutput('see', attachments=[llm.Attachment(path={str(picture)!r})])"
    )
    assert get_output("-m", "looking", "--functions", functions, "weather in Riga?").endswith(ggufs.RED_ANSWER)


def test_refusal_names_the_template_and_its_commands() -> None:
    for how in ((), ("--no-stream",), ("--async",)):
        result = run_llm("-m", "refusing", "coffee?", *how)
        assert result.exit_code == 1
        assert result.stderr == (
            "Error: The chat template of hf/tiny/refusing:F16 refused the conversation\n"
            "I want 3 coffees\n"
            "Show it: llm hf inspect hf/tiny/refusing:F16 --template. "
            "Replace it: llm hf set hf/tiny/refusing:F16 template FILE\n"
        )


def test_commands_of_a_refusal_work(tmp_path: Path) -> None:
    assert "coffees" in run("inspect", "hf/tiny/refusing:F16", "--template").stdout
    (tmp_path / "own.jinja").write_text(REFUSING.replace("coffees", "teas"))
    run("set", "refusing", "template", str(tmp_path / "own.jinja"))
    refused = run_llm("-m", "refusing", "coffee?").stderr
    assert "teas" in refused
    assert "llm hf set hf/tiny/refusing:F16 --unset template" in refused
    (tmp_path / "own.jinja").write_text(ggufs.CHAT_TEMPLATE)
    run("set", "refusing", "template", str(tmp_path / "own.jinja"))
    assert get_output("-m", "refusing", "coffee?") == ggufs.ANSWER


def test_unreadable_template_of_a_file_is_named(tiny_library: TinyLibrary) -> None:
    path = ggufs.tiny_chat(tiny_library.files / "unreadable.gguf", template=MESSAGES + "{% nonsense")
    tiny_library.add("hf/tiny/unreadable:F16", path, aliases=("unreadable",))
    refused = run_llm("-m", "unreadable", "hello").stderr
    assert "can't use the chat template of hf/tiny/unreadable:F16" in refused
    assert "llm hf set hf/tiny/unreadable:F16 template FILE" in refused


def test_relay_reports_a_refusal_as_the_error_of_the_client() -> None:
    with run_relay("refusing") as (_, url):
        response = httpx2.post(
            f"{url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {KEY}"},
            json={"messages": [{"role": "user", "content": "coffee?"}]},
            timeout=60,
        )
    assert response.status_code == 400
    assert "llm hf set hf/tiny/refusing:F16 template FILE" in response.json()["error"]["message"]


@contextmanager
def register_strict_server(library: TinyLibrary, status: int, error: Any, kind: str) -> Iterator[list[dict[str, Any]]]:
    """Register `far` on a server whose template demands alternating roles and ids of nine letters or digits."""
    asked: list[dict[str, Any]] = []

    def respond(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        asked.append(body)
        roles = [message["role"] for message in body["messages"]]
        ids = [message["tool_call_id"] for message in body["messages"] if message["role"] == "tool"]
        is_refused = roles != ["user", "assistant", "tool"] or any(len(one) != 9 for one in ids)
        answer = error if is_refused else format_delta(content="yes") + END
        respond_with(answer, status=status if is_refused else 200, kind=kind)(handler, body)

    with register_remote_model(library, facts={"modalities": ("image",)}), run_server(respond) as url:
        with library.open_db() as db:
            db.register(replace(db.find_model("far"), endpoint=url))
        yield asked


VLLM = {
    "object": "error",
    "message": "Conversation roles must alternate user/assistant/user/assistant/...",
    "code": 400,
}
LM_STUDIO = {"error": {"message": 'Error rendering prompt with jinja template: "After the optional system message…"'}}
TGI = {"error": "Template error: template error: " + NINE, "error_type": "template_error"}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, json.dumps(VLLM), "application/json"),
        (422, json.dumps(TGI), "application/json"),
        (200, "event: error\ndata: " + json.dumps(LM_STUDIO) + "\n\n", "text/event-stream"),
        (500, json.dumps({"error": {"code": 500, "message": "Jinja Exception: " + NINE}}), "application/json"),
    ],
)
def test_turn_is_fitted_if_the_template_of_a_server_refuses_it(
    status: int, body: str, kind: str, tiny_library: TinyLibrary, tmp_path: Path
) -> None:
    picture = png(tmp_path / "red.png", RED)
    result = ToolResultPart("look", "a picture", "a", attachments=[llm.Attachment(path=str(picture))])
    history = [
        llm.user("one"),
        llm.user("look"),
        llm.assistant(ToolCallPart("look", {}, "a")),
        llm.tool_message(result),
    ]
    with register_strict_server(tiny_library, status, body.encode(), kind) as asked:
        assert llm.get_model("far").prompt(messages=history).text() == "yes"
        refused = run_llm("-m", "far", "hello").stderr
    user, assistant, tool = asked[1]["messages"]
    assert user["content"] == "one\n\nlook"
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"]
    assert [part["type"] for part in tool["content"]] == ["text", "image_url"]
    assert "The chat template of the model at http://127.0.0.1" in refused
    assert len(asked) == 3  # a turn that can't be fitted is not sent again


@pytest.mark.parametrize(
    "refusal", ["System role not supported", "Only user, assistant and tool roles are supported, got system."]
)
def test_system_prompt_moves_into_the_message_if_refused(refusal: str, tiny_library: TinyLibrary) -> None:
    def respond(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        is_refused = body["messages"][0]["role"] == "system"
        answer = (
            json.dumps({"error": {"message": refusal}}).encode() if is_refused else format_delta(content="yes") + END
        )
        asked.append(body)
        respond_with(answer, status=400 if is_refused else 200)(handler, body)

    asked: list[dict[str, Any]] = []
    with register_remote_model(tiny_library), run_server(respond) as url:
        with tiny_library.open_db() as db:
            db.register(replace(db.find_model("far"), endpoint=url))
        assert get_output("-m", "far", "-s", "be brief", "hello") == "yes"
    assert asked[1]["messages"] == [{"role": "user", "content": "be brief\n\nhello"}]


@pytest.mark.parametrize("how", [(), ("--async",), ("--no-stream",)])
@pytest.mark.parametrize("text", ["", " \n\t"])
def test_empty_prompt_is_refused_before_the_engine_starts(
    text: str, how: tuple[str, ...], tiny_library: TinyLibrary
) -> None:
    tiny_library.add("hf/tiny/idle:F16", ggufs.tiny_chat(tiny_library.files / "idle.gguf"), aliases=("idle",))
    before = tiny_library.find_pids()
    for words in ((), ("-s", "be brief")):
        result = run_llm("-m", "idle", text, *words, *how, stdin="")
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: The prompt is empty\n")
    assert tiny_library.find_pids() == before


def test_empty_prompt_of_a_conversation_is_refused() -> None:
    get_output("-m", "alternating", "hello")
    assert "The prompt is empty" in run_llm("-c", "", stdin="").stderr
    assert get_output("-c", "hello") == ggufs.ANSWER


def test_empty_prompt_of_a_base_model_is_refused(tiny_library: TinyLibrary) -> None:
    tiny_library.add("hf/tiny/base:F16", ggufs.tiny_base(tiny_library.files / "base.gguf"), aliases=("base",))
    assert "The prompt is empty" in run_llm("-m", "base", "", stdin="").stderr
    assert get_output("-m", "base", "-s", "Once upon", "", stdin="") == ggufs.ANSWER
