"""Load a GGUF file with llama.cpp in a confined child process, and run the model on a short input.

The child is load_test_child. It may abort, hang, exhaust its memory or send a false report. This process returns a
verdict in all these cases.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ValidationError

from llm_hf_models import settings
from llm_hf_models.errors import (
    BadInputError,
    EngineStartError,
    InterruptedByUserError,
    MissingFileError,
    NotWritableError,
)
from llm_hf_models.gguf import memory_fit
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.inference.engine import find_left_out_layers
from llm_hf_models.inference.engine_folder import MAX_SOCKET_PATH_BYTES, EngineFolder
from llm_hf_models.inference.launcher import is_out_of_memory, start_child
from llm_hf_models.inference.types import LoadResult, Verdict
from llm_hf_models.system.machine import read_memory
from llm_hf_models.system.text import clean_text

BASE_SECONDS = 60.0
LOAD_BYTES_PER_SECOND = 50_000_000  # of a slow disk and a slow CPU, including tensor checks
CONTEXT_TOKENS = 512  # enough for a template's preamble and a short answer
GENERATED_TOKENS = 16
MEMORY_SLACK_BYTES = 2**30
STACK_BYTES = 8 * 2**20  # of each thread; llama.cpp starts one for each tensor that it checks
KILL_SECONDS = 5.0
STOP_CHECK_SECONDS = 0.1
MAX_REPORT_BYTES = 64 * 1024
MAX_OUTPUT_CHARS = 200


class _ConfinedLine(BaseModel):
    layers: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]


class _LoadedLine(BaseModel):
    load_seconds: float
    peak_memory: int


class _AnsweredLine(BaseModel):
    nonsense: str  # why the output is invalid; empty if it is valid
    output: str
    tokens_per_second: float | None
    peak_memory: int


class _FailedLine(BaseModel):
    error: str
    memory: bool


class _ChildReport(BaseModel):
    """The child's lines combined. All except `confined` are untrusted: by then the file may control the process."""

    confined: _ConfinedLine | None = None
    loaded: _LoadedLine | None = None
    answered: _AnsweredLine | None = None
    failed: _FailedLine | None = None


@dataclass
class _ChildExit:
    """The exit of the child process, its report and its log."""

    status: int
    timed_out: bool
    report: _ChildReport = field(default_factory=_ChildReport)
    log_errors: str = ""


def run_load_test(
    paths: Path | Sequence[Path],
    facts: ModelFacts,
    *,
    seconds: float = 0,
    max_memory_bytes: int = 0,
    tokens: int = GENERATED_TOKENS,
    threads: int = 0,
    template: str | None = None,
    mmproj: Path | None = None,
    stop: threading.Event | None = None,
) -> LoadResult:
    """Load a model with tensor checks, then generate a few tokens, or embed or rank a sentence.

    Args:
        paths: The file, or all shards in order.
        facts: Facts from the header. They determine the kind of input and the memory limit.
        seconds: Time limit; 0 derives it from the file's size.
        max_memory_bytes: Limit of private memory; 0 derives it from the file's size and the machine's memory.
        tokens: The number of tokens to generate.
        threads: The number of threads; 0 selects a number for this machine.
        template: A chat template that replaces the header's.
        mmproj: The model's projector, which is loaded with it.
        stop: Ends the test when set.

    The setting `sandbox` decides whether the child is confined. The result lists the active layers.

    Raises:
        BadInputError: The file is an mmproj, which can't be loaded alone, or `paths` is empty.
        MissingFileError: A file is missing.
        EngineStartError, NotWritableError: The test could not be started, or a layer is inactive that the settings
            require.
        InterruptedByUserError: The stop event was set.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if facts.kind == "mmproj" or not files:
        raise BadInputError("A projector can't be loaded alone", hint="Test its model instead: llm hf test REF")
    for path in [*files, *([mmproj] if mmproj else [])]:
        if not path.is_file():
            raise MissingFileError(f"{path.name} is missing")
    current = settings.load()
    without = find_left_out_layers(current.model_copy(update={"engine": "xllamacpp"}))
    size, mmproj_bytes = sum(path.stat().st_size for path in files), mmproj.stat().st_size if mmproj else 0
    limit = seconds or BASE_SECONDS + (size + mmproj_bytes) / LOAD_BYTES_PER_SECOND
    folder = _create_folder()
    try:
        task = _build_task(files, mmproj, facts, folder, threads)
        task |= {
            "tokens": tokens,
            "template": template,
            "sandbox": current.sandbox,
            "without": without,
            "max_memory": max_memory_bytes or _compute_memory_limit(size, mmproj_bytes, facts),
        }
        task["max_cpu"] = int(limit * task["threads"]) + 1
        return _build_result(_run_child(task, folder, limit, stop or threading.Event()), limit)
    finally:
        folder.remove()


def _create_folder() -> EngineFolder:
    """Create a private folder for the socket and log.

    It is not in the engines' base folder, where it would be removed as the folder of an engine that has ended.
    """
    try:
        folder = EngineFolder(Path(tempfile.mkdtemp(prefix="llm-hf-")))
    except OSError as error:
        raise NotWritableError("Can't create a temporary folder", cause=error.strerror, hint="Set TMPDIR.") from None
    if sys.platform != "win32" and len(os.fsencode(folder.socket)) > MAX_SOCKET_PATH_BYTES:
        folder.remove()
        raise NotWritableError(f"The path {folder.path} is too long for a socket", hint="Set TMPDIR to a shorter path.")
    return folder


def _build_task(
    files: Sequence[Path], mmproj: Path | None, facts: ModelFacts, folder: EngineFolder, threads: int
) -> dict[str, Any]:
    """Return the part of load_test_child's task that does not depend on limits."""
    from llm_hf_models.system.machine import choose_thread_count

    return {
        "model": str(files[0].absolute()),
        "mmproj": str(mmproj.absolute()) if mmproj else None,
        "read_paths": [str(path.resolve()) for path in [*files, *([mmproj] if mmproj else [])]],
        "folder": str(folder.path),
        "socket": str(folder.socket) if sys.platform != "win32" else None,
        "key": secrets.token_urlsafe(32),
        "kind": facts.kind,
        "context": CONTEXT_TOKENS,
        "threads": threads or choose_thread_count(),
    }


