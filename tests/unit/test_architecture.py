"""Rules for the whole package: docstrings, start-up cost, dependencies."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from llm_hf_models.library.database import Database
from tests.conftest import Home
from tests.support.folders import ROOT
from tests.support.models import make_model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
PACKAGE = ROOT / "llm_hf_models"
HEAVY = {
    "huggingface_hub", "urllib3", "gguf", "numpy", "keyring", "mcp", "xllamacpp", "rich", "psutil", "jinja2",
    "cryptography", "starlette", "uvicorn",
}  # fmt: skip


def refuse(rule: str, breaches: Iterable[object]) -> None:
    reported = "\n  ".join(str(breach) for breach in breaches)
    assert not reported, f"{rule}\n  {reported}"


def test_every_module_has_a_docstring() -> None:
    refuse(
        "A module's first line says what it is for",
        (
            path.relative_to(ROOT)
            for path in sorted(PACKAGE.rglob("*.py"))
            if (source := path.read_text("utf-8")) and not ast.get_docstring(ast.parse(source))
        ),
    )


def test_only_the_top_package_has_code_in_its_init_file() -> None:
    below = [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    refuse("An __init__.py below the top is empty", (path.relative_to(ROOT) for path in below if path.stat().st_size))


ASK = """
import sys
import llm
before = set(sys.modules)
import llm_hf_models.plugin as plugin
found = []
plugin.register_models(lambda model, *others, **options: found.append(model.model_id), [])
plugin.register_embedding_models(lambda model, *others, **options: found.append(model.model_id))
print(len(found))
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_loading_the_plugin_imports_nothing_heavy(home: Home) -> None:
    with Database(home.llm / "hf/library.db") as db:
        db.register(make_model())
    answer = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    count, imported = answer.stdout.splitlines()
    assert count == "1"
    refuse("The plugin is light", HEAVY & set(imported.split()))


def _requirements(lines: Iterable[str], extras: Iterable[str]) -> Iterator[Requirement]:
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def test_installation_does_not_require_numpy() -> None:
    """numpy would cost every `llm` command 0.2 s, because sqlite-utils imports it if it is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [(requirement, "llm-hf-models") for requirement in _requirements(project["dependencies"], ())]
    seen: dict[tuple[str, frozenset[str]], str] = {}
    while waiting:
        requirement, asker = waiting.pop()
        key = (requirement.name.lower().replace("_", "-"), frozenset(requirement.extras))
        if key in seen:
            continue
        seen[key] = asker
        try:
            lines = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            pytest.fail(f"{requirement.name}, which {asker} requires, is not installed, so this can't be checked")
        waiting += [(inner, requirement.name) for inner in _requirements(lines, requirement.extras)]
    assert ("llm", frozenset()) in seen
    refuse(
        "numpy is no run-time requirement",
        (f"{by} requires {key[0]}" for key, by in seen.items() if key[0] in ("numpy", "gguf")),
    )
