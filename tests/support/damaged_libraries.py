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


def register_model(name: str, *, aliases: tuple[str, ...] = (), **facts: Any) -> None:
    facts = {"kind": "chat", **facts}
    with Database(paths.library_path()) as db:
        db.register(LocalModel(f"hf/{name}", None, None, None, "F16", (), ModelFacts(**facts), aliases=aliases))


def write_garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)


def execute_sql(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(sql)


def set_newer_version(path: Path) -> None:
    execute_sql(path, f"pragma user_version = {len(MIGRATIONS) + 1}")


def store_invalid_json(path: Path) -> None:
    execute_sql(path, "update models set facts = '{'")


def drop_a_table(path: Path) -> None:
    execute_sql(path, "drop table aliases")


def replace_with_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
