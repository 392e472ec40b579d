"""Options take effect in a real engine: reasoning, sampling, loading; and where options come from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import llm
import pytest

from tests.support import ggufs
from tests.support import tiny_library as tiny_library_support
from tests.support.commands import run, run_llm
from tests.support.model_options import read_defaults
from tests.support.remote_models import register_remote_model
from tests.support.tiny_library import TinyLibrary, get_output, open_empty_library, read_last_log

WORDS = ggufs.THOUGHTS.split()
FIRST_WORD_ID = 7 + 256  # after the special tokens and the bytes: "Hello" of ggufs.ANSWER
_SWITCH = "enable_thinking is defined and not enable_thinking"
GRANITE = "{%- set thinking = thinking if thinking is defined else false %}" + ggufs.THINKING_TEMPLATE.replace(
    _SWITCH, "not thinking"
)
TEMPLATES = {
    "granite": GRANITE,
    "gpt-oss": ggufs.THINKING_TEMPLATE.replace(_SWITCH, "reasoning_effort == 'low'"),
    "always": ggufs.THINKING_TEMPLATE.replace(_SWITCH, "false"),
    # The words occur, but not as variables of the request.
    "unrelated": "{%- set thinking = messages[0].thinking %}{{- 'reasoning_effort' if thinking else '' }}"
    + ggufs.THINKING_TEMPLATE,
}


@pytest.fixture(scope="module")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    with open_empty_library(tmp_path_factory) as library:
        think = ggufs.tiny_chat(
            library.files / "think.gguf", answer=ggufs.THINKING_ANSWER, template=ggufs.THINKING_TEMPLATE
        )
        library.add("hf/tiny/think:F16", think, aliases=("think",))
        for name, template in TEMPLATES.items():
            path = ggufs.tiny_chat(library.files / f"{name}.gguf", answer=ggufs.THINKING_ANSWER, template=template)
            library.add(f"hf/tiny/{name}:F16", path, aliases=(name,))
        library.add("hf/tiny/chat:F16", ggufs.tiny_chat(library.files / "chat.gguf"), aliases=("tiny",))
        yield library


_use_tiny_library = tiny_library_support.use_tiny_library


# Reasoning


@pytest.mark.parametrize("how", [(), ("--no-stream",), ("--async",)])
@pytest.mark.parametrize(
    ("think", "thoughts"),
    [
        ((), ggufs.THOUGHTS),
        (("-o", "think", "on"), ggufs.THOUGHTS),
        (("-o", "think", "off"), None),
        (("-o", "think", "0"), None),
        (("-o", "think", "3"), " ".join(WORDS[:3])),
    ],
)
def test_thinking_option_controls_how_much_a_model_reasons(
    think: tuple[str, ...], thoughts: str | None, how: tuple[str, ...]
) -> None:
    assert get_output("-m", "think", "is it so?", *think, *how) == ggufs.CONCLUSION
    assert read_last_log()["reasoning"] == thoughts
    assert "<think>" not in json.dumps(read_last_log()["response"])


def test_thoughts_are_shown_next_to_the_answer_or_hidden() -> None:
    shown = run_llm("-m", "think", "is it so?")
    assert (shown.stdout.strip(), shown.stderr.strip()) == (ggufs.CONCLUSION, ggufs.THOUGHTS)
    assert run_llm("-m", "think", "is it so?", "-R").stderr == ""


def test_thoughts_are_separate_events_in_sync_and_async() -> None:
    def joined(events: list[llm.StreamEvent], kind: str) -> str:
        return "".join(event.chunk for event in events if event.type == kind)

    async def later() -> list[llm.StreamEvent]:
        return [event async for event in llm.get_async_model("think").prompt("so?").astream_events()]

    for events in (list(llm.get_model("think").prompt("so?").stream_events()), asyncio.run(later())):
        assert (joined(events, "reasoning"), joined(events, "text")) == (ggufs.THOUGHTS, ggufs.CONCLUSION)


def test_stored_thinking_option_applies_unless_a_prompt_sets_its_own() -> None:
    run("set", "think", "think", "off")
    get_output("-m", "think", "is it so?")
    assert read_last_log()["reasoning"] is None
    get_output("-m", "think", "is it so?", "-o", "think", "on")
    assert read_last_log()["reasoning"] == ggufs.THOUGHTS


@pytest.mark.parametrize(
    ("model", "words", "thoughts"),
    [
        ("think", ("enable_thinking", "on"), ggufs.THOUGHTS),
        ("think", ("enable_thinking", "false"), None),
        ("think", ("reasoning_effort", "none"), None),
        ("granite", (), None),
        ("granite", ("think", "on"), ggufs.THOUGHTS),
        ("granite", ("thinking", "1"), ggufs.THOUGHTS),
        ("granite", ("think", "2"), " ".join(WORDS[:2])),
        ("granite", ("think", "off"), None),
        ("gpt-oss", (), ggufs.THOUGHTS),
        ("gpt-oss", ("reasoning_effort", "LOW"), None),
        ("always", (), ggufs.THOUGHTS),
        ("always", ("think", "off"), None),
        ("always", ("think", "2"), " ".join(WORDS[:2])),
    ],
)
def test_switch_of_each_template_turns_reasoning_on_or_off(
    model: str, words: tuple[str, ...], thoughts: str | None
) -> None:
    assert get_output("-m", model, "is it so?", *(("-o", *words) if words else ())) == ggufs.CONCLUSION
    assert read_last_log()["reasoning"] == thoughts


@pytest.mark.parametrize(
    ("model", "words", "said_why"),
    [
        (
            "think",
            ("thinking", "on"),
            "does not read the variable thinking\nIt supports these options: think, enable_th",
        ),
        ("think", ("reasoning_effort", "high"), "does not read the variable reasoning_effort\n"),
        (
            "granite",
            ("enable_thinking", "off"),
            "does not read the variable enable_thinking\nIt supports these options",
        ),
        ("granite", ("reasoning_effort", "high"), "does not read the variable reasoning_effort"),
        ("gpt-oss", ("think", "on"), "has no switch for reasoning\nIt supports these options: reasoning_effort."),
        ("always", ("think", "on"), "has no switch for reasoning\nThe model decides itself"),
        ("always", ("reasoning_effort", "none"), "does not read the variable reasoning_effort"),
        ("tiny", ("think", "on"), "has no switch for reasoning\n"),
        ("tiny", ("think", "100"), "does not support reasoning\n"),
        ("tiny", ("thinking", "off"), "does not read the variable thinking\n"),
        ("tiny", ("enable_thinking", "off"), "does not read the variable enable_thinking\n"),
        ("unrelated", ("thinking", "off"), "does not read the variable thinking\n"),
        ("unrelated", ("reasoning_effort", "low"), "does not read the variable reasoning_effort\n"),
    ],
)
def test_switch_that_the_template_never_reads_is_refused(
    model: str, words: tuple[str, ...], said_why: str, tiny_library: TinyLibrary
) -> None:
    before = tiny_library.find_pids()
    result = run_llm("-m", model, "hello", "-o", *words)
    assert result.exit_code == 1
    assert result.stderr.startswith(
        f"Error: Option {words[0]!r}: the chat template of hf/tiny/{model}:F16 ".replace("/tiny:", "/chat:")
    )
    assert said_why in result.stderr
    assert said_why in run("set", model, *words, code=2).stderr
    assert tiny_library.find_pids() <= before


def test_template_of_the_user_decides_which_switches_exist(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(GRANITE)
    refused = run("set", "think", "template", str(tmp_path / "own.jinja"), "enable_thinking", "on", code=2).stderr
    assert "does not read the variable enable_thinking" in refused
    run("set", "think", "template", str(tmp_path / "own.jinja"), "thinking", "on")
    get_output("-m", "think", "is it so?")
    assert read_last_log()["reasoning"] == ggufs.THOUGHTS
    get_output("-m", "think", "is it so?", "-o", "think", "off")
    assert read_last_log()["reasoning"] is None


def test_switch_of_a_prompt_replaces_a_stored_one_of_another_name(tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library) as far:
        run("set", "far", "enable_thinking", "on", "reasoning_effort", "high")
        get_output("-m", "far", "hi", "-o", "think", "off")
        get_output("-m", "far", "hi", "-o", "thinking", "off")
        run("set", "far", "think", "100")
        get_output("-m", "far", "hi")
    assert [body["chat_template_kwargs"] for body in far.asked] == [
        {"enable_thinking": False, "thinking": False},
        {"thinking": False},
        {"enable_thinking": True, "thinking": True},
    ]
    assert [body.get("thinking_budget_tokens") for body in far.asked] == [0, None, 100]
    assert not any("reasoning_effort" in body for body in far.asked)


# Sampling


def test_logit_bias_raises_the_odds_of_tokens() -> None:
    biased = json.dumps({str(FIRST_WORD_ID + 1): 100})
    assert get_output("-m", "tiny", "hello", "-o", "logit_bias", biased, "-o", "max_tokens", "3") == "from from from"


def test_forbidden_tokens_are_not_generated() -> None:
    forbidden = json.dumps({str(FIRST_WORD_ID): -100})
    assert not get_output("-m", "tiny", "hello", "-o", "logit_bias", forbidden, "-o", "max_tokens", "3").startswith(
        "Hello"
    )


def test_grammar_overrides_what_the_model_would_generate() -> None:
    assert get_output("-m", "tiny", "hello", "-o", "grammar", 'root ::= "no" "!"') == "no!"


@pytest.mark.parametrize(
    ("stop", "answer"),
    [("tiny", "Hello from a"), ('["model", "from"]', "Hello"), ("[x", ggufs.ANSWER), ("[1]", ggufs.ANSWER)],
)
def test_answer_ends_before_a_stop_text_or_any_of_a_list(stop: str, answer: str) -> None:
    assert get_output("-m", "tiny", "hello", "-o", "stop", stop) == answer


@pytest.mark.parametrize("seed", range(4))
def test_json_object_is_valid_or_reported_as_cut(seed: int) -> None:
    result = run_llm(
        "-m", "tiny", "hello", "-o", "json_object", "1", "-o", "max_tokens", "120", "-o", "seed", str(seed)
    )
    if result.exit_code == 0:
        assert isinstance(json.loads(result.stdout), dict)
    else:
        assert result.stdout.lstrip().startswith("{")
        assert "cut off before its JSON was complete" in result.stderr


# Loading


def test_load_options_start_another_engine_and_others_do_not(tiny_library: TinyLibrary) -> None:
    get_output("-m", "tiny", "hello", "-o", "context", "1024")
    one = tiny_library.find_pids()
    for same in (("temperature", "0.5"), ("seed", "1"), ("max_tokens", "2"), ("keep_alive", "90s"), ("stop", "x")):
        get_output("-m", "tiny", "hello", "-o", "context", "1024", "-o", *same)
    assert tiny_library.find_pids() == one
    for count, other in enumerate((("context", "512"), ("threads", "1"), ("gpu_layers", "0")), start=1):
        before = tiny_library.find_pids()
        for _ in range(2):
            get_output(
                "-m", "tiny", "hello", *(() if other[0] == "context" else ("-o", "context", "1024")), "-o", *other
            )
        assert len(tiny_library.find_pids() - before) == 1, other
        assert len(tiny_library.find_pids()) == len(one) + count


# Sources


def test_options_fall_back_to_the_next_source_when_unset(tiny_library: TinyLibrary) -> None:
    recommended = {"temperature": 0.9, "top_p": 0.8}
    with register_remote_model(tiny_library, facts={"sampling": {"temp": 0.1}}) as far:
        with tiny_library.open_db() as db:
            db.register(replace(db.find_model("far"), hub={"generation_config": recommended}))

        def sent(*words: str) -> tuple[object, object]:
            get_output("-m", "far", "hi", *words)
            return far.asked[-1].get("temperature"), far.asked[-1].get("top_p")

        assert sent() == (0.1, 0.8)
        assert read_defaults("far")["temperature"] == (0.1, "header")
        run("set", "far", "temperature", "0.4", "top_p", "0.5")
        assert sent() == (0.4, 0.5)
        assert read_defaults("far")["temperature"] == (0.4, "llm hf set")
        assert sent("-o", "temperature", "1") == (1, 0.5)
        run("set", "far", "--unset", "temperature", "--unset", "top_p")
        assert sent() == (0.1, 0.8)
        assert read_defaults("far")["top_p"] == (0.8, "generation_config.json")
