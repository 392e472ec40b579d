"""Attacks of a confined child, tried for real as root and as an ordinary user, next to an unconfined control."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.folders import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has layers that a test can try")
if sys.platform == "linux":
    from tests.support import sandbox_child
ALL = ("rlimits", "user-namespace", "network-namespace", "landlock", "seccomp")


@dataclass(frozen=True)
class Outcome:
    """The end of a child's attempt. `status` is that of the process: 0, or minus the signal that ended it."""

    report: dict[str, Any]
    said: Any = None
    refused: str | None = None
    status: int = 0


@dataclass
class Scene:
    """The files, sockets and processes to attack, which belong to the user that the child runs as."""

    folder: Path
    ordinary: bool
    task: dict[str, Any]

    def attempt(self, name: str, steps: Any = "all", **more: Any) -> Outcome:
        task = {**self.task, "attempt": name, "steps": steps, "ordinary": self.ordinary, **more}
        ran = subprocess.run(
            [sys.executable, sandbox_child.__file__],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert ran.stdout, ran.stderr
        lines = [json.loads(line) for line in ran.stdout.splitlines()]
        return Outcome(lines[0], lines[-1].get("outcome"), lines[-1].get("refused"), ran.returncode)


@pytest.fixture(params=["as root", "as an ordinary user"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    ordinary = request.param == "as an ordinary user"
    if os.geteuid() != 0 and not ordinary:
        pytest.skip("these tests don't run as root")
    change = ordinary and os.geteuid() == 0
    folder = Path(tempfile.mkdtemp(prefix="llm-hf-sandbox-"))  # pytest's own folders are closed to other users
    as_nobody = {"user": sandbox_child.NOBODY, "group": sandbox_child.NOBODY, "extra_groups": []} if change else {}
    victim = subprocess.Popen(["/bin/sleep", "300"], **as_nobody)
    listeners = [
        socket.create_server(("127.0.0.1", 0)),
        _bound(socket.SOCK_STREAM, str(folder / "path.sock")),
        _bound(socket.SOCK_STREAM, f"\0{folder}"),
        _bound(socket.SOCK_DGRAM, str(folder / "letters.sock")),
    ]
    try:
        task = _task(folder, victim.pid, listeners[0].getsockname()[1])
        if change:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, sandbox_child.NOBODY, sandbox_child.NOBODY)
        yield Scene(folder, change, task)
    finally:
        for listener in listeners:
            listener.close()
        victim.kill()
        victim.wait()
        shutil.rmtree(folder)


def _bound(kind: int, address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(address)
    if kind == socket.SOCK_STREAM:
        listener.listen()
    return listener


def _task(folder: Path, victim: int, port: int) -> dict[str, Any]:
    for name in ("secret", "model"):
        (folder / name).write_text(f"the {name}", encoding="utf-8")
        (folder / name).chmod(0o600)
    (folder / "sockets").mkdir(mode=0o700)
    return {
        "home": str(folder),
        "secret": str(folder / "secret"),
        "model": str(folder / "model"),
        "folder": str(folder / "sockets"),
        "path_socket": str(folder / "path.sock"),
        "letter_box": str(folder / "letters.sock"),
        "abstract_socket": str(folder),
        "port": port,
        "victim": victim,
    }


def _need_all_layers(outcome: Outcome) -> None:
    if outcome.report["layers"] != list(ALL):
        pytest.skip(f"this machine lacks {outcome.report['missing']}")


REFUSED = (
    "read_a_secret", "list_the_root", "read_the_parents_environment", "write_a_file", "write_beside_the_socket",
    "empty_a_file", "empty_a_file_by_opening_it", "delete_a_file", "rename_a_file", "open_a_file_to_all", "link_a_file",
    "connect_by_tcp", "listen_on_tcp", "send_by_udp", "connect_to_a_path_socket", "connect_to_an_abstract_socket",
    "send_to_a_path_socket", "serve_on_a_path_socket_elsewhere", "run_a_program", "fork", "spawn", "signal_its_parent",
    "kill_another_process", "kill_a_thread_of_another_process", "kill_another_process_by_descriptor",
    "have_the_kernel_signal_another_process", "lower_another_process_limits", "be_traced", "make_a_user_namespace",
)  # fmt: skip
# The parent of an ordinary user's child is root here, which the child can't signal anyway.
NEEDS_SAME_USER = ("signal_its_parent",)


@pytest.mark.parametrize("name", REFUSED)
def test_confined_child_is_refused_what_a_free_one_may_do(scene: Scene, name: str) -> None:
    confined = scene.attempt(name)
    _need_all_layers(confined)
    assert confined.refused in ("EPERM", "EACCES")
    assert confined.status == 0
    if not (scene.ordinary and name in NEEDS_SAME_USER):
        assert scene.attempt(name, steps=[]).refused is None, "the control must succeed, or the attempt proves nothing"


def test_every_layer_holds_and_granted_access_works(scene: Scene) -> None:
    read = scene.attempt("read_the_model")
    _need_all_layers(read)
    assert read.report == {"layers": list(ALL), "missing": {}}
    assert read.said == "the model"
    assert scene.attempt("serve_on_a_path_socket_in_its_folder").said == "done"


def test_child_without_a_server_grant_creates_no_socket(scene: Scene) -> None:
    outcome = scene.attempt("serve_on_a_path_socket_in_its_folder", server=False)
    _need_all_layers(outcome)
    assert outcome.refused == "EPERM"


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("landlock", "read_a_secret"),
        ("landlock", "list_the_root"),
        ("landlock", "write_a_file"),
        ("landlock", "delete_a_file"),
        ("landlock", "serve_on_a_path_socket_elsewhere"),
        ("seccomp", "write_a_file"),
        ("seccomp", "delete_a_file"),
        ("seccomp", "connect_by_tcp"),
        ("seccomp", "send_by_udp"),
        ("seccomp", "connect_to_a_path_socket"),
        ("seccomp", "connect_to_an_abstract_socket"),
        ("seccomp", "send_to_a_path_socket"),
        ("seccomp", "run_a_program"),
        ("seccomp", "fork"),
        ("seccomp", "kill_another_process"),
        ("seccomp", "be_traced"),
        ("seccomp", "hold_shared_memory"),
    ],
)
def test_each_layer_alone_blocks_its_own_accesses(scene: Scene, layer: str, name: str) -> None:
    assert scene.attempt(name, steps=[layer]).refused in ("EPERM", "EACCES")


def test_private_network_reaches_no_local_server(scene: Scene) -> None:
    outcome = scene.attempt("connect_by_tcp", steps=["user-namespace", "network-namespace"])
    assert outcome.refused in ("ENETUNREACH", "EADDRNOTAVAIL")


@pytest.mark.parametrize("name", ["hold_much_memory", "hold_much_memory_in_pieces"])
def test_memory_ends_at_its_limit(scene: Scene, name: str) -> None:
    assert scene.attempt(name, steps=["rlimits"]).refused == "ENOMEM"
    assert scene.attempt(name, steps=[]).refused is None


def test_uncounted_memory_is_refused(scene: Scene) -> None:
    outcome = scene.attempt("hold_shared_memory")
    _need_all_layers(outcome)
    assert outcome.refused == "EPERM"
    assert scene.attempt("hold_shared_memory", steps=["rlimits"]).refused is None


def test_threads_end_at_the_memory_limit(scene: Scene) -> None:
    outcome = scene.attempt("start_threads_without_end")
    _need_all_layers(outcome)
    assert outcome.refused == "EAGAIN"


def test_spinning_child_that_ignores_the_first_signal_is_killed(scene: Scene) -> None:
    assert scene.attempt("spin_for_ever", cpu_seconds=1).status == -signal.SIGKILL


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="no other machine has this second table")
def test_call_through_the_32_bit_table_ends_the_process(scene: Scene) -> None:
    if scene.attempt("call_as_a_32_bit_program", steps=[]).said is not True:
        pytest.skip("this kernel has no 32-bit calls")
    assert scene.attempt("call_as_a_32_bit_program", steps=["seccomp"]).status == -signal.SIGSYS


