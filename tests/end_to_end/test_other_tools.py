"""Models of other tools: registered in place with `llm hf import --from`, proved, prompted, and never changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models import Library
from llm_hf_models.agent_library import AgentLibrary
from tests.conftest import Home
from tests.support import mcp_hub, other_tools
from tests.support.commands import run, run_json, run_process
from tests.support.ggufs import ANSWER, tiny_chat
from tests.support.hub_server import HubServer
from tests.support.mcp_hub import Q4, Q8, REPO
from tests.support.other_tools import GO_TEMPLATE, OllamaStore, make_projector, make_weights, read_tree

hub = mcp_hub.hub
PARAMS = json.dumps({"temperature": 0.5, "stop": ["x", "y"], "num_ctx": 1024, "typical_p": 0.9}).encode()


def show(name: str) -> Any:
    (model,) = run_json("show", name)["results"]
    return model


@pytest.fixture
def store(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OllamaStore:
    """Provide an Ollama store with two models of the same weights, one that sees, and an adapter. The Hub is off."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("LLM_HF_KEEP_ALIVE", "2")
    store = OllamaStore(home.root / ".ollama/models")
    weights = make_weights(tmp_path)
    store.add("tiny:1b", weights, params=PARAMS, system=b"Be brief.", template=GO_TEMPLATE.encode(), license=b"MIT\n")
    store.add("mario:latest", weights, system=b"You are Mario.")
    store.add("seeing:latest", make_weights(tmp_path, seed=3, sees=True), projector=make_projector(tmp_path))
    store.add("lora:latest", make_weights(tmp_path, seed=2), adapter=b"GGUF")
    return store


def test_ollama_models_answer_and_their_store_never_changes(store: OllamaStore, home: Home) -> None:
    before = read_tree(store.folder)
    done = run("import", "--from", "ollama")
    assert done.stdout.split() == ["hf/local/mario:F16", "hf/local/seeing:F16", "hf/local/tiny-1b:F16"]
    assert "Left out lora:latest: It has an adapter (LoRA), and adapters are not supported yet." in done.stderr
    assert "Not taken over: parameter typical_p has no counterpart." in done.stderr
    assert "the template in the file's header applies" in " ".join(done.stderr.split())
    model = show("tiny:1b")
    assert model["options"] == {"context": 1024, "stop": ["x", "y"], "system": "Be brief.", "temperature": 0.5}
    assert model["hub"]["imported_from"] == {"tool": "ollama", "name": "tiny:1b", "license": "MIT"}
    (location,) = (file["location"] for file in model["files"])
    assert Path(location).parent == store.folder / "blobs"
    assert run_process("llm", "-m", "mario", "hi").stdout.strip() == ANSWER
    run("verify", "tiny:1b", code=1)
    run("rm", "-y", "tiny:1b", "seeing")
    run("gc", "-y")
    run("uninstall", "-y")
    assert not (home.llm / "hf").exists()
    assert read_tree(store.folder) == before


def test_second_import_registers_nothing_unless_asked(store: OllamaStore) -> None:
    run("import", "--from", "ollama", "-q")
    again = run("import", "--from", "ollama")
    assert again.stdout == ""
    assert "Left out mario:latest: identical to hf/local/mario:F16" in again.stderr
    assert "Left out tiny:1b: identical to hf/local/tiny-1b:F16" in again.stderr
    assert "To register identical models too, add --all." in again.stderr
    assert run("import", "--from", "ollama", "tiny:1b", "--all").stdout == "hf/local/tiny-1b:F16\n"
    assert len(run_json("list")["models"]) == 3
    (store.folder / "blobs").rename(store.folder / "gone")
    assert {model["state"] for model in run_json("list")["models"]} == {"missing"}


