"""Parent side of the llama.cpp process: start, find, reuse, stop; its endpoint. Speaks no chat (chat.py does)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llm_hf_models.gguf_header import ModelFacts
from llm_hf_models.library import EngineRow, LibraryDB
from llm_hf_models.settings import Settings


@dataclass(frozen=True)
class EngineSpec:
    """What an engine is started with; equal specs share one engine."""

    model_id: str
    model_path: Path  # the first shard
    shard_paths: tuple[Path, ...] = ()
    mmproj_path: Path | None = None
    facts: ModelFacts = field(default_factory=ModelFacts)
    context: int = 0  # tokens asked for; 0 is the model's own
    gpu_layers: int = -1
    threads: int = 0  # 0 chooses

    @property
    def fingerprint(self) -> str:
        """A short hash of files (path, size, mtime), context, threads and offload: what makes two engines the same."""
        raise NotImplementedError


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers in OpenAI's protocol: an engine of ours, or a server elsewhere."""

    base_url: str  # `http://engine` with `socket`, else a real address; without /v1
    socket: Path | None = None
    key: str | None = field(default=None, repr=False)
    model: str | None = None  # the name to send, where the server wants one
    fingerprint: str | None = None  # of our engine; None elsewhere
    context: int | None = None
    load_seconds: float | None = None  # how long starting took, None when it was warm


Notice = Callable[[str], None]


def ensure(spec: EngineSpec, db: LibraryDB, settings: Settings, *, keep_alive: float, notice: Notice) -> Endpoint:
    """The endpoint of a running engine for this spec: the warm one, or a new one, started once however many ask.

    Args:
        spec: what to run.
        db: where engines are recorded.
        settings: limits, sandbox, start-up time.
        keep_alive: seconds it stays warm when idle.
        notice: told, once each, what a person should know: a smaller context than asked, an engine evicted.

    Raises:
        ModelTooLargeError: it doesn't fit even with the smallest useful context; said before loading.
        EngineStartError: it did not start; the cause holds its last words.
        MissingFileError: a file of the model is gone.
    """
    raise NotImplementedError


def running(db: LibraryDB) -> list[EngineRow]:
    """The engines that run now; rows and sockets of dead ones are removed on the way."""
    raise NotImplementedError


def stop(db: LibraryDB, row: EngineRow, *, seconds: float = 5) -> None:
    """Ends one engine: politely, then not. Its row and socket go too."""
    raise NotImplementedError


def stop_model(db: LibraryDB, model_id: str) -> int:
    """Ends every engine of one model. Returns how many there were."""
    raise NotImplementedError
