"""Settings of a model: stored options and the sources of defaults, a template, remote endpoints."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llm_hf_models.downloads.plan_types import PullOptions
from llm_hf_models.errors import BadInputError, EngineLostError, EngineRequestError, NameTakenError
from llm_hf_models.inference.protocol.options import SAMPLING_DEFAULTS
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models.local import remote_endpoints
from llm_hf_models.service import Library
from llm_hf_models.system import machine
from tests.support import ggufs
from tests.support import tiny_library as tiny_library_support
from tests.support.commands import run, run_json_one, run_llm
from tests.support.hub_server import HubServer
from tests.support.model_options import read_defaults
from tests.support.relays import KEY, run_relay
from tests.support.tiny_library import FUNCTION, TinyLibrary, get_output, read_last_log

RECOMMENDED = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
SHOUTING = "{%- for message in messages %}{{ message.content | upper }}\n{%- endfor %}{{- '<|im_start|>assistant\n' }}"


tiny_library = tiny_library_support.tiny_library
_use_tiny_library = tiny_library_support.use_tiny_library


# Options


def test_stored_options_apply_to_prompts_without_their_own() -> None:
    run("set", "tiny", "max_tokens", "2", "context", "1k", "keep_alive", "60s")
    get_output("-m", "tiny", "hello")
    assert (read_last_log()["output_tokens"], read_last_log()["response_json"]["context"]) == (2, 1024)
    get_output("-m", "tiny", "hello", "-o", "max_tokens", "4")
    assert read_last_log()["output_tokens"] == 4
    run("set", "tiny", "--unset", "max_tokens", "--unset", "context")
    assert get_output("-m", "tiny", "hello") == ggufs.ANSWER


def test_stored_system_prompt_applies_to_prompts_without_one() -> None:
    def input_tokens(*words: str) -> int:
        get_output("-m", "tiny", "hello", *words)
        return int(read_last_log()["input_tokens"])

    without, own = input_tokens(), input_tokens("-s", "Be brief.")
    run("set", "tiny", "system", "You are a walrus, and you know it very well.")
    assert input_tokens() > own > without
    assert input_tokens("-s", "Be brief.") == own


@pytest.mark.parametrize(
    ("words", "said_why"),
    [
        (("temprature", "1"), "Option 'temprature' of hf/tiny/chat:F16: there is no such option"),
        (("temperature", "hot"), "Option 'temperature' of hf/tiny/chat:F16"),
        (("top_p", "2"), "Option 'top_p'"),
        (("context", "5000"), "Option 'context': hf/tiny/chat:F16 supports at most 4,096 tokens"),
        (("think", "on"), "Option 'think'"),
        (("keep_alive", "soon"), "Option 'keep_alive'"),
        (("max_tokens", "many"), "'many' is not a number of tokens: Use a value such as 8192 or 16k."),
        (("temperature",), "'temperature' has no VALUE"),
        (("--unset", "seed"), "Option 'seed' is not set for hf/tiny/chat:F16"),
        (("template", "/nowhere/t.jinja"), "Option 'template': can't read the file"),
        (("endpoint_model", "x"), "Option 'endpoint_model'"),
    ],
)
def test_wrong_option_is_named_and_nothing_is_stored(
    words: tuple[str, ...], said_why: str, tiny_library: TinyLibrary
) -> None:
    assert said_why in run("set", "tiny", *words, code=2).stderr
    with tiny_library.open_db() as db:
        assert db.find_model("tiny").options == {}


def test_one_wrong_option_among_good_ones_stores_none(tiny_library: TinyLibrary) -> None:
    run("set", "tiny", "seed", "7", "top_k", "many", code=2)
    with tiny_library.open_db() as db:
        assert db.find_model("tiny").options == {}


@pytest.mark.parametrize(
    ("words", "said_why"),
    [
        (("--unset", "seed"), "Option 'seed' can't be both set and unset"),
        (("--unset", "top_k", "--unset", "seed"), "Option 'seed' can't be both set and unset"),
        (("seed", "9"), "'seed' is given twice"),
    ],
)
def test_contradictory_options_change_nothing(words: tuple[str, ...], said_why: str, tiny_library: TinyLibrary) -> None:
    run("set", "tiny", "seed", "7", "top_k", "5")
    assert said_why in run("set", "tiny", "seed", "8", *words, code=2).stderr
    with tiny_library.open_db() as db:
        assert db.find_model("tiny").options == {"seed": 7, "top_k": 5}


def test_options_that_the_model_does_not_use_are_not_stored() -> None:
    assert "'temperature' of hf/tiny/embed:F32" in run("set", "vectors", "temperature", "1", code=2).stderr
    run("attach", "far", "--endpoint", "http://127.0.0.1:9", "--model", "x", "--kind", "embedding")
    for key, kind in (("context", "a model on a remote endpoint"), ("temperature", "an embedding model")):
        assert f"'{key}' of hf/remote/far: not supported by {kind}\n" in run("set", "far", key, "1", code=2).stderr
    run("set", "vectors", "keep_alive", "-1")
    assert read_defaults("vectors")["keep_alive"] == (-1, "llm hf set")


def test_show_lists_the_sampling_values_in_force_with_ranges(tiny_library: TinyLibrary) -> None:
    with tiny_library.open_db() as db:
        dog = db.find_model("dog")
        db.register(replace(dog, facts=replace(dog.facts, sampling={"temp": 0.1})))
    run("set", "dog", "top_k", "22", "max_tokens", "500")
    found = {one["key"]: one for one in run_json_one("show", "dog")["sampling"]}
    assert found["temperature"] == {"key": "temperature", "value": 0.1, "source": "header", "minimum": 0, "maximum": 10}
    assert (found["top_k"]["value"], found["top_k"]["maximum"]) == (22, None)
    assert (found["min_p"]["value"], found["min_p"]["source"]) == (0.05, "default")
    shown = run("show", "dog").stdout
    assert re.search(r"^temperature +0\.1 +0 to 10 +header$", shown, re.MULTILINE)
    assert re.search(r"^top_k +22 +at least 0 +llm hf set$", shown, re.MULTILINE)
    assert re.search(r"^max_tokens +500 +at least 1 +llm hf set$", shown, re.MULTILINE)
    assert re.search(r"^top_p +0\.95 +0 to 1 +default$", shown, re.MULTILINE)
    assert re.search(r"^max_tokens +no limit +at least 1 +default$", run("show", "tiny").stdout, re.MULTILINE)
    assert run_json_one("show", "vectors")["sampling"] == []
    listed = json.loads(run("list", "--json").stdout)["models"]
    assert all(one["sampling"] == [] for one in listed)
    with tiny_library.open_db() as db:
        db.register(dog)


def test_options_of_llm_list_ranges_and_defaults() -> None:
    listed = " ".join(get_output("models", "--options", "-m", "tiny").split())
    assert "Range: 0 to 10. Default: 0.8." in listed
    assert "Range: -1 to 4,294,967,295. Default: -1." in listed
    assert "Range: 0 to 100,000. Default: 1000." in listed


def test_default_sampling_is_that_of_llama_cpp() -> None:
    code = (
        "import json, xllamacpp; found = xllamacpp.CommonParams().sampling\n"
        "print(json.dumps({name: getattr(found, name) for name in ('temp', 'top_p', 'top_k', 'min_p', 'penalty_repeat',"
        " 'penalty_present', 'penalty_freq', 'mirostat', 'seed')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = [round(value, 4) for value in json.loads(done.stdout).values()]
    assert found[-1] == 2**32 - 1  # a random seed, which is -1 in requests
    assert found[:-1] == list(SAMPLING_DEFAULTS.values())[:8]


def test_show_names_the_source_of_each_default(tiny_library: TinyLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = {"temp": 0.1, "top_k": 11.0}
    with tiny_library.open_db() as db:
        dog = db.find_model("dog")
        facts = {**vars(dog.facts), "sampling": sampling}
        config = {"temperature": 0.9, "top_p": 0.8, "repetition_penalty": 1.1}
        db.register(
            LocalModel(**{**vars(dog), "facts": type(dog.facts)(**facts), "hub": {"generation_config": config}})
        )
    monkeypatch.setenv("LLM_HF_KEEP_ALIVE", "7m")
    run("set", "dog", "top_k", "22", "stop", "END")
    found = read_defaults("dog")
    assert found["top_k"] == (22, "llm hf set")
    assert found["stop"] == ("END", "llm hf set")
    assert found["temperature"] == (0.1, "header")
    assert found["top_p"] == (0.8, "generation_config.json")
    assert found["repeat_penalty"] == (1.1, "generation_config.json")
    assert found["context"] == (4096, "header")  # the setting wants more than the model has
    assert found["keep_alive"] == (420, "setting (environment)")
    assert found["gpu_layers"] == (-1, "setting (default)")
    assert found["threads"] == (machine.choose_thread_count(), "this machine")
    shown = run("show", "dog").stdout
    assert re.search(r"^temperature +0\.1 +header$", shown, re.MULTILINE)
    assert re.search(r"^top_p +0\.8 +generation_config\.json$", shown, re.MULTILINE)
    assert re.search(r"^top_k +22 +llm hf set$", shown, re.MULTILINE)
    assert re.search(r"^keep_alive +7m", shown, re.MULTILINE), shown
    assert "keep_alive" in run("set", "dog").stdout


def test_engine_uses_a_custom_chat_template(tmp_path: Path) -> None:
    (tmp_path / "shout.jinja").write_text(SHOUTING)
    get_output("-m", "tiny", "hello")
    before = read_last_log()["input_tokens"]
    run("set", "tiny", "template", str(tmp_path / "shout.jinja"))
    (tmp_path / "shout.jinja").unlink()  # the template is stored, not the path
    assert get_output("-m", "tiny", "hello") == ggufs.ANSWER
    assert read_last_log()["input_tokens"] < before
    assert f"{len(SHOUTING)} characters" in run("show", "tiny").stdout
    refused = run_llm("-m", "tiny", "--functions", FUNCTION, "weather?")
    assert refused.exit_code != 0
    assert "does not support tools" in refused.output
    run("set", "tiny", "--unset", "template")
    get_output("-m", "tiny", "hello")
    assert read_last_log()["input_tokens"] == before


def test_show_and_check_describe_the_template_in_use(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(SHOUTING + "{# \u200b #}")
    run("test", "tiny")
    assert "another chat template" not in run("show", "tiny").stdout
    run("set", "tiny", "template", str(tmp_path / "own.jinja"))
    assert "with another chat template than the current one: llm hf test hf/tiny/chat:F16" in run("show", "tiny").stdout
    checked = run("check", "tiny").stdout
    assert re.search(r"^warning +template-invisible-characters +llm hf set template ", checked, re.MULTILINE)
    assert "your own (llm hf set), checked too; the file's template is not used" in checked
    run("test", "tiny")
    assert "another chat template" not in run("show", "tiny").stdout
    run("set", "tiny", "--unset", "template")
    assert "another chat template" in run("show", "tiny").stdout
    assert "invisible" not in run("check", "tiny").stdout
    assert "your own" not in run("check", "tiny").stdout


def test_base_model_with_a_template_becomes_a_chat_model(tmp_path: Path) -> None:
    (tmp_path / "shout.jinja").write_text(SHOUTING)
    run("set", "base", "template", str(tmp_path / "shout.jinja"))
    get_output("-m", "base", "hello")
    get_output("-c", "and then?")
    assert run_json_one("show", "base")["kind"] == "chat"
    run("set", "base", "--unset", "template")
    assert "does not support conversations" in run_llm("-c", "and then?").stderr


def test_template_that_would_hang_the_engine_is_not_stored(tmp_path: Path, tiny_library: TinyLibrary) -> None:
    (tmp_path / "bad.jinja").write_text(
        "{% for a in range(1000000) %}{% for b in range(1000000) %}x{% endfor %}{% endfor %}"
    )
    assert "Option 'template'" in run("set", "tiny", "template", str(tmp_path / "bad.jinja"), code=2).stderr
    with tiny_library.open_db() as db:
        assert db.find_model("tiny").options == {}


@pytest.mark.parametrize("template", ["{% for", "{{ x", "{% if 1 %}hello", "{% endfor %}"])
def test_unreadable_template_is_not_stored(template: str, tmp_path: Path, tiny_library: TinyLibrary) -> None:
    (tmp_path / "bad.jinja").write_text(template)
    assert (
        "Option 'template' can't be read" in run("set", "tiny", "template", str(tmp_path / "bad.jinja"), code=2).stderr
    )
    with tiny_library.open_db() as db:
        assert db.find_model("tiny").options == {}


def test_template_refused_by_the_engine_is_reported_by_test_and_prompt(tmp_path: Path) -> None:
    (tmp_path / "odd.jinja").write_text("{{ no_such_function(1) }}")
    run("set", "tiny", "template", str(tmp_path / "odd.jinja"))
    assert "template" in run_json_one("test", "tiny", code=1)["result"]["engine_log"]
    for how in ((), ("--async",)):
        assert "llm hf set hf/tiny/chat:F16 --unset template" in run_llm("-m", "tiny", "hello", *how).stderr
    run("set", "tiny", "--unset", "template")
    run("test", "tiny")


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({**RECOMMENDED, "do_sample": True, "eos_token_id": 2}, RECOMMENDED),
        ({"temperature": 0.6, "do_sample": False}, {}),
        ("nonsense {", {}),
        ('{"temperature": NaN, "top_k": true, "top_p": "x"}', {}),
    ],
)
def test_pull_stores_the_options_of_generation_config(
    config: object, kept: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "fresh"))
    with HubServer() as hub:
        weights = ggufs.tiny_chat(tmp_path / "tiny-F16.gguf")
        hub.add_repo("acme/tiny-GGUF", {"tiny-F16.gguf": weights, "generation_config.json": text})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        library = Library()
        done = library.pull("acme/tiny-GGUF", PullOptions())
        found = {one.key: one.value for one in library.show(str(done.id)).defaults if one.source != "this machine"}
        assert {key: found[key] for key in ("temperature", "top_p", "top_k") if key in found} == kept
        requested = [
            request for request in hub.requests if re.search("/resolve/.*/generation_config.json", request.path)
        ]
        assert len(requested) == 1
        assert library.plan("acme/tiny-GGUF").already_complete


# Remote endpoints


def test_llm_prompts_a_remote_endpoint_like_a_local_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", KEY)
    with run_relay("tiny", "dog", "vectors") as (_, url):
        run("attach", "big", "--endpoint", f"{url}/v1", "--key-env", "BIG_KEY", "--model", "hf/tiny/chat:F16")
        run("attach", "pets", "--endpoint", url, "--key-env", "BIG_KEY", "--model", "hf/tiny/dog:F16")
        done = run(
            "attach", "far", "--endpoint", url, "--key-env", "BIG_KEY", "--model", "vectors", "--kind", "embedding"
        )
        assert "llm embed -m far" in done.stderr
        for how in ((), ("--no-stream",), ("--async",)):
            assert get_output("-m", "big", "hello", *how) == ggufs.ANSWER
            assert get_output("-m", "big", "--functions", FUNCTION, "weather?", *how).endswith(ggufs.TOOL_ANSWER)
            assert json.loads(get_output("-m", "pets", "--schema", "name,", "a dog", *how)) == {"name": "Rex"}
        assert read_last_log()["resolved_model"] == "hf/tiny/dog:F16"
        assert len(json.loads(get_output("embed", "-m", "far", "-c", "hello"))) == ggufs.WIDTH
        rows = {row["id"]: row for row in json.loads(run("list", "--json").stdout)["models"]}
        assert rows["hf/remote/big"]["health"] == {"id": "hf/remote/big", "up": True, "problem": None}
        assert "remote, up" in run("list").stdout
        assert KEY not in run("show", "big").stdout + run("show", "big", "--json").stdout
    listed = run("list")
    assert "remote, down" in listed.stdout
    assert "hf/remote/big is down: No response from" in listed.stderr
    run("rm", "-y", "big")
    assert "hf/remote/big" not in run("list", "--json").stdout
    assert run_llm("-m", "big", "hello").exit_code != 0


def test_endpoint_with_one_model_needs_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", KEY)
    with run_relay("dog") as (_, url):
        found = Library().attach("one", url, key_env="BIG_KEY")
        assert (found.endpoint_model, found.key_env, found.options) == ("hf/tiny/dog:F16", "BIG_KEY", {})
    with run_relay("dog", "tiny") as (_, url), pytest.raises(BadInputError, match="serves 2 models") as caught:
        Library().attach("two", url, key_env="BIG_KEY")
    assert "hf/tiny/chat:F16" in str(caught.value.cause)
    assert "--model ID" in str(caught.value.hint)


def test_attaching_again_moves_the_name_and_keeps_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", KEY)
    library = Library()
    library.attach("big", "http://127.0.0.1:9", model="old", key_env="BIG_KEY")
    library.set_options("big", {"temperature": 0.5})
    moved = library.attach("big", "http://127.0.0.1:8/v1/", model="new")
    assert (moved.endpoint, moved.endpoint_model, moved.key_env) == ("http://127.0.0.1:8/v1", "new", None)
    assert moved.options == {"temperature": 0.5}
    with pytest.raises(BadInputError, match="'context'"):
        library.set_options("big", {"context": 4096})
    with pytest.raises(NameTakenError):
        library.attach("tiny", "http://127.0.0.1:9", model="x")
    assert "hf/remote/tiny" not in [model.id for model in library.list()]


@pytest.mark.parametrize(
    "url",
    ["", "gpu-box:8000", "ftp://x/", "http://", "http://u:p@x/", "http://x/?key=1", "http://x:99999", "http://[::"],
)
def test_invalid_address_is_not_attached(url: str) -> None:
    done = run("attach", "big", "--endpoint", url, "--model", "x", code=2)
    assert "is not the address of a server" in done.stderr


def test_endpoint_that_is_down_can_be_attached_only_with_a_model_name() -> None:
    with pytest.raises(EngineLostError, match=r"127\.0\.0\.1:9"):
        Library().attach("down", "http://127.0.0.1:9")
    done = run("attach", "down", "--endpoint", "http://127.0.0.1:9", "--model", "x")
    assert "The server does not respond now: No response from http://127.0.0.1:9" in done.stderr


def test_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIG_KEY", raising=False)
    Library().attach("big", "http://127.0.0.1:9", model="x", key_env="BIG_KEY")
    assert "BIG_KEY" in run_llm("-m", "big", "hello").stderr


@pytest.mark.parametrize(
    ("kept", "remedy"),
    [
        ({"key_env": "BIG_KEY"}, "Set the environment variable BIG_KEY."),
        ({"key_name": "big"}, "llm keys set big"),
    ],
    ids=["of a variable", "among llm's"],
)
def test_model_with_a_missing_key_is_not_reported_as_down(
    kept: dict[str, str], remedy: str, tiny_library: TinyLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tiny_library.user / "keys.json"
    keys.write_text('{"big": "k"}')
    monkeypatch.delenv("BIG_KEY", raising=False)
    Library().attach("big", "http://127.0.0.1:9", model="x", **kept)  # type: ignore[arg-type]
    keys.write_text("{}")
    listed = run("list")
    assert "remote, no key" in listed.stdout
    reported = f"hf/remote/big was not checked: The key of hf/remote/big at http://127.0.0.1:9 is not set. {remedy}\n"
    assert listed.stderr == reported
    assert [row["health"]["up"] for row in json.loads(run("list", "--json").stdout)["models"] if row["endpoint"]] == [
        None
    ]


def test_key_sent_without_encryption_is_reported() -> None:
    library = Library()
    assert library.attach("a", "http://192.0.2.1:1", model="x", key_env="PATH").key_in_the_clear
    assert not library.attach("b", "https://127.0.0.1:1", model="x", key_env="PATH").key_in_the_clear
    assert not library.attach("c", "http://127.0.0.1:1", model="x", key_env="PATH").key_in_the_clear


def test_relay_lists_every_name_that_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", KEY)
    with run_relay("dog", "tiny") as (_, url):
        done = run("attach", "big", "--endpoint", url, "--key-env", "BIG_KEY", "--model", "dog")
        assert get_output("-m", "big", "hello") == '{"name": "Rex"}'
        listed = run("list")
    assert "does not list the model" not in done.stderr + listed.stderr
    assert "remote, up" in listed.stdout


def test_suggested_attach_command_repeats_the_given_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BIG_KEY", KEY)
    with run_relay("dog", "tiny") as (_, url):
        for words in (
            ("--endpoint", f"{url}/v1", "--key-env", "BIG_KEY", "--images"),
            ("--endpoint", url, "--key-env", "BIG_KEY", "--kind", "embedding"),
        ):
            done = run("attach", "big", *words, code=2)
            assert f"llm hf attach big {' '.join(words)} --model ID" in done.stderr


def test_attaching_a_silent_server_fails_within_its_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url, began = f"http://127.0.0.1:{silent.getsockname()[1]}", time.monotonic()
        refused = run("attach", "far", "--endpoint", url, code=1).stderr
        assert time.monotonic() - began < 2 * remote_endpoints.ATTACH_SECONDS
    assert refused == f"Error: No response from {url}\ntimed out after 5 s\nCheck that the server is running.\n"


def test_silent_endpoint_delays_the_list_only_up_to_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_endpoints, "ATTACH_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for name in ("one", "two", "three"):
            Library().attach(name, f"http://127.0.0.1:{port}", model="x")
        began = time.monotonic()
        found = Library().list(health=True)
        assert time.monotonic() - began < remote_endpoints.HEALTH_SECONDS + 2
        down = [model.health for model in found if model.endpoint]
        assert len(down) == 3
        assert all(health is not None and not health.up for health in down)


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (200, b"<html>", "not in OpenAI's protocol"),
        (401, b'{"error": {"message": "who are you"}}', "did not accept the key"),
        (500, b"", "500"),
    ],
)
def test_endpoint_with_an_invalid_response_is_down_with_a_reason(status: int, body: bytes, problem: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as odd:
        threading.Thread(target=odd.serve_forever, daemon=True).start()
        Library().attach("odd", f"http://127.0.0.1:{odd.server_port}", model="x")
        (health,) = [model.health for model in Library().list(health=True) if model.endpoint]
        odd.shutdown()
    assert health is not None
    assert not health.up
    assert problem in str(health.problem)


def test_python_prompt_has_the_stored_options_and_its_own_advice() -> None:
    run("set", "tiny", "json_object", "on", "context", "512")
    assert Library().prompt("tiny", "hello", options={"max_tokens": 20}).text.lstrip().startswith("{")
    with pytest.raises(EngineRequestError, match="the context holds 512") as caught:
        Library().prompt("tiny", "word " * 3000)
    assert "-o" not in str(caught.value)
