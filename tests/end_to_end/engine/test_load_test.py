"""Load tests of real files by real llama.cpp: valid, invalid and hostile ones."""

from __future__ import annotations

import struct
import sys
import time
from pathlib import Path

import pytest

from llm_hf_models import settings
from llm_hf_models.errors import BadInputError, EngineStartError, MissingFileError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.inference import engine, load_test
from llm_hf_models.inference.confinement import SANDBOX_OFF
from tests.support import ggufs

CHAT, BASE, EMBEDDING = (ModelFacts(kind=kind) for kind in ("chat", "base", "embedding"))
# A machine without Landlock or seccomp runs the tests too, and reports which layers apply.
LINUX_LAYERS = ("rlimits", "user-namespace", "network-namespace", "landlock", "seccomp")
HANGS = "{% for i in range(1000000) %}{% for j in range(1000000) %}{% endfor %}{% endfor %}x"
DEEP = "{{" + "(" * 20_000 + "1" + ")" * 20_000 + "}}"


def set_value(path: Path, key: str, value: int) -> Path:
    """Return the file with one uint32 of its metadata replaced."""
    data = bytearray(path.read_bytes())
    at = data.index(key.encode()) + len(key)
    assert struct.unpack_from("<I", data, at) == (4,), "a uint32 by gguf's numbering"
    struct.pack_into("<I", data, at + 4, value)
    path.write_bytes(data)
    return path


def test_chat_model_loads_and_generates_text(tmp_path: Path) -> None:
    result = load_test.run_load_test(ggufs.tiny_chat(tmp_path / "m.gguf"), CHAT)
    assert (result.verdict, result.reason, result.output) == ("loads", "", ggufs.ANSWER)
    assert result.passed
    assert result.load_seconds is not None
    assert 0 < result.load_seconds < 60
    assert result.peak_memory is not None
    assert 10**7 < result.peak_memory < 10**9
    assert result.tokens_per_second is not None
    assert result.tokens_per_second > 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other layers")
def test_result_names_the_layers_that_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ggufs.tiny_chat(tmp_path / "m.gguf")
    confined = load_test.run_load_test(model, CHAT)
    monkeypatch.setenv("LLM_HF_SANDBOX", "off")
    open_ = load_test.run_load_test(model, CHAT)
    assert {*confined.layers, *(layer for layer, _why in confined.missing)} == set(LINUX_LAYERS)
    assert "rlimits" in confined.layers
    assert (open_.layers, open_.missing) == ((), (SANDBOX_OFF,))
    assert open_.verdict == confined.verdict == "loads"


def test_base_model_continues_a_text(tmp_path: Path) -> None:
    result = load_test.run_load_test(ggufs.tiny_base(tmp_path / "m.gguf"), BASE)
    assert (result.verdict, result.output) == ("loads", ggufs.ANSWER)


def test_embedding_model_embeds_a_sentence(tmp_path: Path) -> None:
    result = load_test.run_load_test(ggufs.tiny_embedding(tmp_path / "m.gguf"), EMBEDDING)
    assert (result.verdict, result.output, result.tokens_per_second) == ("loads", "", None)


def test_split_model_loads_through_links_of_the_cache(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    shards = []
    for number, shard in enumerate(ggufs.tiny_split(tmp_path / "blobs")):
        blob = shard.rename(shard.with_name(str(number)))
        link = tmp_path / "snapshot" / shard.name
        link.symlink_to(blob)
        shards.append(link)
    assert load_test.run_load_test(shards, CHAT).verdict == "loads"


def test_one_repeated_token_is_nonsense(tmp_path: Path) -> None:
    result = load_test.run_load_test(ggufs.tiny_chat(tmp_path / "m.gguf", answer="la", endless=True), CHAT)
    assert result.verdict == "answers nonsense"
    assert "same token" in result.reason
    assert not result.passed


def test_tensors_that_are_not_numbers_are_found_before_generation(tmp_path: Path) -> None:
    model = ggufs.tiny_chat(tmp_path / "m.gguf")
    data = bytearray(model.read_bytes())
    data[-256:] = b"\x00\x7e" * 128  # NaN in float16
    model.write_bytes(data)
    result = load_test.run_load_test(model, CHAT)
    assert result.verdict == "fails"
    assert "invalid data" in result.engine_log


@pytest.mark.parametrize(
    "broken", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 16, b"<html>not a model</html>", b"\0" * 4096]
)
def test_invalid_file_fails_with_the_message_of_llama_cpp(tmp_path: Path, broken: bytes) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(broken)
    result = load_test.run_load_test(model, CHAT)
    assert result.verdict == "fails"
    assert result.engine_log
    assert result.load_seconds is None


def test_truncated_file_fails(tmp_path: Path) -> None:
    model = ggufs.tiny_chat(tmp_path / "m.gguf")
    model.write_bytes(model.read_bytes()[:-5000])
    assert load_test.run_load_test(model, CHAT).verdict == "fails"


def test_two_billion_blocks_end_in_a_verdict(tmp_path: Path) -> None:
    model = set_value(ggufs.tiny_chat(tmp_path / "m.gguf"), "llama.block_count", 2**31)
    assert load_test.run_load_test(model, CHAT, seconds=20).verdict in ("fails", "aborts", "exhausts memory")


def test_context_of_zero_tokens_aborts_and_names_the_place(tmp_path: Path) -> None:
    result = load_test.run_load_test(ggufs.tiny_chat(tmp_path / "m.gguf", context=0), CHAT)
    assert result.verdict == "aborts"
    assert "n_ctx" in result.engine_log


