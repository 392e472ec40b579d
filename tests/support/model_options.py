"""A model's default options, as `llm hf show` lists them."""

from __future__ import annotations

import json
from typing import Any

from tests.support.commands import run


def read_defaults(name: str) -> dict[str, tuple[Any, str]]:
    found = json.loads(run("show", name, "--json").stdout)["defaults"]
    return {one["key"]: (one["value"], one["source"]) for one in found}
