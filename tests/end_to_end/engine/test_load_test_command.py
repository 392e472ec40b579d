"""The load test from the command line: its verdict is recorded with the model, and `llm` never crashes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_hf_models import Library
from tests.support.commands import run, run_json_one
from tests.support.ggufs import tiny_chat, tiny_split
from tests.support.hub_server import HubServer, run_hub

REPO = "tests/tiny-GGUF"
MODEL = f"hf/{REPO}:Q4_K_M"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with run_hub(monkeypatch, disk_reserve="0") as server:
        server.add_repo(REPO, {"tiny-Q4_K_M.gguf": tiny_chat(tmp_path / "tiny-Q4_K_M.gguf", answer="Walruses do.")})
        yield server


@pytest.mark.usefixtures("hub")
def test_pulled_model_is_load_tested_and_the_verdict_is_stored() -> None:
    assert run("pull", REPO, "-q", code=None).exit_code == 0
    report = run_json_one("test", MODEL)
    assert report["result"]["verdict"] == "loads"
    assert "Walruses" in report["result"]["output"]
    assert report["recorded"]
    check = Library().show(MODEL).checks[0]
    assert (check.kind, check.result) == ("load_test", "loads")
    assert "Load test" in run("show", MODEL, code=None).stdout


@pytest.mark.usefixtures("hub")
def test_pull_with_test_reports_the_load_test() -> None:
    done = run("pull", REPO, "--test", "-q", code=None)
    assert done.exit_code == 0
    assert done.stdout.strip() == MODEL
    assert "loads" in done.stderr


def test_model_that_lacks_a_needed_tensor_is_refused_by_the_load_test(hub: HubServer, tmp_path: Path) -> None:
    path = tiny_chat(tmp_path / "lacking-Q4_K_M.gguf")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"output_norm.weight", b"output_morm.weight"))
    hub.add_repo("tests/lacking-GGUF", {path.name: path})
    pulled = run("pull", "tests/lacking-GGUF", "--test", "-q", code=None)
    assert pulled.exit_code == 1
    assert "can't load the model: check_tensor_dims: tensor 'output_norm.weight' not found" in pulled.stderr
    tested = run("test", str(path), code=None)
    assert tested.exit_code == 1
    assert "can't load the model: check_tensor_dims: tensor 'output_norm.weight' not found" in tested.stdout


def test_unregistered_file_is_tested_with_all_its_shards(tmp_path: Path) -> None:
    first = tiny_split(tmp_path, 3)[0]
    done = run("test", str(first), code=None)
    assert done.exit_code == 0, done.output
    assert "loads" in done.stdout
    assert Library().list() == ()


def test_file_that_is_not_a_gguf_gets_a_verdict_and_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_bytes(b"<!doctype html>")
    done = run("test", str(path), code=None)
    assert done.exit_code == 1
    assert "fails" in done.stdout
    assert "Confined" not in done.stdout, "nothing was run"


@pytest.mark.usefixtures("hub")
def test_test_of_a_remote_model_suggests_a_pull() -> None:
    done = run("test", REPO, code=None)
    assert done.exit_code == 1
    assert f"llm hf pull {REPO} --test" in done.stderr


@pytest.mark.usefixtures("hub")
def test_changed_file_is_reported_blocked_and_repaired_by_a_pull() -> None:
    run("pull", REPO, "-q", code=None)
    path = Path(Library().path(MODEL)[0]).resolve()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    verified = run("verify", MODEL, code=None)
    assert verified.exit_code == 1
    assert "differs" in verified.stdout
    assert Library().show(MODEL).state == "changed"
    pulled = run("pull", REPO, "-q", code=None)
    assert pulled.exit_code == 0, pulled.output
    assert run("verify", MODEL, code=None).exit_code == 0
    assert Library().show(MODEL).state == "ready"
