"""Engines as real processes on real tiny models. Every test leaves none behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx2
import psutil
import pytest

from llm_hf_models.errors import (
    EngineLostError,
    EngineRequestError,
    EngineStartError,
    MissingFileError,
    ModelTooLargeError,
    NotWritableError,
)
from llm_hf_models.gguf import memory_fit
from llm_hf_models.inference import engine, engine_folder, launcher, running_engines
from llm_hf_models.inference.engine_child import GRACE_SECONDS, IdleTimer
from llm_hf_models.inference.protocol import client as inference_client
from llm_hf_models.inference.protocol import openai_protocol
from llm_hf_models.library.database import Database
from llm_hf_models.system.machine import MachineMemory
from llm_hf_models.system.ownership import acquire_ownership
from tests.conftest import Home
from tests.support import engines, ggufs
from tests.support.engines import (
    CHAT,
    ensure,
    get_engine_row,
    make_spec,
    prompt_engine,
    wait_for_exit,
    write_broken_files,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs unix sockets")


db = engines.db
spec = engines.spec
endless = engines.endless


CLIENT = """
import json, sys
from pathlib import Path
from llm_hf_models.inference.protocol import client as inference_client
from llm_hf_models.inference.protocol import openai_protocol
from llm_hf_models.inference import engine
from llm_hf_models import paths
from llm_hf_models import settings
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library.database import Database

spec = engine.EngineSpec("hf/tiny/chat:F16", Path(sys.argv[1]), context=1024,
    facts=ModelFacts(kind="chat", context_length=4096, kv_bytes_per_token=512))
with Database(paths.library_path()) as db:
    before = set(sys.modules)
    endpoint = engine.ensure_engine(spec, db, settings.load(), keep_alive=60, notify=print)
    imported = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
    answer = "".join(p.text for p in inference_client.stream_completion(endpoint, openai_protocol.Turn([{"role": "user",
    "content": "hi"}]))
        if isinstance(p, openai_protocol.Piece))
    print(json.dumps({"answer": answer, "cold": endpoint.load_seconds is not None,
        "pid": db.get_engine(endpoint.fingerprint).pid, "imported": imported}))
