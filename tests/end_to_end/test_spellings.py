"""Names of variants and files, in any spelling, in the service, the commands and `llm -m`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.errors import FileNotFoundInRepoError, NoGgufError, QuantNotFoundError
from tests.support.commands import run, run_json_one, run_llm
from tests.support.ggufs import ANSWER, tiny_chat
from tests.support.hub_server import HubServer, run_hub

REPO = "acme/Walrus-GGUF"
Q8, F16 = "Walrus.Q8_0.gguf", "Walrus-fp16.gguf"
RESERVED, TOO_LONG = "'aux' is a reserved name", "has more than 255 bytes"
FORBIDDEN = "A file's path has no control characters, backslashes or any of <>:\"|?*"
XL, DRAFT = "UD-Q4_K_XL/tugão-UD-Q4_K_XL.gguf", "MTP/Walrus-Q8_0-MTP.gguf"


pytestmark = pytest.mark.usefixtures("hub")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with run_hub(monkeypatch) as hub:
        paths = (Q8, F16, XL, DRAFT, "Walrus-I-Balanced.gguf")
        hub.add_repo(REPO, {path: tiny_chat(tmp_path / f"{n}.gguf", seed=n) for n, path in enumerate(paths)})
        yield hub


def test_pull_accepts_each_spelling_of_a_variant_and_each_name_of_a_file() -> None:
    spellings = {
        Q8: ("Q8_0", "q8_0", "Walrus.Q8_0", "Walrus.Q8_0.gguf", "walrus.q8_0.GGUF"),
        F16: ("F16", "fp16", "FP16", "Walrus-fp16", "Walrus-fp16.gguf"),
        XL: ("UD-Q4_K_XL", "Q4_K_XL", XL, "UD-Q4_K_XL/tugão-UD-Q4_K_XL", "tugão-UD-Q4_K_XL", "tugão-UD-Q4_K_XL.gguf"),
        "Walrus-I-Balanced.gguf": ("I-Balanced", "i-balanced", "Walrus-I-Balanced"),
    }
    library = Library()
    for path, texts in spellings.items():
        for text in texts:
            assert library.plan(f"{REPO}:{text}").weights == (path,), text
    for text in (DRAFT, "Walrus-Q8_0-MTP", "Walrus-Q8_0-MTP.gguf"):
        plan = library.plan(f"{REPO}:{text}")
        assert (plan.model_id, [file.path for file in plan.files]) == (None, [DRAFT])
    assert library.plan(f"hf.co/{REPO}:latest").weights == library.plan(REPO).weights
    with pytest.raises(QuantNotFoundError):
        library.plan(f"{REPO}:Q2_K")
    with pytest.raises(FileNotFoundInRepoError):
        library.plan(f"{REPO}:none.gguf")


def test_local_model_is_found_in_each_spelling() -> None:
    model_id = run_json_one("pull", f"{REPO}:FP16")["id"]
    run("pull", f"{REPO}:Q8_0")
    assert model_id == f"hf/{REPO}:F16"
    for name in (f"{REPO}:fp16", "Walrus:FP16", "walrus:f16", f"hf/{REPO}:Walrus-fp16", f"hf.co/{REPO}:F16", F16):
        assert Library().show(name).id == model_id, name
    assert run("show", f"{REPO}:Q4_K_M", code=None).exit_code == 1
    names = ("w1", f"{REPO}:fp16"), ("w2", "Walrus:FP16"), ("w3", "Walrus-fp16.gguf"), ("w4", model_id)
    for alias, name in names:
        run_llm("aliases", "set", alias, name)
    aliases = json.loads(run_llm("aliases", "list", "--json").stdout)
    assert [aliases[alias] for alias, _ in names] == [model_id] * 4
    assert "fp16" not in run_llm("models").stdout
    assert "Unknown model" in run_llm("-m", f"{REPO}:Q2_K", "hello").stderr
    assert run_llm("-m", f"{REPO}:fp16", "hello").stdout.strip() == ANSWER


def test_files_left_out_because_of_their_names_are_listed(hub: HubServer, tmp_path: Path) -> None:
    paths = (
        "aux/odd-Q8_0.gguf",
        "what?-Q6_K.gguf",
        "a:b-Q5_K_M.gguf",
        "dot./odd-Q5_K_S.gguf",
        f"{'x' * 246}-Q4_1.gguf",
    )
    files = {path: tiny_chat(tmp_path / f"odd{n}.gguf", seed=n) for n, path in enumerate((*paths, "odd-Q4_0.gguf"))}
    hub.add_repo("acme/odd", {**files, "imatrix.gguf": "GGUF", "con.txt": "x"})
    info, plan = Library().info("acme/odd"), Library().plan("acme/odd")
    assert [variant.quant for variant in info.variants] == ["Q4_0"]
    for path, reason in zip(paths, (RESERVED, FORBIDDEN, FORBIDDEN, "'dot.' ends with a dot", TOO_LONG), strict=True):
        (line,) = [line for line in plan.unusable if path[:20] in line]
        assert line.endswith(reason)
        assert f"Left out {line}" in info.notes
    assert "Not a variant: imatrix.gguf: an importance matrix" in info.notes
    assert plan.unusable[0] in run("pull", "acme/odd", "--dry-run").stdout
    with pytest.raises(QuantNotFoundError) as caught:
        Library().plan("acme/odd:Q8_0")
    assert "aux/odd-Q8_0.gguf: 'aux' is a reserved name" in str(caught.value.cause)
    assert hub.count(side="storage", method="GET") == 1  # the header of the chosen file


def test_repo_without_a_usable_model_says_what_its_files_are(hub: HubServer, tmp_path: Path) -> None:
    adapter = tiny_chat(tmp_path / "adapter.gguf")
    hub.add_repo("acme/parts", {"nul.gguf": adapter, "style-lora-F16.gguf": adapter})
    with pytest.raises(NoGgufError) as caught:
        Library().plan("acme/parts")
    assert caught.value.cause == "nul.gguf: 'nul.gguf' is a reserved name\nstyle-lora-F16.gguf: an adapter (LoRA)"


def test_file_with_a_name_of_255_bytes_is_pulled(hub: HubServer, tmp_path: Path) -> None:
    names = [f"{'w' * 245}-Q8_0.gguf", f"{'ü' * 122}-Q4_0.gguf", f"{'d' * 255}/{'m' * 240}-Q5_0.gguf"]
    hub.add_repo("acme/long", {name: tiny_chat(tmp_path / f"l{n}.gguf", seed=n) for n, name in enumerate(names)})
    for name in names:
        pulled = run_json_one("pull", f"acme/long:{name}")
        assert [Path(file).name for file in pulled["files"]] == [name.rpartition("/")[2]]
        assert Library().show(pulled["id"]).state == "ready"
    target = tmp_path / "target"
    run("pull", f"acme/long:{names[0]}", "--to", target)
    assert (target / names[0]).is_file()
