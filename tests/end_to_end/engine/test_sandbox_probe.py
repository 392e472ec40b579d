"""Which layers let an engine work: found out once with the package's own model, never with the file to be run."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models import paths
from llm_hf_models.errors import EngineStartError
from llm_hf_models.gguf.header import read_header
from llm_hf_models.inference import engine, sandbox_probe
from llm_hf_models.library.database import Database
from llm_hf_models.service import Library
from tests.support import engines, failing_layers, ggufs
from tests.support.commands import SCRIPTS, run, run_json, run_json_one, run_llm, run_process
from tests.support.engines import ensure, get_engine_row, make_spec, prompt_engine
from tests.support.failing_layers import HANG, LAYERS, MACOS_TOO_STRICT, NO_MODEL, TOO_STRICT, FailingLayers
from tests.tools.make_sandbox_model import ANSWER, write_model

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has layers that a test can make fail"),
    pytest.mark.new_machine,
]
DEEP = "{{" + "(" * 20_000 + "1" + ")" * 20_000 + "}}"

db = engines.db
spec = engines.spec
layers = failing_layers.failing_layers


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[str]:
    """Provide the name of a model for `llm`; end its engine."""
    Library().import_file(ggufs.tiny_chat(tmp_path / "tiny.gguf"), aliases=["tiny"])
    yield "tiny"
    run("stop", "--all")


def get_result_path() -> Path:
    return paths.data_dir() / "sandbox.json"


def read_status() -> dict[str, Any]:
    return dict(run_json("status")["sandbox"])


# The model


def test_package_has_the_model_that_its_tool_writes(tmp_path: Path) -> None:
    assert engine.PROBE_MODEL.read_bytes() == write_model(tmp_path / "again.gguf").read_bytes()
    assert engine.PROBE_MODEL.stat().st_size < 130_000


def test_model_answers(db: Database) -> None:
    with engine.PROBE_MODEL.open("rb") as file:
        assert read_header(file, file_bytes=engine.PROBE_MODEL.stat().st_size).facts.kind == "chat"
    assert prompt_engine(ensure(make_spec(engine.PROBE_MODEL), db)) == ANSWER


# Layers that fail


@pytest.mark.parametrize("failing", [*[(layer,) for layer in LAYERS], ("rlimits", "landlock")], ids="+".join)
def test_failing_layers_are_left_out_for_all_models_and_shown(
    failing: tuple[str, ...], layers: FailingLayers, tiny: str, tmp_path: Path
) -> None:
    layers.set({layer: TOO_STRICT[layer] for layer in failing})
    first = run_llm("-m", tiny, "hello")
    assert first.stdout.strip() == ggufs.ANSWER
    assert first.stderr == (
        f"Engines work only without the sandbox layer {' and '.join(failing)} on this machine. Details: llm hf status\n"
    )
    starts = layers.count_starts()
    assert starts == 2 + len(LAYERS) + 1  # with all layers, without any, each in turn, and the engine
    (shown,) = run_json("ps")["engines"]
    assert [*shown["layers"], *shown["missing"]] == [layer for layer in LAYERS if layer not in failing] + list(failing)
    assert all("a test model fails under it: " in why for why in shown["missing"].values())
    assert read_status() == {"mode": "on", "layers": shown["layers"], "missing": shown["missing"], "problem": None}
    assert f"without {failing[0]}: a test model fails" in run("status").stdout
    assert f"runs without {failing[0]}: a test model fails" in run("ps").stderr

    Library().import_file(ggufs.tiny_chat(tmp_path / "next.gguf", answer="Next."), aliases=["next"])
    second = run_llm("-m", "next", "hello")
    assert (second.stdout.strip(), second.stderr) == ("Next.", "")
    assert layers.count_starts() == starts + 1


def test_macos_profile_that_denies_the_model_is_left_out(layers: FailingLayers, tiny: str) -> None:
    layers.set(MACOS_TOO_STRICT, macos=True)
    first = run_process("llm", "-m", tiny, "hello")
    assert first.stdout.strip() == ggufs.ANSWER
    assert "only without the sandbox layer seatbelt on" in first.stderr
    (shown,) = run_json("ps")["engines"]
    assert shown["layers"] == ["rlimits"]
    # llama.cpp writes its log in another thread, so its last line is not always the one about the permission.
    assert shown["missing"]["seatbelt"].startswith("a test model fails under it: ")
    (report,) = json.loads(run_process("llm", "hf", "test", tiny, "--json").stdout)["results"]
    tested = report["result"]
    assert (tested["verdict"], tested["layers"]) == ("loads", ["rlimits"])
    assert dict(tested["missing"]) == shown["missing"]


def test_load_test_leaves_out_the_same_layers(layers: FailingLayers, tiny: str) -> None:
    layers.set({"seccomp": TOO_STRICT["seccomp"]})
    tested = run_json_one("test", tiny)["result"]
    assert tested["verdict"] == "loads"
    assert [layer for layer, _ in tested["missing"]] == ["seccomp"]
    starts = layers.count_starts()
    assert run_llm("-m", tiny, "hello").stdout.strip() == ggufs.ANSWER
    assert layers.count_starts() == starts + 1


def test_required_sandbox_refuses_engines_and_load_tests(
    layers: FailingLayers, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_SANDBOX", "required")
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)  # coverage can't write its data in a confined child that ends with an error
    assert run_llm("-m", tiny, "hello").stdout.strip() == ggufs.ANSWER
    run("stop", "--all")
    get_result_path().unlink()
    layers.set({"landlock": NO_MODEL})
    for words in (["-m", tiny, "hello"], ["hf", "test", tiny]):
        refused = run_llm(*words, code=1)
        assert "without it: llm hf settings sandbox on\nlandlock: a test model fails under it: " in refused.stderr
        assert "reinstall" not in refused.stderr
    assert run_json("ps")["engines"] == []
    assert read_status()["mode"] == "required"


def test_required_sandbox_refuses_llama_server_before_it_starts(
    spec: engine.EngineSpec, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_llama_server(tmp_path, monkeypatch)
    with pytest.raises(EngineStartError, match=r"`required`(.|\n)*landlock: llama-server is a script"):
        ensure(spec, db, engine="llama-server", sandbox="required")
    assert prompt_engine(ensure(spec, db, engine="llama-server")) == ggufs.ANSWER


# The model to be run has no influence


@pytest.mark.parametrize("failing", [{}, {"seccomp": TOO_STRICT["seccomp"]}], ids=["all-layers", "one-left-out"])
def test_hostile_model_changes_nothing_and_is_tried_once(
    failing: dict[str, str], layers: FailingLayers, spec: engine.EngineSpec, db: Database, tmp_path: Path
) -> None:
    layers.set(failing)
    hostile = make_spec(ggufs.tiny_chat(tmp_path / "hostile.gguf", template=DEEP))
    with pytest.raises(EngineStartError, match="crashed"):
        ensure(hostile, db)
    stored, starts = get_result_path().read_bytes(), layers.count_starts()
    assert starts == (2 if not failing else 2 + len(LAYERS) + 1)
    for _ in range(2):
        with pytest.raises(EngineStartError, match="crashed"):
            ensure(hostile, db)
    assert layers.count_starts() == starts + 2
    assert get_result_path().read_bytes() == stored
    assert prompt_engine(ensure(spec, db)) == ggufs.ANSWER
    assert set(get_engine_row(db).missing) == set(failing)


def test_engine_that_never_works_is_not_blamed_on_the_sandbox(
    layers: FailingLayers, spec: engine.EngineSpec, db: Database
) -> None:
    (layers.folder / "xllamacpp.py").write_text("raise ImportError('libgomp.so.1: no such file')")
    with pytest.raises(EngineStartError, match="even without the sandbox") as caught:
        ensure(spec, db)
    assert "libgomp" in str(caught.value.cause)
    assert "xllamacpp" in str(caught.value.hint)
    assert layers.count_starts() == 2
    assert not get_result_path().exists()


# When it is tested


def test_normal_case_costs_one_start_and_only_once(
    layers: FailingLayers, spec: engine.EngineSpec, db: Database
) -> None:
    assert read_status() == {"mode": "on", "layers": None, "missing": {}, "problem": None}
    notices: list[str] = []
    ensure(spec, db, notices=notices)
    assert layers.count_starts() == 2
    ensure(make_spec(spec.model_path, context=512), db)
    assert layers.count_starts() == 3
    assert notices == []
    assert read_status() == {"mode": "on", "layers": list(LAYERS), "missing": {}, "problem": None}
    assert stat.S_IMODE(get_result_path().stat().st_mode) == 0o600
    assert [path.name for path in paths.data_dir().glob("sandbox*")] == ["sandbox.json"]


def test_sandbox_that_is_off_is_not_tested(layers: FailingLayers, spec: engine.EngineSpec, db: Database) -> None:
    ensure(spec, db, sandbox="off")
    assert layers.count_starts() == 1
    assert not get_result_path().exists()


def make_it_older(path: Path) -> None:
    path.write_text(path.read_text().replace('llm-hf-models\\": \\"', 'llm-hf-models\\": \\"0.0.'))


def damage(path: Path) -> None:
    path.write_text('{"a": [')


def let_others_write(path: Path) -> None:
    path.chmod(0o666)


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 65534, 65534)


@pytest.mark.parametrize("change", [make_it_older, damage, let_others_write, give_away])
def test_result_of_another_version_or_origin_is_replaced(
    change: Callable[[Path], None], layers: FailingLayers, spec: engine.EngineSpec, db: Database
) -> None:
    ensure(spec, db)
    change(get_result_path())
    layers.set({"landlock": NO_MODEL})
    ensure(make_spec(spec.model_path, context=512), db)
    assert layers.count_starts() == 2 + 2 + len(LAYERS) + 1
    assert list(read_status()["missing"]) == ["landlock"]


def test_result_that_can_not_be_stored_does_not_prevent_a_prompt(spec: engine.EngineSpec, db: Database) -> None:
    get_result_path().mkdir()
    assert prompt_engine(ensure(spec, db)) == ggufs.ANSWER


def test_two_processes_at_once_test_once(layers: FailingLayers, tiny: str) -> None:
    words = [str(SCRIPTS / "llm"), "hf", "test", tiny, "--json"]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert json.loads(process.communicate(timeout=90)[0])["results"][0]["result"]["layers"] == list(LAYERS)
    assert layers.count_starts() == 3


def test_overloaded_machine_stores_no_result_and_keeps_all_layers(
    layers: FailingLayers, spec: engine.EngineSpec, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_probe, "START_SECONDS", 0.01)
    assert prompt_engine(ensure(spec, db)) == ggufs.ANSWER
    assert get_engine_row(db).layers == LAYERS
    assert layers.count_starts() <= 3
    assert not get_result_path().exists()


def test_layer_that_hangs_is_left_out_and_tested_again_later(
    layers: FailingLayers, spec: engine.EngineSpec, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_probe, "START_SECONDS", 5)
    monkeypatch.setattr(sandbox_probe, "RETEST_SECONDS", 0)
    layers.set({"landlock": HANG})
    assert prompt_engine(ensure(spec, db)) == ggufs.ANSWER
    assert list(get_engine_row(db).missing) == ["landlock"]
    assert read_status()["layers"] is None
    layers.set({})
    ensure(make_spec(spec.model_path, context=512), db)
    assert read_status() == {"mode": "on", "layers": list(LAYERS), "missing": {}, "problem": None}


def write_llama_server(folder: Path, monkeypatch: pytest.MonkeyPatch, *, comment: str = "") -> None:
    (folder / "bin").mkdir(exist_ok=True)
    binary = folder / "bin/llama-server"
    binary.write_text(engines.LLAMA_SERVER + comment)
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(binary.parent))


def test_llama_server_has_its_own_result_and_a_new_one_is_tested(
    layers: FailingLayers, spec: engine.EngineSpec, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(spec, db, engine="xllamacpp")
    write_llama_server(tmp_path, monkeypatch)
    ensure(spec, db, engine="llama-server")
    assert layers.count_starts() == 4
    assert len(json.loads(get_result_path().read_bytes())) == 2
    ensure(make_spec(spec.model_path, context=512), db, engine="llama-server")
    ensure(make_spec(spec.model_path, context=512), db, engine="xllamacpp")
    assert layers.count_starts() == 6
    write_llama_server(tmp_path, monkeypatch, comment="# another version\n")
    ensure(make_spec(spec.model_path, context=768), db, engine="llama-server")
    assert layers.count_starts() == 8
