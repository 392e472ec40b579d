"""Loads a GGUF file for real, in a confined child, lets it say a few words, and reports. Judges no file by reading it.

The child is load_child. Whatever it does (abort, loop, eat memory, lie), this process goes on and ends with a verdict.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ValidationError

from llm_hf_models.errors import BadInputError, EngineStartError, MissingFileError, NotWritableError
from llm_hf_models.gguf import memory_fit
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.inference.engine_folder import MAX_SOCKET_PATH_BYTES, EngineFolder
from llm_hf_models.inference.launcher import start_child
from llm_hf_models.inference.types import LoadResult, Verdict
from llm_hf_models.system.machine import read_memory
from llm_hf_models.system.text import clean_text

BASE_SECONDS = 60.0
LOAD_BYTES_PER_SECOND = 50_000_000  # what a slow disk and a slow core manage, tensor checks included
CONTEXT_TOKENS = 512  # tokens: enough for a template's preamble and a few words
GENERATED_TOKENS = 16
MEMORY_SLACK_BYTES = 2**30
STACK_BYTES = 8 * 2**20  # of each thread; checking tensors, llama.cpp starts one for each
KILL_SECONDS = 5.0
MAX_REPORT_BYTES = 64 * 1024
MAX_OUTPUT_CHARS = 200

_OUT_OF_MEMORY_MESSAGES = (
    "bad_alloc", "failed to allocate", "unable to allocate", "cannot allocate", "out of memory",
    "resource temporarily unavailable",  # a thread whose stack found no room
)  # fmt: skip


class _ConfinedLine(BaseModel):
    layers: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]


class _LoadedLine(BaseModel):
    load_seconds: float
    peak_memory: int


class _AnsweredLine(BaseModel):
    nonsense: str  # why the output is not sane; empty if it is
    output: str
    tokens_per_second: float | None
    peak_memory: int


class _FailedLine(BaseModel):
    error: str
    memory: bool


class _ChildReport(BaseModel):
    """The child's lines put together: each key but the first comes from a process that may be anyone's by then."""

    confined: _ConfinedLine | None = None
    loaded: _LoadedLine | None = None
    answered: _AnsweredLine | None = None
    failed: _FailedLine | None = None


@dataclass
class _ChildExit:
    """How the process ended."""

    status: int
    timed_out: bool
    report: _ChildReport = field(default_factory=_ChildReport)
    last_words: str = ""


def run_load_test(
    paths: Path | Sequence[Path],
    facts: ModelFacts,
    *,
    seconds: float = 0,
    max_memory_bytes: int = 0,
    tokens: int = GENERATED_TOKENS,
    threads: int = 0,
    template: str | None = None,
    sandbox: bool = True,
) -> LoadResult:
    """Loads a model with tensor checks on, and has it generate a few tokens, or embed or rank a sentence.

    Args:
        paths: the file, or the shards with the first one first.
        facts: of its header; they choose what is asked of it and how much memory it may take.
        seconds: the longest it may take; 0 chooses by the file's size.
        max_memory_bytes: of private memory; 0 chooses by the file's size and the machine's.
        tokens: how many to generate.
        threads: to compute with; 0 chooses.
        template: a chat template instead of the header's.
        sandbox: confine the child. The result names the layers that held.

    Raises:
        BadInputError: an mmproj, which nothing loads alone, or nothing at all.
        MissingFileError: a file is gone.
        EngineStartError, NotWritableError: the test did not take place.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if facts.kind == "mmproj" or not files:
        raise BadInputError(
            "A projector can't be loaded alone", hint="Test the model that it belongs to: llm hf test REF"
        )
    for path in files:
        if not path.is_file():
            raise MissingFileError(f"{path.name} is gone")
    size = sum(path.stat().st_size for path in files)
    limit = seconds or BASE_SECONDS + size / LOAD_BYTES_PER_SECOND
    place = _create_folder()
    try:
        task = _build_task(files, facts, place, threads)
        task |= {
            "tokens": tokens,
            "template": template,
            "sandbox": sandbox,
            "max_memory": max_memory_bytes or _compute_memory_limit(size, facts),
        }
        task["max_cpu"] = int(limit * task["threads"]) + 1
        return _build_result(_run_child(task, place, limit), limit)
    finally:
        place.remove()


def _create_folder() -> EngineFolder:
    """A private folder for socket and log; not among the engines', whose sweep would take it for a dead one."""
    try:
        place = EngineFolder(Path(tempfile.mkdtemp(prefix="llm-hf-")))
    except OSError as error:
        raise NotWritableError("Can't make a temporary folder", cause=error.strerror, hint="Set TMPDIR.") from None
    if sys.platform != "win32" and len(os.fsencode(place.socket)) > MAX_SOCKET_PATH_BYTES:
        place.remove()
        raise NotWritableError(f"{place.path} has too long a path for a socket", hint="Set TMPDIR to a shorter path.")
    return place


