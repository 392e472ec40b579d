"""Split models: their figures come from the headers of all shards, on the Hub and on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.errors import InvalidGgufError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.models.repos import remote_headers
from tests.support.commands import run
from tests.support.ggufs import tiny_chat, tiny_split
from tests.support.hub_server import HubServer, Reset, Stall, Status, run_hub

REPO, STEM, COUNT = "owner/split-GGUF", "tiny-Q8_0", 4


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "shards"
    folder.mkdir()
    return tiny_split(folder, COUNT, stem=STEM)


@pytest.fixture
def whole(tmp_path: Path) -> ModelFacts:
    """Return the facts of the same model in one file."""
    return Library().inspect(str(tiny_chat(tmp_path / "whole.gguf"))).facts


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, shards: list[Path]) -> Iterator[HubServer]:
    with run_hub(monkeypatch, retry_seconds="0.01") as hub:
        hub.add_repo(REPO, {shard.name: shard for shard in shards})
        yield hub


def get_figures(facts: ModelFacts | None) -> tuple[object, ...]:
    assert facts is not None
    return (
        facts.parameters,
        facts.bits_per_weight,
        facts.weights_bytes,
        facts.quantization,
        dict(facts.tensor_types),
        facts.kv_bytes_per_token,
    )


def count_headers(hub: HubServer) -> int:
    return hub.count(STEM, side="storage", method="GET")


def test_figures_on_the_hub_are_those_of_all_shards(hub: HubServer, shards: list[Path], whole: ModelFacts) -> None:
    library = Library()
    info, plan = library.info(REPO), library.plan(REPO)
    assert get_figures(info.facts) == get_figures(plan.facts) == get_figures(whole)
    assert whole.parameters is not None
    assert info.variants[0].bits_per_weight == round(info.variants[0].size * 8 / whole.parameters, 2)
    assert (plan.findings, info.notes) == ((), ())
    assert count_headers(hub) == COUNT
    assert "84.3K, 16.06 bits per weight" in run("pull", REPO, "--dry-run").stdout
    for name, number in ((REPO, 1), (f"{REPO}:{shards[1].name}", 2)):
        seen = library.inspect(name, tensors=True)
        assert get_figures(seen.facts) == get_figures(whole)
        assert len(seen.tensors or ()) == seen.tensor_count == sum(whole.tensor_types.values())
        assert seen.part == f"shard {number} of {COUNT}; the figures are those of all {COUNT} shards"
    assert count_headers(hub) == 2 * COUNT


@pytest.mark.parametrize("fault", [Status(503), Reset(), Stall()], ids=["error", "reset", "stall"])
def test_figures_are_unknown_if_a_header_can_not_be_read(
    fault: Status | Reset | Stall,
    hub: HubServer,
    shards: list[Path],
    whole: ModelFacts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLM_HF_HEADER_SECONDS", "1")
    hub.fault(fault, on=shards[2].name, side="storage", times=None)
    library = Library()
    info, plan = library.info(REPO), library.plan(REPO)
    assert get_figures(info.facts) == get_figures(plan.facts) == (None,) * 3 + ("F16", {}, whole.kv_bytes_per_token)
    assert info.variants[0].bits_per_weight is None
    assert plan.fit is not None
    assert plan.fit.fits
    (note,) = info.notes
    assert note.startswith("The number of parameters in the files is unknown: ")
    assert hub.count(shards[0].name, side="storage") == 2  # once for each command
    part = library.inspect(REPO).part
    assert part is not None
    assert part.startswith("shard 1 of 4; the figures are those of shard 1 only, because another header could not be")
    hub.clear()
    assert get_figures(library.info(REPO).facts) == get_figures(whole)


def test_header_is_requested_again_after_a_short_failure(hub: HubServer, shards: list[Path], whole: ModelFacts) -> None:
    hub.fault(Status(503), on=shards[3].name, side="storage", times=1)
    assert get_figures(Library().info(REPO).facts) == get_figures(whole)


def test_headers_of_a_model_with_too_many_shards_are_not_read(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_headers, "MAX_SHARDS", COUNT - 1)
    info = Library().info(REPO)
    assert (info.facts and info.facts.parameters, count_headers(hub)) == (None, 1)
    assert f"has {COUNT} shards, but at most {COUNT - 1} headers are read" in info.notes[0]


def test_invalid_header_of_any_shard_refuses_the_pull(hub: HubServer, shards: list[Path]) -> None:
    shards[2].write_bytes(b"GGUF" + bytes(shards[2].stat().st_size - 4))
    hub.add_repo(REPO, {shard.name: shard for shard in shards})
    with pytest.raises(InvalidGgufError, match=shards[2].name):
        Library().plan(REPO)
    assert "could not be read" in Library().info(REPO).notes[0]


def test_inspect_of_local_shards_shows_whose_figures_they_are(
    shards: list[Path], whole: ModelFacts, tmp_path: Path
) -> None:
    library = Library()
    for number in (1, 3):
        seen = library.inspect(str(shards[number - 1]))
        assert seen.part == f"shard {number} of {COUNT}; the figures are those of all {COUNT} shards"
        assert seen.file == str(shards[number - 1])
        assert get_figures(seen.facts) == get_figures(whole)
    assert "Part             shard 3 of 4; the figures are" in run("inspect", shards[2]).stdout
    shards[1].write_bytes(b"GGUF")
    part = library.inspect(str(shards[0])).part
    assert part is not None
    assert "the figures are those of shard 1 only" in part
    shards[1].unlink()
    renamed = shards[2].rename(tmp_path / "renamed.gguf")
    for path, number in ((shards[3], 4), (renamed, 3)):
        seen = library.inspect(str(path))
        assert (
            seen.part == f"shard {number} of 4; other shards are missing, so the figures are those of this shard only"
        )
        assert (seen.facts.parameters or 0) < (whole.parameters or 0)
    assert library.inspect(str(tmp_path / "whole.gguf")).part is None