"""


def start_client(spec: engine.EngineSpec) -> subprocess.Popen[str]:
    """Start another process that needs the same engine, as another `llm` would."""
    command = [sys.executable, "-c", CLIENT, str(spec.model_path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read_result(process: subprocess.Popen[str]) -> dict[str, object]:
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    return dict(json.loads(out))


@pytest.mark.usefixtures("db")
def test_next_process_finds_the_engine_running(spec: engine.EngineSpec) -> None:
    first, second = read_result(start_client(spec)), read_result(start_client(spec))
    assert first["answer"] == second["answer"] == ggufs.ANSWER
    assert (first["cold"], second["cold"]) == (True, False)
    assert first["pid"] == second["pid"]


def test_running_engine_is_found_without_imports(spec: engine.EngineSpec, db: Database) -> None:
    ensure(spec, db)
    assert read_result(start_client(spec))["imported"] == []


@pytest.mark.usefixtures("db")
def test_five_parallel_processes_start_one_engine(spec: engine.EngineSpec) -> None:
    results = [read_result(process) for process in [start_client(spec) for _ in range(5)]]
    assert {found["answer"] for found in results} == {ggufs.ANSWER}
    assert len({found["pid"] for found in results}) == 1
    assert [found["cold"] for found in results].count(True) == 1


@pytest.mark.usefixtures("db")
def test_engine_outlives_its_starter_in_its_own_session(spec: engine.EngineSpec) -> None:
    pid = int(str(read_result(start_client(spec))["pid"]))
    assert psutil.pid_exists(pid)
    assert os.getsid(pid) == pid


def test_next_prompt_after_kill_9_starts_a_new_engine(spec: engine.EngineSpec, db: Database) -> None:
    ensure(spec, db)
    killed = get_engine_row(db)
    os.kill(killed.pid, signal.SIGKILL)
    wait_for_exit(killed.pid)
    assert prompt_engine(ensure(spec, db)) == ggufs.ANSWER
    assert get_engine_row(db).pid != killed.pid
    assert not Path(killed.address).exists()


def test_engine_lost_before_the_request_is_restarted_once(spec: engine.EngineSpec, db: Database) -> None:
    endpoint = ensure(spec, db)
    lost = get_engine_row(db).pid
    os.kill(lost, signal.SIGKILL)
    wait_for_exit(lost)
    assert prompt_engine(endpoint, reconnect=lambda: ensure(spec, db)) == ggufs.ANSWER
    assert get_engine_row(db).pid != lost


def test_ended_engines_are_noticed_and_their_folders_removed(spec: engine.EngineSpec, db: Database) -> None:
    ensure(spec, db)
    row = get_engine_row(db)
    os.kill(row.pid, signal.SIGKILL)
    wait_for_exit(row.pid)
    assert running_engines.list_running_engines(db) == []
    assert db.list_engines() == []
    assert not Path(row.address).parent.exists()


def test_process_with_a_reused_pid_is_left_alone(spec: engine.EngineSpec, db: Database) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        ensure(spec, db)
        row = get_engine_row(db)
        impostor = replace(row, fingerprint="other", pid=stranger.pid, pid_started=row.pid_started - 3600)
        running_engines.stop_engine(db, impostor)
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_idle_engine_exits_and_removes_its_socket(spec: engine.EngineSpec, db: Database) -> None:
    endpoint = ensure(spec, db, keep_alive=0.3)
    row = get_engine_row(db)
    assert prompt_engine(endpoint) == ggufs.ANSWER
    wait_for_exit(row.pid)
    assert not Path(row.address).exists()
    assert running_engines.list_running_engines(db) == []


def test_keep_alive_zero_ends_the_engine_after_its_last_answer(spec: engine.EngineSpec, db: Database) -> None:
    endpoint = ensure(spec, db, keep_alive=0)
    pid = get_engine_row(db).pid
    assert prompt_engine(endpoint) == ggufs.ANSWER
    wait_for_exit(pid)


def test_keep_alive_of_a_later_prompt_replaces_the_earlier_one(spec: engine.EngineSpec, db: Database) -> None:
    prompt_engine(ensure(spec, db, keep_alive=-1))
    pid = get_engine_row(db).pid
    prompt_engine(ensure(spec, db, keep_alive=0))
    wait_for_exit(pid)


def test_running_answer_keeps_the_engine_running(endless: engine.EngineSpec, db: Database) -> None:
    endpoint = ensure(endless, db, keep_alive=0)
    pid = get_engine_row(db).pid
    stream = inference_client.stream_completion(
        endpoint, openai_protocol.Turn([{"role": "user", "content": "hi"}], {"max_tokens": 800})
    )
    pieces = list(stream)
    assert isinstance(pieces[-1], openai_protocol.Finish)
    assert pieces[-1].output_tokens == 800
    wait_for_exit(pid)


def test_slow_client_gets_its_whole_answer_from_an_exiting_engine(endless: engine.EngineSpec, db: Database) -> None:
    endpoint = ensure(endless, db, keep_alive=0)
    row = get_engine_row(db)
    stream = inference_client.stream_completion(
        endpoint, openai_protocol.Turn([{"role": "user", "content": "hi"}], {"max_tokens": 2000})
    )
    next(stream)
    while running_engines.count_busy_slots(row):
        assert psutil.pid_exists(row.pid)
    *_, finish = stream
    assert isinstance(finish, openai_protocol.Finish)
    assert finish.output_tokens == 2000
    wait_for_exit(row.pid)


def test_engine_exits_when_its_folder_is_removed(spec: engine.EngineSpec, db: Database) -> None:
    ensure(spec, db, keep_alive=-1)
    row = get_engine_row(db)
    engine_folder.EngineFolder(Path(row.address).parent).remove()
    wait_for_exit(row.pid)


def test_engine_ends_after_its_package_was_uninstalled(
    spec: engine.EngineSpec, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site/llm_hf_models"
    shutil.copytree(Path(engine.__file__).parents[1], package)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    ensure(spec, db, keep_alive=-1)
    row = get_engine_row(db)
    assert prompt_engine(ensure(spec, db, keep_alive=-1)) == ggufs.ANSWER
    shutil.rmtree(package)
    wait_for_exit(row.pid)


def test_keep_alive_counts_from_the_last_activity() -> None:
    watch = IdleTimer(keep_alive=5, idle_since=0)
    watch.record_lease(0, 1, 5)
    assert watch.get_seconds_left(0) == GRACE_SECONDS  # a request is about to start
    watch.record_work(3, 10, busy=True)
    assert watch.get_seconds_left(3) == 5
    watch.record_work(6, 12, busy=False)  # it ended between two checks
    assert watch.get_seconds_left(10) == 1
    watch.record_lease(10, 2, 0)  # keep_alive 0 still waits for the request it was set for
    assert watch.get_seconds_left(10) == GRACE_SECONDS
    watch.record_work(12, 13, busy=False)
    assert watch.get_seconds_left(12) == 0
    watch.record_lease(13, 3, -1)
    assert watch.get_seconds_left(10**9) == float("inf")


def test_each_context_has_its_engine_and_is_capped_by_the_model(spec: engine.EngineSpec, db: Database) -> None:
    small, large = ensure(spec, db), ensure(replace(spec, context=10**6), db)
    assert (small.context, large.context) == (1024, 4096)
    assert len(running_engines.list_running_engines(db)) == 2
    assert running_engines.stop_engines(db, spec.model_id) == 2


def test_split_models_load_from_their_first_shard(tmp_path: Path, db: Database) -> None:
    shards = ggufs.tiny_split(tmp_path, 3)
    assert prompt_engine(ensure(make_spec(shards[0], shard_paths=tuple(shards)), db)) == ggufs.ANSWER


def test_unconfined_engine_is_never_used_as_a_confined_one(spec: engine.EngineSpec, db: Database) -> None:
    confined, open_ = ensure(spec, db), ensure(spec, db, sandbox="off")
    assert confined.socket != open_.socket


def test_row_lists_the_layers_that_confine_its_engine(spec: engine.EngineSpec, db: Database, tmp_path: Path) -> None:
    confine = (
        "from llm_hf_models.inference.sandbox.confine import *; "
        "print(*confine(Confinement(allow_unix_server=True)).layers)"
    )
    held = subprocess.run([sys.executable, "-c", confine], capture_output=True, text=True, check=True, cwd=tmp_path)
    ensure(spec, db)
    assert get_engine_row(db).layers == tuple(held.stdout.split())
    assert not set(get_engine_row(db).layers) & set(get_engine_row(db).missing)
    running_engines.stop_engines(db, spec.model_id)
    ensure(spec, db, sandbox="off")
    assert get_engine_row(db).layers == ()
    assert "turned off" in get_engine_row(db).missing["any layer"]


def test_folders_and_logs_are_private_and_no_command_line_has_the_key(spec: engine.EngineSpec, db: Database) -> None:
    endpoint = ensure(spec, db)
    assert endpoint.socket is not None
    for folder in (endpoint.socket.parent, endpoint.socket.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    row = get_engine_row(db)
    assert len(row.key) >= 32
    assert row.key not in " ".join(psutil.Process(row.pid).cmdline())
    assert row.key not in repr(endpoint) + repr(row)


def test_engine_inherits_no_token(spec: engine.EngineSpec, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    ensure(spec, db)
    environment = launcher.build_child_environment(os.environ)
    assert not [name for name, value in environment.items() if "secret" in value]
    assert "secret" not in " ".join(psutil.Process(get_engine_row(db).pid).environ().values())


def test_nothing_is_imported_from_the_current_folder(
    spec: engine.EngineSpec, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    assert prompt_engine(ensure(spec, db)) == ggufs.ANSWER


def test_wrong_key_is_refused(spec: engine.EngineSpec, db: Database) -> None:
    endpoint = replace(ensure(spec, db), key="wrong")
    with pytest.raises(EngineRequestError, match="did not accept the key"):
        prompt_engine(endpoint)


@pytest.mark.parametrize("name", ["garbage", "empty", "truncated"])
def test_broken_file_error_quotes_the_engine(name: str, tmp_path: Path, db: Database) -> None:
    with pytest.raises(EngineStartError) as caught:
        ensure(make_spec(write_broken_files(tmp_path)[name]), db)
    assert "failed to load model" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert db.list_engines() == []


def patch_header(path: Path, key: bytes, value: int) -> Path:
    """Write the same model with another number under a key of its header: the value follows the key and its type."""
    content = bytearray(path.read_bytes())
    begin = content.index(key) + len(key) + 4
    content[begin : begin + 4] = value.to_bytes(4, "little")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("block_count", 2**31, "crashed"),
        ("context_length", 0, "GGML_ASSERT"),
        ("attention.head_count", 0, "wrong shape"),
        ("embedding_length", 2**32 - 1, "hyperparameters"),
    ],
)
def test_hostile_header_crashes_only_the_engine(key: str, value: int, words: str, tmp_path: Path, db: Database) -> None:
    path = patch_header(ggufs.tiny_chat(tmp_path / "hostile.gguf"), f"llama.{key}".encode(), value)
    with pytest.raises((EngineStartError, EngineLostError), match=words):
        prompt_engine(ensure(make_spec(path), db))


ENDLESS_LOOP = "{%- for a in range(100000) %}" * 3 + "x" + "{%- endfor %}" * 3


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (ENDLESS_LOOP, "longer than 3 s"),
        ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "crashed"),
        ("{% nonsense", "template"),
    ],
    ids=["loop", "depth", "syntax"],
)
def test_hostile_template_crashes_only_the_engine(template: str, words: str, tmp_path: Path, db: Database) -> None:
    path = ggufs.tiny_chat(tmp_path / "hostile.gguf", template=template)
    with pytest.raises(EngineStartError, match=words):
        ensure(make_spec(path), db, engine_start_seconds=3)


def test_start_that_takes_too_long_is_ended(spec: engine.EngineSpec, db: Database) -> None:
    with pytest.raises(EngineStartError, match="longer than"):
        ensure(spec, db, engine_start_seconds=0.001)
    assert running_engines.list_running_engines(db) == []


def test_start_waits_for_another_start_up_to_a_limit(spec: engine.EngineSpec, db: Database) -> None:
    start = engine_folder.make_base_folder() / "start"
    with acquire_ownership(start), pytest.raises(EngineStartError, match="another engine to start"):
        ensure(spec, db, engine_start_seconds=0.05)
    assert prompt_engine(ensure(spec, db)) == ggufs.ANSWER


def test_missing_model_file_gives_a_clear_error(spec: engine.EngineSpec, db: Database) -> None:
    spec.model_path.unlink()
    with pytest.raises(MissingFileError, match=r"tiny\.gguf"):
        ensure(spec, db)


def test_socket_path_that_is_too_long_gives_a_clear_error(
    spec: engine.EngineSpec, db: Database, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = home.runtime / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(EngineStartError, match="is too long"):
        ensure(spec, db)


@pytest.mark.skipif(hasattr(os, "getuid") and os.getuid() == 0, reason="root may write everywhere")
def test_unwritable_socket_folder_gives_a_clear_error(spec: engine.EngineSpec, db: Database, home: Home) -> None:
    (home.runtime / "llm-hf").mkdir(mode=0o500)
    with pytest.raises(NotWritableError):
        ensure(spec, db)


def test_file_in_place_of_the_socket_folder_gives_a_clear_error(
    spec: engine.EngineSpec, db: Database, home: Home
) -> None:
    (home.runtime / "llm-hf").write_text("")
    with pytest.raises((NotWritableError, EngineStartError), match="llm-hf"):
        ensure(spec, db)


def test_link_in_place_of_the_socket_folder_is_refused(
    spec: engine.EngineSpec, db: Database, home: Home, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (home.runtime / "llm-hf").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineStartError, match="not a folder that you own"):
        ensure(spec, db)


def test_folders_of_ended_engines_are_removed_and_others_kept(spec: engine.EngineSpec, db: Database) -> None:
    running = ensure(spec, db)
    foreign = get_engine_row(db)
    db.delete_engine(foreign.fingerprint, foreign.pid)  # as an engine of another library
    left = engine_folder.create_engine_folder(60)
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(left.socket))
    ensure(replace(spec, context=512), db)
    assert not left.path.exists()
    assert running.socket is not None
    assert engine_folder.is_listening(str(running.socket))
    running_engines.stop_engine(db, foreign)


def test_stopping_a_hung_engine_frees_its_socket(spec: engine.EngineSpec, db: Database) -> None:
    ensure(spec, db)
    row = get_engine_row(db)
    os.kill(row.pid, signal.SIGSTOP)
    running_engines.stop_engine(db, row, seconds=0.2)
    assert not psutil.pid_exists(row.pid) or psutil.Process(row.pid).status() == psutil.STATUS_ZOMBIE
    assert not Path(row.address).exists()
    assert running_engines.list_running_engines(db) == []


def test_engine_crash_during_an_answer_is_reported_and_recovered(endless: engine.EngineSpec, db: Database) -> None:
    stream = inference_client.stream_completion(
        ensure(endless, db), openai_protocol.Turn([{"role": "user", "content": "hi"}])
    )
    next(stream)
    os.kill(get_engine_row(db).pid, signal.SIGKILL)
    with pytest.raises(EngineLostError):
        list(stream)
    assert prompt_engine(ensure(endless, db), reconnect=lambda: ensure(endless, db), max_tokens=3)


@pytest.fixture
def small_machine(db: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Provide a machine whose free memory is its total minus the memory of the engines."""

    def has(memory: int) -> None:
        def machine() -> MachineMemory:
            return MachineMemory(memory, memory - sum(row.memory for row in running_engines.list_running_engines(db)))

        monkeypatch.setattr(engine, "read_memory", machine)

    return has


