"""The schemas of the tools in the SDKs that hosts are built with, and arguments as agents really write them."""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.support import mcp_hub
from tests.support.json_names import list_misnamed_fields
from tests.support.mcp_hosts import call_refused, call_tool, connect_stdio, run_async
from tests.support.mcp_hub import REPO
from tests.support.other_tools import add_ollama_model

hub = mcp_hub.hub

AJV = """
const drafts = { "draft-07": require("ajv").default, "2020-12": require("ajv/dist/2020").default };
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
for (const [draft, Ajv] of Object.entries(drafts)) for (const [name, schema, values] of cases) {
  const ajv = new Ajv({ strict: true, strictTuples: true, strictRequired: true, allErrors: true });
  try {
    const validate = ajv.compile(schema);
    for (const value of values)
      if (!validate(value)) console.log(draft, name, JSON.stringify(validate.errors.slice(0, 3)));
  } catch (error) { console.log(draft, name, error.message); }
}
"""
# Keywords with the same meaning in drafts 7 and 2020-12, which SDKs of hosts know.
KEYWORDS = {
    "$defs", "$ref", "additionalProperties", "anyOf", "const", "default", "description", "enum", "exclusiveMinimum",
    "items", "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum", "properties", "required", "title",
    "type",
}  # fmt: skip


