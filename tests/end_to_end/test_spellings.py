"""Names of variants and files, in any spelling, in the service, the commands and `llm -m`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.errors import FileNotFoundInRepoError, QuantNotFoundError
from tests.support.commands import run, run_json, run_llm
from tests.support.ggufs import ANSWER, tiny_chat
from tests.support.hub_server import HubServer, run_hub

REPO = "acme/Walrus-GGUF"
Q8, F16 = "Walrus.Q8_0.gguf", "Walrus-fp16.gguf"
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
    with pytest.raises(QuantNotFoundError):
        library.plan(f"{REPO}:Q2_K")
    with pytest.raises(FileNotFoundInRepoError):
        library.plan(f"{REPO}:none.gguf")


def test_local_model_is_found_in_each_spelling() -> None:
    model_id = run_json("pull", f"{REPO}:FP16")["model_id"]
    run("pull", f"{REPO}:Q8_0")
    assert model_id == f"hf/{REPO}:F16"
    for name in (f"{REPO}:fp16", "Walrus:FP16", "walrus:f16", f"hf/{REPO}:Walrus-fp16", f"hf.co/{REPO}:F16", F16):
        assert Library().show(name).model_id == model_id, name
    assert run("show", f"{REPO}:Q4_K_M", code=None).exit_code == 1
    names = ("w1", f"{REPO}:fp16"), ("w2", "Walrus:FP16"), ("w3", "Walrus-fp16.gguf"), ("w4", model_id)
    for alias, name in names:
        run_llm("aliases", "set", alias, name)
    aliases = json.loads(run_llm("aliases", "list", "--json").stdout)
    assert [aliases[alias] for alias, _ in names] == [model_id] * 4
    assert "fp16" not in run_llm("models").stdout
    assert "Unknown model" in run_llm("-m", f"{REPO}:Q2_K", "hello").stderr
    assert run_llm("-m", f"{REPO}:fp16", "hello").stdout.strip() == ANSWER
