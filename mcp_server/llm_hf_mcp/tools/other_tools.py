"""The tool for models that other programs have on this machine."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from mcp_types import CallToolResult
from pydantic import Field

from llm_hf_mcp.answers import build_result, call, measure_room, select_page
from llm_hf_mcp.foreign_text import measure
from llm_hf_mcp.library_access import OpenLibrary
from llm_hf_mcp.results import ImportModelResult, Totals
from llm_hf_mcp.texts.other_tools import format_import
from llm_hf_mcp.tools.hub import Cursor

Program = Annotated[
    Literal["ollama", "lmstudio", "llamacpp", "jan", "gpt4all", "llm-gguf"],
    Field(description="The program that downloaded the models"),
]
MAX_ROWS = 50
MAX_WARNINGS = 3
RESERVED_CHARS = 600  # for the next step and the labels


async def import_model(
    library: OpenLibrary,
    program: Program,
    name: Annotated[
        str | None, Field(max_length=300, description="The program's name for the model; omit it to list the models")
    ] = None,
    cursor: Cursor = None,
) -> CallToolResult:
    """List the models that another program has on this machine, or register one of them without downloading it.

    Use it before hf_download_model if the user has such a program. The file stays where it is, and is never modified or
    removed. `problem` says why a model can't be registered, and `identical_to` which local model has the same files.
    The program's parameters and system prompt become options of the model. A large file is hashed first: if the call
    ends before that, the work continues in the background, and hf_list_models shows the model.
    """
    if name is not None:
        done = await call(library.import_from, program, [name])
        imported = done.imported[0] if done.imported else None
        found = ImportModelResult(
            done.left_out, imported, totals={"models": Totals(len(done.left_out), len(done.left_out))}
        )
        return build_result(found, partial(format_import, program=program, warnings=[]))
    listed = await call(library.find_in_other_tools, program)
    warnings = [f"{folder.path}: {folder.problem}" for folder in listed.folders if folder.problem][:MAX_WARNINGS]
    totals = {"models": Totals(len(listed.models), 0, sum(model.size_bytes for model in listed.models))}
    room = measure_room(ImportModelResult((), totals=totals), reserved=RESERVED_CHARS + measure(warnings))
    rows, after = select_page(listed.models, cursor, limit=MAX_ROWS, room=room, kind="")
    totals = {"models": Totals(len(listed.models), len(rows), totals["models"].size_bytes)}
    found = ImportModelResult(rows, next_cursor=after, totals=totals)
    return build_result(found, partial(format_import, program=program, warnings=warnings))
