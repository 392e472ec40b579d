"""Find out which sandbox layers let an engine work on this machine, with a tiny model of this package.

The sandbox was not tested on every system, so a layer may refuse something that llama.cpp needs there. Such a layer is
left out for all models. The answer is stored for this machine and these versions. A model of the user never has an
influence on it: if that model fails under the sandbox, it is a broken model.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from llm_hf_models import paths
from llm_hf_models.errors import EngineResourceError, EngineStartError, NotWritableError
from llm_hf_models.inference import launcher
from llm_hf_models.inference.engine_folder import create_engine_folder, make_base_folder
from llm_hf_models.inference.running_engines import create_client
from llm_hf_models.inference.sandbox.confine import list_layers
from llm_hf_models.system.private_files import write_private_file

START_SECONDS = 60.0  # an idle machine needs less than one
PROMPT_SECONDS = 30.0
RETEST_SECONDS = 86_400.0
MAX_RESULTS = 16  # of several kernels, versions and engine programs
MAX_FILE_BYTES = 64 * 1024


class SandboxResult(BaseModel):
    """The layers of an engine that runs the test model, and the layers under which it does not."""

    layers: tuple[str, ...] = ()  # active layers
    missing: dict[str, str] = {}  # inactive layers, each with the reason
    left_out: dict[str, str] = {}  # those of them under which the model does not run
    expires: float | None = None  # Unix seconds; set if the machine may have been too busy for the test


_RESULTS = TypeAdapter(dict[str, SandboxResult])


@dataclass(frozen=True)
class _Attempt:
    """The end of one start: the layers of the engine that answered, or the problem."""

    layers: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    is_transient: bool = False  # a busy machine can cause the problem


def read_result(task: Mapping[str, Any]) -> SandboxResult | None:
    """Return the stored result for the engine program of a task, or None if it has to be tested."""
    result = _read_results().get(_identify_engine(task))
    if result is None or (result.expires is not None and result.expires < time.time()):
        return None
    return result


def run_probe(task: Mapping[str, Any]) -> SandboxResult:
    """Start engines with the test model until every layer that fails is known, and store the result.

    If the engine answers with all layers, one start is enough. Otherwise the layers are added one by one to an engine
    without any. A layer with which it no longer answers is left out. If the machine is too busy for the test, nothing
    is left out or stored.

    Args:
        task: The task of an engine for the test model.

    Raises:
        EngineStartError: The engine does not answer without the sandbox either.
        NotWritableError: The folder of the engines is not writable.
    """
    # Every engine may read the package's own folder, but it must open this model as it opens any other.
    copy = make_base_folder() / "sandbox-test.gguf"
    try:
        shutil.copyfile(task["model"], copy)
    except OSError as error:
        raise NotWritableError(f"Can't write {copy}", cause=error.strerror) from None
    try:
        result = _find_failing_layers({**task, "model": str(copy), "read_paths": [str(copy.resolve())]})
    finally:
        copy.unlink(missing_ok=True)
    if result is None:
        return SandboxResult()
    _store_result(_identify_engine(task), result)
    return result


def _find_failing_layers(task: Mapping[str, Any]) -> SandboxResult | None:
    """Return the result of the test, or None if the machine is too busy for it."""
    left_out: dict[str, str] = {}
    expires = None
    best = _run_engine(task, left_out)
    if best.problem:
        left_out = dict.fromkeys(list_layers(), "not tested yet")
        best = _run_engine(task, left_out)
        if best.is_transient:
            return None
        if best.problem:
            raise _build_broken_engine_error(task, best.problem)
        for layer in list_layers():
            del left_out[layer]
            attempt = _run_engine(task, left_out)
            if not attempt.problem:
                best = attempt
                continue
            left_out[layer] = f"a test model fails under it: {attempt.problem.splitlines()[0]}"
            if attempt.is_transient:
                expires = time.time() + RETEST_SECONDS
    # `best` lists the layers that were added after it as not tested.
    missing = {**best.missing, **left_out}
    return SandboxResult(layers=best.layers, missing=missing, left_out=left_out, expires=expires)


def _run_engine(task: Mapping[str, Any], without: Mapping[str, str]) -> _Attempt:
    """Start an engine without some layers, send it a prompt, and kill it."""
    import httpx2

    seconds = START_SECONDS + PROMPT_SECONDS
    task = {**task, "sandbox": "on", "without": without, "max_cpu": int(seconds * task["threads"])}
    folder = create_engine_folder(keep_alive=0)
    try:
        started = launcher.start_engine(task, folder, seconds=START_SECONDS)
        try:
            _send_prompt(started.address, task["key"])
        finally:
            started.kill()
    except EngineStartError as error:
        return _Attempt(problem=error.cause or error.message, is_transient=isinstance(error, EngineResourceError))
    except httpx2.HTTPError as error:
        problem = folder.read_log_errors() or f"{type(error).__name__}: {error}"
        return _Attempt(problem=problem, is_transient=isinstance(error, httpx2.TimeoutException))
    finally:
        folder.remove()
    return _Attempt(started.layers, dict(started.missing))


def _send_prompt(address: str, key: str) -> None:
    """Have the engine generate a few tokens.

    Raises:
        httpx2.HTTPError: The engine did not answer.
    """
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    with create_client(address, key, seconds=PROMPT_SECONDS) as client:
        client.post("/v1/chat/completions", json=body).raise_for_status()


def _build_broken_engine_error(task: Mapping[str, Any], problem: str) -> EngineStartError:
    if task["engine"] == "llama-server":
        hint = "Update llama.cpp, or run `llm hf settings engine xllamacpp`."
    else:
        hint = "Reinstall it: llm install --force-reinstall xllamacpp"
    return EngineStartError(
        "llama.cpp does not work on this machine: the test model fails even without the sandbox",
        cause=problem,
        hint=hint,
    )


def _identify_engine(task: Mapping[str, Any]) -> str:
    """Return the machine, versions and engine program that a result is valid for."""
    program: dict[str, Any] = {"xllamacpp": _find_version("xllamacpp"), "gpu": task["gpu_layers"] != 0}
    if task["binary"]:
        binary = Path(task["binary"]).stat()
        program |= {"engine": task["engine"], "llama-server": [task["binary"], binary.st_size, binary.st_mtime_ns]}
    machine = [platform.node(), platform.platform(), platform.version(), sys.version]
    return json.dumps({"llm-hf-models": _find_version("llm-hf-models"), "machine": machine, **program})


def _find_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _get_path() -> Path:
    return paths.data_dir() / "sandbox.json"


def _read_results() -> dict[str, SandboxResult]:
    """Return the stored results, or none if the file is missing, damaged, or writable by another user."""
    try:
        with _get_path().open("rb") as file:
            status = os.fstat(file.fileno())
            if os.name == "posix" and (status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022):
                return {}
            return _RESULTS.validate_json(file.read(MAX_FILE_BYTES))
    except (OSError, ValueError):
        return {}


def _store_result(key: str, result: SandboxResult) -> None:
    """Store a result next to the newest earlier ones. If the file can't be written, the next start tests again."""
    results = {name: earlier for name, earlier in _read_results().items() if name != key}
    kept = dict([*results.items(), (key, result)][-MAX_RESULTS:])
    path = _get_path()
    with suppress(OSError):
        write_private_file(path, _RESULTS.dump_json(kept))
