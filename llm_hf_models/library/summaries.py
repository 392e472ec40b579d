"""Read the rows of a list of models: one pass over each table, and no JSON of models without options.

The tables are those of `models`. Listing models must not import the modules that model facts need.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llm_hf_models.library.file_states import UNPROVEN_STATES, FileState, compare_with_disk, find_model_state
from llm_hf_models.library.sqlite_file import SQLiteFile, translate_row_errors
from llm_hf_models.library.types import ModelSummary


class SummaryTables(SQLiteFile):
    """The part of the database that lists local models."""

    def list_summaries(self) -> list[ModelSummary]:
        """Return a row for each local model, newest first. This stats each file once."""
        with _pause_collection(), self.snapshot(), translate_row_errors(self.path):
            if self.fetch_rows("select 1 from models where not json_valid(facts) limit 1"):
                raise ValueError("the facts of a model are not JSON")  # llm's hooks refuse such a library too
            models = self.fetch_rows(
                "select id, model_id, repo, revision, commit_hash, quant, kind, nullif(options, '{}'),"
                " endpoint, added, last_used, pinned from models order by added desc, id desc"
            )
            files = self.fetch_rows(
                "select model, location, size, mtime_ns, ctime_ns, coalesce(sha256, git_sha1)"
                " from files order by model, position"
            )
            aliases = self.fetch_rows("select model, alias from aliases order by model, alias")
            digests = self.fetch_rows("select model, result from checks where kind = 'digest' order by at, id")
            return _make_summaries(models, files, aliases, dict(map(tuple, digests)))  # the newest result is the last


@contextmanager
def _pause_collection() -> Iterator[None]:
    """Create many objects without searching them for cycles, which takes half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _make_summaries(models: Any, files: Any, aliases: Any, digests: dict[int, str]) -> list[ModelSummary]:  # noqa: ANN401 - rows
    names: dict[int, list[str]] = {}
    for model, alias in aliases:
        names.setdefault(model, []).append(alias)
    states: dict[int, list[FileState]] = {}
    sizes: dict[int, int] = {}
    locations: dict[int, str] = {}
    for model, location, size, mtime_ns, ctime_ns, digest in files:
        states.setdefault(model, []).append(compare_with_disk(location, size, mtime_ns, ctime_ns, digest))
        sizes[model] = sizes.get(model, 0) + size
        locations.setdefault(model, location)
    found = []
    for key, model_id, repo, revision, commit, quant, kind, options, endpoint, added, last_used, pinned in models:
        file_states = states.get(key, ())
        state = "remote" if endpoint else find_model_state(file_states, digests.get(key))
        own_kind = _apply_options(kind, options) if options else kind
        is_unproven = not UNPROVEN_STATES.isdisjoint(file_states)
        found.append(
            ModelSummary(
                model_id, tuple(names.get(key, ())), state, own_kind, sizes.get(key), repo, revision, commit, quant,
                added, last_used, locations.get(key), is_unproven, bool(pinned),
            )
        )  # fmt: skip
    return found


def _apply_options(kind: Any, text: str) -> str:  # noqa: ANN401 - from a row
    options = json.loads(text)
    if not options.keys() & {"template", "kind"}:
        return str(kind)
    from llm_hf_models.gguf.facts import ModelFacts, apply_kind, apply_template

    return apply_kind(apply_template(ModelFacts(kind=kind), options.get("template")), options.get("kind")).kind
