"""A real embedding model, from import to `llm similar`: its similarities are those that its authors publish."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import llm
import pytest

from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import real_weights
from tests.support.tiny_library import get_output

pytestmark = pytest.mark.weights

# The example of sentence-transformers' own documentation (sbert.net, Quickstart), with its similarities to four digits.
WEATHER, SUNNY, STADIUM = "The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."
SIMILARITIES = {(WEATHER, SUNNY): 0.6660, (WEATHER, STADIUM): 0.1046, (SUNNY, STADIUM): 0.1411}
PAIRS = {
    "A man is eating food.": "A man is eating a piece of bread.",
    "A cheetah is running behind its prey.": "A big cat chases an animal.",
    "The girl is carrying a baby.": "A young woman holds an infant in her arms.",
    "How do I reset my password?": "I forgot my login and need a new one.",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_weights.minilm(tmp_path_factory.mktemp("minilm"))


@pytest.fixture(autouse=True)
def _minilm(home: Home, weights: Path) -> Iterator[None]:  # noqa: ARG001 - after it
    library = Library()
    library.import_file(weights, aliases=("minilm",))
    yield
    library.stop_engines()


def embed_texts(texts: list[str]) -> dict[str, list[float]]:
    return dict(zip(texts, llm.get_embedding_model("minilm").embed_multi(texts), strict=True))


def compare_vectors(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def test_header_facts_are_read_and_vectors_have_length_one() -> None:
    (model,) = Library().list()
    assert (model.kind, model.facts.embedding_length, model.facts.context_length) == ("embedding", 384, 512)
    assert 22_000_000 < (model.facts.parameters or 0) < 23_000_000
    vector = json.loads(get_output("embed", "-m", "minilm", "-c", WEATHER))
    assert len(vector) == 384
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)


def test_similarities_match_the_published_ones() -> None:
    found = embed_texts([WEATHER, SUNNY, STADIUM])
    for (one, other), similarity in SIMILARITIES.items():
        assert compare_vectors(found[one], found[other]) == pytest.approx(similarity, abs=5e-4)


def test_text_has_the_same_embedding_alone_and_in_a_batch() -> None:
    texts = [*PAIRS, *PAIRS.values()] * 8  # more than one request, with texts of different lengths in one batch
    many = list(llm.get_embedding_model("minilm").embed_multi(texts))
    for text, vector in zip(texts[:3], many[:3], strict=True):
        assert vector == pytest.approx(llm.get_embedding_model("minilm").embed(text), abs=1e-4)


def test_texts_of_the_same_meaning_are_nearest() -> None:
    found = embed_texts([*PAIRS, *PAIRS.values()])
    for text, paraphrase in PAIRS.items():
        others = [compare_vectors(found[text], found[other]) for other in PAIRS.values() if other != paraphrase]
        assert compare_vectors(found[text], found[paraphrase]) > max(others) + 0.2


def test_similar_ranks_the_paraphrase_first(tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(number), "content": text}) for number, text in enumerate(PAIRS)]
    (tmp_path / "texts.nl").write_text("\n".join(lines))
    get_output("embed-multi", "texts", str(tmp_path / "texts.nl"), "--format", "nl", "-m", "minilm", "--store")
    for text, paraphrase in PAIRS.items():
        best = json.loads(get_output("similar", "texts", "-c", paraphrase, "-n", "1"))
        assert best["content"] == text
