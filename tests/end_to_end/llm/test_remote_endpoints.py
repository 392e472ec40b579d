"""Models of remote endpoints, as `llm hf attach` registers them: their features, keys and addresses."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.service import Library
from tests.support import tiny_library as tiny_library_support
from tests.support.commands import run, run_llm
from tests.support.hub_server import write_certificate
from tests.support.mcp_hosts import call_refused, connect_stdio, run_async
from tests.support.relays import KEY, run_relay
from tests.support.tiny_library import PNG, TinyLibrary, get_output, read_last_log

tiny_library = tiny_library_support.tiny_library
_use_tiny_library = tiny_library_support.use_tiny_library


@dataclass
class FarServer:
    """A local server in OpenAI's protocol, with its list of models, the requests it received and their keys."""

    models: list[dict[str, Any]]
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    wants: str | None = None  # the key

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        self.keys.append(handler.headers["Authorization"])
        self.paths.append(handler.path)
        if self.wants and handler.headers["Authorization"] != f"Bearer {self.wants}":
            return 401, {"error": {"message": "who are you"}}
        if body is None:
            return 200, {"object": "list", "data": self.models}
        self.asked.append(body)
        if body.get("model") not in [one["id"] for one in self.models]:
            return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}}
        if handler.path.endswith("/embeddings"):
            return 200, {"data": [{"index": at, "embedding": [1.0, 0.0]} for at in range(len(body["input"]))]}
        message = {"role": "assistant", "content": "I see.", "reasoning": "Let me look."}
        return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


@contextmanager
def run_far_server(far: FarServer, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(None)

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: dict[str, Any] | None) -> None:
            status, output = far.answer(self, body)
            data = json.dumps(output).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        if tls is not None:
            http.socket = tls.wrap_socket(http.socket, server_side=True)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http{'s' if tls else ''}://127.0.0.1:{http.server_port}"
        http.shutdown()


