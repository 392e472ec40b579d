"""Images through llm to a model that really sees: it answers with the colour, so the pixels have arrived."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import llm
import pytest
from click.testing import Result
from openai import OpenAI

from llm_hf_models.library.records import LocalFile
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import ggufs
from tests.support.commands import run, run_json_one, run_llm
from tests.support.hub_server import HubServer
from tests.support.images import BLUE, GREEN, RED, png
from tests.support.relays import KEY, run_relay
from tests.support.tiny_library import TinyLibrary, get_output, open_empty_library, read_last_log

TOKENS_OF_AN_IMAGE = ggufs.PATCHES**2


@pytest.fixture(scope="module")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    with open_empty_library(tmp_path_factory) as library:
        yield library


@pytest.fixture(autouse=True)
def _use_tiny_library(home: Home, tiny_library: TinyLibrary, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - after it
    tiny_library.use_as_home(monkeypatch)
    if not Library().list():
        model = ggufs.tiny_chat(tiny_library.files / "see.F16.gguf", sees=True)
        Library().import_file(model, mmproj=ggufs.tiny_mmproj(tiny_library.files / "mmproj.gguf"), aliases=["see"])
        other = ggufs.tiny_chat(tiny_library.files / "other.F16.gguf", sees=True, seed=1)
        Library().import_file(other, with_mmproj=False, aliases=["blind"])


@pytest.fixture
def red_image(tmp_path: Path) -> str:
    return str(png(tmp_path / "red.png", RED))


@pytest.mark.parametrize("how", [(), ("--no-stream",), ("--async",)])
def test_answer_names_the_colour_of_the_image(tmp_path: Path, red_image: str, how: tuple[str, ...]) -> None:
    assert get_output("-m", "see", "what is this?", "-a", red_image, *how) == ggufs.RED_ANSWER
    blue, green = png(tmp_path / "blue.png", BLUE, side=99), png(tmp_path / "green.png", GREEN, side=3)
    assert get_output("-m", "see", "what is this?", "-a", str(blue), *how) == ggufs.BLUE_ANSWER
    assert get_output("-m", "see", "what is this?", "-a", str(green), *how) == ggufs.ANSWER
    assert get_output("-m", "see", "what is this?", *how) == ggufs.ANSWER


def test_image_uses_tokens_of_the_prompt(red_image: str) -> None:
    get_output("-m", "see", "what is this?")
    without = read_last_log()["input_tokens"]
    get_output("-m", "see", "what is this?", "-a", red_image)
    assert read_last_log()["input_tokens"] == without + TOKENS_OF_AN_IMAGE
    get_output("-m", "see", "what is this?", "-a", red_image, "-a", red_image)
    assert read_last_log()["input_tokens"] == without + 2 * TOKENS_OF_AN_IMAGE


def test_images_come_by_pipe_or_python_and_stay_in_the_conversation(red_image: str) -> None:
    piped = run_llm("-m", "see", "what is this?", "-a", "-", stdin=Path(red_image).read_bytes())
    assert piped.stdout.strip() == ggufs.RED_ANSWER
    conversation = llm.get_model("see").conversation()
    first = conversation.prompt("what is this?", attachments=[llm.Attachment(path=red_image)])
    assert first.text().strip() == ggufs.RED_ANSWER
    assert conversation.prompt("are you sure?").text().strip() == ggufs.RED_ANSWER


def test_model_accepts_the_attachments_of_its_projector() -> None:
    see, blind = llm.get_model("see"), llm.get_model("blind")
    assert "image/png" in see.attachment_types
    assert not [kind for kind in see.attachment_types if kind.startswith("audio/")]
    assert not blind.attachment_types


def test_image_without_a_projector_is_refused_before_a_start(tiny_library: TinyLibrary, red_image: str) -> None:
    before = tiny_library.find_pids()
    refused = run_llm("-m", "blind", "what is this?", "-a", red_image)
    assert refused.exit_code != 0
    assert "does not support attachments" in refused.stderr
    assert tiny_library.find_pids() == before


WEBP = base64.b64decode("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")  # one pixel


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"RIFF\x24\0\0\0WAVEfmt ", "audio/"), (b"%PDF-1.4\n", "application/pdf"), (WEBP, "image/webp")],
    ids=["sound", "text", "webp"],
)
def test_attachment_of_another_type_is_refused_and_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "x").write_bytes(content)
    refused = run_llm("-m", "see", "what is this?", "-a", str(tmp_path / "x"))
    assert refused.exit_code != 0
    assert kind in refused.stderr


def test_truncated_image_is_refused_by_the_engine_which_keeps_running(
    tiny_library: TinyLibrary, tmp_path: Path, red_image: str
) -> None:
    get_output("-m", "see", "what is this?", "-a", red_image)
    before = tiny_library.find_pids()
    (tmp_path / "cut.png").write_bytes(Path(red_image).read_bytes()[:40])
    refused = run_llm("-m", "see", "what is this?", "-a", str(tmp_path / "cut.png"))
    assert refused.exit_code != 0
    assert "Error: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert tiny_library.find_pids() == before
    assert get_output("-m", "see", "what is this?", "-a", red_image) == ggufs.RED_ANSWER


def test_relay_forwards_images(red_image: str) -> None:
    url = "data:image/png;base64," + base64.b64encode(Path(red_image).read_bytes()).decode()
    content: Any = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    with run_relay("see") as (_, address), OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        done = client.chat.completions.create(model="see", messages=[{"role": "user", "content": content}])
    assert done.choices[0].message.content == ggufs.RED_ANSWER


def test_projector_of_another_model_is_named_by_prompts_and_tests(tiny_library: TinyLibrary) -> None:
    """A version without this check has registered it."""
    model = ggufs.tiny_chat(tiny_library.files / "stranger.F16.gguf", seed=9)
    projector = ggufs.tiny_mmproj(tiny_library.files / "mmproj-stranger.gguf", width=128)
    registered = tiny_library.add("hf/tiny/stranger:F16", model, aliases=("stranger",))
    with tiny_library.open_db() as db:
        strange = LocalFile(projector.name, "mmproj", projector.stat().st_size, str(projector), sha256="e" * 64)
        db.register(replace(registered, files=(*registered.files, strange)))
    refused = run_llm("-m", "stranger", "hi", code=1).stderr
    assert "The projector mmproj-stranger.gguf may belong to another model" in refused
    assert "llm hf pull tiny/stranger:F16 --no-mmproj" in refused
    tested = run_json_one("test", "stranger", code=1)
    assert "mismatch between text model" in tested["result"]["reason"]


# Imports


def list_roles(done: Result) -> list[str]:
    return [file["role"] for one in json.loads(done.stdout)["results"] for file in one["model"]["files"]]


@pytest.fixture
def empty_library(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide an empty library, without the tiny models."""
    monkeypatch.setenv("LLM_USER_PATH", str(home.llm))


