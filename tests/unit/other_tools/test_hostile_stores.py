"""Files of other tools with any content: the store is listed, and no error escapes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.other_tools import gpt4all, jan, llama_cpp, llm_gguf, lm_studio, ollama
from llm_hf_models.other_tools.store_files import StoreError, System
from llm_hf_models.other_tools.types import FoundModel
from llm_hf_models.system.text import is_hidden

_TEXT = st.text(max_size=30) | st.sampled_from([
    "sha256:" + "a" * 64, "sha256:../x", "application/vnd.ollama.image.model", "application/vnd.ollama.image.system",
    "../../x.gguf", "/dev/zero", "x.gguf", "\x00",
])  # fmt: skip
_KEYS = st.sampled_from([
    "layers", "config", "mediaType", "digest", "size", "path", "aliases", "n_ctx", "clip_model_path", "ggufFile",
    "mmprojFile", "rfilename", "url",
])  # fmt: skip
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS | _TEXT, inner, max_size=4),
    max_leaves=12,
)
_CONTENT = st.binary(max_size=200) | _VALUES.map(lambda value: json.dumps(value).encode())
_YAML = st.lists(st.tuples(st.sampled_from(["model_path", "mmproj_path", "source", "x"]), _TEXT), max_size=4)
_STORES: dict[str, tuple[str, Callable[[Path], Iterator[FoundModel]]]] = {
    "ollama": ("manifests/registry.ollama.ai/library/tiny/latest", ollama.read_store),
    "llamacpp": ("manifest=owner=name=latest.json", llama_cpp.read_store),
    "llamacpp-address": ("x.gguf.json", llama_cpp.read_store),
    "llm-gguf": ("models.json", llm_gguf.read_store),
}


def read(files: dict[str, bytes], read_store: Callable[[Path], Iterator[FoundModel]], below: str = "") -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        try:
            models = list(read_store(Path(folder, below)))
        except StoreError:
            return
        for model in models:
            assert not any(map(is_hidden, model.name))
            assert model.problem or model.files


@pytest.mark.parametrize("store", _STORES)
@given(content=_CONTENT)
def test_any_content_of_a_manifest_is_a_model_or_a_reason(store: str, content: bytes) -> None:
    name, read_store = _STORES[store]
    read({name: content, "x.gguf": b"GGUF", "blobs/sha256-" + "a" * 64: content}, read_store)


@given(lines=_YAML)
def test_any_model_yml_is_a_model_or_a_reason(lines: list[tuple[str, str]]) -> None:
    text = "".join(f"{key}: {value}\n" for key, value in lines)
    files = {"llamacpp/models/a/model.yml": text.encode(errors="surrogatepass"), "x.gguf": b"GGUF"}
    read(files, jan.read_store, "llamacpp/models")


@given(content=_CONTENT)
def test_any_settings_leave_folders_to_search(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in (
            ".lmstudio-home-pointer", ".lmstudio/settings.json", ".local/share/Jan/settings.json",
            ".config/nomic.ai/GPT4All.ini",
        ):  # fmt: skip
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(content)
        for module in (lm_studio, jan, gpt4all):
            assert module.list_folders(System("linux", home, {}))
