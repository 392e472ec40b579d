"""The forked processes of tests behave as those that a user starts."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import run_process
from tests.support.fork_server import fork_script

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the scripts run unforked")
PING = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n'


@pytest.mark.parametrize(
    ("words", "code"),
    [("--version", 0), ("hf show nobody", 1), ("hf pull", 2), ("hf list --json", 0)],
)
def test_forked_command_has_the_output_and_the_code_of_the_script(words: str, code: int) -> None:
    forked, started = (run_process("llm", *words.split(), code=code, starts_python=real) for real in (False, True))
    assert (forked.stdout, forked.stderr) == (started.stdout, started.stderr)


def test_environment_and_folder_are_those_of_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.gguf").write_bytes(b"GGUF")
    assert "here.gguf" in run_process("llm", "hf", "check", "here.gguf", code=1).stdout
    monkeypatch.setenv("LLM_HF_CONTEXT", "1234")
    words = ("llm", "hf", "settings", "context", "-q")
    assert run_process(*words).stdout == "1234\n"
    assert run_process(*words, environment={"LLM_HF_CONTEXT": "4321"}).stdout == "4321\n"


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    """Provide an MCP server that answers."""
    command: Any = fork_script("llm-hf-mcp")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin
        assert server.stdout
        server.stdin.write(PING)
        server.stdin.flush()
        assert b'"id":1' in server.stdout.readline()
        yield server


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_signal_to_the_command_ends_the_process(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the tests run under nohup, so that the server ignores the signal too")
    server.send_signal(number)
    assert server.stdout
    assert server.stdout.read() == b"", "the process closed its output"
    assert server.wait(60) == -number


def test_end_of_the_input_ends_the_process(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin
    server.stdin.close()
    assert server.wait(60) == 0


def test_variables_that_python_reads_at_its_start_are_refused() -> None:
    done = run_process("llm", "--version", code=1, environment={"PYTHONUTF8": "0"})
    assert "Python reads PYTHONUTF8 when it starts" in done.stderr


def test_script_itself_runs_if_a_test_sets_such_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('started')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_process("llm", "--version").stdout.startswith("started\nllm, version")