@pytest.mark.usefixtures("empty_library")
def test_projector_next_to_a_single_model_is_imported_with_it(tmp_path: Path) -> None:
    model, projector = ggufs.tiny_chat(tmp_path / "see.F16.gguf"), ggufs.tiny_mmproj(tmp_path / "mmproj-F16.gguf")
    done = run("import", model, "--copy")
    assert "The projector mmproj-F16.gguf adds image" in done.stderr
    projector.unlink()
    kept = [Path(line) for line in run_llm("hf", "path", "see", "--all").stdout.splitlines()]
    assert [path.name for path in kept] == [model.name, projector.name]
    assert all(path.is_file() for path in kept)
    assert json.loads(run_llm("hf", "show", "see", "--json").stdout)["results"][0]["facts"]["modalities"] == ["image"]


@pytest.mark.usefixtures("empty_library")
def test_projector_next_to_several_models_is_matched_by_name(tmp_path: Path) -> None:
    for name in ("see-F16.gguf", "tell-F16.gguf"):
        ggufs.tiny_chat(tmp_path / name)
    ggufs.tiny_mmproj(tmp_path / "mmproj-F16.gguf")
    assert list_roles(run("import", tmp_path / "see-F16.gguf", "-q", "--json")) == ["weights"]
    ggufs.tiny_mmproj(tmp_path / "mmproj-tell-f16.gguf")
    assert list_roles(run("import", tmp_path / "see-F16.gguf", "-q", "--json")) == ["weights"]
    assert list_roles(run("import", tmp_path / "tell-F16.gguf", "-q", "--json")) == ["weights", "mmproj"]
    assert list_roles(run("import", tmp_path / "tell-F16.gguf", "-q", "--json", "--no-mmproj")) == ["weights"]


@pytest.mark.usefixtures("empty_library")
def test_projector_of_another_model_is_not_imported(tmp_path: Path) -> None:
    model, strange = ggufs.tiny_chat(tmp_path / "see.F16.gguf"), tmp_path / "mmproj-F16.gguf"
    ggufs.tiny_mmproj(strange, width=128)
    done = run("import", model)
    why = "made for a model of width 128, and this model has width 64"
    assert f"Left out mmproj-F16.gguf: {why}." in done.stderr
    assert why in run("show", "see").stdout
    assert list_roles(run("import", model, "-q", "--json")) == ["weights"]
    refused = run("import", model, "--mmproj", strange, code=2)
    assert f"mmproj-F16.gguf is the projector of another model\nIt is {why}." in refused.stderr
    ggufs.tiny_mmproj(tmp_path / "mmproj-F32.gguf")
    assert list_roles(run("import", model, "-q", "--json")) == ["weights", "mmproj"]


