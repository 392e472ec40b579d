"""The library file: its content, concurrent writers, and damage."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llm_hf_models.errors import (
    AmbiguousNameError,
    LibraryDamagedError,
    LibraryError,
    LibraryTooNewError,
    NameTakenError,
    NotWritableError,
    UnknownModelError,
)
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library import registered_models as library_registered_models
from llm_hf_models.library import sqlite_file
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import Download, DownloadState, RequestedAction
from llm_hf_models.library.migrations import MIGRATIONS
from llm_hf_models.library.records import Check, EngineRow, LocalFile, LocalModel
from llm_hf_models.library.registered_models import RegisteredModel, read_registered_models
from tests.support import models
from tests.support.models import FACTS, make_model

path = models.path
db = models.db


def test_stored_model_is_read_back_unchanged(db: Database) -> None:
    model = make_model(
        aliases=("name",),
        options={"temperature": 0.5, "stop": ["a"]},
        checks=(Check("digest", "matches", 5.0, {"sha256": "ab"}),),
        hub={"license": "apache-2.0"},
        place="folder",
    )
    assert db.register(model) == model
    assert db.get_model(model.model_id) == model
    assert db.list_models() == [model]


def test_registering_again_replaces_facts_and_keeps_aliases_and_options(db: Database) -> None:
    db.register(make_model(aliases=("mine",), options={"seed": 1}, checks=(Check("digest", "differs", 1.0),)))
    again = db.register(make_model(commit="1" * 40, files=(), checks=(Check("digest", "matches", 2.0),)))
    assert (again.commit, again.files, again.aliases, again.options) == ("1" * 40, (), ("mine",), {"seed": 1})
    assert [check.result for check in again.checks] == ["matches"]


def test_alias_names_one_model_in_any_case(db: Database) -> None:
    db.register(make_model(aliases=("Walrus",)))
    other = db.register(make_model("owner/other", aliases=("walrus", "seal")))
    assert other.aliases == ("seal",)
    with pytest.raises(NameTakenError):
        db.add_alias("WALRUS", other.model_id)
    db.add_alias("Seal", other.model_id)
    db.remove_alias("walrus")
    db.add_alias("walrus", other.model_id)
    assert db.get_model(other.model_id).aliases == ("seal", "walrus")
    with pytest.raises(UnknownModelError):
        db.remove_alias("nobody")


def test_model_is_found_by_id_alias_repo_or_name_unless_ambiguous(db: Database) -> None:
    one = db.register(make_model(aliases=("w",))).model_id
    pinned = db.register(make_model("owner/pinned", revision="refs/pr/1")).model_id
    for name in ("hf/owner/name:Q4_K_M", "OWNER/name:q4_k_m", " w ", "W", "owner/name", "hf/owner/name", "Name"):
        assert db.find_model(name).model_id == one
    assert db.find_model("pinned").model_id == pinned
    two = db.register(make_model(quant="Q8_0")).model_id
    with pytest.raises(AmbiguousNameError) as caught:
        db.find_model("owner/name")
    assert one in str(caught.value.cause)
    assert two in str(caught.value.cause)
    with pytest.raises(UnknownModelError):
        db.find_model("walrus")
    with pytest.raises(UnknownModelError):
        db.get_model("owner/name")


def test_model_is_found_by_other_spellings_and_by_its_file(db: Database) -> None:
    half = db.register(make_model("owner/half", quant="F16", aliases=("h", "h:F16"))).model_id
    name = db.get_model(half).files[0].path
    for text in ("owner/half:fp16", "hf://owner/half:FP16", "https://huggingface.co/owner/half:f16", "H:fp16", name):
        assert db.find_model(text).model_id == half
    for text in ("F16", "owner/half:Q8_0", "owner/half:F", "other/half:F16"):
        with pytest.raises(UnknownModelError):
            db.find_model(text)


def test_removing_a_model_removes_its_files_aliases_and_checks(db: Database, path: Path) -> None:
    db.register(make_model("owner/kept"))
    gone = db.register(make_model(aliases=("x",), checks=(Check("scan", "safe", 1.0),)))
    db.remove_model(gone.model_id)
    with sqlite3.connect(path) as raw:
        assert [raw.execute(f"select count(*) from {table}").fetchone()[0] for table in ("aliases", "checks")] == [0, 0]
    with pytest.raises(UnknownModelError):
        db.remove_model(gone.model_id)


def test_state_follows_the_disk_and_the_newest_digest(db: Database, tmp_path: Path) -> None:
    there = tmp_path / "m.gguf"
    there.write_bytes(b"x")
    model = db.register(make_model(files=(LocalFile("m.gguf", "weights", 1, str(there)),)))
    assert model.state == "unverified"
    db.add_check(model.model_id, Check("digest", "matches", 1.0))
    assert db.get_model(model.model_id).state == "ready"
    db.add_check(model.model_id, Check("digest", "differs", 2.0))
    assert db.get_model(model.model_id).state == "changed"
    there.unlink()
    assert db.get_model(model.model_id).state == "missing"


def test_nan_in_a_header_does_not_hide_the_models_from_llm(db: Database, path: Path) -> None:
    db.register(make_model(facts=replace(FACTS, sampling={"temperature": float("nan"), "top_p": float("inf")})))
    assert db.list_models()[0].facts.sampling == {"temperature": None, "top_p": None}
    assert [model.model_id for model in read_registered_models(path)] == ["hf/owner/name:Q4_K_M"]


def test_registered_models_have_the_fields_that_llm_needs(db: Database, path: Path) -> None:
    db.register(make_model(aliases=("a",)))
    db.register(make_model("owner/plain", facts=ModelFacts(kind="embedding")))
    assert read_registered_models(path) == [
        RegisteredModel(
            "hf/owner/name:Q4_K_M",
            ("a",),
            "chat",
            tools=True,
            reasoning=False,
            modalities=("image",),
            repo_names=("owner/name", "hf/owner/name"),
        ),
        RegisteredModel(
            "hf/owner/plain:Q4_K_M",
            (),
            "embedding",
            tools=False,
            reasoning=False,
            modalities=(),
            repo_names=("owner/plain", "hf/owner/plain"),
        ),
    ]
    assert len(MIGRATIONS) == library_registered_models.LIBRARY_FORMAT


def test_download_rows_change_only_in_known_columns(db: Database) -> None:
    row = db.add_download(Download(0, "owner/name", "queued", "owner/name", "0" * 40, "Q4_K_M", 100))
    db.update_download(row.id, done_bytes=50, bytes_per_second=5.0)
    db.update_download(row.id)
    assert db.get_download(row.id).done_bytes == 50  # type: ignore[union-attr]
    for bad in ("nonsense", "commit", "id", "state = 'done' --"):
        with pytest.raises(LibraryError):
            db.update_download(row.id, **{bad: 1})
    assert [d.id for d in db.list_downloads(states=("queued",))] == [row.id]
    assert db.list_downloads(states=("done",)) == []
    assert db.delete_downloads(("queued",)) == 1
    assert db.get_download(row.id) is None


def test_download_has_one_running_owner(db: Database) -> None:
    row = db.add_download(Download(0, "r", "queued", "r", "c", None, 1))
    assert db.claim_download(row.id, "a", stale_seconds=math.inf)
    assert not db.claim_download(row.id, "b", stale_seconds=math.inf)
    assert db.record_heartbeat(row.id, "a") is None
    assert db.record_heartbeat(row.id, "b") == "lost"
    db.update_download(row.id, wanted="pause")
    assert db.record_heartbeat(row.id, "a") == "pause"
    assert db.claim_download(row.id, "b", stale_seconds=-1)
    assert db.record_heartbeat(row.id, "a") == "lost"
    assert db.record_heartbeat(999, "a") == "lost"


def test_background_download_of_an_ended_process_is_queued_at_once(db: Database) -> None:
    reported = "from llm_hf_models.system.ownership import make_owner_name; print(make_owner_name())"
    ended = subprocess.run([sys.executable, "-c", reported], capture_output=True, text=True, check=True).stdout.strip()
    row = db.add_download(Download(0, "r", "queued", "r", "c", None, 1, background=True))
    assert db.claim_download(row.id, ended, stale_seconds=60)
    db.update_download(row.id, error="next try in 25 s", bytes_per_second=5.0)
    assert db.settle_abandoned(stale_seconds=60) == []
    found = db.get_download(row.id)
    assert found is not None
    assert (found.state, found.error, found.bytes_per_second) == ("queued", "its process ended", None)
    assert db.list_next_downloads() == [found]


@pytest.mark.parametrize(("background", "given_up"), [(False, "paused"), (True, "queued")])
def test_owner_marked_as_stale_takes_its_download_back_or_obeys(
    db: Database, background: bool, given_up: DownloadState
) -> None:
    row = db.add_download(Download(0, "r", "queued", "r", "c", None, 1, background=background))
    assert db.claim_download(row.id, "a", stale_seconds=math.inf)
    db.update_download(row.id, bytes_per_second=5.0)
    db.settle_abandoned(stale_seconds=-1)
    found = db.get_download(row.id)
    assert found is not None
    assert (found.state, found.error) == (given_up, "its process stopped responding")
    assert (found.bytes_per_second, found.owner) == (None, "a")
    assert db.record_heartbeat(row.id, "a") is None
    back = db.get_download(row.id)
    assert back is not None
    assert (back.state, back.error) == ("running", None)
    assert [note.kind for note in db.list_notes(row.id)] == ["started", given_up, "started"]
    for state, requested in (("paused", "pause"), ("cancelled", "cancel"), ("queued", None), ("done", "lost")):
        db.update_download(row.id, state=state)
        assert db.record_heartbeat(row.id, "a") == requested


@pytest.mark.parametrize(("wanted", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_request_that_an_ended_process_left_is_carried_out(
    db: Database, wanted: RequestedAction, state: DownloadState
) -> None:
    row = db.add_download(Download(0, "r", "running", "r", "c", None, 1, background=True))
    db.update_download(row.id, wanted=wanted)
    assert db.settle_abandoned(stale_seconds=-1) == ([row.id] if wanted == "cancel" else [])
    found = db.get_download(row.id)
    assert found is not None
    assert (found.state, found.error) == (state, None)


def test_engine_row_is_removed_only_by_its_own_process(db: Database) -> None:
    row = EngineRow("f", "m", 10, 1.0, "/run/x.sock", key="secret", layers=("landlock",))
    db.save_engine(row)
    assert db.get_engine("f") == row
    assert "secret" not in repr(row)
    db.delete_engine("f", 11)
    assert db.list_engines() == [row]
    db.delete_engine("f", 10)
    assert db.get_engine("f") is None


def test_responses_of_the_hub_are_stored_with_a_date_and_expire(db: Database) -> None:
    db.save_metadata("k", "body", "etag")
    kept = db.get_metadata("k")
    assert kept is not None
    assert (kept.body, kept.etag) == ("body", "etag")
    assert db.delete_old_metadata(kept.fetched) == 0
    assert db.delete_old_metadata(kept.fetched + 1) == 1
    assert db.get_metadata("k") is None


def test_transaction_is_all_or_nothing(db: Database) -> None:
    def interrupted() -> None:
        with db.transaction():
            db.register(make_model())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert db.list_models() == []
    with db.transaction():
        db.register(make_model())
    assert len(db.list_models()) == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"quant": None},
        {"model_id": "\ud800"},
        {"added": object()},
        {"files": (LocalFile("p", "weights", 2**70, "/x"),)},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_unstorable_value_is_refused_and_not_reported_as_damage(db: Database, broken: dict[str, object]) -> None:
    with pytest.raises(LibraryError) as caught:
        db.register(make_model(**broken))
    assert not isinstance(caught.value, LibraryDamagedError)
    assert db.list_models() == []
    db.register(make_model())


def test_file_name_that_is_not_utf_8_is_refused(db: Database) -> None:
    with pytest.raises(LibraryError, match="can't store"):
        db.register(make_model(files=(LocalFile("m", "weights", 1, os.fsdecode(b"/tmp/caf\xe9.gguf")),)))


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX modes")
def test_library_is_private_because_it_holds_keys(db: Database, path: Path) -> None:
    db.register(make_model())
    assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}
    assert path.parent.stat().st_mode & 0o077 == 0


def run_together(*jobs: Callable[[], None]) -> None:
    """Run all jobs in parallel, and raise the first error."""
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], None]) -> None:
        start.wait()
        job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(run, job) for job in jobs]:
            done.result()


def test_threads_can_share_a_library(db: Database) -> None:
    def work(number: int) -> None:
        for turn in range(15):
            with db.transaction():
                db.register(make_model(f"owner/n{number}", quant=f"Q{turn}"))
            assert all(model.files for model in db.list_models())

    run_together(*(partial(work, number) for number in range(4)))
    assert len(db.list_models()) == 60


def test_new_library_can_be_opened_by_many_at_once(tmp_path: Path) -> None:
    for turn in range(40):
        run_together(*[lambda path=tmp_path / f"{turn}.db": Database(path).close()] * 4)


def test_reader_sees_one_snapshot_during_writes(db: Database, path: Path) -> None:
    ended = threading.Event()

    def version(number: int) -> LocalModel:
        return make_model(commit=str(number), files=(LocalFile(str(number), "weights", 1, "/x"),))

    def write() -> None:
        with Database(path) as other:
            for number in range(150):
                other.register(version(number))
        ended.set()

    def read() -> None:
        while not ended.is_set():
            (model,) = db.list_models()
            assert [file.path for file in model.files] == [model.commit]

    db.register(version(0))
    run_together(write, read, read)


# Damaged and unwritable files


DAMAGE = {
    "random bytes": lambda path: path.write_bytes(os.urandom(8192)),
    "text": lambda path: path.write_text("this is no database " * 300),
    "cut in the middle": lambda path: path.write_bytes(path.read_bytes()[:6000]),
    "header kept, pages overwritten": lambda path: path.write_bytes(path.read_bytes()[:100] + b"\xff" * 60_000),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_library_is_reported_and_llm_works(path: Path, damage: str) -> None:
    with Database(path) as db:
        db.register(make_model())
    for beside in path.parent.glob("library.db-*"):
        beside.unlink()
    DAMAGE[damage](path)
    with pytest.raises(LibraryError) as caught, Database(path) as db:
        db.list_models()
    assert isinstance(caught.value, LibraryDamagedError)
    assert "mv" in str(caught.value.hint)
    assert read_registered_models(path) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [("facts", "{"), ("facts", "[]"), ("facts", '{"kind": '), ("options", "nonsense"), ("hub", b"\xff")],
)
def test_unreadable_row_is_reported_as_damage(path: Path, column: str, value: object) -> None:
    with Database(path) as db:
        db.register(make_model())
        with sqlite3.connect(path) as raw:
            raw.execute(f"update models set {column} = ?", (value,))
        raw.close()
        with pytest.raises(LibraryDamagedError):
            db.list_models()
    read_registered_models(path)


def test_newer_library_is_not_changed(path: Path) -> None:
    with Database(path) as db:
        db.register(make_model())
    with sqlite3.connect(path) as raw:
        raw.execute(f"pragma user_version = {len(MIGRATIONS) + 1}")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(LibraryTooNewError) as caught:
        Database(path)
    assert caught.value.hint == "llm install -U llm-hf-models"
    assert read_registered_models(path) == []
    assert path.read_bytes() == before


def test_every_migration_updates_an_older_library(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Database(path) as db:
        db.register(make_model())
    later = (*MIGRATIONS, "alter table models add column later text; create table extra (id integer)")
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", later)
    with Database(path) as db:
        assert [model.model_id for model in db.list_models()] == ["hf/owner/name:Q4_K_M"]
    with sqlite3.connect(path) as raw:
        assert raw.execute("pragma user_version").fetchone()[0] == len(later)
        assert raw.execute("select later from models").fetchall() == [(None,)]
    raw.close()


def test_failing_migration_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Database(path) as db:
        db.register(make_model())
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", (*MIGRATIONS, "create table extra (id integer); create nonsense"))
    with pytest.raises(LibraryError):
        Database(path)
    monkeypatch.undo()
    with Database(path) as db:
        assert len(db.list_models()) == 1
    with sqlite3.connect(path) as raw:
        assert raw.execute("select count(*) from sqlite_master where name = 'extra'").fetchone()[0] == 0
    raw.close()


def test_folder_in_place_of_the_file_is_reported_and_llm_works(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(NotWritableError):
        Database(path)
    assert read_registered_models(path) == []


def test_file_in_place_of_the_folder_is_reported_and_llm_works(path: Path) -> None:
    path.parent.write_text("in the way")
    with pytest.raises(NotWritableError):
        Database(path)
    assert read_registered_models(path) == []


READ_ONLY = """
import os, sys, urllib.parse  # pathlib's own, which nobody could read any more where the interpreter is root's
from pathlib import Path
from llm_hf_models.errors import NotWritableError
from llm_hf_models.library.database import Database
from llm_hf_models.library.registered_models import read_registered_models
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
path = Path(sys.argv[1])
print(len(read_registered_models(path)))
with Database(path) as db:
    print(len(db.list_models()), db.is_writable)
    db.save_metadata("an answer of the Hub", "kept where that can be")
    try:
        db.touch_model(db.list_models()[0].model_id)
    except NotWritableError as error:
        print(error.message)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_library_in_a_read_only_folder_is_readable(tmp_path: Path) -> None:
    folder = tmp_path / "readable"
    for parent in (tmp_path, *tmp_path.parents):  # pytest's own folders, at any depth: only their user can read them
        if "pytest-of" in str(parent) and parent.stat().st_uid == os.geteuid():
            parent.chmod(0o755)
    path = folder / "library.db"
    with Database(path) as db:
        db.register(make_model())
    path.chmod(0o444)
    folder.chmod(0o555)
    answer = subprocess.run([sys.executable, "-c", READ_ONLY, str(path)], capture_output=True, text=True, check=True)
    folder.chmod(0o755)
    assert answer.stdout.splitlines() == ["1", "1 False", f"Can't write the library at {path}"]


