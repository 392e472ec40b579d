"""Parent side of the llama.cpp process: start, find, reuse, stop; its endpoint. Speaks no chat (inference/client.py
does).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_hf_models.errors import EngineStartError, MissingFileError, ModelTooLargeError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.inference.engine_folder import (
    EngineFolder,
    create_engine_folder,
    is_listening,
    make_base_folder,
    remove_stale_folders,
)
from llm_hf_models.inference.running_engines import (
    count_busy_slots,
    find_process,
    get_engine_folder,
    list_running_engines,
    stop_engine,
)
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import EngineRow
from llm_hf_models.settings import Settings
from llm_hf_models.system.machine import default_threads, read_memory
from llm_hf_models.system.processes import get_start_time

if TYPE_CHECKING:
    from llm_hf_models.gguf.memory_fit import Fit

PARALLEL_REQUESTS = 4  # requests answered at once; they share the context

# Tokens read between two looks at whether the client is still there: benchmarks/threads.py weighs it against speed.
BATCH_TOKENS = 128
GPU_BATCH_TOKENS = 512  # a GPU reads so many at once, and soon enough
IMAGE_BATCH_TOKENS = 512  # llama.cpp's own: some models look at all tokens of an image at once, and it must fit
MEMORY_SLACK_BYTES = 2**30  # for what is not weighed: copied weights are, at twice their size
HTTP_THREADS = 32  # one for each open connection, waiting ones too
PROMPT_CACHE_MIB = 256  # llama.cpp's default of 8 GB would outgrow every estimate


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
    chat_template: str | None = None  # instead of the header's

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """Every weight file, the first shard first."""
        return (self.model_path, *(path for path in self.shard_paths if path != self.model_path))

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the engine reads."""
        return (*self.weight_files, self.mmproj_path) if self.mmproj_path else self.weight_files

    @property
    def fingerprint(self) -> str:
        """A short hash of files (path, size, mtime), context, threads, offload and template: two alike are one engine.

        Raises:
            MissingFileError: a file of the model is gone.
        """
        parts: list[object] = [self.context, self.gpu_layers, self.threads, self.facts.kind, self.chat_template]
        for path in self.files:
            try:
                found = path.stat()
            except OSError:
                raise MissingFileError(
                    f"{path.name} of {self.model_id} is gone", hint=f"llm hf pull {self.model_id.removeprefix('hf/')}"
                ) from None
            parts += [str(path), found.st_size, found.st_mtime_ns]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


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
    log: Path | None = None  # of our engine: where its last words are
    control: EngineControl | None = field(default=None, repr=False, compare=False)  # of our engine

    @property
    def can_grow_context(self) -> bool:
        """Whether a larger context can be asked for: it has what was asked for, and its model was made for more."""
        if self.control is None or self.context is None:
            return False
        spec = self.control.spec
        most = spec.facts.context_length
        return most is None or (spec.context or most) <= self.context < most


Notice = Callable[[str], None]


@dataclass(frozen=True)
class EngineControl:
    """What a client may do about an engine of ours that does not answer. Opens the library anew: maybe in a thread."""

    spec: EngineSpec
    library: Path
    settings: Settings
    keep_alive: float
    notice: Notice
    row: EngineRow

    def reconnect(self) -> Endpoint:
        """The same engine if it is there after all, else a new one.

        Raises:
            As ensure.
        """
        with Database(self.library) as db:
            return ensure_engine(self.spec, db, self.settings, keep_alive=self.keep_alive, notice=self.notice)

    def is_working(self) -> bool:
        """Whether it works on requests, as it says itself: silence can mean that it is others' turn."""
        return bool(count_busy_slots(self.row))

    def stop(self) -> None:
        """Ends it, since it hangs."""
        with Database(self.library) as db:
            stop_engine(db, self.row)


