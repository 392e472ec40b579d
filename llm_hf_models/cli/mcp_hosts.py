"""Build and install the configuration with which an MCP host starts `llm-hf-mcp`.

This module knows the format and place of each host's file. The server checks its own options (`--check`).
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
from llm_hf_models.system.text import strip_credentials

SERVER_NAME = "hf-models"
SERVER_COMMAND = "llm-hf-mcp"

# Hosts start servers without the shell's environment, so these variables are copied into the configuration. They locate
# models and the Hub. None of them holds a token; a password in HF_ENDPOINT is removed.
ENDPOINT_VARIABLE = "HF_ENDPOINT"
PASSED_VARIABLES = ("LLM_USER_PATH", "HF_HOME", "HF_HUB_CACHE", ENDPOINT_VARIABLE, "HF_HUB_OFFLINE")
HOST_KEYS = ("json", "claude-desktop", "claude-code", "cursor", "vscode")
MAX_CONFIG_BYTES = 10_000_000
CHECK_SECONDS = 60
Json = dict[str, Any]


@dataclass(frozen=True)
class Host:
    """A program that uses MCP servers. `path` is its configuration file; None if the file is unknown."""

    key: str
    title: str
    path: Path | None
    section: str = "mcpServers"
    needs_type: bool = False


@dataclass(frozen=True)
class ConfigChange:
    """A planned change of a host's file."""

    path: Path
    before: str | None  # None if the file doesn't exist yet
    after: str

    @property
    def is_needed(self) -> bool:
        """Whether the file would change."""
        return self.before != self.after

    @property
    def diff(self) -> str:
        """The change as a unified diff."""
        old = (self.before or "").splitlines(keepends=True)
        lines = difflib.unified_diff(old, self.after.splitlines(keepends=True), str(self.path), str(self.path))
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).rstrip("\n")


def list_hosts() -> dict[str, Host]:
    """Return the supported hosts by key."""
    project = Path.cwd()
    known = (
        Host("json", "any host", None),
        Host("claude-desktop", "Claude Desktop", _find_app_config_folder() / "Claude" / "claude_desktop_config.json"),
        Host("claude-code", "Claude Code (this project)", project / ".mcp.json", needs_type=True),
        Host("cursor", "Cursor", Path.home() / ".cursor" / "mcp.json"),
        Host(
            "vscode", "VS Code (this workspace)", project / ".vscode" / "mcp.json", section="servers", needs_type=True
        ),
    )
    return {host.key: host for host in known}


def _find_app_config_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def check_options(flags: Sequence[str]) -> None:
    """Run the server with `--check` to verify its options.

    Raises:
        BadInputError: the server rejects them, or they make it print something instead of serving.
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
        raise BadInputError(f"{SERVER_COMMAND} could not check these options", cause=str(error)) from None
    if done.returncode or done.stdout:
        cause = done.stderr.strip().splitlines()[-1:] or ["These options print text instead of serving."]
        hint = f"See `{SERVER_COMMAND} --help`."
        raise BadInputError(f"{SERVER_COMMAND} can't serve with these options", cause=cause[0], hint=hint)


def _find_command() -> list[str]:
    path = shutil.which(SERVER_COMMAND, path=str(Path(sys.executable).parent)) or shutil.which(SERVER_COMMAND)
    return [path] if path else [sys.executable, "-m", "llm_hf_mcp"]


def build_entry(host: Host, flags: Sequence[str] = ()) -> Json:
    """Return the entry that starts the server, by its full path, because a host's PATH differs from the shell's."""
    command = _find_command()
    variables = {name: os.environ[name] for name in PASSED_VARIABLES if os.environ.get(name)}
    variables |= (
        {ENDPOINT_VARIABLE: strip_credentials(variables[ENDPOINT_VARIABLE])} if ENDPOINT_VARIABLE in variables else {}
    )
    entry: Json = {"type": "stdio"} if host.needs_type else {}
    entry |= {"command": command[0], "args": [*command[1:], *flags]}
    return {**entry, "env": variables} if variables else entry


def has_endpoint_password() -> bool:
    """Return whether HF_ENDPOINT contains a user name or password, which an entry omits."""
    address = os.environ.get(ENDPOINT_VARIABLE, "")
    return strip_credentials(address) != address


def build_snippet(host: Host, flags: Sequence[str] = ()) -> Json:
    """Return the JSON that the host's file must contain."""
    return {host.section: {SERVER_NAME: build_entry(host, flags)}}


def plan_change(host: Host, flags: Sequence[str] = ()) -> ConfigChange:
    """Plan the change that adds the server to a host's file. The rest of the file stays as it is.

    Raises:
        BadInputError: the host has no known file, or the file can't be changed without losing content.
    """
    if host.path is None:
        raise BadInputError(
            "No host was named, so there is no file to write", hint=f"Name a host: {', '.join(HOST_KEYS[1:])}"
        )
    path = host.path.resolve()  # write to the target of a symbolic link
    before = _read(path)
    config = _parse_config(path, before) if before and before.strip() else {}
    section = config.setdefault(host.section, {})
    if not isinstance(section, dict):
        raise _make_error(path, f"{host.section!r} in the file is not an object.")
    entry = build_entry(host, flags)
    if section.get(SERVER_NAME) == entry and before is not None:
        return ConfigChange(path, before, before)
    section[SERVER_NAME] = entry
    return ConfigChange(path, before, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _read(path: Path) -> str | None:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise _make_error(path, "The file is too large for a configuration.")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _make_error(path, str(error)) from None


def _parse_config(path: Path, text: str) -> Json:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _make_error(path, f"The file is not plain JSON ({error}); comments would be lost.") from None
    if not isinstance(config, dict):
        raise _make_error(path, "The file doesn't contain a JSON object.")
    return config


def _make_error(path: Path, cause: str) -> BadInputError:
    return BadInputError(
        f"{path} was not changed",
        cause=cause,
        hint="Run the command without --install and add the printed lines by hand.",
    )


def write_change(change: ConfigChange) -> Path | None:
    """Write the file atomically and keep a backup in the same folder.

    Returns:
        The backup's path, or None if there was no file before.

    Raises:
        NotWritableError: the file could not be written and has not changed.
        BadInputError: another program has changed the file since the plan was made.
    """
    path, backup = change.path, None
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _read(path) != change.before:
            raise BadInputError(f"{path} was changed by another program", hint="Run the same command again.")
        partial.write_text(change.after, encoding="utf-8")
        if change.before is not None:
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
