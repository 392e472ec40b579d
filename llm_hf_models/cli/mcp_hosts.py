"""Build, install and remove the configuration with which an MCP host starts `llm-hf-mcp`.

This module knows the format and place of each host's file. The server checks its own options (`--check`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_hf_models.cli import config_file
from llm_hf_models.cli.jsonc import JsoncError
from llm_hf_models.cli.mcp_entry import (
    RESET_HINT,
    SERVER_COMMAND,
    SERVER_NAME,
    Entry,
    EntryError,
    merge_entry,
    remove_entry,
)
from llm_hf_models.cli.mcp_environment import CarriedVariables, collect_variables
from llm_hf_models.errors import BadInputError, HfModelsError, NotFoundError, StorageError

HOST_KEYS = ("json", "claude-desktop", "claude-code", "cursor", "vscode")
CHECK_SECONDS = 60
_REMOVAL_HINT = f"Remove the entry `{SERVER_NAME}` from the file by hand."


@dataclass(frozen=True)
class Host:
    """A program that uses MCP servers.

    Attributes:
        key: its name on the command line.
        title: its name in messages.
        path: its configuration file; None if the file is unknown.
        section: the key of the object that holds the servers.
        type: the value of an entry's `type` for a server on stdin and stdout; None if the host needs no type.
        is_project: whether the file belongs to a project, which several people may share.
    """

    key: str
    title: str
    path: Path | None
    section: str = "mcpServers"
    type: str | None = None
    is_project: bool = False


@dataclass(frozen=True)
class ConfigChange:
    """A planned change of a host's file.

    Attributes:
        host: the host.
        path: the file, without symbolic links.
        before: its content; None if the file doesn't exist yet.
        after: its new content; None if a missing file stays missing.
        kept: names of options, variables and members of the existing entry that a new entry would not have.
        differing: kept variables that select other files or servers than this process uses.
    """

    host: Host
    path: Path
    before: bytes | None
    after: bytes | None
    kept: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()

    @property
    def is_needed(self) -> bool:
        """Whether the file would change."""
        return self.before != self.after


def find_host(key: str) -> Host:
    """Return a supported host.

    Raises:
        NotFoundError: the folder of its file can't be determined.
    """
    if key == "json":
        return Host("json", "any host", None)
    if key == "claude-desktop":
        return Host(key, "Claude Desktop", _find_app_config_folder() / "Claude" / "claude_desktop_config.json")
    if key == "cursor":
        return Host(key, "Cursor", _find_home() / ".cursor" / "mcp.json")
    if key == "claude-code":
        path = _find_project() / ".mcp.json"
        return Host(key, "Claude Code (this project)", path, type="stdio", is_project=True)
    path = _find_project() / ".vscode" / "mcp.json"
    return Host(key, "VS Code (this workspace)", path, section="servers", type="stdio", is_project=True)


def _find_project() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise NotFoundError(
            "The current folder can't be used", cause=error.strerror, hint="Change the folder."
        ) from None


def _find_home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise NotFoundError("This user has no home folder", hint="Set the environment variable HOME.") from None


def _find_app_config_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or _find_home() / "AppData" / "Roaming")
    if sys.platform == "darwin":
        return _find_home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or _find_home() / ".config")


def check_options(flags: Sequence[str]) -> None:
    """Run the server with `--check` to verify its options.

    Raises:
        BadInputError: the server rejects them, a host can't use them, or they print something instead of serving.
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


def _find_command() -> tuple[str, ...]:
    path = shutil.which(SERVER_COMMAND, path=str(Path(sys.executable).parent)) or shutil.which(SERVER_COMMAND)
    return (str(Path(path).absolute()),) if path else (sys.executable, "-m", "llm_hf_mcp")


def collect_carried_variables() -> CarriedVariables:
    """Return the variables of this process that an entry carries."""
    return collect_variables(os.environ)


def build_entry(host: Host, flags: Sequence[str] = ()) -> Entry:
    """Return the entry that starts the server, by its full path, because a host's PATH differs from the shell's."""
    return Entry(_find_command(), tuple(flags), collect_carried_variables().values, host.type)


def build_snippet(host: Host, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Return the JSON that the host's file must contain."""
    return {host.section: {SERVER_NAME: build_entry(host, flags).to_json()}}


def plan_change(host: Host, flags: Sequence[str] = (), *, reset: bool = False) -> ConfigChange:
    """Plan the change that adds the server to a host's file. The rest of the file keeps its bytes.

    Args:
        host: the host.
        flags: the server's options.
        reset: replace an existing entry. Otherwise, everything that a person changed in it is kept.

    Raises:
        BadInputError: the host has no known file, or the content of the file is not valid.
        StorageError: the file can't be read.
    """
    path = config_file.find_target(_require_path(host))
    before = config_file.read_bytes(path)
    try:
        merged = merge_entry((before or b"").decode(), host.section, build_entry(host, flags), reset=reset)
    except UnicodeDecodeError as error:
        raise _make_content_error(path, f"The file is not UTF-8 (byte {error.start}).") from None
    except (JsoncError, EntryError) as error:
        raise _make_content_error(path, str(error)) from None
    if merged.flags is not None and merged.flags != tuple(flags):
        _check_kept_options(path, merged.flags)
    return ConfigChange(host, path, before, merged.text.encode(), merged.kept, merged.differing)


def plan_removal(host: Host) -> ConfigChange:
    """Plan the change that removes the server from a host's file. The rest of the file keeps its bytes.

    Raises:
        BadInputError: the host has no known file, or the content of the file is not valid.
        StorageError: the file can't be read.
    """
    named = _require_path(host)
    try:
        path = config_file.find_target(named)
        before = config_file.read_bytes(path)
        after = None if before is None else remove_entry(before.decode(), host.section).encode()
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{named} was not changed", cause=f"The file is not UTF-8 (byte {error.start}).", hint=_REMOVAL_HINT
        ) from None
    except (JsoncError, EntryError) as error:
        raise BadInputError(f"{named} was not changed", cause=str(error), hint=_REMOVAL_HINT) from None
    except StorageError as error:
        error.hint = _REMOVAL_HINT
        raise
    return ConfigChange(host, path, before, after)


def find_hosts_with_entry() -> list[str]:
    """Return the keys of the hosts whose file has the server's entry. Files that can't be read are skipped."""
    keys = []
    for key in HOST_KEYS[1:]:
        with suppress(HfModelsError):
            if plan_removal(find_host(key)).is_needed:
                keys.append(key)
    return keys


def _require_path(host: Host) -> Path:
    if host.path is None:
        raise BadInputError(
            "No host was named, so there is no file to write", hint=f"Name a host: {', '.join(HOST_KEYS[1:])}"
        )
    return host.path


def _make_content_error(path: Path, cause: str) -> BadInputError:
    error = config_file.make_unchanged_error(path, cause)
    return BadInputError(error.message, cause=error.cause, hint=error.hint)


def _check_kept_options(path: Path, flags: Sequence[str]) -> None:
    try:
        check_options(flags)
    except BadInputError as error:
        cause = f"The server can't start with the options that the entry already has: {error.cause}"
        raise BadInputError(f"{path} was not changed", cause=cause, hint=RESET_HINT) from None


def write_change(change: ConfigChange) -> Path | None:
    """Write the file atomically and keep a backup in the same folder.

    Returns:
        The backup's path, or None if there was no file before.

    Raises:
        NotWritableError: the file could not be written and has not changed.
        BadInputError: another program has changed the file since the plan was made.
    """
    return config_file.replace_file(
        change.path, change.before, change.after or b"", is_private=not change.host.is_project
    )
