"""Run `llm hf …` and `llm …`, in this process or as a real one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result
from llm.cli import cli as llm_command

from llm_hf_models.cli.main import hf
from tests.support.fork_server import SCRIPTS, fork_script


def run(
    *words: str | Path, code: int | None = 0, command: click.Command = hf, stdin: str | bytes | None = None
) -> Result:
    """Run `llm hf` (or another click command) in this process.

    Args:
        words: The words of the command line.
        code: The exit code that the command must have; None accepts any.
        command: The click command, `llm_command` for llm itself.
        stdin: What the command reads from stdin.
    """
    result = CliRunner().invoke(command, [str(word) for word in words], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert code is None or result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def run_json(*words: str | Path, code: int | None = 0) -> Any:
    """Run `llm hf … --json` in this process and return the value that it printed."""
    return json.loads(run(*words, "--json", code=code).stdout)


def run_json_one(*words: str | Path, code: int | None = 0) -> Any:
    """Run a command that takes several names with one name, as `run_json` does, and return its only result."""
    printed = run_json(*words, code=code)
    (result,) = printed["results"]
    assert printed["errors"] == []
    return result


def run_llm(*words: str | Path, code: int | None = None, stdin: str | bytes | None = None) -> Result:
    """Run `llm` in this process; see `run`."""
    return run(*words, code=code, command=llm_command, stdin=stdin)


def copy_environment_for_another_user(**variables: str) -> dict[str, str]:
    """Return this process's environment for a process of another user, who can't store its coverage here."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")} | variables


def run_process(
    *words: str | Path,
    code: int | None = 0,
    unprivileged: bool = False,
    environment: dict[str, str] | None = None,
    seconds: float = 120,
    starts_python: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run an installed script such as `llm` or `hf` as a process of its own.

    `llm` is forked from a process that has imported its modules (see fork_server.py), unless it is measured or runs
    without root's rights.

    Args:
        words: The script's name and its arguments.
        code: The exit code that the process must have; None accepts any.
        unprivileged: Drop root's right to read and write every file.
        environment: Variables to add to this process's environment.
        seconds: How long the process may run.
        starts_python: Start Python as a user does, with all imports.
    """
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if unprivileged and os.geteuid() == 0 else []
    is_forked = words[0] == "llm" and not drop and not starts_python
    done = subprocess.run(
        fork_script("llm", *words[1:]) if is_forked else [*drop, str(SCRIPTS / words[0]), *map(str, words[1:])],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert code is None or done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done