def list_keywords(schema: Any) -> Iterator[str]:
    """Yield the keywords of a schema and of the schemas in it."""
    if not isinstance(schema, dict):
        return
    yield from schema
    for named in (schema.get("properties", {}), schema.get("$defs", {})):
        for one in named.values():
            yield from list_keywords(one)
    for one in (schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", ())):
        yield from list_keywords(one)


async def collect_calls(client: Client) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Call every tool, and return its name, arguments and structured content."""
    local, everything = f"hf/{REPO}:Q4_K_M", {"metadata": True, "tensors": True, "template": True}
    add_ollama_model("mario:latest", "You are Mario.")
    calls: list[tuple[str, dict[str, Any]]] = [
        ("hf_search_models", {"query": "tiny", "max_params": 8, "license": "MIT", "task": "chat"}),
        ("hf_get_model", {"repo": REPO, "files": True, "card": True}),
        ("hf_inspect_gguf", {"model": REPO, **everything}),
        ("hf_download_model", {"ref": REPO, "wait_seconds": 45}),
        ("hf_get_downloads", {"id": 1}),
        ("hf_list_models", {}),
        *(
            (name, {**arguments, "verbosity": level})
            for level in ("short", "full")
            for name, arguments in (
                ("hf_search_models", {"query": "tiny"}),
                ("hf_get_model", {"repo": REPO, "files": True}),
                ("hf_get_downloads", {"finished": True}),
                ("hf_list_models", {"sort": "unused"}),
            )
        ),
        ("hf_verify_model", {"name": local}),
        ("hf_run_prompt", {"name": local, "prompt": "Hello", "max_tokens": 10}),
        ("hf_edit_aliases", {"name": local, "add": ["another"]}),
        ("hf_edit_collection", {"action": "create", "name": "coding/small", "note": "for work"}),
        ("hf_edit_collection", {"action": "add", "name": "coding", "members": [local], "role": "best"}),
        ("hf_list_collections", {}),
        ("hf_list_collections", {"name": "coding"}),
        ("hf_edit_collection", {"action": "delete", "name": "coding", "confirm": "coding"}),
        ("hf_lock_models", {}),
        ("hf_sync_lockfile", {"lockfile": "version = 1", "prune": False}),
        ("hf_import_model", {"program": "ollama"}),
        ("hf_import_model", {"program": "ollama", "name": "Mario"}),
        ("hf_update_model", {"name": local}),
        ("hf_status", {}),
        ("hf_get_disk_usage", {"by": "repo"}),
        ("hf_prune_models", {"unused_days": 90}),
        ("hf_delete_model", {"name": local, "confirm": local}),
    ]
    return [(name, arguments, await call_tool(client, name, **arguments)) for name, arguments in calls]


@pytest.mark.usefixtures("hub")
@run_async
async def test_inputs_and_outputs_of_every_tool_follow_their_schemas() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    async with connect_stdio("--allow-delete") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        calls = await collect_calls(client)
    assert {name for name, _, _ in calls} == tools.keys() - {"hf_control_download"}
    for name, arguments, output in calls:
        for schema, value in ((tools[name].input_schema, arguments), (tools[name].output_schema, output)):
            jsonschema.Draft202012Validator.check_schema(schema)
            jsonschema.Draft202012Validator(schema).validate(value)


@run_async
async def test_schemas_are_valid_in_drafts_7_and_2020_12() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    async with connect_stdio("--allow-delete") as client:
        for tool in (await client.list_tools()).tools:
            for schema in (tool.input_schema, tool.output_schema):
                assert set(list_keywords(schema)) <= KEYWORDS, tool.name
                for validator in (jsonschema.Draft7Validator, jsonschema.Draft202012Validator):
                    validator.check_schema(schema)
            assert list(list_misnamed_fields(tool.output_schema or {}, tool.name)) == []


@run_async
async def test_google_sdk_accepts_every_tool() -> None:
    pytest.importorskip("google.genai")
    from google.genai import _mcp_utils, types

    async with connect_stdio("--allow-delete") as client:
        tools = (await client.list_tools()).tools
    for tool in tools:
        (declared,) = _mcp_utils.mcp_to_gemini_tool(tool).function_declarations or ()
        properties = (declared.parameters and declared.parameters.properties) or {}
        assert properties.keys() == tool.input_schema["properties"].keys()
        output = _mcp_utils._filter_to_supported_schema(tool.output_schema or {})
        types.Schema.from_json_schema(json_schema=types.JSONSchema(**output))


@pytest.mark.parametrize("strict", [False, True])
@run_async
async def test_openai_agents_sdk_accepts_every_tool(strict: bool) -> None:
    pytest.importorskip("agents")
    from agents.strict_schema import ensure_strict_json_schema

    async with connect_stdio("--allow-delete") as client:
        tools = (await client.list_tools()).tools
    for tool in tools:
        schema = copy.deepcopy(tool.input_schema)
        closed = ensure_strict_json_schema(schema) if strict else schema
        assert closed["properties"].keys() == tool.input_schema["properties"].keys()


async def collect_cases() -> list[tuple[str, Any, list[Any]]]:
    """Return every schema with values that must follow it."""
    async with connect_stdio("--allow-delete") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        calls = await collect_calls(client)
    cases: list[tuple[str, Any, list[Any]]] = []
    for name, arguments, output in calls:
        cases += [(name, tools[name].input_schema, [arguments]), (name, tools[name].output_schema, [output])]
    return cases


@pytest.mark.storm
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("hub")
def test_ajv_validates_every_input_and_output(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    (tmp_path / "package.json").write_text("{}", encoding="utf-8")
    install = [npm, "install", "--silent", "ajv@8"]
    if subprocess.run(install, cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("the npm registry can't be reached")
    cases = asyncio.run(collect_cases())
    (tmp_path / "validate.js").write_text(AJV, encoding="utf-8")
    done = subprocess.run(
        ["node", "validate.js"], cwd=tmp_path, input=json.dumps(cases), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.usefixtures("hub")
@run_async
async def test_null_is_accepted_for_every_optional_argument() -> None:
    async with connect_stdio() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        for name, given in (("hf_search_models", {}), ("hf_get_model", {"repo": REPO}), ("hf_list_models", {})):
            nulls = dict.fromkeys(tools[name].input_schema["properties"])
            plain, sent = await call_tool(client, name, **given), await call_tool(client, name, **{**nulls, **given})
            assert {**sent, "freshness": None} == {**plain, "freshness": None}
        words = await call_refused(client, "hf_get_model", repo=None)
    assert words.startswith("hf_get_model: repo")


@pytest.mark.usefixtures("hub")
@run_async
async def test_every_parameter_is_described() -> None:
    async with connect_stdio("--allow-delete") as client:
        for tool in (await client.list_tools()).tools:
            for name, schema in tool.input_schema["properties"].items():
                assert len(schema.get("description", "")) > 10, (tool.name, name)


@pytest.mark.usefixtures("hub")
@run_async
async def test_counts_licences_and_tasks_are_understood_as_agents_write_them() -> None:
    async with connect_stdio() as client:
        for arguments in (
            {"max_params": 8}, {"max_params": "8 billion"}, {"max_params": "8B"}, {"max_params": "8"},
            {"max_params": 0.5}, {"max_params": 8_000_000_000}, {"max_params": "100 million parameters"},
            {"license": "MIT License"}, {"license": "mit"}, {"task": "chat"}, {"task": "Text Generation"},
        ):  # fmt: skip
            found = await call_tool(client, "hf_search_models", query="tiny", **arguments)
            assert [row["id"] for row in found["results"]] == [REPO], arguments
        for arguments in ({"license": "Apache 2.0"}, {"task": "embeddings"}, {"max_params": "1K"}):
            assert (await call_tool(client, "hf_search_models", query="tiny", **arguments))["results"] == []
        assert "'text-generation'" in await call_refused(client, "hf_search_models", task="text-generatoin")
        assert "Known: text-generation" in await call_refused(client, "hf_search_models", task="xyzzy")
        assert "'apache-2.0'" in await call_refused(client, "hf_search_models", license="apachy 2.0!")
        assert "Did you mean 'query'" in await call_refused(client, "hf_search_models", querry="tiny")
