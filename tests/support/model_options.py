"""A model's default options, as `llm hf show` lists them."""

from __future__ import annotations

from typing import Any

from tests.support.commands import run_json_one


def read_defaults(name: str) -> dict[str, tuple[Any, str]]:
    found = run_json_one("show", name)["defaults"]
    return {one["key"]: (one["value"], one["source"]) for one in found}
