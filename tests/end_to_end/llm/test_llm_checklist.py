"""llm's documented behaviours, one by one, with a model of ours, except those in test_models.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import llm
import pytest

from llm_hf_models.inference import running_engines
from tests.support import ggufs
from tests.support import tiny_library as tiny_library_support
from tests.support.commands import run_llm
from tests.support.remote_models import register_remote_model
from tests.support.tiny_library import (
    CALL,
    DOG,
    FUNCTION,
    PNG,
    TinyLibrary,
    get_output,
    read_last_log,
)

tiny_library = tiny_library_support.tiny_library
_use_tiny_library = tiny_library_support.use_tiny_library


def list_roles(requested: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in requested["messages"]]


def test_fragments_and_system_fragments_are_part_of_the_prompt(tiny_library: TinyLibrary, tmp_path: Path) -> None:
    (tmp_path / "facts.txt").write_text("Walruses have tusks.")
    (tmp_path / "manner.txt").write_text("Be brief.")
    with register_remote_model(tiny_library) as far:
        get_output(
            "-m", "far", "-f", str(tmp_path / "facts.txt"), "--sf", str(tmp_path / "manner.txt"), "what have they?"
        )
        get_output("-m", "far", "-c", "-f", str(tmp_path / "facts.txt"), "again?")
    assert list_roles(far.asked[0]) == [("system", "Be brief."), ("user", "Walruses have tusks.\nwhat have they?")]
    assert len(far.asked[1]["messages"]) == 4
    assert "Walruses have tusks." in get_output("logs", "-n", "1", "--expand")
    assert "facts.txt" in get_output("fragments")


def test_templates_set_system_prompt_options_model_and_schema(tiny_library: TinyLibrary) -> None:
    get_output("-s", "Shout.", "Say $what", "-o", "temperature", "0.25", "-m", "dog", "--save", "shouting")
    with register_remote_model(tiny_library) as far:
        get_output("-t", "shouting", "-p", "what", "hello", "-m", "far")
    assert list_roles(far.asked[0]) == [("system", "Shout."), ("user", "Say hello")]
    assert far.asked[0]["temperature"] == 0.25
    get_output("-m", "dog", "--schema", "name,", "--save", "dogs")
    assert json.loads(get_output("-t", "dogs", "a dog")) == json.loads(DOG)
    assert read_last_log()["model"] == "hf/tiny/dog:F16"
    assert {"shouting", "dogs"} <= {line.split()[0] for line in get_output("templates").splitlines()}


def test_stdin_is_the_prompt_or_precedes_it(tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library) as far:
        get_output("-m", "far", stdin="from a pipe")
        get_output("-m", "far", "and asked", stdin="from a pipe")
    assert [list_roles(requested)[0][1] for requested in far.asked] == ["from a pipe", "from a pipe and asked"]


def test_conversation_continues_by_its_id_and_in_chat(tiny_library: TinyLibrary) -> None:
    get_output("-m", "tiny", "one")
    first = read_last_log()["conversation_id"]
    get_output("-m", "tiny", "another")
    assert get_output("--cid", first, "two") == ggufs.ANSWER
    assert read_last_log()["conversation_id"] == first
    with register_remote_model(tiny_library) as far:
        get_output("chat", "-m", "far", stdin="one\n!multi\ntwo\nthree\n!end\nquit\n")
    assert [len(requested["messages"]) for requested in far.asked] == [1, 3]
    assert far.asked[1]["messages"][2]["content"] == "two\nthree"


def test_tools_work_in_chat_and_a_chain_has_a_limit(tiny_library: TinyLibrary) -> None:
    assert ggufs.TOOL_ANSWER in get_output("chat", "-m", "tiny", "--functions", FUNCTION, stdin="weather?\nquit\n")
    assert get_output("-m", "tiny", "-T", "llm_version", "--functions", FUNCTION, "weather?").endswith(
        ggufs.TOOL_ANSWER
    )
    shown = run_llm("-m", "tiny", "--functions", FUNCTION, "weather?", "--td")
    assert "Riga is sunny" in shown.output
    limited = run_llm("-m", "tiny", "--functions", FUNCTION, "weather?", "--cl", "1")
    assert limited.exit_code == 1
    assert "limit" in limited.stderr.lower()
    assert tiny_library


def test_engine_calls_several_tools_at_once(tiny_library: TinyLibrary) -> None:
    both = "\n".join(CALL.replace("Riga", town) for town in ("Riga", "Oslo"))
    tiny_library.add(
        "hf/tiny/two:F16", ggufs.tiny_chat(tiny_library.files / "two.gguf", tool_call=both), aliases=("two",)
    )
    for how in ((), ("--async",), ("--no-stream",)):
        assert get_output("-m", "two", "--functions", FUNCTION, "weather?", *how).endswith(ggufs.TOOL_ANSWER)
        calls, results = json.loads(get_output("logs", "-n", "2", "--json"))
        assert [call["arguments"]["town"] for call in calls["tool_calls"]] == ["Riga", "Oslo"]
        assert [result["output"] for result in results["tool_results"]] == ["Riga is sunny", "Oslo is sunny"]


def test_tool_image_for_a_model_without_vision_gives_a_clear_error() -> None:
    look = (
        "import llm\ndef weather(town: str):\n"
        "    return llm.ToolOutput('see', attachments=[llm.Attachment(content=b'x', type='image/png')])"
    )
    result = run_llm("-m", "tiny", "--functions", look, "weather?")
    assert result.exit_code == 1
    assert "This model does not accept attachments of type image/png" in result.stderr


def test_code_is_extracted_and_usage_and_record_are_printed(tiny_library: TinyLibrary) -> None:
    answer = "First:\n```python\nprint(1)\n```\nthen:\n```\nlast\n```"
    tiny_library.add(
        "hf/tiny/code:F16", ggufs.tiny_chat(tiny_library.files / "code.gguf", answer=answer), aliases=("code",)
    )
    for how in ((), ("--async",)):
        assert get_output("-m", "code", "hello", "-x", *how) == "print(1)"
        assert get_output("-m", "code", "hello", "--xl", *how) == "last"
        shown = run_llm("-m", "code", "hello", "-u", *how)
        assert "Token usage: " in shown.stderr
        assert "output" in shown.stderr
    (record,) = json.loads(get_output("-m", "tiny", "hello", "--json"))
    assert (record["response"], record["output_tokens"]) == (ggufs.ANSWER, 6)


def test_aliases_of_llm_name_our_models() -> None:
    get_output("aliases", "set", "walrus", "hf/tiny/chat:F16")
    assert get_output("-m", "walrus", "hello") == ggufs.ANSWER
    get_output("aliases", "remove", "walrus")
    assert get_output("-q", "tiny/chat", "hello") == ggufs.ANSWER


def test_two_parallel_processes_share_one_new_engine(tiny_library: TinyLibrary) -> None:
    tiny_library.add("hf/tiny/shared:F16", ggufs.tiny_chat(tiny_library.files / "shared.gguf"), aliases=("shared",))
    command = [sys.executable, "-m", "llm", "-m", "shared", "hello"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=100)[0].strip() for process in both] == [ggufs.ANSWER] * 2
    with tiny_library.open_db() as db:
        assert [row.model_id for row in running_engines.list_running_engines(db)].count("hf/tiny/shared:F16") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal")
@pytest.mark.parametrize("typed", [b"hello\n", b""])
def test_ctrl_c_ends_a_chat_during_an_answer_and_at_the_input(typed: bytes, tiny_library: TinyLibrary) -> None:
    get_output("-m", "endless", "go", "-o", "max_tokens", "1")
    before = tiny_library.find_pids()
    ours, theirs = os.openpty()
    own_terminal = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"  # as a shell does: Ctrl-C signals
    code = f"{own_terminal}; from llm.cli import cli; cli()"
    chat = subprocess.Popen(
        [sys.executable, "-c", code, "chat", "-m", "endless"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = read_until(ours, b"\n> ")
    if typed:
        os.write(ours, typed)
        seen += read_until(ours, b"tiny model.")
    assert press_ctrl_c(chat, ours) == 1
    seen += read_until(ours, b"Aborted!")
    os.close(ours)
    assert b"Traceback" not in seen
    get_output("-m", "endless", "go", "-o", "max_tokens", "1")
    assert tiny_library.find_pids() == before


def press_ctrl_c(process: subprocess.Popen[bytes], terminal: int) -> int:
    """Return the exit code after Ctrl-C, pressed again if Python lost it between its last check and readline's first
    wait."""
    for _ in range(6):
        os.write(terminal, b"\x03")
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(10)
    pytest.fail("the process continued after six Ctrl-C")


def read_until(terminal: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        assert select.select([terminal], [], [], 60)[0], seen
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux: the other side has been closed
            piece = b""
        assert piece, seen
        seen += piece
    return seen


def test_schema_can_be_dsl_json_a_file_or_multi(tmp_path: Path) -> None:
    get_output("-m", "dog", "--schema", "name: the dog's name", "a dog")
    (tmp_path / "dog.json").write_text('{"type": "object", "properties": {"name": {"type": "string"}}}')
    for schema in ('{"type": "object", "properties": {"name": {"type": "string"}}}', str(tmp_path / "dog.json")):
        assert json.loads(get_output("-m", "dog", "--schema", schema, "a dog")) == json.loads(DOG)
    items = json.loads(get_output("-m", "dog", "--schema-multi", "name,", "dogs"))["items"]
    assert isinstance(items, list)
    assert json.loads(get_output("logs", "--schema", "name: the dog's name", "--data").splitlines()[-1]) == json.loads(
        DOG
    )


def test_logs_find_a_prompt_by_model_and_text_and_show_its_usage() -> None:
    get_output("-m", "tiny", "a question about tusks")
    assert "a question about tusks" in get_output("logs", "-m", "tiny", "-q", "tusks")
    assert "Token usage" in get_output("logs", "-n", "1", "-u")
    assert get_output("logs", "-n", "1", "-r") == ggufs.ANSWER
    get_output("-m", "tiny", "a secret", "--no-log")
    assert "a secret" not in get_output("logs", "-n", "0")


def test_llm_stores_options_and_a_default_model() -> None:
    get_output("models", "options", "set", "tiny", "max_tokens", "2")
    try:
        get_output("-m", "tiny", "hello")
        assert read_last_log()["output_tokens"] == 2
        get_output("-m", "tiny", "hello", "-o", "max_tokens", "3")
        assert read_last_log()["output_tokens"] == 3
        wrong = run_llm("models", "options", "set", "tiny", "max_tokens", "0")
        assert wrong.exit_code != 0
    finally:
        get_output("models", "options", "clear", "tiny")
    get_output("models", "default", "tiny")
    assert get_output("hello") == ggufs.ANSWER


def test_models_are_listed_with_their_features_and_found_by_a_query() -> None:
    (found,) = json.loads(get_output("models", "-q", "hf/tiny/chat", "--json", "--options"))
    assert found["model_id"] == "hf/tiny/chat:F16"
    text = get_output("models", "-q", "hf/tiny/chat", "--options")
    for word in ("keep_alive", "temperature", "schemas", "tools", "streaming", "async"):
        assert word in text.lower()
    ids = {each["model_id"] for each in json.loads(get_output("models", "-q", "hf", "--json"))}
    assert {"hf/tiny/chat:F16", "hf/tiny/base:F16"} <= ids
    assert "hf/tiny/embed:F32" not in ids
    assert "hf/tiny/embed:F32" in get_output("embed-models")
    assert get_output("models", "--tools", "-q", "hf/tiny/base") == ""


def test_image_can_come_from_a_url_or_stdin(tiny_library: TinyLibrary, image_server: str) -> None:
    with register_remote_model(tiny_library, facts={"modalities": ("image",)}) as far:
        get_output("-m", "far", "what is it?", "-a", f"{image_server}/pixel.png")
    (picture, _) = far.asked[0]["messages"][0]["content"]
    assert picture["type"] == "image_url"


@pytest.fixture
def image_server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "pixel.png").write_bytes(PNG)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, directory=str(tmp_path), **more)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_embeddings_from_files_and_sql_are_stored_and_compared(tmp_path: Path) -> None:
    for name, text in (("one", "the cat sat"), ("two", "blue sky")):
        (tmp_path / f"{name}.txt").write_text(text)
    get_output("embed-multi", "notes", "--files", str(tmp_path), "*.txt", "-m", "vectors", "--store")
    assert json.loads(get_output("similar", "notes", "-c", "blue sky", "-n", "1"))["id"] == "two.txt"
    assert json.loads(get_output("similar", "notes", "one.txt", "-n", "1"))["id"] == "two.txt"
    with sqlite3.connect(tmp_path / "rows.db") as db:
        db.execute("create table rows (id text, body text)")
        db.execute("insert into rows values ('a', 'the cat sat')")
    get_output("embed-multi", "rows", "-d", str(tmp_path / "vectors.db"), "--attach", "more", str(tmp_path / "rows.db"),
         "--sql", "select id, body from more.rows", "-m", "vectors")  # fmt: skip
    assert "rows: hf/tiny/embed:F32" in get_output("collections", "-d", str(tmp_path / "vectors.db"))
    assert len(bytes.fromhex(get_output("embed", "-m", "vectors", "-c", "x", "-f", "hex"))) == 4 * ggufs.WIDTH


def test_python_api_has_conversations_chains_and_async_models() -> None:
    def weather(town: str) -> str:
        return f"{town} is sunny"

    talk = llm.get_model("tiny").conversation(tools=[weather])
    assert talk.chain("weather?").text().endswith(ggufs.TOOL_ANSWER)
    assert len(talk.responses) == 2

    async def later() -> tuple[str, int | None]:
        chain = llm.get_async_model("tiny").conversation(tools=[weather]).chain("weather?")
        text = await chain.text()
        response = llm.get_async_model("dog").prompt("a dog", schema={"type": "object"})
        json.loads(await response.text())
        return text, (await response.usage()).output

    text, tokens = asyncio.run(later())
    assert text.endswith(ggufs.TOOL_ANSWER)
    assert tokens
