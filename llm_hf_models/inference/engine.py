"""Start, find, reuse and stop llama.cpp engines, and describe their endpoints. `client` sends the requests."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_hf_models.errors import EngineStartError, MissingFileError, ModelTooLargeError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.inference.engine_folder import (
    create_engine_folder,
    hold_start_lock,
    is_listening,
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
from llm_hf_models.system.machine import choose_thread_count, read_memory
from llm_hf_models.system.processes import get_start_time

if TYPE_CHECKING:
    from llm_hf_models.gguf.memory_fit import Fit
    from llm_hf_models.inference.sandbox_probe import SandboxResult

PARALLEL_REQUESTS = 4  # processed at the same time; they share the context

# llama.cpp checks after each batch whether the client has disconnected. benchmarks/threads.py compares this delay
# with speed.
BATCH_TOKENS = 128
GPU_BATCH_TOKENS = 512  # fast enough on a GPU
IMAGE_BATCH_TOKENS = 512  # llama.cpp's default: some models need all tokens of an image in one batch
MEMORY_SLACK_BYTES = 2**30  # for memory outside the estimate; doubling the estimate covers copied weights
HTTP_THREADS = 32  # one for each open connection, including queued ones
PROMPT_CACHE_MIB = 256  # llama.cpp's default of 8 GB would exceed every estimate

PROBE_MODEL = Path(__file__).with_name("sandbox_probe.gguf")  # tests/tools/make_sandbox_model.py writes it
PROBE_CONTEXT = 512  # tokens


@dataclass(frozen=True)
class EngineSpec:
    """The model and options of an engine. Equal specs share one engine."""

    model_id: str
    model_path: Path  # the first shard
    shard_paths: tuple[Path, ...] = ()
    mmproj_path: Path | None = None
    facts: ModelFacts = field(default_factory=ModelFacts)
    context: int = 0  # requested tokens; 0 is the model's maximum
    gpu_layers: int = -1
    threads: int = 0  # 0 selects a number for this machine
    chat_template: str | None = None  # replaces the header's
    pooling: str | None = None  # of an embedding model; replaces the header's

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """All weight files, starting with the first shard."""
        return (self.model_path, *(path for path in self.shard_paths if path != self.model_path))

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the engine reads."""
        return (*self.weight_files, self.mmproj_path) if self.mmproj_path else self.weight_files

    @property
    def fingerprint(self) -> str:
        """A short hash of the files (path, size, mtime), context, GPU layers, threads, kind and template.

        Specs with the same fingerprint share one engine.

        Raises:
            MissingFileError: A file of the model is missing.
        """
        parts: list[object] = [self.context, self.gpu_layers, self.threads, self.facts.kind, self.chat_template]
        if self.pooling:
            parts.append(self.pooling)
        for path in self.files:
            try:
                status = path.stat()
            except OSError:
                raise MissingFileError(
                    f"{path.name} of {self.model_id} is missing",
                    hint=f"llm hf pull {self.model_id.removeprefix('hf/')}",
                ) from None
            parts += [str(path), status.st_size, status.st_mtime_ns]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Endpoint:
    """The address of a model's server in OpenAI's protocol: a local engine or a remote endpoint."""

    base_url: str  # `http://engine` if there is a `socket`, else a real address; without /v1
    socket: Path | None = None
    key: str | None = field(default=None, repr=False)
    model: str | None = None  # the name to send, if the server needs one
    fingerprint: str | None = None  # of a local engine; None for a remote endpoint
    context: int | None = None  # tokens
    load_seconds: float | None = None  # None if the engine was running already
    can_grow_context: bool = False  # whether a local engine can be restarted with a larger context
    has_custom_template: bool = False  # whether a local engine uses the user's chat template
    row: EngineRow | None = field(default=None, repr=False, compare=False)  # of a local engine


Notify = Callable[[str], None]


def ensure_engine(spec: EngineSpec, db: Database, settings: Settings, *, keep_alive: float, notify: Notify) -> Endpoint:
    """Return the endpoint of an engine for this spec, starting one if none is running.

    Concurrent callers with the same spec get the same engine.

    Args:
        spec: The model and options to run.
        db: The library that records engines. The endpoint does not keep it.
        settings: Memory reserve, sandbox, time limit for starting.
        keep_alive: How long an idle engine stays running, in seconds.
        notify: Called with each message for the user, such as a reduced context or a stopped idle engine.

    Raises:
        ModelTooLargeError: The model does not fit even with the smallest useful context. Nothing was loaded.
        EngineStartError: The engine did not start; the cause holds the errors from its log.
        MissingFileError: A file of the model is missing.
        NotWritableError: The folder for the engine's socket can't be created.
    """
    fingerprint = _compute_fingerprint(spec, settings)
    row = db.get_engine(fingerprint)
    if row is not None and _renew_if_running(row, keep_alive):
        return _build_endpoint(row, spec)
    without = find_left_out_layers(settings, notify)
    # Only one engine starts at a time: two estimates of the same free memory could each decide that theirs fits.
    with hold_start_lock(2 * settings.engine_start_seconds):
        row = db.get_engine(fingerprint)
        if row is not None and _renew_if_running(row, keep_alive):
            return _build_endpoint(row, spec)
        row, load_seconds = _start_and_record(spec, fingerprint, db, settings, keep_alive, without, notify)
    return replace(_build_endpoint(row, spec), load_seconds=load_seconds)


