"""What llm's hooks need of the library, read in one query and nothing else: each `llm` command passes here.

Imports next to nothing, so that no command starts noticeably slower. Everything else about the library: library.py.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import NamedTuple

FORMAT = 1  # of the library file: how many migrations library.py knows (a test holds the two equal)
BUSY_SECONDS = 1


class RegisteredModel(NamedTuple):
    """What llm's hooks need of a local model."""

    model_id: str
    aliases: tuple[str, ...]
    kind: str
    tools: bool
    reasoning: bool
    modalities: tuple[str, ...]


def registered_models(path: Path) -> list[RegisteredModel]:
    """What llm's hooks show, read without writing: nothing where there is no library or it can't be read.

    A hook never raises and never repairs; `llm hf list` is where a damaged library is explained.
    """
    for mode in ("mode=ro", "mode=ro&immutable=1"):  # a WAL file in a read-only folder refuses the first
        try:
            db = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=BUSY_SECONDS)
        except (sqlite3.Error, ValueError):
            continue
        try:
            if db.execute("pragma user_version").fetchone()[0] > FORMAT:
                return []
            rows = db.execute(
                "select model_id, kind, json_extract(facts, '$.tools'), json_extract(facts, '$.reasoning'),"
                " json_extract(facts, '$.modalities'),"
                " (select json_group_array(alias) from aliases where aliases.model = models.id) from models"
            ).fetchall()
        except sqlite3.Error:
            continue
        finally:
            db.close()
        return [
            RegisteredModel(
                row[0], tuple(json.loads(row[5])), row[1], bool(row[2]), bool(row[3]), tuple(json.loads(row[4] or "[]"))
            )
            for row in rows
        ]
    return []
