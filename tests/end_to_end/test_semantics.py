"""Semantic rules compared with the engine: one number of a valid model is changed, and llama.cpp loads it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from llm_hf_models.gguf.validate import check_file
from tests.support import ggufs

SECONDS = 60
LOAD = """
import os, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames = sys.argv[1], [sys.argv[2]]
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 256, 1, 1
params.warmup = params.fit_params = False
server = xllamacpp.Server(params)
print("loaded", flush=True)
os._exit(0)
"""


def can_load(path: Path, socket: Path) -> bool:
    """Return whether llama.cpp loads a model, in a process of its own because it may abort."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(path), str(socket)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )
    return "loaded" in done.stdout


def set_value(content: bytes, key: str, value: int) -> bytes:
    """Return the file with another 32-bit value under one key."""
    changed = bytearray(content)
    at = content.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key) + 4  # after the key and the type
    changed[at : at + 4] = struct.pack("<I", value)
    return bytes(changed)


REFUSED = {
    "no blocks": ("block-count", "llama.block_count", 0),
    "2^31 blocks": ("block-count", "llama.block_count", 2**31),
    "heads that can't be shared out": ("head-count", "llama.attention.head_count_kv", 3),
}
RENAMED = {
    "no architecture": ("architecture", b"general.architecture", b"general.architectura"),
    "token types of another type": (
        "token-array-type",
        b"tokenizer.ggml.token_type\x09\0\0\0\x05",
        b"tokenizer.ggml.token_type\x09\0\0\0\x04",
    ),
}
WARNED = {"a special token outside": ("token-id-range", "tokenizer.ggml.eos_token_id", 99999)}


def change_value(name: str, content: bytes) -> tuple[str, bytes]:
    if name in RENAMED:
        code, old, new = RENAMED[name]
        assert old in content
        return code, content.replace(old, new)
    code, key, value = {**REFUSED, **WARNED}[name]
    return code, set_value(content, key, value)


@pytest.mark.parametrize("name", [*REFUSED, *RENAMED])
def test_values_refused_by_a_semantic_rule_do_not_load(tmp_path: Path, name: str) -> None:
    path = ggufs.tiny_chat(tmp_path / "m.gguf")
    code, content = change_value(name, path.read_bytes())
    path.write_bytes(content)
    assert code in {finding.code for finding in check_file(path).errors}
    assert not can_load(path, tmp_path / "s.sock")


@pytest.mark.parametrize("name", WARNED)
def test_values_with_a_warning_load(tmp_path: Path, name: str) -> None:
    path = ggufs.tiny_chat(tmp_path / "m.gguf")
    code, content = change_value(name, path.read_bytes())
    path.write_bytes(content)
    report = check_file(path)
    assert (report.errors, [finding.code for finding in report.warnings]) == ((), [code])
    assert can_load(path, tmp_path / "s.sock")


@pytest.mark.parametrize("kind", ["chat", "base", "embedding"])
def test_values_without_a_finding_load(tmp_path: Path, kind: str) -> None:
    path = getattr(ggufs, f"tiny_{kind}")(tmp_path / "m.gguf")
    assert check_file(path).findings == ()
    assert can_load(path, tmp_path / "s.sock")
