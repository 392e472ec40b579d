"""The rows of a list of models have the same values as the models themselves."""

from __future__ import annotations

from pathlib import Path

from llm_hf_models.library.database import Database
from llm_hf_models.library.records import Check, LocalFile
from llm_hf_models.models.local import views as local_models
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support.models import make_model

MATCHES, DIFFERS = Check("digest", "matches", 1.0), Check("digest", "differs", 2.0)


def register_models(db: Database, folder: Path) -> None:
    """Register a model in each state, and models whose options change their kind."""
    there = folder / "m.gguf"
    there.write_bytes(b"x")
    status = there.stat()
    stamps = {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    found = LocalFile("m.gguf", "weights", 1, str(there), sha256="a" * 64, **stamps)
    touched = LocalFile("m.gguf", "weights", 1, str(there), sha256="a" * 64, mtime_ns=5, ctime_ns=5)
    mmproj = LocalFile("mmproj.gguf", "mmproj", 1, str(there))
    db.register(make_model("o/ready", files=(found, mmproj), checks=(MATCHES,), aliases=("r", "ready"), added=1.0))
    db.register(make_model("o/changed", files=(found,), checks=(DIFFERS, MATCHES), added=2.0))
    db.register(make_model("o/verified-again", files=(found,), checks=(MATCHES, Check("digest", "differs", 0.5))))
    db.register(make_model("o/touched", files=(touched,), checks=(MATCHES,), revision="v1"))
    db.register(make_model("o/unverified", files=(found,), commit=None, repo=None))
    db.register(make_model("o/missing", checks=(MATCHES,)))
    db.register(make_model("o/templated", options={"template": "{{ messages }}", "seed": 1}))
    db.register(make_model("o/embedding", options={"kind": "embedding"}))
    db.register(make_model("remote/far", files=(), endpoint="http://127.0.0.1:1/v1", repo=None, commit=None))
    db.touch_model("hf/o/ready:Q4_K_M")


def test_rows_have_the_values_of_the_models(home: Home, tmp_path: Path) -> None:
    with Database(home.llm / "hf/library.db") as db:
        register_models(db, tmp_path)
        views = [local_models.make_view(model) for model in db.list_models()]
    rows = Library().list_summaries()
    assert [
        (
            row.id, row.aliases, row.state, row.kind, row.size_bytes, row.repo, row.revision, row.commit, row.quant,
            row.added, row.last_used, row.fix,
        )
        for row in rows
    ] == [
        (
            view.id, view.aliases, view.state, view.kind, view.size_bytes if view.files else None, view.repo,
            view.revision, view.commit, view.quant, view.added, view.last_used, view.fix,
        )
        for view in views
    ]  # fmt: skip
    assert {row.state for row in rows} == {"ready", "changed", "unverified", "missing", "remote"}
