"""Records of local models, as the library stores them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalFile, LocalModel

FACTS = ModelFacts(kind="chat", architecture="llama", tools=True, modalities=("image",), sampling={"temperature": 0.6})


def make_model(
    name: str = "owner/name", quant: str = "Q4_K_M", revision: str | None = None, **changes: object
) -> LocalModel:
    at = f"@{revision}" if revision else ""
    model = LocalModel(
        model_id=f"hf/{name}{at}:{quant}",
        repo=name,
        revision=revision,
        commit="0" * 40,
        quant=quant,
        files=(LocalFile("m.gguf", "weights", 100, f"/models/{name}/{quant}{at}.gguf", sha256="ab" * 32),),
        facts=FACTS,
        added=1000.0,
    )
    return replace(model, **changes)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "library.db"


@pytest.fixture
def db(path: Path) -> Iterator[Database]:
    with Database(path) as db:
        yield db
