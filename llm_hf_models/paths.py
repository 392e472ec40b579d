"""Where our own files are. Imports next to nothing, since every `llm models` asks; what people decide: settings.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER_HINT = "It stands in llm's own folder, which LLM_USER_PATH can move."  # to whoever can't use what stands there


def user_dir() -> Path:
    """The user directory of llm, computed as llm and click do without importing either (a test holds them equal)."""
    if path := os.environ.get("LLM_USER_PATH"):
        return Path(path)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", from_home("~")), "io.datasette.llm")
    if sys.platform == "darwin":
        return Path(from_home("~/Library/Application Support"), "io.datasette.llm")
    return Path(os.environ.get("XDG_CONFIG_HOME", from_home("~/.config")), "io.datasette.llm")


def from_home(path: str) -> str:
    """A path with its `~` resolved, or as it was where there is no such user."""
    return os.path.expanduser(path)  # noqa: PTH111 - Path's own raises where there is no such user


def home() -> Path:
    """The folder of our own files, in llm's user directory: the library, the settings, logs. Not created here."""
    return user_dir() / "hf"


def library_path() -> Path:
    """The SQLite file that records what is on this machine."""
    return home() / "library.db"
