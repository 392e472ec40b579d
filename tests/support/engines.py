"""Engines on tiny models, for tests of the engine and its client."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from llm_hf_models import paths, settings
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.inference import engine, running_engines
from llm_hf_models.inference.protocol import client as inference_client
from llm_hf_models.inference.protocol import openai_protocol
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import EngineRow
from tests.conftest import Home
from tests.support import ggufs


def leave_during_prompt_processing(endpoint: engine.Endpoint, reads: Callable[[], bool]) -> None:
    """Send a long prompt, and leave when `reads` reports that the engine processes it."""
    turn = openai_protocol.Turn([{"role": "user", "content": "some words " * 4_000}], {"max_tokens": 1})

    async def give_up() -> None:
        async for _ in inference_client.stream_completion_async(endpoint, turn):
            pytest.fail("the prompt was processed before this test could cancel")

    async def cancelled() -> None:
        task = asyncio.create_task(give_up())
        while not await asyncio.to_thread(reads):
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())


EXIT_SECONDS = 20
CHAT = ModelFacts(kind="chat", context_length=4096, kv_bytes_per_token=512)


@contextmanager
def open_clean_library(
    home: Home, processes_of: Callable[[EngineRow], list[psutil.Process]] = lambda row: [psutil.Process(row.pid)]
) -> Iterator[Database]:
    """Provide the library of a test; at its end stop all engines and check that nothing remains."""
    with Database(paths.library_path()) as opened:
        yield opened
        processes = []
        for row in running_engines.list_running_engines(opened):
            with suppress(psutil.NoSuchProcess):  # an engine that crashed may end at any time
                processes += processes_of(row)
        for row in running_engines.list_running_engines(opened):
            running_engines.stop_engine(opened, row)
        _, running = psutil.wait_procs(processes, timeout=EXIT_SECONDS)
        assert not running
        assert opened.list_engines() == []
        assert not list(home.runtime.glob("llm-hf/*/e.sock"))


def make_spec(path: Path, *, context: int = 1024, shard_paths: tuple[Path, ...] = ()) -> engine.EngineSpec:
    return engine.EngineSpec("hf/tiny/chat:F16", path, shard_paths=shard_paths, facts=CHAT, context=context)


def make_endless_spec(folder: Path) -> engine.EngineSpec:
    """Return the spec of a model that generates until it is stopped."""
    return make_spec(ggufs.tiny_chat(folder / "endless.gguf", endless=True, context=131072), context=65536)


def ensure(
    spec: engine.EngineSpec,
    db: Database,
    *,
    keep_alive: float = 60,
    notices: list[str] | None = None,
    **changes: object,
) -> engine.Endpoint:
    reported = notices if notices is not None else []
    chosen = settings.load().model_copy(update=changes)
    return engine.ensure_engine(spec, db, chosen, keep_alive=keep_alive, notify=reported.append)


def prompt_engine(
    endpoint: engine.Endpoint, *, reconnect: Callable[[], engine.Endpoint] | None = None, **options: object
) -> str:
    turn = openai_protocol.Turn([{"role": "user", "content": "hi"}], options)
    return "".join(
        piece.text
        for piece in inference_client.stream_completion(endpoint, turn, reconnect=reconnect)
        if isinstance(piece, openai_protocol.Piece)
    )


def get_engine_row(db: Database) -> EngineRow:
    (row,) = running_engines.list_running_engines(db)
    return row


def wait_for_exit(pid: int) -> None:
    try:
        psutil.Process(pid).wait(EXIT_SECONDS)
    except psutil.NoSuchProcess:
        return


def write_broken_files(folder: Path) -> dict[str, Path]:
    whole = ggufs.tiny_chat(folder / "whole.gguf").read_bytes()
    contents = {"garbage": b"<html>not a model</html>", "empty": b"", "truncated": whole[: len(whole) // 2]}
    for name, content in contents.items():
        (folder / f"{name}.gguf").write_bytes(content)
    return {name: folder / f"{name}.gguf" for name in contents}


# A stand-in with llama-server's own options, on the bindings. It tests how a server is found, started and ended.
LLAMA_SERVER = f"""#!{sys.executable}
import argparse, os, sys, time
flags = "--kv-unified --jinja --metrics --slots --no-webui --offline --embeddings".split()
values = ("--model --alias --host --ctx-size --parallel --batch-size --ubatch-size --threads --cache-ram"
    " --threads-http --reasoning-format --fit --gpu-layers --mmproj --log-verbosity").split()
parser = argparse.ArgumentParser()
for flag in flags: parser.add_argument(flag, action="store_true")
for value in values: parser.add_argument(value)
asked = parser.parse_args()
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.n_ctx = asked.model, [asked.host], int(asked.ctx_size)
params.api_keys, params.model_alias = [os.environ["LLAMA_API_KEY"]], {{asked.alias}}
params.endpoint_metrics, params.fit_params, params.verbosity = asked.metrics, False, 1
server = xllamacpp.Server(params)
time.sleep(600)
"""


@pytest.fixture
def db(home: Home) -> Iterator[Database]:
    with open_clean_library(home) as opened:
        yield opened


@pytest.fixture
def spec(tmp_path: Path) -> engine.EngineSpec:
    return make_spec(ggufs.tiny_chat(tmp_path / "tiny.gguf"))


@pytest.fixture
def endless(tmp_path: Path) -> engine.EngineSpec:
    return make_endless_spec(tmp_path)
