"""Options do what they say, in a real engine: how it reasons, what it may say, how it is loaded; and their origins."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace

import llm
import pytest

from tests.conftest import Home
from tests.support import ggufs
from tests.support.commands import run, run_llm
from tests.support.model_options import defaults
from tests.support.remote_models import elsewhere
from tests.support.tiny_library import Shelf, logged, opened_shelf, said

WORDS = ggufs.THOUGHTS.split()
FIRST_WORD_ID = 7 + 256  # after the special tokens and the bytes: "Hello" of ggufs.ANSWER


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with opened_shelf(tmp_path_factory) as shelf:
        think = ggufs.tiny_chat(
            shelf.files / "think.gguf", answer=ggufs.THINKING_ANSWER, template=ggufs.THINKING_TEMPLATE
        )
        shelf.add("hf/tiny/think:F16", think, aliases=("think",))
        shelf.add("hf/tiny/chat:F16", ggufs.tiny_chat(shelf.files / "chat.gguf"), aliases=("tiny",))
        yield shelf


@pytest.fixture(autouse=True)
def _on_the_shelf(home: Home, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # noqa: ARG001
    shelf.stand_on(monkeypatch)
    yield
    shelf.tidy()


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
def test_a_model_reasons_as_much_as_it_is_told(
    think: tuple[str, ...], thoughts: str | None, how: tuple[str, ...]
) -> None:
    assert said("-m", "think", "is it so?", *think, *how) == ggufs.CONCLUSION
    assert logged()["reasoning"] == thoughts
    assert "<think>" not in json.dumps(logged()["response"])


def test_thoughts_are_shown_beside_the_answer_and_hidden_on_request() -> None:
    shown = run_llm("-m", "think", "is it so?")
    assert (shown.stdout.strip(), shown.stderr.strip()) == (ggufs.CONCLUSION, ggufs.THOUGHTS)
    assert run_llm("-m", "think", "is it so?", "-R").stderr == ""


def test_thoughts_are_events_of_their_own_sync_and_async() -> None:
    def joined(events: list[llm.StreamEvent], kind: str) -> str:
        return "".join(event.chunk for event in events if event.type == kind)

    async def later() -> list[llm.StreamEvent]:
        return [event async for event in llm.get_async_model("think").prompt("so?").astream_events()]

    for events in (list(llm.get_model("think").prompt("so?").stream_events()), asyncio.run(later())):
        assert (joined(events, "reasoning"), joined(events, "text")) == (ggufs.THOUGHTS, ggufs.CONCLUSION)


def test_what_is_kept_about_thinking_holds_until_a_prompt_says_otherwise() -> None:
    run("set", "think", "think", "off")
    said("-m", "think", "is it so?")
    assert logged()["reasoning"] is None
    said("-m", "think", "is it so?", "-o", "think", "on")
    assert logged()["reasoning"] == ggufs.THOUGHTS


# What it may say


def test_odds_of_tokens_are_raised_as_asked() -> None:
    biased = json.dumps({str(FIRST_WORD_ID + 1): 100})
    assert said("-m", "tiny", "hello", "-o", "logit_bias", biased, "-o", "max_tokens", "3") == "from from from"


def test_tokens_that_are_forbidden_are_not_said() -> None:
    forbidden = json.dumps({str(FIRST_WORD_ID): -100})
    assert not said("-m", "tiny", "hello", "-o", "logit_bias", forbidden, "-o", "max_tokens", "3").startswith("Hello")


def test_a_grammar_is_kept_to_by_a_model_that_would_say_something_else() -> None:
    assert said("-m", "tiny", "hello", "-o", "grammar", 'root ::= "no" "!"') == "no!"


@pytest.mark.parametrize(
    ("stop", "answer"),
    [("tiny", "Hello from a"), ('["model", "from"]', "Hello"), ("[x", ggufs.ANSWER), ("[1]", ggufs.ANSWER)],
)
def test_an_answer_ends_before_a_text_or_before_any_of_a_list(stop: str, answer: str) -> None:
    assert said("-m", "tiny", "hello", "-o", "stop", stop) == answer


@pytest.mark.parametrize("seed", range(4))
def test_a_json_object_is_one_or_it_is_said_that_it_was_cut(seed: int) -> None:
    result = run_llm(
        "-m", "tiny", "hello", "-o", "json_object", "1", "-o", "max_tokens", "120", "-o", "seed", str(seed)
    )
    if result.exit_code == 0:
        assert isinstance(json.loads(result.stdout), dict)
    else:
        assert result.stdout.lstrip().startswith("{")
        assert "cut off before its JSON was complete" in result.stderr


# How it is loaded


def test_options_of_another_load_start_another_engine_and_others_do_not(shelf: Shelf) -> None:
    said("-m", "tiny", "hello", "-o", "context", "1024")
    one = shelf.pids()
    for same in (("temperature", "0.5"), ("seed", "1"), ("max_tokens", "2"), ("keep_alive", "90s"), ("stop", "x")):
        said("-m", "tiny", "hello", "-o", "context", "1024", "-o", *same)
    assert shelf.pids() == one
    for count, other in enumerate((("context", "512"), ("threads", "1"), ("gpu_layers", "0")), start=1):
        before = shelf.pids()
        for _ in range(2):
            said("-m", "tiny", "hello", *(() if other[0] == "context" else ("-o", "context", "1024")), "-o", *other)
        assert len(shelf.pids() - before) == 1, other
        assert len(shelf.pids()) == len(one) + count


# Where they come from


def test_each_origin_gives_way_to_the_next_and_comes_back_when_that_is_unset(shelf: Shelf) -> None:
    recommended = {"temperature": 0.9, "top_p": 0.8}
    with elsewhere(shelf, facts={"sampling": {"temp": 0.1}}) as far:
        with shelf.db() as db:
            db.register(replace(db.find_model("far"), hub={"generation_config": recommended}))

        def sent(*words: str) -> tuple[object, object]:
            said("-m", "far", "hi", *words)
            return far.asked[-1].get("temperature"), far.asked[-1].get("top_p")

        assert sent() == (0.1, 0.8)
        assert defaults("far")["temperature"] == (0.1, "header")
        run("set", "far", "temperature", "0.4", "top_p", "0.5")
        assert sent() == (0.4, 0.5)
        assert defaults("far")["temperature"] == (0.4, "llm hf set")
        assert sent("-o", "temperature", "1") == (1, 0.5)
        run("set", "far", "--unset", "temperature", "--unset", "top_p")
        assert sent() == (0.1, 0.8)
        assert defaults("far")["top_p"] == (0.8, "generation_config.json")