def _compute_memory_limit(size: int, mmproj_bytes: int, facts: ModelFacts) -> int:
    """Return the limit of private memory in bytes.

    It is twice the estimate, at most the machine's memory, plus the stacks of the threads that check tensors.
    """
    total = read_memory().total_memory_bytes
    fit = memory_fit.assess_fit(size, facts, context=CONTEXT_TOKENS, available=total, mmproj_bytes=mmproj_bytes)
    return min(2 * fit.needed + MEMORY_SLACK_BYTES, total) + sum(facts.tensor_types.values()) * STACK_BYTES


def _run_child(task: dict[str, Any], folder: EngineFolder, seconds: float, stop: threading.Event) -> _ChildExit:
    """Run the child until it exits or exceeds the time limit, and read its report.

    Raises:
        InterruptedByUserError: The stop event was set.
    """
    process = start_child("load_test_child", folder)
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    received: list[bytes] = []
    # The thread reads at most MAX_REPORT_BYTES: a child that writes more blocks until it times out.
    reader = threading.Thread(target=_read_report, args=(process.stdout, received), daemon=True)
    reader.start()
    try:
        _send_task(process.stdin, json.dumps(task).encode())
        timed_out = not _wait_for_exit(process, seconds, stop)
    finally:
        process.kill()
        status = process.wait()
    reader.join(KILL_SECONDS)
    return _ChildExit(status, timed_out, _parse_report(b"".join(received)), folder.read_log_errors())


def _wait_for_exit(process: subprocess.Popen[bytes], seconds: float, stop: threading.Event) -> bool:
    """Return whether a process exits within the time limit.

    Raises:
        InterruptedByUserError: The stop event was set.
    """
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stop.is_set():
            raise InterruptedByUserError("Stopped during a load test")
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=min(left, STOP_CHECK_SECONDS))
            return True
    return False


def _read_report(pipe: IO[bytes], received: list[bytes]) -> None:
    received.append(pipe.read(MAX_REPORT_BYTES))


def _send_task(pipe: IO[bytes], task: bytes) -> None:
    try:
        with pipe:
            pipe.write(task)
    except BrokenPipeError:
        return  # the child has already exited; its status explains more


def _parse_report(data: bytes) -> _ChildReport:
    """Combine the child's lines. A later line never replaces an earlier value, and an invalid line ends the report."""
    report = _ChildReport()
    for line in data.splitlines():
        try:
            new = _ChildReport.model_validate_json(line)
        except ValidationError:
            return report
        merged = {name: getattr(report, name) or getattr(new, name) for name in _ChildReport.model_fields}
        report = _ChildReport.model_construct(**merged)
    return report


def _build_result(child: _ChildExit, seconds: float) -> LoadResult:
    report = child.report
    if report.confined is None:
        raise EngineStartError(
            "The load test did not start",
            cause=clean_text(report.failed.error, keep_lines=True) if report.failed else child.log_errors or None,
            hint=None if report.failed else "pip install --force-reinstall xllamacpp",
        )
    verdict, reason = _determine_verdict(child, seconds)
    answered = report.answered if verdict in ("loads", "answers nonsense") else None
    peaks = [part.peak_memory for part in (report.answered, report.loaded) if part]
    return LoadResult(
        verdict=verdict,
        reason=reason,
        load_seconds=report.loaded.load_seconds if report.loaded else None,
        peak_memory=peaks[0] if peaks else None,
        tokens_per_second=answered.tokens_per_second if answered else None,
        output=clean_text(answered.output, MAX_OUTPUT_CHARS) if answered else "",
        layers=report.confined.layers,
        missing=report.confined.missing,
        engine_log=child.log_errors,
    )


def _determine_verdict(child: _ChildExit, seconds: float) -> tuple[Verdict, str]:
    """Return the verdict and a sentence that explains it. The exit status is judged first, as it can't be faked."""
    report = child.report
    failed = report.failed.error if report.failed else ""
    stage = "loading" if report.loaded is None else "answering"
    if child.timed_out or child.status == -getattr(signal, "SIGXCPU", 24):
        return "times out", f"It was still {stage} after {round(seconds, 1):g} s."
    if child.status == 0 and report.answered and not failed:
        nonsense = clean_text(report.answered.nonsense)
        return ("answers nonsense", nonsense) if nonsense else ("loads", "")
    if (
        is_out_of_memory(child.log_errors + failed)
        or child.status == -getattr(signal, "SIGKILL", 9)
        or (report.failed and report.failed.memory)
    ):
        return "exhausts memory", f"Memory ran out while {stage}."
    if child.status < 0:
        name = clean_text(signal.strsignal(-child.status) or str(-child.status))
        return "aborts", f"llama.cpp aborted while {stage} ({name})."
    if report.failed and report.loaded is None and child.log_errors:  # the exception only says that loading failed
        first_error = child.log_errors.partition("\n")[0].rpartition("error loading model: ")[2]
        return "fails", f"llama.cpp can't load the model: {first_error}"
    return "fails", clean_text(failed) or f"The child exited with status {child.status} while {stage}."
