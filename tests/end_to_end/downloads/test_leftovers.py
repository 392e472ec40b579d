"""`llm hf gc` while other processes download."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llm_hf_models import Library
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.library.database import Database
from llm_hf_models.paths import library_path
from tests.conftest import Home
from tests.support import interrupted_pulls
from tests.support.hub_server import HubServer, Stall
from tests.support.interrupted_pulls import FILE, REPO, list_partials

hub = interrupted_pulls.hub

PULL = "import sys; from llm_hf_models import Library; Library().pull(sys.argv[1])"


def test_gc_keeps_a_running_download_that_has_no_row(
    hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_ORPHAN_SECONDS", "0")
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "60")  # it does not read its row again
    hub.fault(Stall(after=500_000), on=FILE, side="storage", times=None)
    with subprocess.Popen([sys.executable, "-c", PULL, REPO]) as process:
        hub.wait_until(lambda: any(r.sent >= 500_000 for r in hub.matching(FILE, side="storage")))
        hub.wait_until(lambda: bool(list_partials(cache_work_folder(home.cache))))
        assert Library().gc().files == ()
        (row,) = Library().downloads()
        with Database(library_path()) as db:
            db.update_download(row.id, state="cancelled")
            assert Library().gc().files == (), "its row is cancelled, but its owner is running"
            db.delete_downloads(["cancelled"])
        assert Library().gc().files == (), "it has no row, but its owner is running"
        assert list_partials(cache_work_folder(home.cache))
        process.kill()
    assert [file.reason for file in Library().gc().files] == ["no download needs it"]
    assert list_partials(cache_work_folder(home.cache)) == []


def test_pull_by_huggingface_hub_survives_a_cleanup_without_delay(
    hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_ORPHAN_SECONDS", "0")
    hub.fault(Stall(after=500_000), on=FILE, side="storage", times=None)
    code = f"from huggingface_hub import hf_hub_download as get; get({REPO!r}, {FILE!r})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        hub.wait_until(lambda: any(r.sent >= 500_000 for r in hub.matching(FILE, side="storage")))
        hub.wait_until(lambda: bool(list(home.cache.glob("*/blobs/*.incomplete"))))
        assert [file for file in Library().gc().files if file.kind == "incomplete"] == []
        hub.clear()
        assert process.wait(60) == 0
    assert list(home.cache.glob("*/snapshots/*/*.gguf"))
