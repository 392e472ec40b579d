"""The folders of this package. Imports almost nothing, because every `llm models` uses it. Settings: settings.py."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def user_dir() -> Path:
    """Return llm's user directory, computed like llm and click do, without importing them. A test compares the two."""
    if path := os.environ.get("LLM_USER_PATH"):
        return Path(path)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", expand_home("~")), "io.datasette.llm")
    if sys.platform == "darwin":
        return Path(expand_home("~/Library/Application Support"), "io.datasette.llm")
    return Path(os.environ.get("XDG_CONFIG_HOME", expand_home("~/.config")), "io.datasette.llm")


def expand_home(path: str) -> str:
    """Resolve `~` in a path; return the path unchanged if there is no such user."""
    return os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises if there is no such user


def make_absolute(path: Path) -> Path:
    """Return an absolute path with `~` resolved."""
    return Path(expand_home(str(path))).absolute()


def data_dir() -> Path:
    """Return the folder for the library, the settings and logs, in llm's user directory. Does not create it."""
    return user_dir() / "hf"


def suggest_folder_fix(path: Path) -> str:
    """Suggest how to make a file or folder usable: change its owner, or move llm's folder."""
    for place in (user_dir(), data_dir(), path):
        if _is_inaccessible(place):
            command = f"sudo chown -R $(id -un) {shlex.quote(str(place))}"
            return f"It belongs to another user, for example after `sudo llm hf`: {command}"
    return "It is in llm's folder; LLM_USER_PATH selects another one."


def _is_inaccessible(place: Path) -> bool:
    try:
        is_foreign = os.name == "posix" and place.stat().st_uid != os.geteuid()
    except OSError:
        return False
    return is_foreign and not os.access(place, os.R_OK | os.W_OK)


def library_path() -> Path:
    """Return the path of the library, the SQLite file that records local models and downloads."""
    return data_dir() / "library.db"