def test_earlier_thread_is_filtered_and_uncovered_layers_not_claimed(scene: Scene) -> None:
    outcome = scene.attempt("open_a_socket_in_an_older_thread", older_thread=True)
    assert outcome.refused == "EPERM"
    assert outcome.report["layers"] == ["rlimits", "seccomp"]
    assert all("2 threads" in why for why in outcome.report["missing"].values())
    assert scene.attempt("open_a_socket_in_an_older_thread", steps=[], older_thread=True).said == "done"


def test_layer_refused_by_the_system_is_reported_and_not_raised(scene: Scene) -> None:
    again = scene.attempt("confine_itself_again")
    _need_all_layers(again)
    assert again.said["layers"] == ["rlimits"]
    assert set(again.said["missing"]) == set(ALL[1:])
    assert all(why for why in again.said["missing"].values())


def test_root_reads_the_model_of_another_user_and_reports_the_cost(scene: Scene) -> None:
    if scene.ordinary or os.geteuid() != 0:
        pytest.skip("only root reads files of other users")
    for path in (scene.folder / "model", scene.folder / "secret"):
        os.chown(path, sandbox_child.NOBODY, sandbox_child.NOBODY)
    outcome = scene.attempt("read_the_model")
    assert outcome.said == "the model"
    assert outcome.report["layers"] == [layer for layer in ALL if layer != "user-namespace"]
    assert "root" in outcome.report["missing"]["user-namespace"]
    assert scene.attempt("read_a_secret").refused == "EACCES"
    assert scene.attempt("make_a_user_namespace").refused == "EPERM"
