"""`llm hf lock` writes what a machine has, without keys, and never over another file."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_hf_models.lockfiles.parse import parse_lockfile
from tests.support import lockfiles
from tests.support.commands import run, run_json
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.support.lockfiles import REPO, TINY_ID

hub = lockfiles.hub


def test_lockfile_has_everything_about_each_model_but_no_key(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("pull", REPO, "-q")
    monkeypatch.setenv("GPU_KEY", "sk-very-secret-key-0123456789")
    run("attach", "far", "--endpoint", "http://127.0.0.1:9/v1", "--key-env", "GPU_KEY", "--model", "big")
    run("import", tiny_chat(tmp_path / "mine-Q8_0.gguf", seed=5), "-q")
    run("set", TINY_ID, "template", write(tmp_path / "t.jinja", "{{ messages }}\n{{ bos_token }}\n"))
    text = run("lock").stdout
    assert "sk-very-secret" not in text
    tiny, mine, far = (
        next(model for model in parse_lockfile(text).models if model.id == model_id)
        for model_id in (TINY_ID, "hf/local/mine:Q8_0", "hf/remote/far")
    )
    (repo,) = (repo for repo in hub.list_repos() if repo.id == REPO)
    assert (tiny.commit, tiny.license, tiny.template) == (repo.commit, "mit", "{{ messages }}\n{{ bos_token }}\n")
    assert [(file.sha256, file.size_bytes) for file in tiny.files] == [
        (file.sha256, file.size) for file in repo.files if file.path.endswith(".gguf")
    ]
    assert {fact.kind: fact.result for fact in tiny.facts}["digest"] == "matches"
    assert (mine.repo, mine.commit, len(mine.files)) == (None, None, 1)
    assert (far.endpoint, far.key_env, far.endpoint_model) == ("http://127.0.0.1:9/v1", "GPU_KEY", "big")
    assert run("lock").stdout == text, "the same library gives the same text"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.usefixtures("hub")
def test_lock_of_a_collection_names_members_that_are_not_here(tmp_path: Path) -> None:
    run("pull", REPO, "-q")
    run("import", tiny_chat(tmp_path / "mine-Q8_0.gguf", seed=5), "-q")
    run("collection", "create", "team", "-q")
    run("collection", "add", "team", TINY_ID, "acme/split-GGUF", "-q")
    done = run_json("lock", "team", "-o", tmp_path / "team.lock.toml")
    assert (done["models"], done["left_out"]) == (1, ["acme/split-GGUF is not on this machine"])
    quiet = run("lock", "team", "-q"), run("export", tmp_path / "disk", "team", "-q")
    assert {done.stderr for done in quiet} == {"Left out: acme/split-GGUF is not on this machine.\n"}
    assert "mine" not in (tmp_path / "team.lock.toml").read_text()
    assert run("lock", "nobody", code=1).stderr.startswith("Error: ")
    assert f"It is a name of the model {TINY_ID}." in run("lock", "tiny", code=1).stderr


@pytest.mark.usefixtures("hub")
def test_lock_replaces_a_lockfile_and_nothing_else(tmp_path: Path) -> None:
    path, notes = tmp_path / "models.lock.toml", tmp_path / "notes.toml"
    run("lock", "-o", path)
    run("pull", REPO, "-q")
    run("lock", "-o", path)
    assert TINY_ID in path.read_text()
    notes.write_text("mine = true\n")
    refused = run("lock", "-o", notes, code=2)
    assert "exists and is not a lockfile" in refused.stderr
    assert notes.read_text() == "mine = true\n"
    assert "Can't write" in run("lock", "-o", tmp_path / "no" / "where.toml", code=1).stderr
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == ["models.lock.toml", "notes.toml"]


@pytest.mark.usefixtures("hub")
def test_diff_prints_no_control_characters_of_a_lockfile(tmp_path: Path) -> None:
    before, after = tmp_path / "a.toml", tmp_path / "b.toml"
    run("pull", REPO, "-q")
    run("lock", "-o", before)
    hostile = r"\u001b[31mred\u001b]0;title\u0007"
    added = f'template = "{hostile} words"\n[models.options]\nstop = "{hostile}"\n'
    added += f'[models.generation_config]\n"{hostile}" = 1\n'
    after.write_text(before.read_text() + added)
    shown = run("lock", "--diff", before, after, code=1).stdout
    assert "words" in shown
    assert not set(shown) & set("\x1b\x07")


@pytest.mark.usefixtures("hub")
def test_diff_shows_each_change_and_ends_with_one(tmp_path: Path) -> None:
    before, after = tmp_path / "a.toml", tmp_path / "b.toml"
    run("pull", REPO, "-q")
    run("lock", "-o", before)
    run("set", TINY_ID, "temperature", "0.5")
    run("alias", TINY_ID, "walrus")
    run("lock", "-o", after)
    shown = run("lock", "--diff", before, after, code=1).stdout
    assert shown == f"{TINY_ID}\n  + options temperature: 0.5\n  + alias walrus: walrus\n"
    changes = run_json("lock", "--diff", after, before, code=1)["changes"]
    assert [(change["field"], change["before"], change["after"]) for change in changes] == [
        ("options temperature", "0.5", None),
        ("alias walrus", "walrus", None),
    ]
    assert run("lock", "--diff", before, "-", stdin=before.read_text()).stdout == ""
    assert "can't be read" in run("lock", "--diff", before, tmp_path / "none.toml", code=1).stderr
