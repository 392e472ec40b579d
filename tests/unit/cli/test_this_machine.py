"""The commands for local models, on real GGUF files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm_hf_models.cli.main import hf
from tests.support.commands import run, run_json, run_json_one
from tests.support.ggufs import tiny_chat, tiny_embedding, tiny_mmproj, tiny_split


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """Import a tiny chat model as `walrus`; return its file."""
    path = tiny_chat(tmp_path / "tiny.Q8_0.gguf")
    run("import", path, "-a", "walrus", "-q")
    return path


def test_import_prints_the_id_to_stdout_and_the_command_to_stderr(tmp_path: Path) -> None:
    done = run("import", tiny_chat(tmp_path / "tiny.Q8_0.gguf"), "-a", "walrus")
    assert done.stdout == "hf/local/tiny:Q8_0\n"
    assert "Digest: not checked: no repo was named (--repo owner/name)." in done.stderr
    assert "llm -m walrus 'hello'" in done.stderr


def test_import_of_an_embedding_model_names_the_embed_command(tmp_path: Path) -> None:
    done = run("import", tiny_embedding(tmp_path / "emb.gguf"))
    assert "llm embed -m emb -c 'hello'" in done.stderr


def test_quiet_import_prints_only_the_id(tmp_path: Path) -> None:
    done = run("import", tiny_chat(tmp_path / "tiny.Q8_0.gguf"), "-q")
    assert (done.stdout, done.stderr) == ("hf/local/tiny:Q8_0\n", "")


def test_import_json_has_the_model_and_its_digest_check(tmp_path: Path) -> None:
    found = run_json_one("import", tiny_chat(tmp_path / "tiny.Q8_0.gguf"), "-q")
    assert found["model"]["id"] == "hf/local/tiny:Q8_0"
    assert found["digest"].startswith("not checked")


def test_projector_alone_is_not_a_model(tmp_path: Path) -> None:
    done = run("import", tiny_mmproj(tmp_path / "mmproj-F16.gguf"), code=2)
    assert "is a vision projector" in done.stderr
    assert run_json("list")["models"] == []


def test_copied_import_outlives_its_file(tmp_path: Path) -> None:
    path = tiny_chat(tmp_path / "tiny.Q8_0.gguf")
    run("import", path, "--copy", "-a", "walrus", "-q")
    path.unlink()
    kept = Path(run("path", "walrus").stdout.strip())
    assert kept.is_file()
    assert kept != path


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n", b"GGUF", b""]
)
def test_file_that_is_not_a_gguf_is_refused_and_not_registered(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    output = run("import", path, code=1).stderr
    assert output.startswith("Error: ")
    assert "--allow-invalid" not in output
    assert f"llm hf check {path}" in output
    assert run_json("list")["models"] == []


def test_invalid_projector_can_be_left_out(tmp_path: Path) -> None:
    path = tiny_chat(tmp_path / "tiny.Q8_0.gguf")
    (tmp_path / "mmproj-F16.gguf").write_bytes(b"GGUF")
    assert "To import the model without it, add --no-mmproj" in run("import", path, code=1).stderr
    run("import", path, "--no-mmproj")


def test_import_of_a_folder_registers_every_model_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for name in ("owner/cat", "dog", ".cache", "none"):
        (folder / name).mkdir(parents=True)
    cat = tiny_chat(folder / "owner/cat/cat.Q8_0.gguf")
    tiny_chat(folder / ".cache/hidden.Q8_0.gguf")
    tiny_split(folder / "dog", 3, stem="dog")
    tiny_mmproj(folder / "dog/mmproj-F16.gguf")
    (folder / "owner/broken.gguf").write_bytes(b"GGUF")
    assert "is for one model" in run("import", folder, "-a", "pet", code=2).stderr
    done = run("import", folder, "-q", code=1)
    assert done.stdout.split() == ["hf/local/dog:F16", "hf/local/cat:Q8_0"]
    assert done.stderr.count("Error: ") == 1
    assert "broken.gguf" in done.stderr
    found = run_json("import", *(folder / "dog").iterdir(), cat, "-q")["results"]
    assert [one["model"]["id"] for one in found] == ["hf/local/dog:F16", "hf/local/cat:Q8_0"]
    assert run_json_one("import", folder / "owner/cat", "-q")["model"]["id"] == "hf/local/cat:Q8_0"
    assert "There is no GGUF model in" in run("import", folder / "none", code=1).stderr
    assert "is a device, not a file" in run("import", "/dev/null", code=2).stderr


def test_missing_file_gives_a_clear_error(tmp_path: Path) -> None:
    assert "There is no file" in run("import", tmp_path / "none.gguf", code=1).stderr


@pytest.mark.usefixtures("gguf")
def test_list_has_a_row_for_each_model() -> None:
    done = run("list")
    assert re.search(r"tiny +hf/local/tiny:Q8_0 .*unverified +chat +never +Q8_0 +walrus, tiny:Q8_0", done.stdout)
    assert "is unverified: " in done.stderr
    (model,) = run_json("list")["models"]
    assert model["state"] == "unverified"
    assert "walrus" in model["aliases"]


@pytest.mark.usefixtures("gguf")
def test_list_imports_neither_engines_nor_network_code() -> None:
    code = (
        "import sys\nfrom llm_hf_models.cli.main import hf\n"
        "try: hf(['list'])\nexcept SystemExit: pass\n"
        "heavy = ('inference.engine', 'inference.protocol.client', 'inference.protocol.options', "
        "'gguf.template_audit', 'hub.client', 'models.local.default_options', 'downloads.plan')\n"
        "sys.exit(' '.join(name for name in heavy if f'llm_hf_models.{name}' in sys.modules) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "hf/local/tiny:Q8_0" in done.stdout
    assert done.returncode == 0, done.stderr


def test_show_lists_known_facts_and_file_locations(gguf: Path) -> None:
    text = run("show", "walrus").stdout
    assert str(gguf) in text
    assert re.search(r"^Structure +valid, \d{4}-", text, re.MULTILINE)
    assert run_json_one("show", "walrus")["facts"]["architecture"] == "llama"


def test_path_prints_one_path_or_all_shards(gguf: Path, tmp_path: Path) -> None:
    shards = tiny_split(tmp_path, 3)
    run("import", shards[1], "-a", "seal", "-q")
    assert run("path", "walrus").stdout == f"{gguf}\n"
    assert run("path", "seal").stdout == f"{shards[0]}\n"
    assert run("path", "seal", "--all").stdout.splitlines() == [str(shard) for shard in shards]


@pytest.mark.usefixtures("gguf")
def test_aliases_can_be_added_listed_and_removed() -> None:
    assert "seal" in run("alias", "walrus", "seal", "otter").stdout
    assert run_json("alias")["aliases"]["otter"] == "hf/local/tiny:Q8_0"
    run("alias", "--remove", "seal", "--remove", "otter")
    assert "seal" not in run_json("alias")["aliases"]
    assert "seal" in run("show", "seal", code=1).stderr


@pytest.mark.usefixtures("gguf")
@pytest.mark.parametrize(
    ("words", "code", "suggested"),
    [
        (["show", "walrs"], 1, "walrus"),
        (["check", "walrs"], 1, "walrus"),
        (["alias", "--remove", "walrs"], 1, "walrus"),
        (["set", "walrus", "temprature", "1"], 2, "temperature"),
    ],
)
def test_mistyped_name_gets_the_nearest_suggestion(words: list[str], code: int, suggested: str) -> None:
    assert f"Did you mean {suggested!r}?" in run(*words, code=code).stderr


@pytest.mark.usefixtures("gguf")
def test_alias_lists_models_without_an_alias() -> None:
    run("alias", *(word for alias in run_json("alias")["aliases"] for word in ("--remove", alias)))
    assert run("alias").stdout == ""
    assert "llm hf alias NAME ALIAS" in run("alias").stderr


def test_alias_of_another_model_is_refused(gguf: Path, tmp_path: Path) -> None:
    run("import", tiny_chat(tmp_path / "other.Q4_0.gguf"), "-a", "seal", "-q")
    assert gguf.is_file()
    assert "walrus" in run("alias", "seal", "walrus", code=2).stderr
    assert "walrus" in run_json_one("show", "walrus")["aliases"]


def test_verify_reports_whether_files_are_unchanged_or_differ(gguf: Path) -> None:
    assert "tiny.Q8_0.gguf: unchanged since it was imported" in run("verify", "walrus", code=1).stdout
    assert run_json_one("verify", "--all", code=1)["unchanged"] is True
    content = bytearray(gguf.read_bytes())
    content[-1] ^= 1
    gguf.write_bytes(content)
    assert "differs: recorded" in run("verify", "walrus", code=1).stdout
    found = run_json_one("verify", "walrus", code=1)
    assert (found["matches"], found["unchanged"]) == (False, False)
    assert run_json_one("show", "walrus")["state"] == "changed"


def test_model_without_its_file_is_missing(gguf: Path) -> None:
    gguf.unlink()
    done = run("list")
    assert "missing" in done.stdout
    assert "missing" in run("verify", "walrus", code=1).stdout


def test_rm_asks_and_no_keeps_everything(gguf: Path) -> None:
    done = run("rm", "walrus", code=1, stdin="n\n")
    assert "Remove hf/local/tiny:Q8_0?" in done.stderr
    assert "Nothing was removed." in done.stderr
    assert done.stdout == ""
    assert len(run_json("list")["models"]) == 1
    assert gguf.is_file()


@pytest.mark.usefixtures("gguf")
@pytest.mark.parametrize("answer", [b"", b"\xff\n"])
def test_rm_removes_nothing_if_nobody_can_answer(answer: bytes) -> None:
    assert "Pass -y to remove without asking." in run("rm", "walrus", code=2, stdin=answer).stderr
    assert len(run_json("list")["models"]) == 1


def test_ctrl_c_at_the_rm_question_keeps_everything(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(prompt: str) -> str:
        raise KeyboardInterrupt(prompt)

    monkeypatch.setattr("click.termui.visible_prompt_func", pressed)  # the keyboard
    with pytest.raises(SystemExit) as ended:
        hf(["rm", "walrus"])
    assert ended.value.code == 130
    assert capsys.readouterr().err.endswith("\nNothing was removed.\n")
    assert len(run_json("list")["models"]) == 1
    assert gguf.is_file()


def test_rm_never_removes_a_file_imported_in_place(gguf: Path) -> None:
    done = run("rm", "walrus", stdin="y\n")
    assert f"kept: {gguf}" in done.stderr
    assert "Freed 0 B." in done.stderr
    assert gguf.is_file()
    assert run_json("list")["models"] == []


def test_rm_of_a_copy_reports_the_freed_space(tmp_path: Path) -> None:
    run("import", tiny_chat(tmp_path / "tiny.Q8_0.gguf"), "--copy", "-a", "walrus", "-q")
    (copy,) = run_json_one("path", "walrus")["paths"]
    size = Path(copy).stat().st_size
    found = run_json_one("rm", "-y", "walrus")
    assert found["freed_bytes"] == size
    assert found["done"] is True
    assert not Path(copy).exists()


@pytest.mark.usefixtures("gguf")
def test_local_names_are_completed() -> None:
    from click.shell_completion import ShellComplete

    complete = ShellComplete(hf, {}, "hf", "_HF_COMPLETE")
    offered = {item.value for item in complete.get_completions(["show"], "w")}
    assert offered == {"walrus"}
    assert "hf/local/tiny:Q8_0" in {item.value for item in complete.get_completions(["rm"], "HF/")}
    keys = complete.get_completions(["settings"], "keep_a")
    assert [item.value for item in keys] == ["keep_alive"]
    assert keys[0].help


def test_inspect_shows_the_header(gguf: Path) -> None:
    text = run("inspect", gguf).stdout
    for output in ("llama", "4,096 tokens", "yes, with tools", "GGUF 3, little-endian"):
        assert output in text
    assert "general.architecture" not in text
    assert re.search(r"general\.architecture +llama", run("inspect", "walrus", "--metadata").stdout)
    assert re.search(r"token_embd\.weight +\d+ x \d+ +F\d+", run("inspect", "walrus", "--tensors").stdout)
    assert "<|im_start|>" in run("inspect", "walrus", "--template").stdout
    assert run_json_one("inspect", "walrus", "--tensors")["tensors"][0]["name"]


def test_check_exits_with_1_on_errors(gguf: Path, tmp_path: Path) -> None:
    assert "no errors" in run("check", gguf).stdout
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf.read_bytes()[:-1000])
    done = run("check", broken, code=1)
    assert re.search(r"^error ", done.stdout, re.MULTILINE)
    report = run_json_one("check", broken, code=1)
    assert report["errors"] >= 1
    assert report["findings"][0]["code"] in done.stdout


@pytest.mark.parametrize("command", ["inspect", "check", "test"])
def test_paths_that_are_not_files_are_described(
    command: str, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    folder = run(command, gguf.parent, code=2).stderr
    assert f"Error: {gguf.parent} is a folder, not a file\nName a file, such as {gguf}\n" in folder
    for name, what in ((tmp_path / "empty", "a folder"), (tmp_path / "pipe", "a pipe"), ("/dev/null", "a device")):
        assert f"Error: {name} is {what}, not a file\n" in run(command, name, code=2).stderr
    monkeypatch.chdir(tmp_path)
    assert "empty is a folder, not a file\n" in run(command, "empty", code=2).stderr


@pytest.mark.parametrize("command", ["import", "inspect", "check", "test"])
def test_home_of_an_unknown_user_is_a_missing_file(command: str) -> None:
    assert "There is no file" in run(command, "~nobody-of-this-name/x.gguf", code=1).stderr


@pytest.mark.parametrize("words", [("",), ("model.gguf", "--mmproj", "")])
def test_empty_name_can_not_be_imported(words: tuple[str, ...]) -> None:
    assert "The file's name is empty." in run("import", *words, code=2).stderr


def test_unreadable_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(b"GGUFgarbage and more of it")
    output = run("inspect", tmp_path / "other.gguf", code=1).stderr
    assert output.startswith(f"Error: {tmp_path}/other.gguf: GGUF version ")


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_missing_file_is_not_treated_as_a_repo(command: str) -> None:
    assert "There is no file ./none.gguf" in run(command, "./none.gguf", code=1).stderr


def test_mistyped_file_of_an_existing_folder_is_not_requested_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    for command in ("check", "inspect"):
        assert "There is no file models/typo.gguf" in run(command, "models/typo.gguf", code=1).stderr