def _compute_fingerprint(spec: EngineSpec, settings: Settings) -> str:
    """Return the engine's key in the library. It differs by the engine program and by the setting of the sandbox."""
    return f"{spec.fingerprint}-{settings.engine}-sandbox-{settings.sandbox}"


def _renew_if_running(row: EngineRow, keep_alive: float) -> bool:
    """Renew the engine's lease and return whether it is running. The lease keeps it running for the next request."""
    if not row.address.startswith("http://"):
        return get_engine_folder(row).renew_lease(keep_alive) and is_listening(row.address)
    # Another program may have taken the port and would receive the key: check that the engine's process still runs.
    return (
        find_process(row) is not None and get_engine_folder(row).renew_lease(keep_alive) and is_listening(row.address)
    )


def _build_endpoint(row: EngineRow, spec: EngineSpec) -> Endpoint:
    local = not row.address.startswith("http://")
    return Endpoint(
        base_url="http://engine" if local else row.address,
        socket=Path(row.address) if local else None,
        key=row.key,
        model=row.model_id,
        fingerprint=row.fingerprint,
        context=row.context,
        can_grow_context=_can_grow_context(row.context, spec),
        has_custom_template=spec.chat_template is not None,
        row=row,
    )


def _can_grow_context(context: int, spec: EngineSpec) -> bool:
    """Return whether the engine got the requested context and its model supports a larger one."""
    maximum = spec.facts.context_length
    return maximum is None or (spec.context or maximum) <= context < maximum


def _start_and_record(
    spec: EngineSpec,
    fingerprint: str,
    db: Database,
    settings: Settings,
    keep_alive: float,
    without: Mapping[str, str],
    notify: Notify,
) -> tuple[EngineRow, float]:
    """Start an engine and record it. Return its row, and the load time in seconds."""
    from llm_hf_models.inference import launcher

    for row in list_running_engines(db):
        if row.fingerprint == fingerprint:
            stop_engine(db, row)  # it runs, but does not respond
    remove_stale_folders({get_engine_folder(row).path for row in list_running_engines(db)})
    estimate = _make_room(spec, db, settings, notify)
    folder = create_engine_folder(keep_alive)
    try:
        task = {**_build_task(spec, settings, estimate, keep_alive), "without": without}
        started = launcher.start_engine(task, folder, seconds=settings.engine_start_seconds)
        row = EngineRow(
            fingerprint=fingerprint,
            model_id=spec.model_id,
            pid=started.process.pid,
            pid_started=get_start_time(started.process.pid),
            address=started.address,
            key=task["key"],
            context=estimate.context,
            started=time.time(),
            last_used=time.time(),
            keep_alive=keep_alive,
            memory=started.memory,
            layers=started.layers,
            missing=dict(started.missing),
            log=str(folder.log),
        )
        db.save_engine(row)
    except BaseException:
        folder.remove()  # without its folder, an engine exits
        raise
    return row, started.load_seconds


def find_left_out_layers(settings: Settings, notify: Notify | None = None) -> Mapping[str, str]:
    """Return the sandbox layers under which engines don't work on this machine, each with the reason.

    Only the first call on a machine starts engines to find out. `notify` receives a line if it finds such a layer.

    Raises:
        EngineStartError: The engine program does not work, even without the sandbox.
    """
    from llm_hf_models.inference import sandbox_probe

    if settings.sandbox == "off":
        return {}
    task = _build_probe_task(settings)
    if (stored := sandbox_probe.read_result(task)) is not None:
        return stored.left_out
    with hold_start_lock(2 * settings.engine_start_seconds):
        if (stored := sandbox_probe.read_result(task)) is not None:  # another process has tested meanwhile
            return stored.left_out
        left_out = sandbox_probe.run_probe(task).left_out
    if left_out and notify:
        names = " and ".join(left_out)
        notify(f"Engines work only without the sandbox layer {names} on this machine. Details: llm hf status")
    return left_out


def read_sandbox_result(settings: Settings) -> SandboxResult | None:
    """Return the stored result of the sandbox's test; None if the next engine to start will test it.

    Raises:
        EngineStartError: The settings require a llama-server, but there is none.
    """
    from llm_hf_models.inference import sandbox_probe

    return sandbox_probe.read_result(_build_probe_task(settings))


def _build_probe_task(settings: Settings) -> dict[str, Any]:
    """Return the task of an engine for PROBE_MODEL. Only the settings have an influence on it."""
    facts = ModelFacts(kind="chat", context_length=PROBE_CONTEXT, embedding_length=64, kv_bytes_per_token=512)
    spec = EngineSpec("sandbox-test", PROBE_MODEL, facts=facts, gpu_layers=settings.gpu_layers)
    return _build_task(spec, settings, _estimate_fit(spec, settings), keep_alive=0)


