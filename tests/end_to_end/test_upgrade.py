"""A worker and an engine of an earlier version, whose processes have other module names, during an upgrade."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from llm_hf_models import Library
from llm_hf_models.downloads.worker import get_worker_path, is_running
from llm_hf_models.inference import launcher
from llm_hf_models.inference.engine_folder import EngineFolder
from llm_hf_models.library.database import Database
from tests.support import downloads, engines
from tests.support.downloads import REPO, find_workers, follow_to_end
from tests.support.engines import ensure, get_engine_row, make_endless_spec, prompt_engine

hub = downloads.hub

EARLIER_WORKER = """
import sys
from pathlib import Path
from llm_hf_models.system.ownership import acquire_ownership
with acquire_ownership(Path(sys.argv[1])):
    print("owned", flush=True)
    sys.stdin.readline()
"""


db = engines.db


@pytest.mark.usefixtures("hub")
def test_worker_of_an_earlier_version_is_left_to_finish() -> None:
    library = Library()
    plan = library.plan(REPO)
    get_worker_path().parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", EARLIER_WORKER, str(get_worker_path())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as earlier:
        assert earlier.stdout is not None
        assert earlier.stdin is not None
        assert earlier.stdout.readline() == "owned\n"
        row = library.enqueue(plan)
        assert is_running()
        assert find_workers() == [], "the earlier worker is running, so no other one starts"
        assert library.get_download(row.id).state == "queued"
        assert earlier.poll() is None
        earlier.stdin.write("\n")
        earlier.stdin.flush()
        earlier.wait(timeout=20)
    assert follow_to_end(library, row.id)[-1].kind == "done"


EARLIER_ENGINE = (
    "import runpy; runpy.run_module('.'.join(['llm_hf_models', 'inference', 'engine_child']), run_name='__main__')"
)


@pytest.mark.skipif(sys.platform == "win32", reason="engines on Windows have no unix socket")
def test_engine_of_an_earlier_version_is_listed_and_reused(
    tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_earlier_child(_module: str, folder: EngineFolder) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", EARLIER_ENGINE]
        pipe, environment = subprocess.PIPE, launcher.build_child_environment(os.environ)
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, cwd=folder.path, env=environment, start_new_session=True
        )

    spec = make_endless_spec(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "start_child", start_earlier_child)
        prompt_engine(ensure(spec, db), max_tokens=3)
    pid = get_engine_row(db).pid
    assert "engine_child" not in psutil.Process(pid).cmdline()
    prompt_engine(ensure(spec, db), max_tokens=3)
    assert get_engine_row(db).pid == pid, "the engine is reused, not started again"