@pytest.mark.usefixtures("empty_library")
def test_second_import_keeps_the_projector_unless_declined(tmp_path: Path) -> None:
    model = ggufs.tiny_chat(tmp_path / "see.F16.gguf")
    (tmp_path / "far").mkdir()
    projector = ggufs.tiny_mmproj(tmp_path / "far/mmproj.gguf")
    assert list_roles(run("import", model, "--mmproj", projector, "-q", "--json")) == ["weights", "mmproj"]
    assert list_roles(run("import", model, "-a", "eye", "-q", "--json")) == ["weights", "mmproj"]
    assert json.loads(run_llm("hf", "show", "eye", "--json").stdout)["results"][0]["facts"]["modalities"] == ["image"]
    assert list_roles(run("import", model, "--no-mmproj", "-q", "--json")) == ["weights"]
    assert list_roles(run("import", model, "-q", "--json")) == ["weights"]


@pytest.mark.usefixtures("empty_library")
def test_invalid_projector_is_refused_and_nothing_is_registered(tmp_path: Path) -> None:
    model, other = ggufs.tiny_chat(tmp_path / "a.F16.gguf"), ggufs.tiny_chat(tmp_path / "b.F16.gguf")
    projector = ggufs.tiny_mmproj(tmp_path / "mmproj.gguf")
    assert "b.F16.gguf is not a vision projector" in run("import", model, "--mmproj", other, code=2).stderr
    assert "There is no file" in run("import", model, "--mmproj", tmp_path / "nowhere.gguf", code=1).stderr
    (tmp_path / "far").mkdir()
    twin = projector.rename(tmp_path / "far" / model.name)
    assert "have the same name a.F16.gguf" in run("import", model, "--mmproj", twin, "--copy", code=2).stderr
    twin.write_bytes(twin.read_bytes()[:200])
    broken = twin.rename(tmp_path / "mmproj.gguf")
    assert "breaks the rules" in run("import", model, "--mmproj", broken, code=1).stderr
    assert "exclude each other" in run("import", model, "--mmproj", projector, "--no-mmproj", code=2).stderr
    assert not Library().list()


@pytest.mark.usefixtures("empty_library")
def test_generation_config_next_to_a_model_sets_its_defaults(tmp_path: Path) -> None:
    config = tmp_path / "generation_config.json"
    config.write_text('{"temperature": 0.6, "top_k": 20, "do_sample": true}')
    first = run_json_one("import", ggufs.tiny_chat(tmp_path / "one.F16.gguf"), "-q")
    found = {one.key: (one.value, one.source) for one in Library().show(first["model"]["id"]).defaults}
    assert found["temperature"] == (0.6, "generation_config.json")
    assert found["top_k"] == (20, "generation_config.json")
    second = run_json_one("import", ggufs.tiny_chat(tmp_path / "two.F16.gguf", seed=2), "-q")
    assert "temperature" not in {one.key for one in Library().show(second["model"]["id"]).defaults}


@pytest.mark.usefixtures("empty_library")
@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"temperature": "hot"}', "null"])
def test_invalid_generation_config_changes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    done = run_json_one("import", ggufs.tiny_chat(tmp_path / "one.F16.gguf"), "-q")
    assert "temperature" not in {one.key for one in Library().show(done["model"]["id"]).defaults}


@pytest.mark.usefixtures("empty_library")
def test_projector_is_verified_against_the_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, projector = ggufs.tiny_chat(tmp_path / "see.F16.gguf"), ggufs.tiny_mmproj(tmp_path / "mmproj-F16.gguf")
    with HubServer() as hub:
        hub.add_repo("owner/see-GGUF", {"see.F16.gguf": model, "mmproj-F16.gguf": projector})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        done = run("import", model, "--repo", "owner/see-GGUF", "-q", "--json")
        assert list_roles(done) == ["weights", "mmproj"]
        assert json.loads(done.stdout)["results"][0]["digest"].startswith("matches owner/see-GGUF@")
        ggufs.tiny_mmproj(projector, seed=1)
        refused = run("import", model, "--repo", "owner/see-GGUF", code=1)
        assert "mmproj-F16.gguf is not a file of owner/see-GGUF" in refused.stderr
        assert "--no-mmproj" in refused.stderr


def test_remote_model_with_vision_reports_it_and_gets_images(red_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYE_KEY", KEY)
    with run_relay("see") as (_, url):
        assert Library().attach("eye", f"{url}/v1", key_env="EYE_KEY").facts.modalities == ("image",)
        for how in ((), ("--no-stream",), ("--async",)):
            assert get_output("-m", "eye", "what is this?", "-a", red_image, *how) == ggufs.RED_ANSWER
    Library().remove("eye")
