"""Read the few facts in the library that llm's hooks need.

Every `llm` command runs this module, so it imports almost nothing. The rest of the library is in
`database`.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

REMOTE_PREFIX = "hf/remote/"  # prefix of the ids of models on remote endpoints
LIBRARY_FORMAT = 5  # of the library file: the number of migrations (a test compares the two)
COLLECTIONS_FORMAT = 5  # the first one with collections; the hooks don't migrate an older library
BUSY_SECONDS = 1


class RegisteredModel(NamedTuple):
    """The properties of a local model that llm's hooks need."""

    model_id: str
    aliases: tuple[str, ...]
    kind: str
    tools: bool
    reasoning: bool
    modalities: tuple[str, ...]
    repo_names: tuple[str, ...] = ()  # of its repo, with and without `hf/`, if they mean no other local model
    role_names: tuple[str, ...] = ()  # its roles in collections, such as `coding/best`, if they mean no other model


def list_repo_names(model_id: str, repo: str | None) -> tuple[str, ...]:
    """Return the name of a model's repo, and the name that it had when the model was pulled."""
    if repo is None:
        return ()
    return tuple(dict.fromkeys((repo, model_id.removeprefix("hf/").partition(":")[0].partition("@")[0])))


def _add_repo_names(models: list[RegisteredModel], repos: Mapping[str, str | None]) -> list[RegisteredModel]:
    """Add the names of their repos to models, unless a name is also that of another model."""
    named = {model.model_id: list_repo_names(model.model_id, repos[model.model_id]) for model in models}
    uses = Counter(name for names in named.values() for name in {name.casefold() for name in names})
    taken = {name.casefold() for model in models for name in (model.model_id, *model.aliases)}
    return [
        model._replace(
            repo_names=tuple(
                full
                for name in named[model.model_id]
                for full in (name, f"hf/{name}")
                if uses[name.casefold()] == 1 and full.casefold() not in taken
            )
        )
        for model in models
    ]


def read_registered_models(path: Path, on_unreadable: Callable[[], None] = lambda: None) -> list[RegisteredModel]:
    """Return the models for llm's hooks, without writing. Return an empty list if there is no readable library.

    A hook never raises or repairs anything. `llm hf list` explains a damaged library.

    Args:
        path: path of the library.
        on_unreadable: called if the library exists, but is damaged, has a newer format or can't be
            opened.
    """
    try:
        if not path.exists():
            return []
        address = path.absolute().as_uri()
    except (OSError, ValueError):
        on_unreadable()
        return []
    for mode in ("mode=ro", "mode=ro&immutable=1"):  # a WAL file in a read-only folder fails with the first
        try:
            db = sqlite3.connect(f"{address}?{mode}", uri=True, timeout=BUSY_SECONDS)
        except sqlite3.Error:
            continue
        try:
            version = db.execute("pragma user_version").fetchone()[0]
            if version > LIBRARY_FORMAT:
                break
            models = _read_models(db) if version else []  # version 0: another process is creating it
            return _add_role_names(models, db) if version >= COLLECTIONS_FORMAT else models
        except (sqlite3.Error, ValueError, TypeError):
            continue
        finally:
            db.close()
    on_unreadable()
    return []


def _add_role_names(models: list[RegisteredModel], db: sqlite3.Connection) -> list[RegisteredModel]:
    """Add the roles that models have in collections. The names of models themselves come first.

    A ref without a quantization means the newest model of its repo. A ref of a file is only found when it is used
    (`Database.find_model`).
    """
    roles = db.execute(
        "select c.name || '/' || m.role, m.ref from collection_members m join collections c on c.id = m.collection"
        " where m.role is not null"
    ).fetchall()
    if not roles:
        return models
    ids: dict[str, str] = {}
    taken: set[str] = set()
    for model in models:  # the oldest first
        start = model.model_id.partition(":")[0]
        ids |= {name.casefold(): model.model_id for name in (start, model.model_id, *model.repo_names)}
        repo = start.removeprefix("hf/").partition("@")[0]  # it is not in `repo_names` if several models are from it
        taken |= {name.casefold() for name in (repo, model.model_id, *model.aliases, *model.repo_names)}
    named: dict[str, list[str]] = {}
    for name, ref in roles:
        model_id = ids.get(f"hf/{ref}".casefold())
        if model_id and name.casefold() not in taken:
            named.setdefault(model_id, []).append(name)
    return [model._replace(role_names=tuple(named.get(model.model_id, ()))) for model in models]


def _read_models(db: sqlite3.Connection) -> list[RegisteredModel]:
    aliases: dict[int, list[str]] = {}
    for key, alias in db.execute("select model, alias from aliases"):
        aliases.setdefault(key, []).append(alias)
    rows = db.execute(
        "select id, model_id, repo, kind, json_extract(facts, '$.tools', '$.reasoning', '$.modalities'),"
        " json_extract(options, '$.template'), json_extract(options, '$.kind') from models"
    ).fetchall()
    found, repos = [], {}
    for key, model_id, repo, kind, facts, template, own_kind in rows:
        tools, reasoning, modalities = json.loads(facts)
        if template:  # the user's template may differ from the header's
            from llm_hf_models.gguf.facts import ModelFacts, apply_template

            own = apply_template(ModelFacts(kind=kind), template)
            kind, tools, reasoning = own.kind, own.tools, own.reasoning  # noqa: PLW2901
        names, repos[model_id] = tuple(aliases.get(key, ())), repo
        found.append(
            RegisteredModel(model_id, names, own_kind or kind, bool(tools), bool(reasoning), tuple(modalities or ()))
        )
    return _add_repo_names(found, repos)
