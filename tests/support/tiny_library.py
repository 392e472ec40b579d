"""Tiny models in a library of their own, and llm's commands to prompt them."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.gguf.header import read_header
from llm_hf_models.inference import running_engines
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import Check, LocalFile, LocalModel
from tests.conftest import Home
from tests.support import ggufs
from tests.support.commands import run_llm

COMMIT = "c" * 40
CALL = '<tool_call>\n{"name": "weather", "arguments": {"town": "Riga"}}\n</tool_call>'
FUNCTION = 'def weather(town: str) -> str:\n    "The weather"\n    return town + " is sunny"'
DOG = '{"name": "Rex"}'
# The smallest PNG: one grey pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001485aff3d0000000049454e44ae426082"
)


@dataclass(frozen=True)
class TinyLibrary:
    """A home with tiny models that the tests of one module share, so that engines keep running between tests."""

    user: Path
    runtime: Path
    files: Path

    def open_db(self) -> Database:
        return Database(self.user / "hf/library.db")

    def find_pids(self) -> set[int]:
        """Return the pids of the running engines."""
        with self.open_db() as db:
            return {row.pid for row in running_engines.list_running_engines(db)}

    def add(self, model_id: str, path: Path, **fields: Any) -> LocalModel:
        with path.open("rb") as file:
            facts = read_header(file, file_bytes=path.stat().st_size).facts
        one = LocalFile(path.name, "weights", path.stat().st_size, str(path), sha256="d" * 64)
        fields = {"checks": (Check("digest", "matches", time.time()),), "facts": facts, **fields}
        repo = model_id.removeprefix("hf/").partition(":")[0]
        with self.open_db() as db:
            return db.register(LocalModel(model_id, repo, None, COMMIT, "F16", (one,), **fields))

    def use_as_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make it this test's home for llm and engines."""
        monkeypatch.setenv("LLM_USER_PATH", str(self.user))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(self.runtime))

    def reset(self) -> None:
        """Remove the options and remote models that a test has added."""
        with self.open_db() as db:
            for model in db.list_models():
                if model.endpoint is not None:
                    db.remove_model(model.model_id)
                else:
                    db.set_options(model.model_id, {})


@contextmanager
def open_empty_library(folders: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    """Provide an empty library; stop its engines at the end."""
    runtime = Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp"))  # short: a unix socket's path has at most 107 bytes
    library = TinyLibrary(folders.mktemp("llm"), runtime, folders.mktemp("models"))
    yield library
    with library.open_db() as db:
        for row in running_engines.list_running_engines(db):
            running_engines.stop_engine(db, row)
    shutil.rmtree(runtime, ignore_errors=True)


@contextmanager
def open_tiny_library(folders: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    """Provide a model of each kind.

    `tiny` calls a tool, `dog` answers in JSON, `endless` never ends its answer, `base` and `vectors` can't chat.
    """
    with open_empty_library(folders) as library:
        library.add("hf/tiny/chat:F16", ggufs.tiny_chat(library.files / "chat.gguf", tool_call=CALL), aliases=("tiny",))
        library.add("hf/tiny/dog:F16", ggufs.tiny_chat(library.files / "dog.gguf", answer=DOG), aliases=("dog",))
        library.add("hf/tiny/base:F16", ggufs.tiny_base(library.files / "base.gguf"), aliases=("base",))
        library.add("hf/tiny/embed:F32", ggufs.tiny_embedding(library.files / "embed.gguf"), aliases=("vectors",))
        endless = ggufs.tiny_chat(library.files / "endless.gguf", endless=True)
        library.add("hf/tiny/endless:F16", endless, aliases=("endless",))
        yield library


def get_output(*arguments: str, stdin: str | None = None) -> str:
    result = run_llm(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def read_last_log() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get_output("logs", "-n", "1", "--json"))[0]
    return found


@pytest.fixture(scope="module")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    with open_tiny_library(tmp_path_factory) as library:
        yield library


@pytest.fixture(autouse=True)
def use_tiny_library(home: Home, tiny_library: TinyLibrary, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # noqa: ARG001
    tiny_library.use_as_home(monkeypatch)
    yield
    tiny_library.reset()
