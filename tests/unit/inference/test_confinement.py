"""Programs that replace a confined process: real ones, started as a llama-server is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.inference.confinement import SANDBOX_OFF, Program, confine, inspect_program
from llm_hf_models.inference.llama_server import has_gpu

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's layers")


def find_program(name: str) -> Path:
    found = shutil.which(name)
    assert found
    return Path(found)


def make_task(folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "model").write_text("weights")
    (folder / "secret").write_text("token")
    (folder / "own").mkdir()
    return {
        "sandbox": "on",
        "without": {},
        "max_cpu": 0,
        "read_paths": [str(folder / "model")],
        "folder": str(folder / "own"),
        "max_memory": 10**9,
        **changes,
    }


def run_confined(binary: Path, *arguments: object, told: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run a program as engine_binary does: in a fork that has confined itself."""
    wanted = inspect_program(binary)
    return subprocess.run(
        [binary, *map(str, arguments)],
        preexec_fn=lambda: confine(told, gpu=False, program=wanted) and None,
        capture_output=True,
        text=True,
        check=False,
    )


def test_confined_program_reads_only_its_model(tmp_path: Path) -> None:
    reported = make_task(tmp_path)
    cat = find_program("cat")
    assert run_confined(cat, tmp_path / "model", told=reported).stdout == "weights"
    refused = run_confined(cat, tmp_path / "secret", told=reported)
    assert (refused.stdout, refused.returncode) == ("", 1)
    assert run_confined(cat, tmp_path / "secret", told={**reported, "sandbox": "off"}).stdout == "token"


def test_confined_program_starts_no_other(tmp_path: Path) -> None:
    reported = make_task(tmp_path)
    env, cat = find_program("env"), find_program("cat")
    assert run_confined(env, cat, tmp_path / "model", told={**reported, "sandbox": "off"}).stdout == "weights"
    refused = run_confined(env, cat, tmp_path / "model", told=reported)
    assert refused.returncode == 126
    assert "ermission denied" in refused.stderr


def run_in_fork(work: Callable[[], str]) -> str:
    """Return the output of work that can't be undone."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writes, work().encode())
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as output:
        text = output.read()
    os.waitpid(child, 0)
    return text


def test_script_lists_the_layers_it_can_not_have_with_reasons(tmp_path: Path) -> None:
    script = tmp_path / "llama-server"
    script.write_text("#!/bin/sh\nexec cat\n")
    wanted = inspect_program(script)
    reported = make_task(tmp_path)

    def work() -> str:
        done = confine(reported, gpu=False, program=wanted)
        return "\n".join([*done.layers, "--", *(f"{layer}: {why}" for layer, why in done.missing)])

    held, _, missing = run_in_fork(work).partition("\n--\n")
    assert not {"landlock", "seccomp"} & set(held.split("\n"))
    assert "landlock: llama-server is a script, which has to start other programs" in missing
    assert "seccomp: llama-server is a script, which has to start other programs" in missing


def test_layer_name_mentions_what_is_left_open(tmp_path: Path) -> None:
    reported = make_task(tmp_path)
    wanted = inspect_program(find_program("cat"))
    assert "seccomp except exec" in run_in_fork(lambda: "\n".join(confine(reported, gpu=False, program=wanted).layers))


def test_disabled_sandbox_applies_no_layer_and_says_so(tmp_path: Path) -> None:
    done = confine(make_task(tmp_path, sandbox="off"), gpu=False, program=Program())
    assert (done.layers, done.missing) == ([], [SANDBOX_OFF])


def test_program_in_a_home_folder_opens_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, opens in ((tmp_path, False), (tmp_path / "llama.cpp/bin", True)):
        place.mkdir(parents=True, exist_ok=True)
        binary = Path(shutil.copy(find_program("cat"), place / "llama-server"))
        monkeypatch.setenv("HOME", str(tmp_path))
        paths = inspect_program(binary).read_paths
        assert binary in paths
        assert (place in paths) == opens
        assert tmp_path not in paths
        assert tmp_path.parent not in paths


@pytest.mark.parametrize(
    ("listed", "gpu"),
    [
        ("Available devices:\n  (none)\n", False),
        ("Available devices:\n", False),
        ("Available devices:\n  CUDA0: NVIDIA GeForce RTX 3090 (24111 MiB, 23000 MiB free)\n", True),
        ("ggml_vulkan: found 1\nAvailable devices:\n  Vulkan0: Radeon (8192 MiB, 8000 MiB free)\n", True),
        ("Available devices:\n  BLAS: OpenBLAS (0 MiB, 0 MiB free)\n", False),
        ("error: unknown argument: --list-devices\n", False),
    ],
    ids=["none", "nothing", "cuda", "vulkan", "blas", "too-old"],
)  # fmt: skip
def test_llama_server_has_a_gpu_if_it_lists_one(tmp_path: Path, listed: str, gpu: bool) -> None:
    (tmp_path / "listed").write_text(listed)
    (tmp_path / "llama-server").write_text(f"#!/bin/sh\n{find_program('cat')} {tmp_path / 'listed'}\n")
    (tmp_path / "llama-server").chmod(0o755)
    assert has_gpu(str(tmp_path / "llama-server")) is gpu