def test_llm_works_without_a_library_and_creates_none(path: Path) -> None:
    assert read_registered_models(path) == []
    assert read_registered_models(Path("nul\x00.db")) == []
    assert not path.parent.exists()


@given(st.data())
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_no_bytes_in_the_library_make_the_hook_raise(path: Path, data: st.DataObject) -> None:
    if not path.parent.exists():
        with Database(path) as db:
            db.register(make_model(aliases=("x",)))
        path.with_name("whole").write_bytes(path.read_bytes())
    content = bytearray(path.with_name("whole").read_bytes())
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.binary(min_size=1, max_size=40)))
    ):
        content[place : place + len(value)] = value
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for model in read_registered_models(path):
        assert isinstance(model, RegisteredModel)
    try:
        with Database(path) as db:
            db.list_models()
    except LibraryError as error:
        assert error.message  # noqa: PT017 - either outcome is right; anything else fails the test
    for beside in path.parent.glob("library.db-*"):
        beside.unlink()


_OPEN_AND_CLOSE = """
import sys
from pathlib import Path
from llm_hf_models.library.database import Database
Database(Path(sys.argv[1])).close()
"""


def test_second_connection_of_a_process_keeps_the_locks_of_the_first(path: Path) -> None:
    with Database(path) as first:
        first.save_metadata("a", "1")
        Database(path).close()
        subprocess.run([sys.executable, "-c", _OPEN_AND_CLOSE, str(path)], check=True)
        # The last connection to close clears the log: another process may not take itself for the last one.
        assert path.with_name(f"{path.name}-wal").exists()
        first.save_metadata("b", "2")
        assert first.get_metadata("b") is not None