def _build_task(spec: EngineSpec, settings: Settings, estimate: Fit, keep_alive: float) -> dict[str, Any]:
    """Return the task that engine_child reads from stdin, without the layers to leave out."""
    return {
        "name": spec.model_id,
        "model": str(spec.model_path.absolute()),
        "mmproj": str(spec.mmproj_path.absolute()) if spec.mmproj_path else None,
        "read_paths": [str(path.resolve()) for path in spec.files],
        "key": secrets.token_urlsafe(32),
        "keep_alive": keep_alive,
        "context": estimate.context,
        "batch": (batch := _choose_batch_size(spec, estimate.context)),
        "gpu_batch": max(batch, GPU_BATCH_TOKENS),
        "parallel": PARALLEL_REQUESTS,
        "embedding": spec.facts.kind == "embedding",
        "pooling": spec.pooling,
        "chat_template": spec.chat_template,
        "threads": spec.threads or settings.threads or choose_thread_count(),
        "gpu_layers": spec.gpu_layers,
        "engine": settings.engine,
        "binary": _find_llama_server(settings),
        "cache_mib": PROMPT_CACHE_MIB,
        "http_threads": HTTP_THREADS,
        "sandbox": settings.sandbox,
        "max_memory": 2 * estimate.needed + MEMORY_SLACK_BYTES,
        "max_cpu": 0,
    }


def _find_llama_server(settings: Settings) -> str | None:
    """Return the path of a llama-server that the settings allow, None if there is none.

    Raises:
        EngineStartError: The settings require llama-server, but there is none.
    """
    path = shutil.which("llama-server") if settings.engine != "xllamacpp" and sys.platform != "win32" else None
    if path is None and settings.engine == "llama-server":
        raise EngineStartError(
            "There is no llama-server on PATH",
            cause="It is not supported on Windows yet." if sys.platform == "win32" else None,
            hint="Install llama.cpp (brew, conda-forge, or its releases), or run `llm hf settings engine auto`.",
        )
    return path


def _make_room(spec: EngineSpec, db: Database, settings: Settings, notify: Notify) -> Fit:
    """Estimate the model's memory, and stop idle engines, least recently used first, if that makes it fit better.

    Returns:
        The estimate, with the context that the engine will use.

    Raises:
        ModelTooLargeError: The model does not fit even without the idle engines.
    """
    from llm_hf_models.gguf import memory_fit

    estimate = _estimate_fit(spec, settings)
    if estimate.reduced or not estimate.fits:
        idle = [row for row in reversed(list_running_engines(db)) if count_busy_slots(row) == 0]
        best = _estimate_fit(spec, settings, freed=sum(row.memory for row in idle))
        while idle and _is_better(best, estimate):
            row = idle.pop(0)
            stop_engine(db, row)
            notify(f"Stopped the idle engine of {row.model_id} to free memory for {spec.model_id}")
            estimate = _estimate_fit(spec, settings)
    if not estimate.fits:
        raise ModelTooLargeError(
            f"{spec.model_id} does not fit in this machine's free memory",
            cause=f"It {estimate.reason}.",
            hint="Close other programs, run `llm hf stop --all`, or pull a smaller quantization.",
        )
    if estimate.reduced:
        notify(f"Context reduced to {estimate.context:,} tokens: the model {estimate.reason}")
    return replace(estimate, context=memory_fit.pad_context(estimate.context))


def _is_better(one: Fit, other: Fit) -> bool:
    return (one.fits, one.context) > (other.fits, other.context)


def _estimate_fit(spec: EngineSpec, settings: Settings, *, freed: int = 0) -> Fit:
    """Estimate whether the model fits into the memory that is free now, plus `freed` bytes."""
    from llm_hf_models.gguf import memory_fit

    free = read_memory().free_memory_bytes + freed
    # On a small machine the reserve may exceed the free memory, so at most a quarter is kept.
    reserve = min(settings.memory_reserve_bytes, free // 4)
    activations = max(0, _choose_batch_size(spec, spec.context) - memory_fit.BATCH_TOKENS) * memory_fit.ACTIVATION_BYTES
    return memory_fit.assess_fit(
        sum(path.stat().st_size for path in spec.weight_files),
        spec.facts,
        context=spec.context,
        available=free - reserve - activations * (spec.facts.embedding_length or 0),
        mmproj_bytes=spec.mmproj_path.stat().st_size if spec.mmproj_path else 0,
    )


def _choose_batch_size(spec: EngineSpec, context: int) -> int:
    """Return the tokens per batch. An embedding model needs the whole text in one batch."""
    if spec.facts.kind == "embedding":
        return context or spec.facts.context_length or BATCH_TOKENS
    return IMAGE_BATCH_TOKENS if spec.mmproj_path else BATCH_TOKENS
