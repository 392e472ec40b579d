"""List the supported tools, and find the models of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llm_hf_models.errors import BadInputError
from llm_hf_models.other_tools import gpt4all, jan, llama_cpp, llm_gguf, lm_studio, ollama
from llm_hf_models.other_tools.store_files import StoreError, System, explain, open_folder
from llm_hf_models.other_tools.types import FoundModel, StoreFolder
from llm_hf_models.system.text import clean_text, suggest_word


@dataclass(frozen=True)
class Tool:
    """A tool with a store of models: its name for people, and the functions that read the store."""

    label: str
    list_folders: Callable[[System], list[Path]]
    read_store: Callable[[Path], Iterator[FoundModel]]
    hint: str = "If it keeps its models elsewhere, import that folder: llm hf import FOLDER"


TOOLS: dict[str, Tool] = {
    ollama.TOOL: Tool(
        "Ollama",
        ollama.list_folders,
        ollama.read_store,
        hint="If it keeps its models elsewhere, set OLLAMA_MODELS.",
    ),
    lm_studio.TOOL: Tool("LM Studio", lm_studio.list_folders, lm_studio.read_store),
    llama_cpp.TOOL: Tool(
        "llama.cpp",
        llama_cpp.list_folders,
        llama_cpp.read_store,
        hint="If its cache is elsewhere, set LLAMA_CACHE.",
    ),
    jan.TOOL: Tool(
        "Jan",
        jan.list_folders,
        jan.read_store,
        hint="If its data folder is elsewhere, set JAN_DATA_FOLDER.",
    ),
    gpt4all.TOOL: Tool("GPT4All", gpt4all.list_folders, gpt4all.read_store),
    llm_gguf.TOOL: Tool("llm-gguf", llm_gguf.list_folders, llm_gguf.read_store),
}


def get_tool(name: str) -> Tool:
    """Return a tool by its name.

    Raises:
        BadInputError: The tool is not supported.
    """
    if name in TOOLS:
        return TOOLS[name]
    hint = f"{suggest_word(name, TOOLS)}Supported: {', '.join(TOOLS)}."
    raise BadInputError(f"{clean_text(name, 40)!r} is not a supported tool", hint=hint)


def search_tool(tool: Tool, system: System | None = None) -> tuple[tuple[StoreFolder, ...], list[FoundModel]]:
    """Return the folders of a tool with their states, and the models in them. Their files are not read yet."""
    folders: list[StoreFolder] = []
    models: list[FoundModel] = []
    for path in tool.list_folders(system or System()):
        folder = open_folder(path)
        if folder.state == "read":
            folder = replace(folder, problem=_collect(tool.read_store(path), models))
        elif folder.path == ollama.SERVICE_FOLDER and folder.problem:
            folder = replace(folder, problem=f"{folder.problem} {ollama.SERVICE_HINT}")
        folders.append(folder)
    return tuple(folders), models


def _collect(found: Iterator[FoundModel], models: list[FoundModel]) -> str | None:
    """Add the models of a store to a list. Return why the rest of the store can't be read."""
    try:
        for model in found:
            models.append(model)  # noqa: PERF402 - those before an error are kept
    except StoreError as error:
        return str(error)
    except OSError as error:
        return explain(error)
    return None