def test_idle_engine_is_ended_for_memory_and_it_is_reported(
    spec: engine.EngineSpec, db: Database, small_machine: Callable[[int], None]
) -> None:
    ensure(spec, db)
    idle = get_engine_row(db)
    small_machine(2 * 10**9)
    facts = replace(CHAT, kv_bytes_per_token=(15 * 10**8 - memory_fit.estimate_overhead_bytes(CHAT) - 10**7) // 2048)
    notices: list[str] = []
    endpoint = ensure(replace(spec, model_id="hf/tiny/next", facts=facts, context=2048), db, notices=notices)
    assert get_engine_row(db).model_id == "hf/tiny/next"
    assert not psutil.pid_exists(idle.pid)
    assert notices == ["Stopped the idle engine of hf/tiny/chat:F16 to free memory for hf/tiny/next"]
    assert endpoint.context == 2048


def test_busy_engine_is_kept_and_the_context_shrinks_instead(
    endless: engine.EngineSpec, db: Database, small_machine: Callable[[int], None]
) -> None:
    stream = inference_client.stream_completion(
        ensure(endless, db), openai_protocol.Turn([{"role": "user", "content": "hi"}])
    )
    next(stream)
    small_machine(2 * 10**9)
    facts = replace(CHAT, kv_bytes_per_token=(15 * 10**8 - memory_fit.estimate_overhead_bytes(CHAT)) // 2048)
    notices: list[str] = []
    endpoint = ensure(replace(endless, model_id="hf/tiny/next", facts=facts, context=2048), db, notices=notices)
    assert len(running_engines.list_running_engines(db)) == 2
    assert endpoint.context is not None
    assert 512 <= endpoint.context < 2048
    assert len(notices) == 1
    assert f"Context reduced to {endpoint.context:,} tokens" in notices[0]
    assert next(stream)
    stream.close()


def test_model_too_large_for_memory_is_refused_and_ends_no_engine(spec: engine.EngineSpec, db: Database) -> None:
    ensure(spec, db)
    with pytest.raises(ModelTooLargeError, match="does not fit"):
        ensure(replace(spec, facts=replace(CHAT, kv_bytes_per_token=10**12), context=2048), db)
    assert get_engine_row(db).model_id == spec.model_id


def test_engine_hides_its_slots_from_others(spec: engine.EngineSpec, db: Database) -> None:
    endpoint = ensure(spec, db)
    transport = httpx2.HTTPTransport(uds=str(endpoint.socket))
    with httpx2.Client(transport=transport, base_url="http://engine") as anyone:
        assert {anyone.get(path).status_code for path in ("/slots", "/props", "/metrics")} == {401}


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(text: str) -> Path:
        path = folder / "llama-server"
        path.write_text(text)
        path.chmod(0o755)
        return path

    return put


def test_llama_server_on_path_replaces_the_bindings(
    spec: engine.EngineSpec, db: Database, on_path: Callable[[str], Path]
) -> None:
    binary = on_path(engines.LLAMA_SERVER)
    endpoint = ensure(spec, db, engine="llama-server", keep_alive=0)
    row = get_engine_row(db)
    (server,) = psutil.Process(row.pid).children()
    assert str(binary) in server.cmdline()
    assert row.key not in " ".join(server.cmdline())
    assert not {"landlock", "seccomp"} & set(row.layers)
    assert "script" in row.missing["landlock"]
    assert prompt_engine(endpoint) == ggufs.ANSWER
    wait_for_exit(row.pid)
    wait_for_exit(server.pid)


def test_llama_server_ends_with_its_killed_watcher(
    spec: engine.EngineSpec, db: Database, on_path: Callable[[str], Path]
) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux ends it in this case")
    on_path(engines.LLAMA_SERVER)
    ensure(spec, db, engine="llama-server")
    (server,) = psutil.Process(get_engine_row(db).pid).children()
    os.kill(get_engine_row(db).pid, signal.SIGKILL)
    wait_for_exit(server.pid)


def test_missing_or_old_llama_server_gives_a_clear_error(
    spec: engine.EngineSpec, db: Database, on_path: Callable[[str], Path]
) -> None:
    with pytest.raises(EngineStartError, match="no llama-server on PATH"):
        ensure(spec, db, engine="llama-server")
    on_path("#!/bin/sh\necho usage: --model --jinja\n")
    with pytest.raises(EngineStartError, match=r"too old.*--kv-unified"):
        ensure(spec, db, engine="llama-server")


def test_failing_llama_server_error_quotes_it(tmp_path: Path, db: Database, on_path: Callable[[str], Path]) -> None:
    on_path(engines.LLAMA_SERVER)
    with pytest.raises(EngineStartError, match="invalid magic"):
        ensure(make_spec(write_broken_files(tmp_path)["garbage"]), db, engine="llama-server")
