"""The library file, shared by several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llm_hf_models.library.database import Database
from llm_hf_models.library.registered_models import read_registered_models
from llm_hf_models.paths import library_path
from tests.support import models
from tests.support.folders import ROOT
from tests.support.models import make_model

path = models.path
db = models.db

# Other processes


CHILD = """
import sys
from pathlib import Path
from llm_hf_models.library.database import Database
from tests.support.folders import ROOT
from tests.support.models import make_model
path, job, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.stdin.readline()
db = Database(path)
if job == "write":
    for turn in range(20):
        db.register(make_model(f"owner/{name}", quant=f"Q{turn}", aliases=(f"{name}-{turn}", "shared")))
else:
    with db.transaction():
        db.register(make_model("owner/half"))
        db.remove_model("hf/owner/name:Q4_K_M")
        print("inside", flush=True)
        sys.stdin.readline()
"""


def start_child(path: Path, job: str, name: str = "x") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), job, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_parallel_processes_create_and_write_one_library(path: Path) -> None:
    children = [start_child(path, "write", f"c{number}") for number in range(5)]
    for process in children:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in children:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with Database(path) as db:
        models = db.list_models()
    assert len(models) == 100
    assert all(len(model.files) == 1 for model in models)
    assert sum("shared" in model.aliases for model in models) == 1


def test_process_killed_in_a_transaction_leaves_the_library_unchanged(path: Path) -> None:
    with Database(path) as db:
        before = db.register(make_model())
    process = start_child(path, "hang")
    assert process.stdin
    assert process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "inside\n"
    assert [model.model_id for model in read_registered_models(path)] == [before.model_id]
    process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    process.communicate(timeout=60)
    with Database(path) as db:
        assert db.list_models() == [before]
        db.register(make_model("owner/after"))


# Damaged and unwritable files


FULL = """
import resource, signal, sys
sys.dont_write_bytecode = True  # the limit would cut the bytecode short too
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond it fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from llm_hf_models.cli.main import hf
hf(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["list"], 0),
        (["show", "tiny"], 0),
        (["path", "tiny"], 0),
        (["status"], 0),
        (["alias"], 0),
        (["alias", "tiny", "seal"], 1),
        (["rm", "-y", "tiny"], 1),
    ],
)
def test_unwritable_library_is_read_and_changes_are_refused(words: list[str], code: int) -> None:
    path = library_path()
    with Database(path) as db:
        db.register(replace(make_model(), aliases=("tiny",)))
    done = subprocess.run([sys.executable, "-c", FULL, *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.startswith("Error: ")
        assert str(path) in done.stderr
    with Database(path) as db:
        assert [model.aliases for model in db.list_models()] == [("tiny",)]
