"""Records of local models without files, for tests of names and collections."""

from __future__ import annotations

from typing import Any

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalFile, LocalModel
from llm_hf_models.paths import library_path


def record_model(ref: str, *aliases: str, **fields: Any) -> str:
    """Record a model of `owner/name:QUANT`, whose file is missing. Return its id."""
    repo, _, quant = ref.partition(":")
    file = LocalFile(f"{repo.rpartition('/')[2]}-{quant}.gguf", "weights", 1000, f"/nowhere/{ref}.gguf", "d" * 64)
    model = LocalModel(
        f"hf/{ref}", repo.partition("@")[0], None, "c" * 40, quant, (file,), ModelFacts(kind="chat"), aliases, **fields
    )
    with Database(library_path()) as db:
        return db.register(model).model_id


def forget_model(model_id: str) -> None:
    """Remove the record of a model."""
    with Database(library_path()) as db:
        db.remove_model(model_id)