def ensure_engine(spec: EngineSpec, db: Database, settings: Settings, *, keep_alive: float, notice: Notice) -> Endpoint:
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
        NotWritableError: the folder of its socket can't be made.
    """
    fingerprint = _compute_fingerprint(spec, settings)

    def endpoint(row: EngineRow) -> Endpoint:
        return _build_endpoint(row, EngineControl(spec, db.path, settings, keep_alive, notice, row))

    row = db.get_engine(fingerprint)
    if row is not None and _renew_if_running(row, keep_alive):
        return endpoint(row)
    import filelock

    try:
        # One start at a time, of whatever model: two that weigh the same free memory would both find that they fit.
        with filelock.FileLock(make_base_folder() / "start.lock", timeout=2 * settings.engine_start_seconds):
            row = db.get_engine(fingerprint)
            if row is not None and _renew_if_running(row, keep_alive):
                return endpoint(row)
            row, load_seconds = _start_and_record(spec, fingerprint, db, settings, keep_alive, notice)
    except filelock.Timeout:
        raise EngineStartError(
            "Another engine has been starting for too long",
            hint="`llm hf ps` shows engines, `llm hf stop --all` ends them.",
        ) from None
    return replace(endpoint(row), load_seconds=load_seconds)


def _compute_fingerprint(spec: EngineSpec, settings: Settings) -> str:
    """The library's key: an unconfined engine is never taken for a confined one, nor one program for another."""
    return spec.fingerprint + f"-{settings.engine}" + ("" if settings.sandbox else "-unconfined")


def _renew_if_running(row: EngineRow, keep_alive: float) -> bool:
    """Whether the engine answers; if so it knows that a request is about to come."""
    if not row.address.startswith("http://"):
        return get_engine_folder(row).renew_lease(keep_alive) and is_listening(row.address)
    # A port may be somebody else's by now, and would be told the key: ask the system who runs.
    return (
        find_process(row) is not None and get_engine_folder(row).renew_lease(keep_alive) and is_listening(row.address)
    )


def _build_endpoint(row: EngineRow, keeper: EngineControl) -> Endpoint:
    local = not row.address.startswith("http://")
    return Endpoint(
        base_url="http://engine" if local else row.address,
        socket=Path(row.address) if local else None,
        key=row.key,
        model=row.model_id,
        fingerprint=row.fingerprint,
        context=row.context,
        log=get_engine_folder(row).log,
        control=keeper,
    )


def _start_and_record(
    spec: EngineSpec, fingerprint: str, db: Database, settings: Settings, keep_alive: float, notice: Notice
) -> tuple[EngineRow, float]:
    """Starts a new engine and records it. Returns its row, and how long loading took in seconds."""
    from llm_hf_models.inference import launcher

    for row in list_running_engines(db):
        if row.fingerprint == fingerprint:
            stop_engine(db, row)  # it is there, and did not answer
    remove_stale_folders({get_engine_folder(row).path for row in list_running_engines(db)})
    verdict = _make_room(spec, db, settings, notice)
    place = create_engine_folder()
    try:
        place.lease.touch(mode=0o600)
        place.renew_lease(keep_alive)
        task = _build_task(spec, settings, place, verdict, keep_alive)
        started = launcher.start_engine(task, place, seconds=settings.engine_start_seconds)
        row = EngineRow(
            fingerprint=fingerprint,
            model_id=spec.model_id,
            pid=started.pid,
            pid_started=get_start_time(started.pid),
            address=started.address,
            key=task["key"],
            context=verdict.context,
            started=time.time(),
            last_used=time.time(),
            keep_alive=keep_alive,
            memory=started.memory,
            layers=started.layers,
            missing=dict(started.missing),
            log=str(place.log),
        )
        db.save_engine(row)
    except BaseException:
        place.remove()  # an engine without its folder leaves
        raise
    return row, started.load_seconds


