"""Where our own files are. Imports next to nothing, since every `llm models` asks; what people decide: settings.py."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def user_dir() -> Path:
    """The user directory of llm, computed as llm and click do without importing either (a test holds them equal)."""
    if path := os.environ.get("LLM_USER_PATH"):
        return Path(path)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", expand_home("~")), "io.datasette.llm")
    if sys.platform == "darwin":
        return Path(expand_home("~/Library/Application Support"), "io.datasette.llm")
    return Path(os.environ.get("XDG_CONFIG_HOME", expand_home("~/.config")), "io.datasette.llm")


def expand_home(path: str) -> str:
    """A path with its `~` resolved, or as it was where there is no such user."""
    return os.path.expanduser(path)  # noqa: PTH111 - Path's own raises where there is no such user


def make_absolute(path: Path) -> Path:
    """The same from the root on, its `~` resolved."""
    return Path(expand_home(str(path))).absolute()


def data_dir() -> Path:
    """The folder of our own files, in llm's user directory: the library, the settings, logs. Not created here."""
    return user_dir() / "hf"


def suggest_folder_fix(path: Path) -> str:
    """What whoever can't use what stands there can do: have it given back, or move llm's folder."""
    for place in (user_dir(), data_dir(), path):
        if _is_inaccessible(place):
            mended = f"sudo chown -R $(id -un) {shlex.quote(str(place))}"
            return f"It belongs to another user, as after `sudo llm hf`: {mended}"
    return "It stands in llm's own folder, which LLM_USER_PATH can move."


def _is_inaccessible(place: Path) -> bool:
    try:
        is_anothers = os.name == "posix" and place.stat().st_uid != os.geteuid()
    except OSError:
        return False
    return is_anothers and not os.access(place, os.R_OK | os.W_OK)


def library_path() -> Path:
    """The SQLite file that records what is on this machine."""
    return data_dir() / "library.db"