SEEING = {"id": "eye", "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]}}
BLIND = {"id": "eye", "object": "model"}


@pytest.mark.parametrize(
    ("listed", "words", "types"),
    [
        (SEEING, (), "image/png"),
        (BLIND, ("--images",), "image/png"),
        (BLIND, ("--audio",), "audio/wav"),
        (SEEING, ("--audio",), "audio/wav"),
    ],
)
def test_attachments_go_to_endpoints_that_accept_them(
    listed: dict[str, Any], words: tuple[str, ...], types: str, tmp_path: Path
) -> None:
    (tmp_path / "thing").write_bytes(PNG)
    far = FarServer([listed])
    with run_far_server(far) as url:
        done = run("attach", "eye", "--endpoint", url, *words)
        kind = types.partition("/")[0]
        assert f"and {kind}" in done.stderr
        assert kind in run("show", "eye").stdout
        for how in ((), ("--no-stream",), ("--async",)):
            assert get_output("-m", "eye", "what is it?", "--at", str(tmp_path / "thing"), types, *how) == "I see."
    assert [part["type"] for part in far.asked[0]["messages"][0]["content"]] == [
        "image_url" if kind == "image" else "input_audio",
        "text",
    ]


def test_endpoint_without_image_support_gets_no_images(tmp_path: Path) -> None:
    (tmp_path / "pixel.png").write_bytes(PNG)
    far = FarServer([BLIND, {"id": "odd", "architecture": ["nonsense"]}])
    with run_far_server(far) as url:
        for name, model in (("eye", "eye"), ("odd", "odd")):
            run("attach", name, "--endpoint", url, "--model", model)
            assert (
                "does not support attachments" in run_llm("-m", name, "what?", "-a", str(tmp_path / "pixel.png")).stderr
            )
        run("attach", "vectors2", "--endpoint", url, "--model", "eye", "--kind", "embedding", "--images", code=2)
    assert far.asked == []


def test_relay_lists_the_input_types_of_each_model(tiny_library: TinyLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", KEY)
    with tiny_library.open_db() as db:
        dog = db.find_model("dog")
        db.register(replace(dog, facts=replace(dog.facts, modalities=("image",))))
    with run_relay("dog", "tiny") as (_, url):
        eye = Library().attach("eye", url, key_env="BIG_KEY", model="hf/tiny/dog:F16")
        blind = Library().attach("blind", url, key_env="BIG_KEY", model="hf/tiny/chat:F16")
    assert (eye.facts.modalities, blind.facts.modalities) == (("image",), ())
    with tiny_library.open_db() as db:
        db.register(dog)


def test_reasoning_is_read_under_both_of_its_names() -> None:
    with run_far_server(FarServer([BLIND])) as url:
        run("attach", "eye", "--endpoint", url)
        assert get_output("-m", "eye", "what?", "-o", "think", "on") == "I see."
        assert read_last_log()["reasoning"] == "Let me look."


def test_key_is_read_by_name_from_the_keys_of_llm(tiny_library: TinyLibrary) -> None:
    get_output("keys", "set", "farm", "--value", "sk-from-llm")
    far = FarServer([BLIND], wants="sk-from-llm")
    with run_far_server(far) as url:
        run("attach", "eye", "--endpoint", url, "--key-name", "farm")
        assert get_output("-m", "eye", "hello") == "I see."
        assert "llm's keys: farm" in run("show", "eye").stdout
        assert "sk-from-llm" not in run("show", "eye", "--json").stdout + (
            tiny_library.user / "hf/library.db"
        ).read_text("latin1")
        (tiny_library.user / "keys.json").write_text("{}")
        without = run_llm("-m", "eye", "hello")
        assert without.exit_code == 1
        assert "llm keys set farm" in without.stderr
        assert "llm keys set farm" in run("list").stderr or "not set" in run("list").stderr
        (tiny_library.user / "keys.json").write_text("nonsense {")
        assert "Can't read llm's keys" in run_llm("-m", "eye", "hello").stderr
        (tiny_library.user / "keys.json").unlink()


@pytest.mark.parametrize("words", [("--key-name", "sk-oops-a-secret"), ("--key-name", "x", "--key-env", "PATH")])
def test_key_unknown_to_llm_is_refused_and_not_repeated(words: tuple[str, ...]) -> None:
    done = run("attach", "eye", "--endpoint", "http://127.0.0.1:9", "--model", "x", *words, code=2)
    assert "sk-oops" not in done.output + done.stderr
    assert "hf/remote/eye" not in run("list", "--json").stdout


def test_key_of_a_prompt_precedes_the_stored_one(monkeypatch: pytest.MonkeyPatch, tiny_library: TinyLibrary) -> None:
    monkeypatch.setenv("BIG_KEY", "sk-wrong")
    far = FarServer([BLIND], wants="sk-right")
    with run_far_server(far) as url:
        run("attach", "eye", "--endpoint", url, "--key-env", "BIG_KEY", "--model", "eye")
        refused = run_llm("-m", "eye", "hello")
        assert "did not accept the key" in refused.stderr
        assert "who are you" in refused.stderr
        assert "--key-env VAR, or --key-name NAME" in refused.stderr
        for how in ((), ("--async",)):
            assert get_output("-m", "eye", "hello", "--key", "sk-right", *how) == "I see."
        get_output("keys", "set", "right", "--value", "sk-right")
        assert get_output("-m", "eye", "hello", "--key", "right") == "I see."
        assert get_output("chat", "-m", "eye", "--key", "right", stdin="hello\nquit\n").count("I see.") == 1
        run("attach", "far", "--endpoint", url, "--model", "eye", "--kind", "embedding")
        assert json.loads(get_output("embed", "-m", "far", "-c", "x", "--key", "right")) == [1, 0]
    (tiny_library.user / "keys.json").unlink()


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/"])
def test_address_works_with_and_without_its_version(tail: str) -> None:
    far = FarServer([BLIND])
    with run_far_server(far) as url:
        run("attach", "eye", "--endpoint", url + tail)
        assert get_output("-m", "eye", "hello") == "I see."
        assert "remote, up" in run("list").stdout
    assert set(far.paths) == {"/v1/models", "/v1/chat/completions"}


def test_unknown_remote_model_is_named_with_the_address() -> None:
    with run_far_server(FarServer([BLIND])) as url:
        run("attach", "eye", "--endpoint", url, "--model", "nobody")
        done = run_llm("-m", "eye", "hello")
    assert f"{url}/v1/chat/completions returned HTTP 404" in done.stderr
    assert "The model `nobody` does not exist." in done.stderr


def test_endpoint_that_does_not_list_the_model_is_up_and_says_so() -> None:
    class Generous(FarServer):
        def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
            return super().answer(handler, body and {**body, "model": "eye"})

    with run_far_server(Generous([BLIND, {"id": "odd", "aliases": "nonsense"}])) as url:
        done = run("attach", "eye", "--endpoint", url, "--model", "nobody")
        assert get_output("-m", "eye", "hello") == "I see."
        listed = run("list")
    assert "does not list the model 'nobody'" in done.stderr
    assert "remote, up" in listed.stdout
    assert "hf/remote/eye is up, but: " in listed.stderr
    assert "does not list the model 'nobody'" in listed.stderr


def test_unknown_certificate_is_reported_and_a_custom_authority_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with run_far_server(FarServer([BLIND]), tls=write_certificate(tmp_path / "cert.pem")) as url:
        refused = run("attach", "eye", "--endpoint", url, code=1)
        assert f"TLS connection to {url} failed" in refused.stderr
        assert "certificate verify failed" in refused.stderr
        assert "SSL_CERT_FILE" in refused.stderr
        plain = run("attach", "eye", "--endpoint", url.replace("https", "http"), code=1)
        assert "No response from" in plain.stderr
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        run("attach", "eye", "--endpoint", url)
        for how in ((), ("--async",)):
            assert get_output("-m", "eye", "hello", *how) == "I see."


def test_hints_for_a_remote_endpoint_omit_local_options() -> None:
    class Full(FarServer):
        def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
            if body and body.get("response_format"):
                cut = {"message": {"content": '{"na'}, "finish_reason": "length"}
                return 200, {"choices": [cut], "usage": {"completion_tokens": 3}}
            full = {"type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8, "message": "full"}
            return (400, {"error": full}) if body else super().answer(handler, body)

    with run_far_server(Full([BLIND])) as url:
        run("attach", "eye", "--endpoint", url)
        full = run_llm("-m", "eye", "hello").stderr
        cut = run_llm("-m", "eye", "a dog", "--schema", "name,", "-o", "max_tokens", "3").stderr
    assert "The prompt has 9 tokens; the context holds 8" in full
    assert "cut off before its JSON was complete" in cut
    assert "-o max_tokens N" in cut
    assert "-o context" not in full + cut


def test_template_of_a_remote_model_is_not_described() -> None:
    run("attach", "eye", "--endpoint", "http://127.0.0.1:9", "--model", "x")
    assert "Chat template" not in run("show", "eye").stdout
    assert "Chat template" in run("show", "tiny").stdout


@pytest.mark.parametrize(
    "words",
    [("check",), ("inspect",), ("inspect", "--json"), ("test",), ("path",), ("path", "--json"), ("verify",)],
    ids=" ".join,
)
def test_commands_that_need_files_refuse_a_remote_model(words: tuple[str, ...]) -> None:
    run("attach", "eye", "--endpoint", "http://127.0.0.1:9", "--model", "x")
    done = run(words[0], "eye", *words[1:], code=2)
    if "--json" in words:
        assert json.loads(done.stdout)["error"]["cause"] == "It has no local files."
        return
    assert (done.stdout, done.stderr) == (
        "",
        "Error: hf/remote/eye is served by a remote endpoint\nIt has no local files.\n",
    )


@run_async
async def test_agents_get_the_same_refusals_for_a_remote_model() -> None:
    Library().attach("eye", "http://127.0.0.1:9", model="x")
    async with connect_stdio() as client:
        for tool, words in (("hf_inspect_gguf", {"model": "eye"}), ("hf_verify_model", {"name": "eye"})):
            assert "hf/remote/eye is served by a remote endpoint" in await call_refused(client, tool, **words)


def test_endpoint_without_tls_at_an_https_address_is_reported() -> None:
    with run_far_server(FarServer([BLIND])) as url:
        refused = run("attach", "eye", "--endpoint", url.replace("http", "https"), code=1)
    assert "TLS connection to" in refused.stderr
