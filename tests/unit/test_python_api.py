"""The public names of the package: exports, checked arguments, readable results, and the library for asyncio."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import llm_hf_models
from llm_hf_models import AsyncLibrary, Library, PullOptions, SearchFilters, errors
from llm_hf_models.errors import AccessError, BadInputError, HfModelsError
from tests.support import mcp_hub
from tests.support.ggufs import tiny_chat
from tests.support.hub_faults import Throttle
from tests.support.hub_server import HubServer
from tests.support.mcp_hub import Q4, REPO

hub = mcp_hub.hub


def test_package_shows_only_its_public_names() -> None:
    assert dir(llm_hf_models) == sorted(llm_hf_models.__all__)
    assert llm_hf_models.__version__ == metadata.version("llm-hf-models")
    assert all(getattr(llm_hf_models, name) is not None for name in llm_hf_models.__all__)
    assert llm_hf_models.HfModelsError is errors.HfModelsError


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PullOptions(aliases="smolly"), "aliases must be a list of texts, not 'smolly'"),
        (lambda: PullOptions(connections="8"), "connections must be a whole number or None, not '8'"),
        (lambda: SearchFilters(sort="nope"), "sort must be one of trending, downloads"),
        (lambda: SearchFilters(limit=-1), "limit must be at least 1, not -1"),
        (lambda: SearchFilters(max_params="8B"), "max_params must be a whole number or None"),
        (lambda: Library().show(5), "name must be a text, not 5"),
        (lambda: Library().pull(None), "ref must be a text or a PullPlan, not None"),
        (lambda: Library().pull("a/b", "c"), "options must be a PullOptions or None, not 'c'"),
        (lambda: Library().pull("a/b", progress=3), "progress must be a function, not 3"),
        (lambda: Library().downloads(limit=True), "limit must be a whole number, not True"),
        (lambda: Library().attach("x", "http://x", kind="zz"), "kind must be one of chat, embedding, not 'zz'"),
        (lambda: Library().add_alias("x", 5), "aliases must be a text, not 5"),
        (lambda: Library().set_options("x", [1] * 99), "values must be a dictionary, not [1, 1"),
        (lambda: Library(requested_by=1), "requested_by must be a text, not 1"),
    ],
)
def test_wrong_argument_is_named_with_what_is_accepted(call: Callable[[], object], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        call()
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


def test_wrong_number_of_arguments_names_the_method() -> None:
    with pytest.raises(TypeError, match=r"Library\.show\(\)"):
        Library().show()


def test_results_have_a_short_repr_and_a_form_for_json(tmp_path: Path) -> None:
    model = Library().import_file(tiny_chat(tmp_path / "tiny-F16.gguf"), aliases=["tiny"]).model
    assert repr(model).startswith("LocalModelView(id='")
    assert len(repr(model)) < 1000
    assert "aliases=<" in repr(model)
    assert json.loads(json.dumps(model.to_dict()))["aliases"][0] == "tiny"
    status = Library().status()
    assert status.to_dict()["models"] == 1
    assert "models=1" in repr(status)


def test_async_library_has_every_verb_that_does_not_block() -> None:
    verbs = {name for name in dir(Library) if not name.startswith("_")}
    assert verbs - {"check_setting", "is_modelfile", "list_importable", "list_options", "mirror", "serve"} == {
        name for name in vars(AsyncLibrary) if name[0] != "_"
    }
    for name in verbs - {
        "check_setting",
        "is_modelfile",
        "list_importable",
        "list_options",
        "mirror",
        "serve",
        "pull",
        "follow",
    }:
        assert inspect.iscoroutinefunction(getattr(AsyncLibrary, name))
        assert inspect.signature(getattr(AsyncLibrary, name)) == inspect.signature(getattr(Library, name))


@pytest.mark.usefixtures("hub")
def test_async_library_searches_pulls_and_follows() -> None:
    async def use() -> tuple[Any, ...]:
        library = AsyncLibrary()
        info, models = await asyncio.gather(library.info(REPO), library.list())
        result = await library.pull(f"{REPO}:Q4_K_M")
        queued = await library.enqueue(f"{REPO}:Q4_K_M")
        events = [event async for event in library.follow(queued.id)]
        with pytest.raises(HfModelsError):
            await library.show("nothing")
        return info, models, result, events

    info, models, result, events = asyncio.run(use())
    assert info.id == REPO
    assert models == ()
    assert result.id == Library().list()[0].id
    assert events[-1].download.state == "done"


def test_cancelled_async_pull_stops_and_keeps_its_bytes(hub: HubServer) -> None:
    plan = Library().plan(f"{REPO}:Q4_K_M")
    hub.fault(Throttle(bytes_per_second=100_000), on=Q4, side="storage", times=None)

    async def cancel() -> None:
        moved = threading.Event()
        pull = asyncio.create_task(AsyncLibrary().pull(plan, progress=lambda event: event.done > 0 and moved.set()))
        await asyncio.to_thread(moved.wait, 60)
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull

    asyncio.run(cancel())
    (row,) = Library().downloads()
    assert row.state == "paused"
    assert Library().plan(f"{REPO}:Q4_K_M").fetch_bytes < plan.fetch_bytes


def test_library_uses_the_given_hub_cache_and_token(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("owner/closed-GGUF", {"closed-Q4_K_M.gguf": tiny_chat(tmp_path / "closed.gguf")}, gated="manual")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", hub.add_token("hf_of_the_environment", access=["owner/closed-GGUF"]))
    cache = tmp_path / "cache"
    without_token = Library(endpoint=hub.endpoint, cache_dir=cache)
    with pytest.raises(AccessError):
        without_token.pull("owner/closed-GGUF")
    assert all("Authorization" not in request.headers for request in hub.requests)
    token = hub.add_token("hf_of_the_caller", access=["owner/closed-GGUF"])
    library = Library(endpoint=f"{hub.endpoint}/", cache_dir=cache, token=token)
    assert "hf_of" not in repr(library._context)
    plan = library.plan("owner/closed-GGUF")
    done = library.pull(plan)
    assert Path(done.files[0]).is_relative_to(cache)
    assert library.status().endpoint == hub.endpoint
    library.remove(str(done.id))
    events = list(library.follow(library.enqueue("owner/closed-GGUF").id))
    assert events[-1].download.state == "done"
    assert Path(library.path(str(done.id))[0]).is_relative_to(cache)
    assert {request.headers.get("Authorization") for request in hub.requests} <= {None, f"Bearer {token}"}
    with pytest.raises(BadInputError):
        Library(endpoint="hub")
