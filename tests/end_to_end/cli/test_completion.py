"""Completion in a real bash, which splits words at colons, and as click prints it for zsh and fish."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llm_hf_models.paths import library_path
from tests.support.commands import SCRIPTS, run
from tests.support.ggufs import tiny_chat
from tests.support.waiting import wait_until

NO_BASH = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture(autouse=True)
def model(tmp_path: Path) -> None:
    """Import one model with an alias."""
    run("import", tiny_chat(tmp_path / "tiny.Q8_0.gguf"), "-a", "walrus", "-q")


def complete_in_bash(folder: Path, lines: list[str]) -> list[str]:
    """Type each line and a tab into an interactive bash. Return the completed lines."""
    start, typed = folder / "start.sh", folder / "typed"
    start.write_text(
        f'PATH="{SCRIPTS}:$PATH"\neval "$(_LLM_COMPLETE=bash_source llm)"\ntype -t _llm_completion >ready\n'
    )
    master, slave = pty.openpty()
    with subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", str(start), "-i"],
        stdin=slave, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, start_new_session=True,
        env={**os.environ, "TERM": "dumb"},
    ) as shell:  # fmt: skip
        wait_until((folder / "ready").is_file, seconds=60)
        for number, line in enumerate(lines, 1):
            # Ctrl-A and a quote turn the completed line into an argument of echo; Ctrl-E ends it.
            os.write(master, f"{line}\t\x01echo '\x05' >>typed\n".encode())
            wait_until(lambda count=number: typed.is_file() and typed.read_text().count("\n") == count, seconds=60)
        os.write(master, b"exit\n")
        shell.wait(30)
    os.close(master)
    os.close(slave)
    return [line.rstrip() for line in typed.read_text().splitlines()]


@NO_BASH
def test_bash_completes_names_with_colons_and_their_commands(tmp_path: Path) -> None:
    typed = {
        "llm hf ver": "llm hf verify",
        "llm hf show hf/lo": "llm hf show hf/local/tiny:Q8_0",
        "llm hf show hf/local/tiny:": "llm hf show hf/local/tiny:Q8_0",
        "llm hf show local/tiny:Q": "llm hf show local/tiny:Q8_0",
        "llm hf show walrus local/tiny:Q8": "llm hf show walrus local/tiny:Q8_0",
        "llm hf set local/tiny:Q8_0 tempe": "llm hf set local/tiny:Q8_0 temperature",
        "llm hf set walrus temperature 0.5 max_t": "llm hf set walrus temperature 0.5 max_tokens",
        "llm hf set walrus temperature max_t": "llm hf set walrus temperature max_t",
        "llm hf set walrus --unset tempe": "llm hf set walrus --unset temperature",
        "llm hf settings disk": "llm hf settings disk_reserve_bytes",
        "llm hf path wal": "llm hf path walrus",
    }
    assert dict(zip(typed, complete_in_bash(tmp_path, list(typed)), strict=True)) == typed


def complete(shell: str, line: str) -> str:
    """Return what `llm` prints to a shell that completes a line."""
    words = line.split(" ")
    variables = {"_LLM_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    variables |= {"COMP_WORDS": " ".join(words[:-1]), "COMP_CWORD": words[-1]} if shell == "fish" else {}
    done = subprocess.run(
        [SCRIPTS / "llm"], env={**os.environ, **variables}, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_the_whole_name(shell: str) -> None:
    printed = complete(shell, "llm hf show local/tiny:Q")
    assert re.search(r"^(plain,)?local/tiny:Q8_0", printed, re.MULTILINE)


def test_broken_library_completes_to_nothing() -> None:
    library_path().write_bytes(b"no database" * 1000)
    assert complete("fish", "llm hf show wal") == "\n"
