"""The models in the stores of LM Studio, llama.cpp, Jan, GPT4All and llm-gguf."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.other_tools import gpt4all, jan, llama_cpp, lm_studio, ollama
from llm_hf_models.other_tools.store_files import System
from llm_hf_models.other_tools.types import FoundModel
from tests.conftest import Home
from tests.support import other_tools
from tests.support.ggufs import tiny_chat, tiny_split


def find(tool: str) -> dict[str, FoundModel]:
    return {model.name: model for model in Library().find_in_other_tools(tool).models}


def list_problems(models: dict[str, FoundModel]) -> dict[str, str]:
    return {name: model.problem for name, model in models.items() if model.problem}


# LM Studio


def test_lm_studio_names_the_repo_and_finds_the_projector(home: Home) -> None:
    other_tools.make_lm_studio_store(home.root / ".lmstudio/models")
    found = find("lmstudio")
    tiny, seeing = found["acme/Tiny-GGUF/Tiny-Q8_0.gguf"], found["acme/Seeing-GGUF/Seeing-F16.gguf"]
    assert (tiny.repo, tiny.projector) == ("acme/Tiny-GGUF", None)
    assert Path(seeing.projector or "").name == "mmproj-Seeing-F16.gguf"
    assert list_problems(found) == {
        "acme/Tiny-GGUF/downloading_Tiny-F16.gguf.part": "Its download is not complete.",
        "mlx-community/Tiny-4bit": "It is in MLX or safetensors format, and llama.cpp needs GGUF.",
    }


def test_lm_studio_pointer_and_settings_move_the_folder(home: Home) -> None:
    moved, models = home.root / "moved", home.root / "big disk/models"
    moved.mkdir()
    (home.root / ".lmstudio-home-pointer").write_text(f"{moved}\n", "utf-8")
    (moved / "settings.json").write_text(json.dumps({"downloadsFolder": str(models)}), "utf-8")
    other_tools.make_lm_studio_store(models)
    assert "acme/Tiny-GGUF/Tiny-Q8_0.gguf" in find("lmstudio")


@pytest.mark.parametrize("content", ["", "not absolute", "[", '{"downloadsFolder": 7}'])
def test_lm_studio_odd_settings_leave_the_default_folder(home: Home, content: str) -> None:
    (home.root / ".lmstudio-home-pointer").write_text(content, "utf-8")
    other_tools.make_lm_studio_store(home.root / ".lmstudio/models")
    (home.root / ".lmstudio/settings.json").write_text(content, "utf-8")
    assert "acme/Tiny-GGUF/Tiny-Q8_0.gguf" in find("lmstudio")


def test_lm_studio_link_to_a_file_elsewhere_is_a_model(home: Home, tmp_path: Path) -> None:
    folder = home.root / ".lmstudio/models/me/linked"
    folder.mkdir(parents=True)
    (folder / "Tiny-Q8_0.gguf").symlink_to(tiny_chat(tmp_path / "anywhere.gguf"))
    (folder / "Gone-Q8_0.gguf").symlink_to(tmp_path / "gone.gguf")
    found = find("lmstudio")
    assert found["me/linked/Tiny-Q8_0.gguf"].problem is None
    assert list_problems(found) == {"me/linked/Gone-Q8_0.gguf": "Is missing."}


def test_split_model_is_one_and_an_incomplete_one_has_a_reason(home: Home) -> None:
    whole, half = (home.root / ".lmstudio/models/me" / name for name in ("whole", "half"))
    for folder in (whole, half):
        folder.mkdir(parents=True)
        tiny_split(folder)
    next(half.glob("*00002*")).unlink()
    found = find("lmstudio")
    assert [len(model.files) for name, model in found.items() if "whole" in name] == [3]
    (problem,) = list_problems(found).values()
    assert problem == "Its split model is not complete: shard 00002 of 3 is missing"


def test_adapter_by_name_or_header_is_listed_as_unsupported(home: Home) -> None:
    folder = home.root / ".lmstudio/models/me/adapters"
    folder.mkdir(parents=True)
    tiny_chat(folder / "Tiny-Q8_0.gguf")
    tiny_chat(folder / "lora-F16.gguf", seed=1)
    assert list_problems(find("lmstudio")) == {
        "me/adapters/lora-F16.gguf": "It is an adapter (LoRA), and adapters are not supported yet."
    }


# llama.cpp


def test_llama_cpp_manifest_and_address_name_the_repo(home: Home) -> None:
    other_tools.make_llama_cpp_store(home.root / ".cache/llama.cpp")
    found = find("llamacpp")
    tiny, old = found["acme/Tiny-GGUF:latest"], found["old-Q4_0.gguf"]
    assert (tiny.repo, Path(tiny.projector or "").name) == ("acme/Tiny-GGUF", "acme_Tiny-GGUF_mmproj-F16.gguf")
    assert (old.repo, old.projector) == ("acme/Old-GGUF", None)
    assert list_problems(found) == {
        "acme/Gone-GGUF:Q8_0": "Its manifest is there, and its file is missing.",
        "acme_New-GGUF_New-Q8_0.gguf.downloadInProgress": "Its download is not complete.",
    }


def test_llama_cpp_snapshots_of_the_hugging_face_cache_are_found(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = home.root / "llama"
    monkeypatch.setenv("LLAMA_CACHE", str(cache))
    repo = cache / "models--acme--Tiny-GGUF"
    for folder in ("blobs", "refs", f"snapshots/{'c' * 40}"):
        (repo / folder).mkdir(parents=True)
    tiny_chat(repo / "blobs/abc.gguf")
    (repo / "refs/main").write_text("c" * 40, "utf-8")
    (repo / f"snapshots/{'c' * 40}/Tiny-Q8_0.gguf").symlink_to("../../blobs/abc.gguf")
    (repo / f"snapshots/{'c' * 40}/Out-Q4_0.gguf").symlink_to(tiny_chat(home.root / "out.gguf"))
    found = find("llamacpp")
    assert found["acme/Tiny-GGUF:Tiny-Q8_0.gguf"].repo == "acme/Tiny-GGUF"
    assert list_problems(found) == {
        "acme/Tiny-GGUF:Out-Q4_0.gguf": "Is a link out of the store, which is not followed."
    }


# Jan


def test_jan_model_yml_names_the_files(home: Home, tmp_path: Path) -> None:
    mine = tiny_chat(tmp_path / "mine.gguf", seed=1)
    data = home.root / ".local/share/Jan/data"
    other_tools.make_jan_store(data, mine)
    found = find("jan")
    assert found["mine"].files == (str(mine),)
    assert found["acme/Tiny-Q8_0"].files == (str(data / "llamacpp/models/acme/Tiny-Q8_0/model.gguf"),)
    assert list_problems(found) == {"half": "It has no model.yml, so its download is not complete."}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name: x\n", "Its model.yml names no file."),
        ("model_path: ../../secret.gguf\n", "The file that its model.yml names: Is a link out of the store"),
        ("model_path: gone.gguf\n", "The file that its model.yml names: Is missing."),
        ('model_path: "gone\\u0000.gguf"\n', "The file that its model.yml names: Has a name that no file can have."),
        ("\udcff", "Its model.yml: Is not UTF-8 text."),
    ],
)
def test_jan_broken_model_yml_is_a_reason(home: Home, content: str, problem: str) -> None:
    folder = home.root / ".local/share/Jan/data/llamacpp/models/tiny"
    folder.mkdir(parents=True)
    tiny_chat(home.root / ".local/share/secret.gguf")
    (folder / "model.yml").write_text(content, "utf-8", errors="surrogateescape")
    (model,) = find("jan").values()
    assert (model.problem or "").startswith(problem)


def test_jan_settings_and_source_are_used(home: Home, tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = home.root / ".local/share/Jan/settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"data_folder": str(data)}), "utf-8")
    folder = data / "llamacpp/models/it's"
    folder.mkdir(parents=True)
    tiny_chat(folder / "model.gguf")
    (folder / "model.yml").write_text(
        "model_path: 'llamacpp/models/it''s/model.gguf'\nsource: https://huggingface.co/acme/Tiny-GGUF\n", "utf-8"
    )
    assert find("jan")["it's"].repo == "acme/Tiny-GGUF"


# GPT4All and llm-gguf


def test_gpt4all_lists_models_and_incomplete_downloads(home: Home) -> None:
    other_tools.make_gpt4all_store(home.root / ".local/share/nomic.ai/GPT4All")
    found = find("gpt4all")
    assert list_problems(found) == {"incomplete-Other.Q4_0.gguf": "Its download is not complete."}
    assert set(found) == {"Tiny-Instruct.Q4_0.gguf", "incomplete-Other.Q4_0.gguf"}


def test_gpt4all_settings_move_the_folder(home: Home) -> None:
    moved = home.root / "moved"
    other_tools.make_gpt4all_store(moved)
    settings = home.root / ".config/nomic.ai/GPT4All.ini"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[General]\nmodelPath={moved}/\n", "utf-8")
    assert "Tiny-Instruct.Q4_0.gguf" in find("gpt4all")


def test_llm_gguf_entries_have_aliases_and_context(home: Home) -> None:
    other_tools.make_llm_gguf_store(home.llm)
    found = find("llm-gguf")
    assert found["Tiny-Q8_0"].aliases == ("Tiny-Q8_0", "teeny")
    assert found["Tiny-Q8_0"].options == {"context": 512}
    assert found["emb"].kind == "embedding"
    assert list_problems(found) == {"gone": "Its file is missing."}


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 7}', '{"a": {"path": 7}}', '{"a": {"path": "\\u0000"}}'])
def test_llm_gguf_odd_file_gives_a_reason(home: Home, content: str) -> None:
    (home.llm / "gguf").mkdir(parents=True)
    (home.llm / "gguf/models.json").write_text(content, "utf-8")
    found = Library().find_in_other_tools("llm-gguf")
    assert found.folders[0].problem or all(model.problem for model in found.models)


# The folders on other systems

HOME = Path("/home/me")
APPDATA, LOCAL = "/roaming", "/local"


@pytest.mark.parametrize(
    ("module", "platform", "variables", "expected"),
    [
        (ollama, "linux", {}, ["/home/me/.ollama/models", "/usr/share/ollama/.ollama/models"]),
        (ollama, "darwin", {}, ["/home/me/.ollama/models"]),
        (ollama, "win32", {}, ["/home/me/.ollama/models"]),
        (ollama, "linux", {"OLLAMA_MODELS": "~/m"}, ["/home/me/m"]),
        (lm_studio, "win32", {}, ["/home/me/.cache/lm-studio/models", "/home/me/.lmstudio/models"]),
        (llama_cpp, "darwin", {}, ["/home/me/Library/Caches/llama.cpp", "/home/me/.cache/huggingface/hub"]),
        (llama_cpp, "win32", {"LOCALAPPDATA": LOCAL}, ["/local/llama.cpp", "/home/me/.cache/huggingface/hub"]),
        (llama_cpp, "linux", {"XDG_CACHE_HOME": "/c"}, ["/c/llama.cpp", "/c/huggingface/hub"]),
        (llama_cpp, "linux", {"LLAMA_CACHE": "/l", "HF_HOME": "/h"}, ["/l"]),
        (llama_cpp, "linux", {"HF_HOME": "/h"}, ["/home/me/.cache/llama.cpp", "/h/hub"]),
        (jan, "darwin", {}, ["/home/me/Library/Application Support/Jan/data/llamacpp/models"]),
        (jan, "win32", {"APPDATA": APPDATA}, ["/roaming/Jan/data/llamacpp/models"]),
        (jan, "linux", {"JAN_DATA_FOLDER": "/j"}, ["/j/llamacpp/models"]),
        (gpt4all, "darwin", {}, ["/home/me/Library/Application Support/nomic.ai/GPT4All", "/home/me/.cache/gpt4all"]),
        (gpt4all, "win32", {"LOCALAPPDATA": LOCAL}, ["/local/nomic.ai/GPT4All", "/home/me/.cache/gpt4all"]),
    ],
)
def test_folders_follow_the_platform_and_the_environment(
    module: object, platform: str, variables: dict[str, str], expected: list[str]
) -> None:
    listed = module.list_folders(System(platform, HOME, variables))  # type: ignore[attr-defined]
    assert [path.as_posix() for path in listed] == expected