def _build_task(
    spec: EngineSpec, settings: Settings, place: EngineFolder, verdict: Fit, keep_alive: float
) -> dict[str, Any]:
    """What engine_child is told."""
    return {
        "name": spec.model_id,
        "model": str(spec.model_path.absolute()),
        "mmproj": str(spec.mmproj_path.absolute()) if spec.mmproj_path else None,
        "read_paths": [str(path.resolve()) for path in spec.files],
        "folder": str(place.path),
        "socket": str(place.socket) if sys.platform != "win32" else None,
        "lease": str(place.lease),
        "key": secrets.token_urlsafe(32),
        "keep_alive": keep_alive,
        "context": verdict.context,
        "batch": (batch := _choose_batch_size(spec, verdict.context)),
        "gpu_batch": max(batch, GPU_BATCH_TOKENS),
        "parallel": PARALLEL_REQUESTS,
        "embedding": spec.facts.kind == "embedding",
        "chat_template": spec.chat_template,
        "threads": spec.threads or settings.threads or default_threads(),
        "gpu_layers": spec.gpu_layers,
        "engine": settings.engine,
        "binary": _find_llama_server(settings),
        "cache_mib": PROMPT_CACHE_MIB,
        "http_threads": HTTP_THREADS,
        "sandbox": settings.sandbox,
        "max_memory": 2 * verdict.needed + MEMORY_SLACK_BYTES,
    }


def _find_llama_server(settings: Settings) -> str | None:
    """The path of a llama-server that may serve.

    Raises:
        EngineStartError: it was asked for, and can't.
    """
    found = shutil.which("llama-server") if settings.engine != "xllamacpp" and sys.platform != "win32" else None
    if found is None and settings.engine == "llama-server":
        raise EngineStartError(
            "There is no llama-server on PATH",
            cause="On Windows it can't be used yet." if sys.platform == "win32" else None,
            hint="Install llama.cpp (brew, conda-forge, or its releases), or `llm hf settings engine auto`.",
        )
    return found


def _make_room(spec: EngineSpec, db: Database, settings: Settings, notice: Notice) -> Fit:
    """Weighs the model, at the context that will run; where it doesn't fit, the idle engines used longest ago go first.

    Raises:
        ModelTooLargeError: it doesn't fit even so.
    """
    from llm_hf_models.gguf import memory_fit

    verdict = _estimate_fit(spec, settings)
    if verdict.reduced or not verdict.fits:
        idle = [row for row in reversed(list_running_engines(db)) if count_busy_slots(row) == 0]
        best = _estimate_fit(spec, settings, freed=sum(row.memory for row in idle))
        while idle and _is_better(best, verdict):
            row = idle.pop(0)
            stop_engine(db, row)
            notice(f"Stopped the idle engine of {row.model_id} to make room for {spec.model_id}")
            verdict = _estimate_fit(spec, settings)
    if not verdict.fits:
        raise ModelTooLargeError(
            f"{spec.model_id} does not fit this machine's free memory",
            cause=f"It {verdict.reason}.",
            hint="Close other programs, `llm hf stop --all`, or pull a smaller quantization.",
        )
    if verdict.reduced:
        notice(f"Context of {verdict.context} tokens: it {verdict.reason}")
    return replace(verdict, context=memory_fit.pad_context(verdict.context))


def _is_better(one: Fit, other: Fit) -> bool:
    return (one.fits, one.context) > (other.fits, other.context)


def _estimate_fit(spec: EngineSpec, settings: Settings, *, freed: int = 0) -> Fit:
    """Weighs the model against what is free now, and what stopping others would free (bytes)."""
    from llm_hf_models.gguf import memory_fit

    free = read_memory().free_memory + freed
    activations = max(0, _choose_batch_size(spec, spec.context) - memory_fit.BATCH_TOKENS) * memory_fit.ACTIVATION_BYTES
    return memory_fit.assess_fit(
        sum(path.stat().st_size for path in spec.weight_files),
        spec.facts,
        context=spec.context,
        # A small machine keeps a quarter, since the reserve may be all it has.
        available=free - min(settings.memory_reserve, free // 4) - activations * (spec.facts.embedding_length or 0),
        mmproj_bytes=spec.mmproj_path.stat().st_size if spec.mmproj_path else 0,
    )


def _choose_batch_size(spec: EngineSpec, context: int) -> int:
    """Tokens read at once: a text is embedded whole, or refused."""
    if spec.facts.kind == "embedding":
        return context or spec.facts.context_length or BATCH_TOKENS
    return IMAGE_BATCH_TOKENS if spec.mmproj_path else BATCH_TOKENS
