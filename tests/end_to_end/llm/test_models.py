"""The library's models through llm: its commands and its Python API, on real engines and a stand-in endpoint."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import llm
import pytest
from click.testing import Result
from llm.parts import ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llm_hf_models import paths
from llm_hf_models.errors import EngineRequestError, FileChangedError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.inference import running_engines
from llm_hf_models.library.records import Check, LocalFile, LocalModel
from llm_hf_models.system.json_values import format_utc
from tests.support import ggufs
from tests.support import tiny_library as tiny_library_support
from tests.support.commands import run, run_json_one, run_llm, run_process
from tests.support.openai_server import END, format_delta, format_event
from tests.support.remote_models import register_remote_model
from tests.support.tiny_library import COMMIT, FUNCTION, PNG, TinyLibrary, get_output, read_last_log

tiny_library = tiny_library_support.tiny_library
_use_tiny_library = tiny_library_support.use_tiny_library


@pytest.mark.parametrize("how", [(), ("--no-stream",), ("--async",), ("--async", "--no-stream")])
def test_prompt_is_answered_and_logged_with_usage_and_timings(how: tuple[str, ...]) -> None:
    assert get_output("-m", "tiny", "hello", *how) == ggufs.ANSWER
    log = read_last_log()
    assert log["model"] == "hf/tiny/chat:F16"
    assert log["resolved_model"] == f"tiny/chat@{COMMIT} sha256:{'d' * 64}"
    assert (log["input_tokens"], log["output_tokens"]) == (24, 6)
    about = log["response_json"]
    assert (about["commit"], about["sha256"], about["finish_reason"]) == (COMMIT, {"chat.gguf": "d" * 64}, "stop")
    assert about["timings"]["tokens_per_second"] > 0


def test_repeated_prompt_reports_its_cached_tokens() -> None:
    get_output("-m", "tiny", "the same again")
    get_output("-m", "tiny", "the same again")
    assert json.loads(read_last_log()["token_details"])["prompt_tokens_details"]["cached_tokens"] > 0


def test_cold_start_is_timed_and_a_warm_one_is_not(tiny_library: TinyLibrary) -> None:
    tiny_library.add("hf/tiny/cold:F16", ggufs.tiny_chat(tiny_library.files / "cold.gguf"), aliases=("cold",))
    get_output("-m", "cold", "hello")
    assert read_last_log()["response_json"]["timings"]["load_seconds"] > 0
    get_output("-m", "cold", "hello")
    assert "load_seconds" not in read_last_log()["response_json"]["timings"]


def test_prompt_updates_the_library(tiny_library: TinyLibrary) -> None:
    before = time.time()
    get_output("-m", "tiny", "hello")
    with tiny_library.open_db() as db:
        model = db.get_model("hf/tiny/chat:F16")
        (row,) = [row for row in db.list_engines() if row.model_id == model.model_id]
    assert model.last_used is not None
    assert model.last_used >= before
    assert row.last_used >= before
    assert row.tokens_per_second


def test_conversation_remembers_earlier_turns(tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library) as far:
        get_output("-m", "far", "-s", "be brief", "one")
        get_output("-c", "two")
    assert [(message["role"], message["content"]) for message in far.asked[1]["messages"]] == [
        ("system", "be brief"),
        ("user", "one"),
        ("assistant", "yes"),
        ("user", "two"),
    ]


def test_later_system_prompts_move_to_the_front_if_templates_need_it(tiny_library: TinyLibrary) -> None:
    history = [llm.system("be brief"), llm.user("one"), llm.assistant("yes"), llm.system("be kind"), llm.user("two")]
    with register_remote_model(tiny_library) as far:
        llm.get_model("far").prompt(messages=history).text()
    assert [message["role"] for message in far.asked[0]["messages"]] == ["system", "user", "assistant", "user"]
    assert far.asked[0]["messages"][0]["content"] == "be brief\n\nbe kind"


def test_chat_answers_until_it_ends() -> None:
    text = get_output("chat", "-m", "tiny", stdin="hello\nagain\nquit\n")
    assert text.count(ggufs.ANSWER) == 2


def test_prompt_options_precede_stored_ones_and_the_header(tiny_library: TinyLibrary) -> None:
    sampling = {"temp": 0.1, "top_k": 11.0, "penalty_repeat": 1.5, "top_p": 7.0, "sequence": 3.0}
    own = {"top_k": 22, "min_p": 0.2, "system": "kept", "keep_alive": 60}
    with register_remote_model(tiny_library, options=own, facts={"sampling": sampling}) as far:
        get_output(
            "-m", "far", "hi", "-o", "min_p", "0.3", "-o", "stop", "END", "-o", "think", "off", "-o", "threads", "1"
        )
    (requested,) = far.asked
    assert (requested["temperature"], requested["repeat_penalty"], requested["top_k"], requested["min_p"]) == (
        0.1,
        1.5,
        22,
        0.3,
    )
    assert requested["messages"][0] == {"role": "system", "content": "kept"}
    assert requested["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}
    assert requested["stop"] == "END"
    # The header's top_p is out of range, and load options do not go to a remote endpoint.
    assert not {"top_p", "sequence", "keep_alive", "threads", "think", "system"} & requested.keys()


def test_invalid_stored_option_is_named_with_its_model(tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, options={"temprature": 1}):
        result = run_llm("-m", "far", "hi")
    assert result.exit_code == 1
    assert "'temprature' of hf/far/away:x" in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("temperature", "hot", "number"),
        ("temperature", "nan", "finite"),
        ("top_p", "2", "less than or equal to 1"),
        ("top_k", "-1", "greater than or equal to 0"),
        ("mirostat", "3", "less than or equal to 2"),
        ("seed", "99999999999", "less than or equal to"),
        ("max_tokens", "0", "greater than or equal to 1"),
        ("logit_bias", "nonsense", "JSON object"),
        ("think", "perhaps", "on, off or a number"),
        ("keep_alive", "soon", "not a duration"),
        ("context", "5000", "at most 4,096 tokens"),
        ("nonsense", "1", "Extra inputs"),
    ],
)
def test_wrong_option_is_named(option: str, value: str, words: str) -> None:
    result = run_llm("-m", "tiny", "hello", "-o", option, value)
    assert result.exit_code == 1
    assert option in result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_options_reach_the_engine(tiny_library: TinyLibrary) -> None:
    assert get_output("-m", "endless", "go", "-o", "max_tokens", "3") != ""
    assert read_last_log()["output_tokens"] == 3
    assert get_output("-m", "tiny", "hello", "-o", "stop", "tiny") == "Hello from a"
    get_output("-m", "tiny", "hello", "-o", "context", "1024", "-o", "keep_alive", "60s")
    assert read_last_log()["response_json"]["context"] == 1024
    with tiny_library.open_db() as db:
        assert [row.keep_alive for row in running_engines.list_running_engines(db) if row.context == 1024] == [60]
    grammar = get_output("-m", "tiny", "hello", "-o", "grammar", 'root ::= "yes" | "no"')
    assert grammar in ("yes", "no")
    assert isinstance(json.loads(get_output("-m", "dog", "hello", "-o", "json_object", "1")), dict)


def test_answer_that_fills_the_context_is_reported_as_cut() -> None:
    result = run_llm("-m", "endless", "go", "-o", "context", "256")
    assert result.exit_code == 0
    assert (
        "The response was cut off: the context of 256 tokens is full. Allow more with -o context N.\n" in result.stderr
    )


@pytest.mark.parametrize("how", [(), ("--async",), ("--no-stream",)])
def test_answer_that_repeats_itself_is_stopped(how: tuple[str, ...]) -> None:
    command = ("-m", "endless", "go", "-o", "context", "2048", *how)
    done = subprocess.run([sys.executable, "-m", "llm", *command], capture_output=True, text=True, check=True)
    assert done.stderr == (
        "The response was stopped: the model repeats the same text. To let it continue: -o loop_limit 0\n"
    )
    assert done.stdout.startswith(ggufs.ANSWER * 100)
    log = read_last_log()
    assert 1000 <= log["output_tokens"] < 1100
    assert log["response_json"]["finish_reason"] == "loop"
    run("set", "endless", "loop_limit", "100")
    get_output(*command)
    assert 100 <= read_last_log()["output_tokens"] < 200


def test_answer_may_repeat_itself_until_the_context_is_full() -> None:
    result = run_llm("-m", "endless", "go", "-o", "context", "2048", "-o", "loop_limit", "0")
    assert "the context of 2,048 tokens is full" in result.stderr


def test_json_that_repeats_itself_is_an_error(tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, format_delta(content='{"name": "') + format_delta(content="na") * 1200):
        result = run_llm("-m", "far", "--schema", "name,", "a dog")
    assert "The response was stopped before its JSON was complete" in result.stderr
    assert "-o loop_limit 0" in result.stderr


@pytest.mark.parametrize(("context", "may_grow"), [("512", True), ("768", False)])
def test_larger_context_is_suggested_if_the_model_has_one(
    context: str, may_grow: bool, tiny_library: TinyLibrary
) -> None:
    tiny_library.add("hf/tiny/short:F16", ggufs.tiny_chat(tiny_library.files / "short.gguf", endless=True, context=768))
    too_long = run_llm("-m", "hf/tiny/short:F16", "word " * 2000, "-o", "context", context)
    assert f"the context holds {context}\n" in too_long.stderr
    assert ("-o context N" in too_long.stderr) == may_grow
    cut = run_llm("-m", "hf/tiny/short:F16", "go", "-o", "context", context)
    assert f"the context of {context} tokens is full" in cut.stderr
    assert ("-o context N" in cut.stderr) == may_grow


def test_thinking_option_for_a_model_without_it_is_an_error() -> None:
    result = run_llm("-m", "tiny", "hello", "-o", "think", "on")
    assert "'think'" in result.stderr
    assert get_output("-m", "tiny", "hello", "-o", "think", "off") == ggufs.ANSWER


@pytest.mark.parametrize("how", [(), ("--no-stream",), ("--async",)])
def test_answer_follows_a_schema(how: tuple[str, ...]) -> None:
    assert json.loads(get_output("-m", "dog", "--schema", "name,", "a dog", *how)) == {"name": "Rex"}


def test_schema_overrides_what_the_model_would_generate() -> None:
    closed = {"type": "object", "additionalProperties": False}
    schema = json.dumps({**closed, "properties": {"n": {"enum": [7]}}, "required": ["n"]})
    assert json.loads(get_output("-m", "tiny", "--schema", schema, "a number")) == {"n": 7}
    assert json.loads(get_output("-m", "base", "--schema", schema, "a number")) == {"n": 7}


def test_json_cut_by_max_tokens_is_an_error() -> None:
    result = run_llm("-m", "dog", "--schema", "name,", "a dog", "-o", "max_tokens", "1")
    assert result.exit_code == 1
    assert "cut off before its JSON was complete" in result.stderr
    assert "max_tokens is 1" in result.stderr


@pytest.mark.parametrize("model", ["dog", "base"])
def test_schema_that_the_engine_can_not_enforce_is_refused_or_checked(model: str) -> None:
    def prompt(pattern: str, code: int) -> Result:
        schema = json.dumps({"type": "object", "properties": {"name": {"type": "string", "pattern": pattern}}})
        return run_llm("-m", model, "--schema", schema, "a dog", "-o", "max_tokens", "40", code=code)

    for pattern in ("[", "^(?=R).*$"):
        assert (
            f"The schema's pattern {pattern} can't be enforced\n#/properties/name/pattern: "
            in prompt(pattern, 1).stderr
        )
    if model == "dog":
        failed = prompt(r"^\d{3}$", 1)
        assert "The engine can't enforce these parts of the schema: #/properties/name/pattern." in failed.stderr
        assert r"$.name: 'Rex' does not match the pattern ^\d{3}$" in failed.stderr
        assert json.loads(prompt(r"^\w+$", 0).stdout) == {"name": "Rex"}


@pytest.mark.parametrize("kept", [("grammar", 'root ::= "no"'), ("json_object", "on")])
def test_option_of_a_prompt_replaces_a_stored_one_with_its_effect(kept: tuple[str, str]) -> None:
    run("set", "dog", *kept)
    run("set", "tiny", *kept)
    assert json.loads(get_output("-m", "dog", "--schema", "name,", "a dog")) == {"name": "Rex"}
    assert get_output("-m", "dog", "-o", "grammar", 'root ::= "yes"', "a dog") == "yes"
    assert get_output("-m", "tiny", "--functions", FUNCTION, "the weather?") == ggufs.TOOL_ANSWER


def test_endpoint_that_ignores_the_schema_is_reported(tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library):
        result = run_llm("-m", "far", "--schema", "name,", "a dog")
    assert "not valid JSON" in result.stderr


@pytest.mark.parametrize("how", [(), ("--no-stream",), ("--async",)])
def test_tool_is_called_and_its_result_is_used(how: tuple[str, ...]) -> None:
    assert get_output("-m", "tiny", "--functions", FUNCTION, "weather in Riga?", *how).endswith(ggufs.TOOL_ANSWER)
    first, second = json.loads(get_output("logs", "-n", "2", "--json"))
    assert [(call["name"], call["arguments"]) for call in first["tool_calls"]] == [("weather", {"town": "Riga"})]
    assert [found["output"] for found in second["tool_results"]] == ["Riga is sunny"]


def make_parallel_calls() -> bytes:
    def call(index: int, **fields: object) -> bytes:
        return format_delta(tool_calls=[{"index": index, **fields}])

    return (
        format_delta(reasoning_content="Let me ")
        + format_delta(reasoning_content="ask.")
        + call(0, id="a", function={"name": "weather", "arguments": '{"town":'})
        + call(1, id="b", function={"name": "weather", "arguments": ""})
        + call(0, function={"arguments": ' "Riga"}'})
        + call(1, function={"arguments": '{"town": "Oslo"}'})
        + END
    )


def test_parallel_calls_and_reasoning_are_sent_back_unchanged(tiny_library: TinyLibrary) -> None:
    def weather(town: str) -> llm.ToolOutput:
        return llm.ToolOutput(f"{town} is sunny", attachments=[llm.Attachment(content=PNG, type="image/png")])

    with register_remote_model(tiny_library, make_parallel_calls(), facts={"modalities": ("image",)}) as far:
        chain = llm.get_model("far").conversation().chain("weather?", tools=[weather])
        responses = chain.responses()
        first = next(responses)
        events = [(each.type, each.chunk) for each in first.stream_events()]
        far.answer = format_delta(content="Sunny.") + END
        assert next(responses).text() == "Sunny."
    assert events[:2] == [("reasoning", "Let me "), ("reasoning", "ask.")]
    assert ("tool_call_name", "weather") in events
    (message,) = first.messages()
    assert [type(part) for part in message.parts] == [ReasoningPart, ToolCallPart, ToolCallPart]
    requested = far.asked[1]["messages"]
    assert [each["role"] for each in requested] == ["user", "assistant", "tool", "tool", "user"]
    assert requested[1]["reasoning_content"] == "Let me ask."
    assert [json.loads(call["function"]["arguments"]) for call in requested[1]["tool_calls"]] == [
        {"town": "Riga"},
        {"town": "Oslo"},
    ]
    assert [(each["tool_call_id"], each["content"]) for each in requested[2:4]] == [
        ("a", "Riga is sunny"),
        ("b", "Oslo is sunny"),
    ]
    assert [part["type"] for part in requested[4]["content"]] == ["image_url", "image_url"]


def test_attachments_of_a_tool_result_follow_it(tiny_library: TinyLibrary) -> None:
    result = ToolResultPart("look", "a picture", "a", attachments=[llm.Attachment(content=PNG, type="image/png")])
    history = [
        llm.user("look"),
        llm.assistant(ToolCallPart("look", {}, "a")),
        llm.tool_message(result),
    ]
    with register_remote_model(tiny_library, facts={"modalities": ("image",)}) as far:
        llm.get_model("far").prompt(messages=history).text()
    assert [each["role"] for each in far.asked[0]["messages"]] == ["user", "assistant", "tool", "user"]


def test_truncated_tool_call_is_an_error_and_not_a_call(tiny_library: TinyLibrary) -> None:
    cut = format_delta(
        tool_calls=[{"index": 0, "id": "a", "function": {"name": "weather", "arguments": '{"town": "Ri'}}]
    )
    cut += format_event(choices=[{"index": 0, "delta": {}, "finish_reason": "length"}]) + b"data: [DONE]\n\n"
    with register_remote_model(tiny_library, cut):
        result = run_llm("-m", "far", "--functions", FUNCTION, "weather?")
    assert "The call of tool weather was cut" in result.stderr


@pytest.mark.parametrize("how", [(), ("--async",)])
def test_image_is_added_to_the_message_from_a_path_or_stdin(
    how: tuple[str, ...], tiny_library: TinyLibrary, tmp_path: Path
) -> None:
    (tmp_path / "pixel.png").write_bytes(PNG)
    with register_remote_model(tiny_library, facts={"modalities": ("image",)}) as far:
        get_output("-m", "far", "what is it?", "-a", str(tmp_path / "pixel.png"), *how)
    image, text = far.asked[0]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert text == {"type": "text", "text": "what is it?"}


def test_sound_is_added_to_the_message(tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, facts={"modalities": ("audio",)}) as far:
        llm.get_model("far").prompt("listen", attachments=[llm.Attachment(type="audio/mpeg", content=b"ID3")]).text()
    assert far.asked[0]["messages"][0]["content"][0]["input_audio"] == {"data": "SUQz", "format": "mp3"}


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("image/jpg", "image/jpeg"),
        ("image/pjpeg", "image/jpeg"),
        ("IMAGE/PNG", "image/png"),
        ("image/x-png", "image/png"),
        ("image/jpeg; charset=binary", "image/jpeg"),
        ("image/x-ms-bmp", "image/bmp"),
        ("audio/x-wav", "wav"),
        ("audio/vnd.wave", "wav"),
        ("audio/wave", "wav"),
        ("audio/mp3", "mp3"),
        ("audio/x-mpeg-3", "mp3"),
        ("AUDIO/MPEG;codecs=mp3", "mp3"),
    ],
)
def test_synonyms_of_media_types_are_accepted(kind: str, sent: str, tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, facts={"modalities": ("image", "audio")}) as far:
        llm.get_model("far").prompt("look", attachments=[llm.Attachment(type=kind, content=PNG)]).text()
    part = far.asked[0]["messages"][0]["content"][0]
    assert sent in (
        part.get("input_audio", {}).get("format"),
        part.get("image_url", {}).get("url", "")[5:].split(";")[0],
    )


@pytest.mark.parametrize(
    "kind", ["image/tiff", "audio/ogg", "image", "jpg", "text/plain; type=image/png", "image/jpeg2"]
)
def test_other_media_types_are_refused(kind: str, tiny_library: TinyLibrary) -> None:
    attachment = llm.Attachment(type=kind, content=PNG)
    with register_remote_model(tiny_library, facts={"modalities": ("image", "audio")}) as far:
        with pytest.raises(ValueError, match="does not support attachments of type"):
            llm.get_model("far").prompt("look", attachments=[attachment]).text()
        with pytest.raises(llm.ModelError, match="It accepts audio/mpeg, audio/wav, image/bmp"):
            llm.get_model("far").prompt(messages=[llm.user("look", attachment)]).text()
    assert far.asked == []


def test_unsupported_attachment_is_refused_before_anything_is_sent(tiny_library: TinyLibrary) -> None:
    picture = llm.Attachment(type="image/png", content=PNG)
    result = run_llm("-m", "tiny", "what?", "--at", __file__, "image/png")
    assert "does not support attachments" in result.stderr
    with (
        register_remote_model(tiny_library) as far,
        pytest.raises(llm.ModelError, match="does not accept attachments of type image/png"),
    ):
        llm.get_model("far").prompt(messages=[llm.user("what?", picture)]).text()
    with register_remote_model(tiny_library, facts={"modalities": ("image",)}) as far:
        gone = llm.Attachment(type="image/png", path="/nowhere/gone.png")
        with pytest.raises(llm.ModelError, match=r"Can't read the attachment /nowhere/gone.png"):
            llm.get_model("far").prompt("what?", attachments=[gone]).text()
    assert far.asked == []


def test_base_model_continues_text_and_has_no_conversation() -> None:
    assert get_output("-m", "base", "-s", "Long ago.", "Once upon") == ggufs.ANSWER
    result = run_llm("-c", "and then?")
    assert result.exit_code == 1
    assert "does not support conversations" in result.stderr


def test_python_api_has_text_usage_json_and_structured_messages() -> None:
    response = llm.get_model("tiny").prompt("hello", temperature=0, max_tokens=50)
    assert response.text() == ggufs.ANSWER
    assert (response.usage().input, response.usage().output) == (24, 6)
    details = response.json()
    assert details is not None
    assert details["model"] == "hf/tiny/chat:F16"
    assert response.messages()[0].parts == [TextPart(ggufs.ANSWER)]
    assert response.reply("again").text() == ggufs.ANSWER


def test_async_prompts_run_in_parallel() -> None:
    async def three() -> list[str]:
        model = llm.get_async_model("tiny")
        return list(await asyncio.gather(*(model.prompt(f"hello {number}").text() for number in range(3))))

    assert asyncio.run(three()) == [ggufs.ANSWER] * 3


def test_leaving_an_answer_ends_it_and_keeps_the_engine(tiny_library: TinyLibrary) -> None:
    get_output("-m", "endless", "go", "-o", "max_tokens", "1")

    async def leave() -> None:
        events = llm.get_async_model("endless").prompt("go").astream_events()
        async for _ in events:
            break
        await events.aclose()

    before = tiny_library.find_pids()
    for _ in range(6):  # more than the engine has slots: an endless one would block the next
        words = iter(llm.get_model("endless").prompt("go"))
        next(words)
        words.close()
        asyncio.run(leave())
    get_output("-m", "endless", "go", "-o", "max_tokens", "1")
    assert tiny_library.find_pids() == before


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
def test_ctrl_c_ends_the_answer_and_keeps_the_engine(tiny_library: TinyLibrary) -> None:
    get_output("-m", "endless", "go", "-o", "max_tokens", "1")
    before = tiny_library.find_pids()
    command = [sys.executable, "-m", "llm", "-m", "endless", "go"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 1
        assert "Traceback" not in process.stderr.read()
    get_output("-m", "endless", "go", "-o", "max_tokens", "1")
    assert tiny_library.find_pids() == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_CHILD_SUBREAPER")
def test_engine_is_stopped_even_if_nobody_reaps_it(tiny_library: TinyLibrary) -> None:
    take_in = partial(ctypes.CDLL(None).prctl, 36)  # PR_SET_CHILD_SUBREAPER
    run("stop", "--all")
    take_in(1)
    try:
        run_process("llm", "-m", "dog", "hello")
        (pid,) = tiny_library.find_pids()
        started = time.monotonic()
        assert run_process("llm", "hf", "stop", "dog").stderr == "Stopped 1 engine.\n"
        assert time.monotonic() - started < 10, "it waited for a process that had ended, 5 s after each signal"
        assert os.waitpid(pid, 0)[0] == pid
    finally:
        take_in(0)


def test_texts_are_embedded_one_by_one_or_in_batches_and_found(tmp_path: Path) -> None:
    vector = json.loads(get_output("embed", "-m", "vectors", "-c", "hello"))
    assert len(vector) == ggufs.WIDTH
    texts = [f"text number {number}" for number in range(70)]
    model = llm.get_embedding_model("vectors")
    vectors = list(model.embed_multi(iter(texts)))
    assert len(vectors) == 70
    assert vectors[69] == pytest.approx(model.embed(texts[69]), abs=1e-4)
    lines = "\n".join(json.dumps({"id": str(number), "content": text}) for number, text in enumerate(texts[:5]))
    (tmp_path / "texts.nl").write_text(lines)
    get_output("embed-multi", "texts", str(tmp_path / "texts.nl"), "--format", "nl", "-m", "vectors", "--store")
    best = json.loads(get_output("similar", "texts", "-c", texts[3], "-n", "1"))
    assert (best["id"], best["content"]) == ("3", texts[3])


def test_embedding_one_text_updates_the_last_use() -> None:
    before = format_utc(time.time())
    get_output("embed", "-m", "vectors", "-c", "hello")
    assert run_json_one("show", "vectors")["last_used"] >= before


def test_bytes_can_not_be_embedded_as_text() -> None:
    with pytest.raises(ValueError, match="does not support binary"):
        llm.get_embedding_model("vectors").embed(b"\x00")


def test_missing_file_error_names_the_command_that_restores_it(tiny_library: TinyLibrary) -> None:
    path = ggufs.tiny_chat(tiny_library.files / "gone.gguf")
    tiny_library.add("hf/tiny/gone:F16", path, aliases=("gone",))
    path.unlink()
    for command in (["-m", "gone", "hello"], ["-m", "gone", "hello", "--async"]):
        result = run_llm(*command)
        assert result.exit_code == 1
        assert "gone.gguf of hf/tiny/gone:F16 is missing" in result.stderr
        assert "llm hf pull tiny/gone:F16" in result.stderr
    chat = run_llm("chat", "-m", "gone", stdin="hello\nquit\n")
    assert chat.exit_code == 1
    assert "llm hf pull tiny/gone:F16" in chat.stderr


def test_file_with_a_different_digest_is_not_run(tiny_library: TinyLibrary) -> None:
    path = ggufs.tiny_chat(tiny_library.files / "other.gguf")
    tiny_library.add("hf/tiny/differs:F16", path, checks=(Check("digest", "differs", time.time()),))
    tiny_library.add("hf/tiny/grown:F16", path)
    with path.open("ab") as file:
        file.write(b"more")
    tiny_library.add("hf/tiny/differs:F16", path, checks=(Check("digest", "differs", time.time()),))
    for name, words in (("differs", "quarantined"), ("grown", "has changed and won't be run")):
        with pytest.raises(llm.ModelError, match=words) as caught:
            llm.get_model(f"hf/tiny/{name}:F16").prompt("hello").text()
        assert isinstance(caught.value, click.ClickException)
        assert isinstance(caught.value.__cause__, FileChangedError)
        assert f"llm hf verify hf/tiny/{name}:F16" in str(caught.value)


def test_modified_file_runs_only_after_it_is_verified_unchanged(tiny_library: TinyLibrary) -> None:
    path = ggufs.tiny_chat(tiny_library.files / "Written.F16.gguf")
    run("import", path, "-q")
    assert get_output("-m", "Written", "hello") == ggufs.ANSWER
    content, name = path.read_bytes(), "hf/local/Written:F16"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for words in (("-m", "Written", "hello"), ("-m", "Written", "hello", "--async")):
        refused = run_llm(*words)
        assert refused.exit_code == 1
        assert "was modified after verification and won't be run" in refused.stderr
        assert f"llm hf verify {name}" in refused.stderr
    assert f"{name} is unverified: llm hf verify {name}" in run("list").stderr
    tested = run("test", "Written", code=1).stdout
    assert re.search(r"^Verdict +loads$", tested, re.MULTILINE)
    assert f"modified after verification: llm hf verify {name}" in tested
    run("verify", "Written", code=1)
    assert f"{name} is changed: " in run("list").stderr
    assert "files differ from the recorded ones" in run("test", "Written", code=1).stdout
    assert "is quarantined" in run_llm("-m", "Written", "hello").stderr
    path.write_bytes(content)
    run("verify", "Written", code=1)
    assert get_output("-m", "Written", "hello") == ggufs.ANSWER


def test_file_of_another_size_is_listed_as_changed_at_once(tiny_library: TinyLibrary) -> None:
    path = ggufs.tiny_chat(tiny_library.files / "Longer.F16.gguf")
    run("import", path, "-q")
    with path.open("ab") as file:
        file.write(b"more")
    assert "hf/local/Longer:F16 is changed: " in run("list").stderr


def test_invalid_file_error_quotes_the_engine(tiny_library: TinyLibrary) -> None:
    path = tiny_library.files / "broken.gguf"
    path.write_bytes((tiny_library.files / "chat.gguf").read_bytes()[:-5000])
    facts = ModelFacts(kind="chat", context_length=4096, kv_bytes_per_token=512)
    one = LocalFile(path.name, "weights", path.stat().st_size, str(path))
    with tiny_library.open_db() as db:
        db.register(LocalModel("hf/local/broken:F16", None, None, None, "F16", (one,), facts))
    result = run_llm("-m", "hf/local/broken:F16", "hello")
    assert result.exit_code == 1
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output


def test_key_of_a_remote_endpoint_comes_from_the_environment(
    tiny_library: TinyLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"endpoint_key_env": "FAR_KEY", "endpoint_model": "big"}
    with register_remote_model(tiny_library, options=own) as far:
        without = run_llm("-m", "far", "hello")
        monkeypatch.setenv("FAR_KEY", "sk-secret")
        assert get_output("-m", "far", "hello") == "yes"
    assert "FAR_KEY" in without.stderr
    assert [(requested["key"], requested["model"]) for requested in far.asked] == [("Bearer sk-secret", "big")]
    assert "sk-secret" not in get_output("logs", "-n", "1", "--json")


def test_remote_endpoint_that_is_down_is_named(tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library), tiny_library.open_db() as db:
        model = db.get_model("hf/far/away:x")
        db.register(replace(model, endpoint="http://127.0.0.1:9"))
        for how in ([], ["--async"]):
            result = run_llm("-m", "far", "hello", *how)
            assert result.exit_code == 1
            assert "127.0.0.1:9" in result.stderr


def test_refusal_of_the_engine_gives_a_clear_error() -> None:
    with pytest.raises(llm.ModelError, match="the context holds 512") as caught:
        llm.get_model("tiny").prompt("word " * 5000, context=512).text()
    assert isinstance(caught.value.__cause__, EngineRequestError)
    result = run_llm("-m", "tiny", "hello", "-o", "grammar", "root ::= nonsense (")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


def test_grammar_and_schema_exclude_each_other() -> None:
    result = run_llm("-m", "tiny", "--schema", "name,", "-o", "grammar", 'root ::= "yes"', "hello")
    assert "'grammar' can't be combined with a schema" in result.stderr


def test_library_damaged_later_gives_a_clear_error() -> None:
    model = llm.get_model("tiny")
    path = paths.library_path()
    kept = path.read_bytes()
    path.write_bytes(b"no database" * 1000)
    try:
        with pytest.raises(llm.ModelError, match="damaged"):
            model.prompt("hello").text()
    finally:
        path.write_bytes(kept)


def test_warm_prompt_imports_only_necessary_modules() -> None:
    get_output("-m", "tiny", "hello")
    code = (
        "import sys; from llm.cli import cli\n"
        "try: cli(['-m', 'tiny', 'hello'])\n"
        "except SystemExit: pass\n"
        "heavy = {'huggingface_hub', 'psutil', 'rich', 'jinja2', 'filelock', 'keyring', 'xllamacpp', 'gguf', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), [name for name in sys.modules if name == 'llm_hf_models.hub.client'])"
    )
    # numpy is a package of the tests, and sqlite-utils imports it if installed. Hidden, as users do not have it.
    code = "import sys; sys.modules['numpy'] = None\n" + code.replace(
        "set(sys.modules)", "{*filter(sys.modules.get, sys.modules)}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [ggufs.ANSWER, "[] []"]
