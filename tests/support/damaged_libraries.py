"""Library files that are damaged in several ways."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from llm_hf_models import paths
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library.database import Database
from llm_hf_models.library.migrations import MIGRATIONS
from llm_hf_models.library.records import LocalModel


def register(name: str, *, aliases: tuple[str, ...] = (), **facts: Any) -> None:
    facts = {"kind": "chat", **facts}
    with Database(paths.library_path()) as db:
        db.register(LocalModel(f"hf/{name}", None, None, None, "F16", (), ModelFacts(**facts), aliases=aliases))


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)


def changed(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(sql)


def newer(path: Path) -> None:
    changed(path, f"pragma user_version = {len(MIGRATIONS) + 1}")


def not_json(path: Path) -> None:
    changed(path, "update models set facts = '{'")


def a_table_less(path: Path) -> None:
    changed(path, "drop table aliases")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
