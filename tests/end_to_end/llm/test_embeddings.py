"""Texts that a model can't embed, and models whose header does not tell that they embed, or how."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import llm
import pytest

from llm_hf_models.llm_plugin.models import HfEmbeddingModel, ModelFailure
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import ggufs
from tests.support import tiny_library as tiny_library_support
from tests.support.commands import run, run_json_one, run_llm
from tests.support.hub_server import HubServer
from tests.support.relays import KEY, run_relay
from tests.support.tiny_library import TinyLibrary, get_output, open_empty_library

LONG = "word " * 300  # more than the 512 tokens of the model
TOKENS_OF_LONG = 1202
EMBED, DECODER = "hf/tiny/embed:F32", "hf/tiny/decoder:F16"


_use_tiny_library = tiny_library_support.use_tiny_library


@pytest.fixture(scope="module")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    with open_empty_library(tmp_path_factory) as library:
        library.add(EMBED, ggufs.tiny_embedding(library.files / "embed.gguf"), aliases=("vectors",))
        library.add(DECODER, ggufs.tiny_base(library.files / "decoder.gguf"), aliases=("decoder",))
        yield library


def get_model(name: str) -> HfEmbeddingModel:
    model = llm.get_embedding_model(name)
    assert isinstance(model, HfEmbeddingModel)
    return model


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("  ", "Text 3 is empty"),
        ("  ", "It comes after 'two'."),
        (LONG, f"The model accepts 512 tokens; text 3 has {TOKENS_OF_LONG:,}."),
        (LONG, "Text 3 is too long for hf/tiny/embed:F32: 'word word word"),
        (LONG, f"llm hf set {EMBED} truncate on"),
    ],
)
def test_text_that_can_not_be_embedded_is_named_after_the_others(bad: str, message: str) -> None:
    vectors = get_model("vectors").embed_multi(["one", "two", bad, "four"])
    assert [len(next(vectors)) for _ in range(2)] == [ggufs.WIDTH] * 2
    with pytest.raises(ModelFailure) as caught:
        next(vectors)
    assert message in str(caught.value)
    assert "-o " not in str(caught.value)  # `llm embed` has no such option


def test_long_text_is_cut_if_the_user_wants_that() -> None:
    run("set", "vectors", "truncate", "on")
    whole, cut, other = get_model("vectors").embed_multi(["one", LONG, "the sea"])
    assert get_model("vectors").embed(LONG + "more") == cut
    assert get_model("vectors").embed("one") == pytest.approx(whole, abs=1e-5)
    assert other != cut


def test_relay_names_inputs_that_can_not_be_embedded() -> None:
    with run_relay("vectors") as (_, url):

        def post(value: object, **fields: Any) -> httpx2.Response:
            body = {"input": value, **fields}
            return httpx2.post(
                f"{url}/v1/embeddings", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=30
            )

        def get_error(value: object, **fields: Any) -> str:
            answer = post(value, **fields)
            assert answer.status_code == 400
            return str(answer.json()["error"]["message"])

        assert get_error(["one", " "]).startswith("input[1] is empty")
        assert get_error("").startswith("input is empty")
        assert get_error([[1], []]).startswith("input[1] is empty")
        long = get_error(["one", LONG, LONG])
        assert long.startswith(
            f"input[1] is too long for {EMBED}\nThe model accepts 512 tokens; input[1] has 1,202, input[2]"
        )
        assert f"llm hf set {EMBED} truncate on" in long
        assert "batch size" not in long
        for value in (None, [], 3, ["one", 3], [True], {"text": "one"}, [["one"]]):
            assert "'input' must be" in get_error(value)
        assert "'dimensions' is 8, but hf/tiny/embed:F32 has 64" in get_error("one", dimensions=8)
        assert len(post("one", dimensions=64).json()["data"][0]["embedding"]) == 64
        assert len(post([[1, 2], [3]]).json()["data"]) == 2
        Library().set_options("vectors", {"truncate": True})
        for value in (["one", LONG, "two"], [[20], [20] * 600, [21]]):
            assert len(post(value).json()["data"]) == 3


def test_kind_and_pooling_can_be_set() -> None:
    refused = run("set", "decoder", "pooling", "mean", code=2)
    assert "Option 'pooling' of hf/tiny/decoder:F16: supported only by an embedding model" in refused.stderr
    assert "Option 'kind'" in run("set", "decoder", "kind", "walrus", code=2).stderr
    run("set", "decoder", "kind", "embedding")
    without = run_llm("embed", "-m", "decoder", "-c", "hello", code=1).stderr
    assert "llm hf set hf/tiny/decoder:F16 pooling mean (or cls, or last)" in without
    run("set", "decoder", "pooling", "last")
    last = json.loads(get_output("embed", "-m", "decoder", "-c", ggufs.ANSWER))
    run("set", "decoder", "pooling", "mean")
    assert json.loads(get_output("embed", "-m", "decoder", "-c", ggufs.ANSWER)) != last
    assert Library().show("decoder").kind == "embedding"
    run("set", "decoder", "--unset", "kind", "--unset", "pooling")
    assert get_output("-m", "decoder", "hello") == ggufs.ANSWER


@pytest.fixture
def empty_library(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(home.llm))


@pytest.mark.usefixtures("empty_library")
def test_kind_and_pooling_can_be_given_to_import_and_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ggufs.tiny_base(tmp_path / "walrus.F16.gguf")
    imported = run_json_one("import", path, "-q", "--kind", "embedding", "--pooling", "last")["model"]
    assert (imported["kind"], imported["options"]) == ("embedding", {"kind": "embedding", "pooling": "last"})
    assert "supported only by an embedding model" in run("import", path, "--pooling", "last", code=2).stderr
    assert "walrus" in get_output("embed-models")
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add_repo("owner/plain-GGUF", {"plain.F16.gguf": path})
        hub.add_repo("owner/told-GGUF", {"told.F16.gguf": path}, task="feature-extraction")
        refused = run("pull", "owner/plain-GGUF", "--pooling", "mean", code=2)
        assert "supported only by an embedding model" in refused.stderr
        run("pull", "owner/plain-GGUF", "-q", "--kind", "embedding", "--pooling", "mean")
        assert run_json_one("show", "plain")["options"] == {"kind": "embedding", "pooling": "mean"}
        assert run_json_one("info", "owner/told-GGUF")["facts"]["kind"] == "embedding"
        assert run_json_one("pull", "owner/told-GGUF", "--dry-run")["facts"]["kind"] == "embedding"
        run("pull", "owner/told-GGUF", "-q")  # the Hub's task is a second witness
        assert run_json_one("show", "told")["kind"] == "embedding"
        run("pull", "owner/told-GGUF", "-q", "--kind", "base")
        assert run_json_one("show", "told")["kind"] == "base"
