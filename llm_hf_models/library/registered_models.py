"""What llm's hooks need of the library, read at a stroke and nothing else: `llm` passes here.

Imports next to nothing, so that no command starts noticeably slower. Everything else about the library:
library/database.py.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

REMOTE_PREFIX = "hf/remote/"  # of the ids of models that are served elsewhere
LIBRARY_FORMAT = 2  # of the library file: how many migrations library/sqlite_file.py knows (a test holds the two equal)
BUSY_SECONDS = 1


class RegisteredModel(NamedTuple):
    """What llm's hooks need of a local model."""

    model_id: str
    aliases: tuple[str, ...]
    kind: str
    tools: bool
    reasoning: bool
    modalities: tuple[str, ...]


def read_registered_models(path: Path, on_unreadable: Callable[[], None] = lambda: None) -> list[RegisteredModel]:
    """What llm's hooks show, read without writing: nothing where there is no library or it can't be read.

    A hook never raises and never repairs; `llm hf list` is where a damaged library is explained.

    Args:
        path: of the library.
        on_unreadable: called where there is one and it is damaged, a newer version's, or nobody may open it.
    """
    try:
        if not path.exists():
            return []
        address = path.absolute().as_uri()
    except (OSError, ValueError):
        on_unreadable()
        return []
    for mode in ("mode=ro", "mode=ro&immutable=1"):  # a WAL file in a read-only folder refuses the first
        try:
            db = sqlite3.connect(f"{address}?{mode}", uri=True, timeout=BUSY_SECONDS)
        except sqlite3.Error:
            continue
        try:
            version = db.execute("pragma user_version").fetchone()[0]
            if version > LIBRARY_FORMAT:
                break
            return _read_models(db) if version else []  # without one it is being made just now
        except (sqlite3.Error, ValueError, TypeError):
            continue
        finally:
            db.close()
    on_unreadable()
    return []


def _read_models(db: sqlite3.Connection) -> list[RegisteredModel]:
    aliases: dict[int, list[str]] = {}
    for key, alias in db.execute("select model, alias from aliases"):
        aliases.setdefault(key, []).append(alias)
    rows = db.execute(
        "select id, model_id, kind, json_extract(facts, '$.tools', '$.reasoning', '$.modalities'),"
        " json_extract(options, '$.template') from models"
    ).fetchall()
    found = []
    for key, model_id, kind, facts, template in rows:
        tools, reasoning, modalities = json.loads(facts)
        if template:  # a person's own, which says other things than the header's
            from llm_hf_models.gguf.facts import ModelFacts, apply_template

            own = apply_template(ModelFacts(kind=kind), template)
            kind, tools, reasoning = own.kind, own.tools, own.reasoning  # noqa: PLW2901
        names = tuple(aliases.get(key, ()))
        found.append(RegisteredModel(model_id, names, kind, bool(tools), bool(reasoning), tuple(modalities or ())))
    return found
