"""The models in Ollama's store, as `Library.find_in_other_tools` lists them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.errors import BadInputError, MissingFileError
from llm_hf_models.other_tools.types import FoundModel, ToolModels
from tests.conftest import Home
from tests.support.commands import run
from tests.support.ggufs import tiny_embedding
from tests.support.other_tools import GO_TEMPLATE, OllamaStore, make_projector, make_weights

DIGEST = "a" * 64


@pytest.fixture
def store(home: Home) -> OllamaStore:
    """Provide an empty store in the default folder."""
    store = OllamaStore(home.root / ".ollama/models")
    store.folder.mkdir(parents=True)
    return store


def find() -> ToolModels:
    return Library().find_in_other_tools("ollama")


def find_one() -> FoundModel:
    (model,) = find().models
    return model


def write_manifest(store: OllamaStore, content: object, name: str = "tiny/latest") -> None:
    path = store.folder / "manifests/registry.ollama.ai/library" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


def test_settings_of_the_layers_become_options_and_notes(store: OllamaStore, tmp_path: Path) -> None:
    params = {"temperature": 0.5, "stop": ["<|im_end|>"], "num_ctx": 1024, "num_predict": -1, "repeat_last_n": 64}
    store.add(
        "tiny:1b",
        make_weights(tmp_path),
        params=json.dumps(params).encode(),
        system=b"Be brief.",
        template=GO_TEMPLATE.encode(),
        license=b"\nApache License\nVersion 2.0",
        messages=b"[]",
    )
    model = find_one()
    assert model.name == "tiny:1b"
    assert model.options == {"temperature": 0.5, "stop": "<|im_end|>", "context": 1024, "system": "Be brief."}
    assert model.notes == ("parameter repeat_last_n has no counterpart", "its messages")
    assert (model.license, model.has_foreign_template, model.problem) == ("Apache License", True, None)
    assert (model.kind, model.quant) == ("chat", "F16")


@pytest.mark.parametrize(
    ("path", "name", "repo", "aliases"),
    [
        ("registry.ollama.ai/library/tiny/latest", "tiny:latest", None, ("tiny:latest", "tiny")),
        ("registry.ollama.ai/me/tiny/q8", "me/tiny:q8", None, ("me/tiny:q8",)),
        ("hf.co/acme/Tiny-GGUF/Q8_0", "hf.co/acme/Tiny-GGUF:Q8_0", "acme/Tiny-GGUF", ()),
        ("example.com/acme/tiny/latest", "example.com/acme/tiny:latest", None, None),
    ],
)
def test_name_is_that_of_the_tool_and_tells_the_repo(
    store: OllamaStore, tmp_path: Path, path: str, name: str, repo: str | None, aliases: tuple[str, ...] | None
) -> None:
    store.add(path, make_weights(tmp_path))
    model = find_one()
    assert (model.name, model.repo) == (name, repo)
    assert aliases is None or model.aliases == aliases


def test_names_of_one_model_are_one_entry_with_both_aliases(store: OllamaStore, tmp_path: Path) -> None:
    weights = make_weights(tmp_path)
    store.add("tiny:1b", weights)
    store.add("tiny:latest", weights)
    store.add("mario:latest", weights, system=b"You are Mario.")
    plan = Library().plan_import_from("ollama")
    assert [(model.name, model.aliases) for model in plan.models] == [
        ("mario:latest", ("mario:latest", "mario")),
        ("tiny:1b", ("tiny:1b", "tiny:latest", "tiny")),
    ]
    assert [(model.name, model.identical_to) for model in plan.left_out] == [("tiny:latest", "tiny:1b")]


def test_projector_that_does_not_fit_is_left_out_with_the_reason(store: OllamaStore, tmp_path: Path) -> None:
    weights = make_weights(tmp_path, sees=True)
    store.add("seeing:latest", weights, projector=make_projector(tmp_path))
    store.add("blind:latest", make_weights(tmp_path, seed=1), projector=b"no GGUF")
    blind, seeing = find().models
    assert seeing.projector
    assert blind.projector is None
    assert blind.problem is None
    assert blind.notes[0].startswith("its projector: ")


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ({"adapter": b"GGUF"}, "It has an adapter (LoRA), and adapters are not supported yet."),
        ({"tensor": b"x"}, "Its weights are safetensors, and llama.cpp loads only GGUF."),
        ({"model": b"second"}, "Its weights are in 2 files, which llama.cpp can't load under these names."),
    ],
)
def test_unsupported_model_is_listed_with_the_reason(
    store: OllamaStore, tmp_path: Path, layers: dict[str, bytes], problem: str
) -> None:
    store.add("tiny:latest", make_weights(tmp_path), **layers)
    assert find_one().problem == problem


def test_cloud_model_has_no_weights(store: OllamaStore) -> None:
    config = store.add_blob(b'{"remote_host": "https://ollama.com:443"}')
    write_manifest(store, {"config": config, "layers": []})
    assert find_one().problem == "It runs on a server, and has no weights on this machine."


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ("{", "Is not valid JSON."),
        ("[]", "Is not a JSON object."),
        ("[" * 100_000, "Is not valid JSON."),
        ({"layers": "none"}, "Its manifest has not the form of Ollama's manifests."),
        ({"layers": [{"digest": 7}]}, "Its manifest has not the form of Ollama's manifests."),
        ({"layers": []}, "Its manifest names no weights."),
        (
            {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../etc/passwd"}]},
            "Its manifest has the invalid digest 'sha256:../../../etc/passwd'.",
        ),
        (
            {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{DIGEST}"}]},
            "The file of its weights: Is missing.",
        ),
        ('{"layers": [' + " " * 2**21 + "]}", "Is larger than 1,048,576 bytes."),
    ],
)
def test_broken_manifest_is_a_reason_and_no_error(store: OllamaStore, manifest: object, problem: str) -> None:
    write_manifest(store, manifest)
    assert find_one().problem == problem


def test_layers_outside_of_the_store_are_never_read(store: OllamaStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a private key", "utf-8")
    manifest = json.loads(store.add("tiny:latest", make_weights(tmp_path), system=b"x").read_text("utf-8"))
    system = store.get_blob(manifest["layers"][1])
    system.unlink()
    system.symlink_to(secret)
    model = find_one()
    assert model.options == {}
    assert model.notes == ("its system: Is a link out of the store, which is not followed.",)
    weights = store.get_blob(manifest["layers"][0])
    weights.unlink()
    weights.symlink_to(weights)
    assert "loop" in (find_one().problem or "") or "levels" in (find_one().problem or "")
    weights.unlink()
    os.mkfifo(weights)
    assert find_one().problem == "The file of its weights: Is not a file."


def test_names_with_control_characters_are_cleaned_and_refused(store: OllamaStore, tmp_path: Path) -> None:
    store.add("registry.ollama.ai/library/ti\x1b[31mny/latest", make_weights(tmp_path))
    model = find().models[0]
    assert "\x1b" not in model.name
    assert model.problem == "Its manifest is in a folder with a name that Ollama does not use."


def test_wrong_depth_and_links_between_folders_are_ignored(store: OllamaStore, tmp_path: Path) -> None:
    manifest = store.add("tiny:latest", make_weights(tmp_path))
    (store.folder / "manifests/loop").symlink_to(store.folder / "manifests")
    (manifest.parent / "deeper").mkdir()
    (manifest.parent / "deeper/latest").write_text("{}", "utf-8")
    assert find_one().name == "tiny:latest"


def test_blobs_without_a_manifest_are_listed(store: OllamaStore, tmp_path: Path) -> None:
    layer = store.add_blob(make_weights(tmp_path))
    store.add_blob(b"a text")
    (store.folder / f"blobs/sha256-{DIGEST}-partial").write_bytes(b"GG")
    (store.folder / f"blobs/sha256-{DIGEST}-partial-0").write_bytes(b"{}")
    partial, loose = find().models
    assert (partial.name, partial.problem) == (f"sha256-{DIGEST}", "Its download is not complete.")
    assert loose.files == (str(store.get_blob(layer)),)
    assert "No manifest of Ollama names it" in (loose.problem or "")
    assert run("import", loose.files[0], "-q").stdout.startswith("hf/local/sha256-")


def test_embedding_model_is_of_its_kind(store: OllamaStore, tmp_path: Path) -> None:
    store.add("emb:latest", tiny_embedding(tmp_path / "emb.gguf").read_bytes())
    assert find_one().kind == "embedding"


def test_truncated_weights_are_a_reason(store: OllamaStore, tmp_path: Path) -> None:
    store.add("tiny:latest", make_weights(tmp_path)[:-1000])
    assert (find_one().problem or "").startswith("It is not valid: ")


def test_missing_store_names_the_folders_and_the_variable(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingFileError, match="Ollama has no models here") as missing:
        Library().plan_import_from("ollama")
    assert str(home.root / ".ollama/models") in (missing.value.cause or "")
    monkeypatch.setenv("OLLAMA_MODELS", f'"{home.root}/elsewhere"')
    assert [folder.path for folder in find().folders] == [f"{home.root}/elsewhere"]
    (home.root / "elsewhere").write_text("a file", "utf-8")
    with pytest.raises(MissingFileError, match="can't be read"):
        Library().plan_import_from("ollama")


@pytest.mark.parametrize("tool", ["olama", "", "../ollama"])
def test_unknown_tool_is_refused_with_the_known_ones(tool: str) -> None:
    with pytest.raises(BadInputError, match="is not a supported tool") as refused:
        Library().find_in_other_tools(tool)
    assert "Supported: ollama, lmstudio" in (refused.value.hint or "")