def _build_task(files: Sequence[Path], facts: ModelFacts, place: EngineFolder, threads: int) -> dict[str, Any]:
    """The part of what load_child is told that no limit changes."""
    from llm_hf_models.system.machine import default_threads

    return {
        "model": str(files[0].absolute()),
        "read_paths": [str(path.resolve()) for path in files],
        "folder": str(place.path),
        "socket": str(place.socket) if sys.platform != "win32" else None,
        "key": secrets.token_urlsafe(32),
        "kind": facts.kind,
        "context": CONTEXT_TOKENS,
        "threads": threads or default_threads(),
    }


def _compute_memory_limit(size: int, facts: ModelFacts) -> int:
    """The limit of private memory: twice what the model should need, at most all there is, and stacks to check with."""
    total = read_memory().total_memory
    needed = memory_fit.assess_fit(size, facts, context=CONTEXT_TOKENS, available=total).needed
    return min(2 * needed + MEMORY_SLACK_BYTES, total) + sum(facts.tensor_types.values()) * STACK_BYTES


def _run_child(task: dict[str, Any], place: EngineFolder, seconds: float) -> _ChildExit:
    """Runs the child to its end, by itself or by ours, and reads what it said."""
    process = start_child("load_test_child", place)
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    said: list[bytes] = []
    # It reads so much and no more: a child that floods us blocks, and runs out of time.
    reader = threading.Thread(target=_read_report, args=(process.stdout, said), daemon=True)
    reader.start()
    timed_out = False
    try:
        _send_task(process.stdin, json.dumps(task).encode())
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        process.kill()
        status = process.wait()
    reader.join(KILL_SECONDS)
    return _ChildExit(status, timed_out, _parse_report(b"".join(said)), place.read_log_errors())


def _read_report(pipe: IO[bytes], said: list[bytes]) -> None:
    said.append(pipe.read(MAX_REPORT_BYTES))


def _send_task(pipe: IO[bytes], task: bytes) -> None:
    try:
        with pipe:
            pipe.write(task)
    except BrokenPipeError:
        return  # it died at once; its status says more


def _parse_report(said: bytes) -> _ChildReport:
    """The child's lines as one value. What comes later never replaces what came before, and nonsense ends it."""
    report = _ChildReport()
    for line in said.splitlines():
        try:
            new = _ChildReport.model_validate_json(line)
        except ValidationError:
            return report
        merged = {name: getattr(report, name) or getattr(new, name) for name in _ChildReport.model_fields}
        report = _ChildReport.model_construct(**merged)
    return report


def _build_result(ended: _ChildExit, seconds: float) -> LoadResult:
    report = ended.report
    if report.confined is None:
        raise EngineStartError(
            "The load test did not start",
            cause=clean_text(report.failed.error) if report.failed else ended.last_words or None,
            hint="pip install --force-reinstall xllamacpp",
        )
    verdict, why = _determine_verdict(ended, seconds)
    answered = report.answered if verdict in ("loads", "answers nonsense") else None
    peaks = [part.peak_memory for part in (report.answered, report.loaded) if part]
    return LoadResult(
        verdict=verdict,
        reason=why,
        load_seconds=report.loaded.load_seconds if report.loaded else None,
        peak_memory=peaks[0] if peaks else None,
        tokens_per_second=answered.tokens_per_second if answered else None,
        output=clean_text(answered.output, MAX_OUTPUT_CHARS) if answered else "",
        layers=report.confined.layers,
        missing=report.confined.missing,
        engine_log=ended.last_words,
    )


def _determine_verdict(ended: _ChildExit, seconds: float) -> tuple[Verdict, str]:
    """The verdict and one sentence. The process's own end comes first: that is what it can't lie about."""
    report, words = ended.report, ended.last_words.lower()
    failed = report.failed.error if report.failed else ""
    stage = "loading" if report.loaded is None else "answering"
    if ended.timed_out or ended.status == -getattr(signal, "SIGXCPU", 24):
        return "times out", f"It was still {stage} after {round(seconds, 1):g} s."
    if ended.status == 0 and report.answered and not failed:
        nonsense = clean_text(report.answered.nonsense)
        return ("answers nonsense", nonsense) if nonsense else ("loads", "")
    starved = any(word in words + failed.lower() for word in _OUT_OF_MEMORY_MESSAGES)
    if starved or ended.status == -getattr(signal, "SIGKILL", 9) or (report.failed and report.failed.memory):
        return "exhausts memory", f"Memory ran out while {stage}."
    if ended.status < 0:
        name = clean_text(signal.strsignal(-ended.status) or str(-ended.status))
        return "aborts", f"llama.cpp ended the process while {stage} ({name})."
    return "fails", clean_text(failed) or f"It ended with status {ended.status} while {stage}."