@pytest.mark.usefixtures("store")
def test_names_select_models_and_refused_aliases_are_explained(tmp_path: Path) -> None:
    run("import", tiny_chat(tmp_path / "other.gguf", seed=7), "-a", "MARIO", "-q")
    done = run("import", "--from", "ollama", "Mario", "seeing")
    assert done.stdout.split() == ["hf/local/mario:F16", "hf/local/seeing:F16"]
    assert "mario already names hf/local/other:F16." in done.stderr
    assert "lora:latest" not in done.stderr
    assert "Ollama has no model 'nope'" in run("import", "--from", "ollama", "nope", code=1).stderr
    assert "adapters are not supported" in run("import", "--from", "ollama", "lora", code=1).stderr
    assert run("import", "--from", "ollama", "tiny:1b", "-a", "own", "-q").stdout == "hf/local/tiny-1b:F16\n"
    assert "own" in show("tiny:1b")["aliases"]


def test_damaged_blob_is_not_registered_and_the_others_are(store: OllamaStore, tmp_path: Path) -> None:
    manifest = json.loads(store.add("bad:latest", make_weights(tmp_path, seed=5)).read_text("utf-8"))
    store.get_blob(manifest["layers"][0]).write_bytes(make_weights(tmp_path, seed=6))
    done = run("import", "--from", "ollama", code=1)
    assert len(done.stdout.split()) == 3
    assert "Error: bad:latest: The file of bad:latest is damaged. Its sha256 is" in done.stderr
    assert run_json("import", "--from", "ollama", code=1)["error"]["code"] == "digest_mismatch"


@pytest.mark.usefixtures("store")
def test_dry_run_shows_everything_and_registers_nothing() -> None:
    shown = run("import", "--from", "ollama", "--dry-run").stdout
    assert "3 models would be registered. Nothing is copied." in shown
    assert 'stop ["x", "y"]' in shown
    plan = run_json("import", "--from", "ollama", "--dry-run")
    assert [model["name"] for model in plan["models"]] == ["mario:latest", "seeing:latest", "tiny:1b"]
    assert [model["name"] for model in plan["left_out"]] == ["lora:latest"]
    assert run_json("list")["models"] == []


