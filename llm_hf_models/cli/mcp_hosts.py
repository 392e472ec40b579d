"""The configuration that lets an MCP host start `llm-hf-mcp`: what it is, where it goes, written without losing a byte.

Knows hosts' files, and nothing of the server but its command, which it has judge its options.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_hf_models.errors import BadInputError, NotWritableError
from llm_hf_models.system.text import strip_user

SERVER_NAME = "hf-models"
SERVER_COMMAND = "llm-hf-mcp"

# Hosts start servers without a shell's environment: what says where models are goes along. Never a token or a password.
ENDPOINT_VARIABLE = "HF_ENDPOINT"
PASSED_VARIABLES = ("LLM_USER_PATH", "HF_HOME", "HF_HUB_CACHE", ENDPOINT_VARIABLE, "HF_HUB_OFFLINE")
HOST_KEYS = ("json", "claude-desktop", "claude-code", "cursor", "vscode")
MAX_CONFIG_BYTES = 10_000_000
CHECK_SECONDS = 60
Json = dict[str, Any]


@dataclass(frozen=True)
class Host:
    """A program that uses MCP servers. `path` None: it has no file that we could write."""

    key: str
    title: str
    path: Path | None
    section: str = "mcpServers"
    needs_type: bool = False


@dataclass(frozen=True)
class ConfigChange:
    """What writing a host's file would do."""

    path: Path
    before: str | None  # None where there is no file yet
    after: str

    @property
    def is_needed(self) -> bool:
        """Whether anything would change."""
        return self.before != self.after

    @property
    def diff(self) -> str:
        """The change as a unified diff."""
        old = (self.before or "").splitlines(keepends=True)
        lines = difflib.unified_diff(old, self.after.splitlines(keepends=True), str(self.path), str(self.path))
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).rstrip("\n")


def list_hosts() -> dict[str, Host]:
    """The hosts whose files are known, by key."""
    here = Path.cwd()
    known = (
        Host("json", "any host", None),
        Host("claude-desktop", "Claude Desktop", _find_app_config_folder() / "Claude" / "claude_desktop_config.json"),
        Host("claude-code", "Claude Code (this project)", here / ".mcp.json", needs_type=True),
        Host("cursor", "Cursor", Path.home() / ".cursor" / "mcp.json"),
        Host("vscode", "VS Code (this workspace)", here / ".vscode" / "mcp.json", section="servers", needs_type=True),
    )
    return {host.key: host for host in known}


def _find_app_config_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def check_options(flags: Sequence[str]) -> None:
    """Has the server itself say whether it can use these options.

    Raises:
        BadInputError: it can't, or they only have it print something.
    """
    if not flags:
        return
    try:
        done = subprocess.run(
            [*_find_command(), "--check", *flags],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=CHECK_SECONDS,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise BadInputError(f"{SERVER_COMMAND} could not be asked about these options", cause=str(error)) from None
    if done.returncode or done.stdout:
        why = done.stderr.strip().splitlines()[-1:] or ["They print something, and don't serve."]
        hint = f"`{SERVER_COMMAND} --help` lists them."
        raise BadInputError(f"{SERVER_COMMAND} can't serve with these options", cause=why[0], hint=hint)


def _find_command() -> list[str]:
    beside = shutil.which(SERVER_COMMAND, path=str(Path(sys.executable).parent)) or shutil.which(SERVER_COMMAND)
    return [beside] if beside else [sys.executable, "-m", "llm_hf_mcp"]


def build_entry(host: Host, flags: Sequence[str] = ()) -> Json:
    """How that host starts the server: by its full path, since a host's PATH is not the shell's."""
    command = _find_command()
    variables = {name: os.environ[name] for name in PASSED_VARIABLES if os.environ.get(name)}
    variables |= {ENDPOINT_VARIABLE: strip_user(variables[ENDPOINT_VARIABLE])} if ENDPOINT_VARIABLE in variables else {}
    made: Json = {"type": "stdio"} if host.needs_type else {}
    made |= {"command": command[0], "args": [*command[1:], *flags]}
    return {**made, "env": variables} if variables else made


def has_endpoint_password() -> bool:
    """Whether the address of the Hub has a user or a password in it: an entry has it without."""
    address = os.environ.get(ENDPOINT_VARIABLE, "")
    return strip_user(address) != address


def build_snippet(host: Host, flags: Sequence[str] = ()) -> Json:
    """What that host's file has to hold."""
    return {host.section: {SERVER_NAME: build_entry(host, flags)}}


def plan_change(host: Host, flags: Sequence[str] = ()) -> ConfigChange:
    """What it takes to make a host's file start the server; everything else in it stays.

    Raises:
        BadInputError: that host has no file, or it is not one that can be changed without losing something.
    """
    if host.path is None:
        raise BadInputError("That has no file to write", hint=f"Name a host: {', '.join(HOST_KEYS[1:])}")
    path = host.path.resolve()  # a link stays a link
    before = _read(path)
    whole = _parse_config(path, before) if before and before.strip() else {}
    section = whole.setdefault(host.section, {})
    if not isinstance(section, dict):
        raise _make_error(path, f"Its {host.section!r} is not an object.")
    wanted = build_entry(host, flags)
    if section.get(SERVER_NAME) == wanted and before is not None:
        return ConfigChange(path, before, before)
    section[SERVER_NAME] = wanted
    return ConfigChange(path, before, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def _read(path: Path) -> str | None:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise _make_error(path, "It is too large for a configuration.")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _make_error(path, str(error)) from None


def _parse_config(path: Path, text: str) -> Json:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _make_error(path, f"It is no plain JSON ({error}); comments would be lost.") from None
    if not isinstance(whole, dict):
        raise _make_error(path, "It holds no object.")
    return whole


def _make_error(path: Path, why: str) -> BadInputError:
    return BadInputError(
        f"{path} was not changed", cause=why, hint="Without --install the lines to add by hand are printed."
    )


def write_change(wanted: ConfigChange) -> Path | None:
    """Writes the file, whole or not at all, and keeps what was there beside it.

    Returns:
        The backup; None where there was no file.

    Raises:
        NotWritableError: it could not be written; nothing has changed.
        BadInputError: somebody else has changed it meanwhile.
    """
    path, backup = wanted.path, None
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _read(path) != wanted.before:
            raise BadInputError(f"{path} has changed meanwhile", hint="Run the same command again.")
        partial.write_text(wanted.after, encoding="utf-8")
        if wanted.before is not None:
            shutil.copymode(path, partial)
            backup = _choose_backup_path(path)
            shutil.copy2(path, backup)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise NotWritableError(f"Can't write {path}", cause=error.strerror) from None
    return backup


def _choose_backup_path(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (path.with_name(f"{path.name}.{stamp}{f'-{number}' if number else ''}.bak") for number in range(1000))
    return next(name for name in names if not name.exists())
