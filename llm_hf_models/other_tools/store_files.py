"""Read the stores of other tools: never outside of a store, never a device, and never more than a limit.

Another user may own a store (Ollama's system service), and any program may have written to it.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_hf_models.errors import HfModelsError
from llm_hf_models.gguf import variants
from llm_hf_models.gguf.filenames import parse_name
from llm_hf_models.hub.refs import ModelRef, RepoId
from llm_hf_models.other_tools.types import FoundModel, StoreFolder
from llm_hf_models.paths import expand_home
from llm_hf_models.system.text import clean_text

MAX_NAME_CHARS = 200
MAX_SETTINGS_BYTES = 2**20  # of a manifest or a file of settings
MAX_TEXT_BYTES = 2**20  # of a template, a system prompt or a licence
MAX_ENTRIES = 50_000  # files and folders of one store
MAX_DEPTH = 12
GGUF_MAGIC = b"GGUF"
# The ends and starts of names of downloads that are not complete.
_PARTIAL_ENDS = (".part", ".partial", ".incomplete", ".download", ".downloadinprogress", ".crdownload", ".tmp")
_PARTIAL_STARTS = ("incomplete-", "downloading_")
_OTHER_WEIGHTS = (".safetensors", ".npz", ".pth", ".onnx")
INCOMPLETE = "Its download is not complete."


class StoreError(Exception):
    """A file of a store can't be used. The message is the reason."""


@dataclass(frozen=True)
class System:
    """What decides where the tools keep their models: the platform, the home folder and the environment."""

    platform: str = sys.platform
    home: Path = field(default_factory=lambda: Path(expand_home("~")))
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def get_variable(self, name: str) -> str | None:
        """Return an environment variable, or None if it is unset or empty."""
        return self.environment.get(name, "").strip() or None

    def get_folder(self, name: str) -> Path | None:
        """Return the folder that an environment variable names, or None."""
        value = self.get_variable(name)
        return self.expand(value) if value else None

    def expand(self, path: str) -> Path:
        """Return a path with its `~` replaced by the home folder."""
        return self.home / path[2:] if path.startswith(("~/", "~\\")) else Path(path)

    @property
    def app_data(self) -> Path:
        """Return the folder for data of desktop programs (`dirs::data_dir` of Rust, Electron's appData on Windows)."""
        if self.platform == "win32":
            return self.get_folder("APPDATA") or self.home / "AppData/Roaming"
        if self.platform == "darwin":
            return self.home / "Library/Application Support"
        return self.get_folder("XDG_DATA_HOME") or self.home / ".local/share"

    @property
    def config(self) -> Path:
        """Return the folder for the settings of desktop programs."""
        if self.platform in ("win32", "darwin"):
            return self.app_data
        return self.get_folder("XDG_CONFIG_HOME") or self.home / ".config"

    @property
    def local_data(self) -> Path:
        """Return the folder for data that does not roam between machines (Qt's AppLocalDataLocation)."""
        if self.platform == "win32":
            return self.get_folder("LOCALAPPDATA") or self.home / "AppData/Local"
        return self.app_data


def explain(error: OSError) -> str:
    """Return why a file can't be read."""
    return f"Can't be read: {error.strerror or type(error).__name__}."


def open_folder(path: Path) -> StoreFolder:
    """Return a folder of a tool with its state."""
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return StoreFolder(str(path), "not readable", "It is not a folder.")
        os.listdir(path)  # noqa: PTH208 - the folder may be large, and only the permission matters
    except (FileNotFoundError, NotADirectoryError):
        return StoreFolder(str(path), "missing")
    except (OSError, ValueError) as error:  # ValueError: a null byte in an environment variable
        return StoreFolder(str(path), "not readable", explain(error) if isinstance(error, OSError) else str(error))
    return StoreFolder(str(path), "read")


def find_file(path: Path, root: Path | None) -> Path:
    """Return a regular file that this user can read.

    Args:
        path: the file.
        root: the store that it must be in, also after links were followed; None if the tool allows any place.

    Raises:
        StoreError: it is missing, not a file, not readable, or outside of the store.
    """
    try:
        real = path.resolve(strict=True)
        if root is not None and not real.is_relative_to(root.resolve()):
            raise StoreError("Is a link out of the store, which is not followed.")
        if not stat.S_ISREG(real.stat().st_mode):
            raise StoreError("Is not a file.")
        with real.open("rb"):
            return path
    except FileNotFoundError:
        raise StoreError("Is missing.") from None
    except RuntimeError:  # a loop of links, before Python 3.13
        raise StoreError("Is a loop of links.") from None
    except OSError as error:
        raise StoreError(explain(error)) from None
    except ValueError:
        raise StoreError("Has a name that no file can have.") from None