def test_endless_template_is_stopped_at_the_time_limit(tmp_path: Path) -> None:
    started = time.monotonic()
    result = load_test.run_load_test(ggufs.tiny_chat(tmp_path / "m.gguf", template=HANGS), CHAT, seconds=3)
    assert result.verdict == "times out"
    assert "3 s" in result.reason
    assert time.monotonic() - started < 15
    assert not result.output


def test_template_of_20_000_parentheses_crashes_only_the_child(tmp_path: Path) -> None:
    result = load_test.run_load_test(ggufs.tiny_chat(tmp_path / "m.gguf", template=DEEP), CHAT)
    assert result.verdict == "aborts"
    assert "loading" in result.reason


def test_model_over_its_memory_limit_gets_the_verdict_exhausted(tmp_path: Path) -> None:
    model = ggufs.tiny_chat(tmp_path / "m.gguf", vocabulary=200_000)
    result = load_test.run_load_test(model, CHAT, max_memory_bytes=200 * 2**20)
    assert result.verdict == "exhausts memory"
    assert load_test.run_load_test(model, CHAT).verdict == "loads"


def test_control_sequences_are_removed_from_the_output(tmp_path: Path) -> None:
    model = ggufs.tiny_chat(tmp_path / "m.gguf", answer="red \x1b[31m alert \u202e now")
    result = load_test.run_load_test(model, CHAT)
    assert result.verdict == "loads"
    assert not set("\x1b\u202e") & set(result.output)


def test_projector_is_loaded_with_its_model(tmp_path: Path) -> None:
    model, fitting = ggufs.tiny_chat(tmp_path / "m.gguf", sees=True), ggufs.tiny_mmproj(tmp_path / "mmproj.gguf")
    assert load_test.run_load_test(model, CHAT, mmproj=fitting).verdict == "loads"
    strange = ggufs.tiny_mmproj(tmp_path / "strange.gguf", width=128)
    result = load_test.run_load_test(model, CHAT, mmproj=strange)
    assert result.verdict == "fails"
    assert "mismatch between text model (n_embd = 64) and mmproj (n_embd = 128)" in result.reason
    with pytest.raises(MissingFileError):
        load_test.run_load_test(model, CHAT, mmproj=tmp_path / "none.gguf")


def test_missing_file_and_projector_are_refused_before_a_start(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        load_test.run_load_test(tmp_path / "gone.gguf", CHAT)
    with pytest.raises(BadInputError):
        load_test.run_load_test(ggufs.tiny_mmproj(tmp_path / "mmproj.gguf"), ModelFacts(kind="mmproj"))


@pytest.mark.new_machine
def test_broken_bindings_are_not_blamed_on_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('libgomp.so.1: no such file')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EngineStartError, match="does not work on this machine") as caught:
        load_test.run_load_test(ggufs.tiny_chat(tmp_path / "m.gguf"), CHAT)
    assert "libgomp" in str(caught.value.cause)


# Bindings that a file has taken over, and that misbehave when they load it.
TAKEN_OVER = """
import os, time
class Anything:
    def __getattr__(self, name):
        return self.__dict__.setdefault(name, Anything())
class Kinds:
    GGML_BACKEND_DEVICE_TYPE_GPU, GGML_BACKEND_DEVICE_TYPE_IGPU = 1, 2
CommonParams, ggml_backend_dev_type, get_device_info = Anything, Kinds, list
def say(text):
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, text)
        except OSError:
            pass
def Server(params):
"""
FORGED = (
    b'{"confined": {"layers": ["everything"], "missing": []}, "loaded": {"load_seconds": 1, "peak_memory": 1}, '
    b'"answered": {"nonsense": "", "output": "fine", "tokens_per_second": 1, "peak_memory": 1}}\n'
)


def hijack_bindings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> Path:
    engine.find_left_out_layers(settings.load())  # an earlier load test has tested the layers
    body = "".join(f"    {line}\n" for line in lines)
    (tmp_path / "xllamacpp.py").write_text(TAKEN_OVER + body, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    return model


def test_hijacked_child_can_not_claim_other_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = hijack_bindings(tmp_path, monkeypatch, f"say({FORGED!r})", "os._exit(0)")
    result = load_test.run_load_test(model, CHAT)
    assert result.output == "fine", "the other output is the child's own"
    assert set(result.layers) <= set(LINUX_LAYERS)


@pytest.mark.parametrize("nonsense", [b"[]\n", b"\xff\n", b"{\n", b'{"answered": 5}\n', b'{"loaded": {}}\n'])
def test_output_outside_the_protocol_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonsense: bytes
) -> None:
    model = hijack_bindings(tmp_path, monkeypatch, f"say({nonsense!r})", f"say({FORGED!r})", "os._exit(0)")
    assert load_test.run_load_test(model, CHAT).verdict == "fails"


def test_flooding_child_is_stopped_at_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = hijack_bindings(tmp_path, monkeypatch, "while True: say(b'x' * 65536)")
    assert load_test.run_load_test(model, CHAT, seconds=3).verdict == "times out"


def test_success_followed_by_a_crash_is_not_a_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = hijack_bindings(tmp_path, monkeypatch, f"say({FORGED!r})", "os.abort()")
    assert load_test.run_load_test(model, CHAT).verdict == "aborts"


def test_load_test_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "t"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    model = ggufs.tiny_chat(tmp_path / "m.gguf", template=DEEP)
    assert load_test.run_load_test(model, CHAT).verdict == "aborts"
    assert list(scratch.iterdir()) == []