@pytest.mark.parametrize(
    "words",
    [
        ("--from", "ollama", "--repo", "a/b"),
        ("--from", "ollama", "--copy"),
        ("--from", "ollama", "--kind", "chat"),
        ("--all", "x.gguf"),
        (),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(words: tuple[str, ...]) -> None:
    assert "Usage: " in run("import", *words, code=2).stderr


def test_recorded_repos_are_proved_by_digest(hub: HubServer, home: Home, tmp_path: Path) -> None:
    owner, name = REPO.split("/")
    store = OllamaStore(home.root / ".ollama/models")
    store.add(f"hf.co/{REPO}/Q4_K_M", (tmp_path / Q4).read_bytes())
    store.add("hf.co/owner/nowhere/latest", make_weights(tmp_path, seed=1))
    models = home.root / ".lmstudio/models" / owner / name
    models.mkdir(parents=True)
    (models / Q8).write_bytes((tmp_path / Q8).read_bytes())
    tiny_chat(models / "changed-Q4_0.gguf", seed=2)
    first = {one["name"]: one["result"] for one in run_json("import", "--from", "ollama")["imported"]}
    proved, unknown = first[f"hf.co/{REPO}:Q4_K_M"], first["hf.co/owner/nowhere:latest"]
    assert (proved["model"]["id"], proved["model"]["state"]) == (f"hf/{REPO}:Q4_K_M", "ready")
    assert proved["digest"].startswith(f"matches {REPO}@")
    assert (unknown["model"]["repo"], unknown["model"]["state"]) == (None, "unverified")
    assert unknown["digest"].startswith("not checked: ")
    second = {one["name"]: one["result"] for one in run_json("import", "--from", "lmstudio")["imported"]}
    assert second[f"{REPO}/{Q8}"]["model"]["state"] == "ready"
    assert "is not a file of owner/tiny-GGUF" in second[f"{REPO}/changed-Q4_0.gguf"]["digest"]
    before = read_tree(models)
    run("rm", "-y", f"{REPO}:Q8_0")
    assert read_tree(models) == before
    assert hub.endpoint


def test_hub_that_does_not_answer_is_not_asked_about_each_model(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for number in range(4):
        folder = home.root / f".lmstudio/models/acme/Tiny{number}-GGUF"
        folder.mkdir(parents=True)
        tiny_chat(folder / f"Tiny{number}-Q8_0.gguf", seed=number)
    digests = [one["result"]["digest"] for one in run_json("import", "--from", "lmstudio")["imported"]]
    assert [digest.rpartition("127.0.0.1:9 ")[2] for digest in digests] == [
        "can't be reached", "can't be reached", "did not respond in time", "did not respond in time",
    ]  # fmt: skip
    assert {model["state"] for model in run_json("list")["models"]} == {"unverified"}


@pytest.mark.usefixtures("store")
def test_each_tool_is_imported_in_place(home: Home, tmp_path: Path) -> None:
    other_tools.make_lm_studio_store(home.root / ".lmstudio/models")
    other_tools.make_llama_cpp_store(home.root / ".cache/llama.cpp")
    other_tools.make_jan_store(home.root / ".local/share/Jan/data", tiny_chat(tmp_path / "mine.gguf", seed=4))
    other_tools.make_gpt4all_store(home.root / ".local/share/nomic.ai/GPT4All")
    other_tools.make_llm_gguf_store(home.llm)
    stores = [home.root / ".lmstudio", home.root / ".cache/llama.cpp", home.root / ".local", home.llm / "gguf"]
    before = read_tree(*stores)
    for tool in ("lmstudio", "llamacpp", "jan", "gpt4all", "llm-gguf"):
        run("import", "--from", tool, "--all", "-q")
    ids = {model["id"] for model in run_json("list")["models"]}
    assert {"hf/acme/Tiny-GGUF:Q8_0", "hf/acme/Old-GGUF:Q4_0", "hf/acme/Seeing-GGUF:F16"} <= ids
    assert {"hf/local/mine:F16", "hf/local/Tiny-Instruct:Q4_0", "hf/local/emb:F32", "hf/local/Tiny:Q8_0"} <= ids
    assert show("hf/acme/Seeing-GGUF:F16")["facts"]["modalities"] == ["image"]
    run("rm", "-y", *sorted(ids))
    assert read_tree(*stores) == before


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_folders_without_permission_are_a_clear_message(store: OllamaStore) -> None:
    (store.folder / "manifests").chmod(0)
    try:
        output = run_process("llm", "hf", "import", "--from", "ollama", "--dry-run", unprivileged=True).stdout
        assert "Permission denied" in output
        store.folder.chmod(0)
        error = run_process("llm", "hf", "import", "--from", "ollama", code=1, unprivileged=True).stderr
        assert "The models of Ollama can't be read" in error
    finally:
        store.folder.chmod(0o755)
        (store.folder / "manifests").chmod(0o755)


# Modelfiles


def test_modelfile_of_a_file_sets_options_and_lists_the_rest(tmp_path: Path) -> None:
    tiny_chat(tmp_path / "tiny model.gguf")
    path = tmp_path / "Modelfile"
    path.write_text(
        'FROM "./tiny model.gguf"\nPARAMETER temperature 0.7\nPARAMETER stop a\nPARAMETER stop b\n'
        'SYSTEM """You are\nMario."""\nTEMPLATE "{{ .Prompt }}"\nADAPTER ./lora\nMESSAGE user hi\n'
        "PARAMETER num_keep 4\n",
        "utf-8",
    )
    planned = run_json("import", path, "--dry-run")
    assert planned["model"]["options"] == {"temperature": 0.7, "stop": ["a", "b"], "system": "You are\nMario."}
    assert run_json("list")["models"] == []
    done = run("import", path, "-a", "mario")
    assert done.stdout == "hf/local/mario:F16\n"
    for text in ("ADAPTER:", "MESSAGE:", "parameter num_keep has no counterpart", "its template is in Go's language"):
        assert f"Not taken over: {text}" in done.stderr
    assert show("mario")["options"]["system"] == "You are\nMario."


def test_modelfile_with_a_jinja_template_keeps_it(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    path = tmp_path / "tiny.modelfile"
    path.write_text(f"from {tiny_chat(tmp_path / 'tiny.gguf')}\ntemplate {template}\n", "utf-8")
    assert run("import", path).stdout == "hf/local/tiny:F16\n"
    assert show("tiny")["options"]["template"] == template


def test_modelfile_changes_a_copy_of_another_model(store: OllamaStore, tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_text("FROM tiny:1b\nPARAMETER temperature 1\n", "utf-8")
    assert "Add -a NAME." in run("import", path, code=2).stderr
    assert run("import", path, "-a", "warm").stdout == "hf/local/warm:F16\n"
    assert show("warm")["options"] == {
        "context": 1024, "stop": ["x", "y"], "system": "Be brief.", "temperature": 1.0,
    }  # fmt: skip
    path.write_text("FROM missing\n", "utf-8")
    assert "ollama pull missing" in run("import", path, "-a", "x", code=1).stderr
    path.write_text("FROM lora\n", "utf-8")
    assert "adapters are not supported" in run("import", path, "-a", "x", code=2).stderr
    assert store.folder.exists()


def test_modelfile_of_a_repo_needs_its_pull_and_keeps_the_proof(hub: HubServer, tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_text(f"FROM hf.co/{REPO}:Q4_K_M\nSYSTEM hi\n", "utf-8")
    assert f"llm hf pull {REPO}:Q4_K_M, then import" in run("import", path, "-a", "own", code=1).stderr
    Library().pull(f"{REPO}:Q4_K_M")
    assert run("import", path, "-a", "own").stdout == "hf/local/own:Q4_K_M\n"
    own, base = show("own"), show(REPO)
    assert (own["state"], own["options"], base["options"]) == ("ready", {"system": "hi"}, {})
    run("rm", "-y", "own")
    assert show(REPO)["state"] == "ready"
    assert hub.endpoint


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("FROM ./gone.gguf", 1, "names a file that does not exist: ./gone.gguf"),
        ("FROM ''", 2, "needs a name"),
        ("FROM .", 2, "has 2 models"),
        ("FROM a.gguf\nFROM b.gguf\nFROM c.gguf", 2, "has 3 FROM lines"),
        ("FROM ./text", 2, "can't be used: ./text"),
        ("FROM a.gguf\nRUN x", 2, "Line 2 of the Modelfile"),
        ("FROM a.gguf\nFROM b.gguf", 2, "one must be a model and the other one its projector"),
    ],
)
def test_broken_modelfile_registers_nothing(tmp_path: Path, content: str, code: int, message: str) -> None:
    tiny_chat(tmp_path / "a.gguf")
    tiny_chat(tmp_path / "b.gguf", seed=1)
    (tmp_path / "text").write_text("no model", "utf-8")
    path = tmp_path / "Modelfile"
    path.write_text(content, "utf-8")
    assert message in run("import", path, code=code).stderr
    assert run_json("list")["models"] == []


# Agents


@pytest.mark.usefixtures("store")
def test_agents_list_and_import_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    library = AgentLibrary("a bot")
    assert [model.name for model in library.plan_import_from("ollama").models] == [
        "mario:latest", "seeing:latest", "tiny:1b",
    ]  # fmt: skip
    (done,) = library.import_from("ollama", ["tiny:1b"]).imported
    assert done.result.model.id == "hf/local/tiny-1b:F16"
    monkeypatch.setenv("LLM_HF_AGENT_READ_ONLY", "on")
    assert AgentLibrary("a bot").find_in_other_tools("ollama").models
