"""Rules for the tests themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.folders import TESTS

MAX_NAME_LENGTH = 70
MODULES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(TESTS.rglob("test_*.py"))}


def find_imports(module: ast.Module) -> Iterator[str]:
    """Yield the full name of each module, or member of a module, that this one imports anywhere."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_test_module(name: str) -> bool:
    return name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))


def find_breaches() -> Iterator[tuple[Path, str]]:
    for path, module in MODULES.items():
        for name in find_imports(module):
            if is_test_module(name):
                yield path.relative_to(TESTS), name


def test_no_test_module_imports_from_another() -> None:
    assert MODULES
    assert list(find_breaches()) == [], "move what they share to tests/support"


def test_names_of_tests_are_short_sentences() -> None:
    names = {
        node.name
        for module in MODULES.values()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }
    assert sorted(name for name in names if len(name) > MAX_NAME_LENGTH) == []
