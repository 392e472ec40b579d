"""server.json, the server's entry in the MCP registry: it is valid, it is ours, and its command starts the server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.folders import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VALIDATOR = "skillsaw==0.22.0"  # a package with the registry's published schemas


def read_listing() -> dict[str, Any]:
    listed: dict[str, Any] = json.loads((ROOT / "server.json").read_text("utf-8"))
    return listed


def read_project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def test_listing_has_this_version_and_the_form_of_the_registry() -> None:
    listed, (package,) = read_listing(), read_listing()["packages"]
    assert listed["version"] == package["version"] == read_project()["version"]
    assert re.fullmatch(r"[a-z0-9.-]+/[a-z0-9._-]+", listed["name"])
    assert 1 <= len(listed["description"]) <= 100
    assert 1 <= len(listed["title"]) <= 100
    assert package["registryType"] == "pypi"
    assert package["transport"] == {"type": "stdio"}
    assert [each["name"] for each in package["environmentVariables"] if each.get("isSecret")] == ["HF_TOKEN"]


def test_clients_that_start_the_package_by_name_start_the_server() -> None:
    """They run `uvx IDENTIFIER`, so no other command can be named."""
    (package,) = read_listing()["packages"]
    assert package["identifier"] == read_project()["name"]
    assert not {"runtimeArguments", "packageArguments"} & package.keys()
    scripts = read_project()["scripts"]
    assert scripts[package["identifier"]] == scripts["llm-hf-mcp"] == "llm_hf_mcp.main:main"


def test_readme_has_the_ownership_mark_of_the_registry() -> None:
    readme = (ROOT / read_project()["readme"]).read_text("utf-8")
    assert f"<!-- mcp-name: {read_listing()['name']} -->" in readme.splitlines()


@pytest.mark.storm
def test_schema_of_the_registry_finds_nothing_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), VALIDATOR]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the package index can't be reached: {done.stderr[-200:]}")
    schemas = [json.loads(path.read_text("utf-8")) for path in tmp_path.rglob("mcp_registry/*/server.schema.json")]
    (schema,) = [each for each in schemas if each["$id"] == read_listing()["$schema"]]
    jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker()).validate(read_listing())
