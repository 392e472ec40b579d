"""Return the paths of this package's own files.

Every `llm` command imports this module, so it imports very little. Paths and values that people configure are in
settings.py.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def user_dir() -> Path:
    """Return llm's user directory. It is computed without importing llm or click; a test compares it with llm's."""
    if path := os.environ.get("LLM_USER_PATH"):
        return Path(path)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", expand_home("~")), "io.datasette.llm")
    if sys.platform == "darwin":
        return Path(expand_home("~/Library/Application Support"), "io.datasette.llm")
    return Path(os.environ.get("XDG_CONFIG_HOME", expand_home("~/.config")), "io.datasette.llm")


def expand_home(path: str) -> str:
    """Return a path with its `~` expanded, or unchanged if there is no such user."""
    return os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises if there is no such user


def make_absolute(path: Path) -> Path:
    """Return the absolute path, with its `~` expanded."""
    return Path(expand_home(str(path))).absolute()


def data_dir() -> Path:
    """Return the folder of the library, the settings and the logs, in llm's user directory. It is not created."""
    return user_dir() / "hf"


def suggest_folder_fix(path: Path) -> str:
    """Return a hint for a path that can't be read or written: change its owner, or move llm's folder."""
    for folder in (user_dir(), data_dir(), path):
        if _is_inaccessible(folder):
            command = f"sudo chown -R $(id -un) {shlex.quote(str(folder))}"
            return f"Another user owns it, for example after `sudo llm hf`. Run: {command}"
    return "Check the permissions of llm's folder, or set LLM_USER_PATH to another one."


def _is_inaccessible(path: Path) -> bool:
    """Return whether another user owns the path and this user can't read or write it."""
    try:
        has_other_owner = os.name == "posix" and path.stat().st_uid != os.geteuid()
    except OSError:
        return False
    return has_other_owner and not os.access(path, os.R_OK | os.W_OK)


def library_path() -> Path:
    """Return the path of the library, the SQLite file that records the local models and downloads."""
    return data_dir() / "library.db"