def read_text(path: Path, root: Path, max_bytes: int) -> str:
    """Return the text of a file in a store.

    Raises:
        StoreError: it can't be read, is larger than `max_bytes`, or is not UTF-8.
    """
    try:
        with find_file(path, root).open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise StoreError(f"Is larger than {max_bytes:,} bytes.")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise StoreError(explain(error)) from None
    except UnicodeDecodeError:
        raise StoreError("Is not UTF-8 text.") from None


def read_json(path: Path, root: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a store.

    Raises:
        StoreError: it can't be read, or is not a JSON object.
    """
    return parse_json(read_text(path, root, MAX_SETTINGS_BYTES))


def parse_json(text: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        StoreError: the text is something else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise StoreError("Is not valid JSON.") from None
    if not isinstance(value, dict):
        raise StoreError("Is not a JSON object.")
    return value


def walk(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each folder of a store with its files, in order. Links to folders are not followed.

    Raises:
        StoreError: after the last folder: a part of the store can't be read, or it has too many entries.
    """
    problems: list[str] = []
    count = 0

    def note(error: OSError) -> None:
        problems.append(f"{clean_text(str(error.filename), MAX_NAME_CHARS)}: {explain(error)}")

    for parent, folders, files in os.walk(root, onerror=note):
        count += len(folders) + len(files)
        if count > MAX_ENTRIES:
            problems.append(f"It has more than {MAX_ENTRIES:,} entries, and the rest was not searched.")
            break
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(Path(parent).relative_to(root).parts) >= MAX_DEPTH:
            folders.clear()
        yield Path(parent), [Path(parent, name) for name in sorted(files)]
    if problems:
        raise StoreError(problems[0])


def clean_name(name: str) -> str:
    """Return a name from a store without control characters."""
    return clean_text(name, MAX_NAME_CHARS)


def is_partial(name: str) -> bool:
    """Return whether a file's name is that of a download that is not complete."""
    lower = name.lower()
    return lower.endswith(_PARTIAL_ENDS) or lower.startswith(_PARTIAL_STARTS)


def is_other_format(name: str) -> bool:
    """Return whether a file has weights in a format that llama.cpp does not load."""
    return name.lower().endswith(_OTHER_WEIGHTS)


@dataclass(frozen=True)
class _Sized:
    path: str
    size: int


def group_models(files: list[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Group the GGUF files of one folder into models.

    Returns:
        The first file of each model, and the files that are not models, each with the reason.
    """
    by_name = {file.name: file for file in files if parse_name(file.name) and not is_partial(file.name)}
    sized = [_Sized(name, _measure(file)) for name, file in by_name.items()]
    models = [by_name[group.files[0]] for group in variants.group_variants(sized)]
    others = {file: INCOMPLETE for file in files if is_partial(file.name) and ".gguf" in file.name.lower()}
    for split in variants.find_incomplete_splits(sized):
        others[by_name[split.files[0]]] = f"Its split model is not complete: {split.reason}"
    for name, kind in variants.find_companions(sized).items():
        if kind == "adapter":
            others[by_name[name]] = ADAPTER
    return models, others


ADAPTER = "It is an adapter (LoRA), and adapters are not supported yet."


def _measure(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def find_repo(text: object) -> str | None:
    """Return the repo that a text names: `owner/name`, a ref, or an address of the Hub. None if it names none."""
    if not isinstance(text, str):
        return None
    try:
        return str(ModelRef.parse(text).repo)
    except HfModelsError:
        return None


def make_repo(owner: str, name: str) -> str | None:
    """Return `owner/name`, or None if the Hub can't have such a repo."""
    try:
        return str(RepoId(owner, name))
    except HfModelsError:
        return None


def make_other(tool: str, path: Path, root: Path, problem: str) -> FoundModel:
    """Return the entry of a file or folder that can't be imported."""
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return FoundModel(tool, clean_name(str(shown)), (str(path),), problem=problem)
