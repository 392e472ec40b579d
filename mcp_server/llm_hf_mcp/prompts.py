"""Ready prompts for a host's menu, and completions for their arguments and for resource addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
from mcp_types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference
from pydantic import Field

from llm_hf_mcp.library_access import library
from llm_hf_mcp.rendering import titles
from llm_hf_models.errors import HfModelsError
from llm_hf_models.hub.types import SearchFilters
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

MAX_VALUES = 50
MAX_ARGUMENT_CHARS = 300
TASKS = ("text-generation", "feature-extraction", "image-text-to-text", "text-ranking", "automatic-speech-recognition")
LICENSES = ("apache-2.0", "mit", "llama3.1", "gemma", "bsd-3-clause", "cc-by-4.0", "openrail")


def choose_a_model(
    task: Annotated[str, Field(description="What it is for, in words")],
    memory: Annotated[str, Field(description="Memory it may take, such as 8GB; empty is this machine's")] = "",
    licence: Annotated[str, Field(description="Licence it must have, such as apache-2.0; empty is any")] = "",
) -> str:
    """Choose an open model for a task that fits this machine."""
    wanted = [f"Help me choose an open model that runs on this machine. It is for: {_given(task)}."]
    if memory:
        wanted.append(f"It may take {_given(memory)} of memory at most.")
    if licence:
        wanted.append(f"Its licence must be {_given(licence)}.")
    wanted.append(
        "Look at status and list_models first. Then search_models with fits=true, compare two or three candidates with "
        "get_model (quantizations that fit, licence, access, scans, how many use it), and recommend one with reasons. "
        "Download nothing before I agree."
    )
    return "\n".join(wanted)


def set_up_local_model(
    model: Annotated[str, Field(description="owner/name, with :QUANT if a certain one is wanted")],
) -> str:
    """Download a model, prove it, and show that it works."""
    return (
        f"Set up the model {_given(model)} on this machine: get_model to see what would be fetched and if it fits, "
        "download_model, get_downloads with wait_seconds until it is done, verify_model, and one short run_prompt. "
        "Then tell me its names, its size, what was checked, and the command `llm -m NAME` to talk to it."
    )


def _given(text: str) -> str:
    return clean_text(text, MAX_ARGUMENT_CHARS)


def add_to(server: MCPServer[Any]) -> None:
    """Registers prompts and completions."""
    server.prompt(name="choose-a-model", title="Choose a model")(choose_a_model)
    server.prompt(name="set-up-local-model", title="Set up a local model")(set_up_local_model)
    server.completion()(complete)  # type: ignore[no-untyped-call]  # the SDK's


async def complete(
    ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: CompletionContext | None
) -> Completion:
    """Values that go on from what was typed: repos, owners, quantizations, local names, ids of downloads."""
    about = ref.uri if isinstance(ref, ResourceTemplateReference) else ref.name
    given = (context.arguments if context else None) or {}
    found = _SOURCES.get((about, argument.name), _nothing)
    typed = clean_text(argument.value, MAX_ARGUMENT_CHARS)
    try:
        values = await anyio.to_thread.run_sync(lambda: list(found(typed, given)), abandon_on_cancel=True)
    except HfModelsError:
        values = []  # a completion is a help, and the call itself will say what is wrong
    return Completion(values=values[:MAX_VALUES], total=len(values), has_more=len(values) > MAX_VALUES)


def _nothing(typed: str, given: dict[str, str]) -> Iterable[str]:  # noqa: ARG001
    return ()


def _starting(values: Iterable[str], typed: str) -> list[str]:
    return [value for value in dict.fromkeys(values) if value.casefold().startswith(typed.casefold())]


def _local_names(typed: str, given: dict[str, str]) -> Iterable[str]:  # noqa: ARG001
    return _starting(titles(library().list()), typed)


def _downloads(typed: str, given: dict[str, str]) -> Iterable[str]:  # noqa: ARG001
    return _starting((str(row.id) for row in library().downloads(every=True)), typed)


def _repos(typed: str, given: dict[str, str]) -> Iterable[str]:  # noqa: ARG001
    repo, colon, _ = typed.partition(":")
    if colon:
        return _starting((f"{repo}:{variant.quant}" for variant in library().info(repo).variants), typed)
    owner, slash, name = typed.rpartition("/")
    page = library().search(name, SearchFilters(author=owner if slash else None, limit=MAX_VALUES))
    return [row.id for row in page.results]


def _owners(typed: str, given: dict[str, str]) -> Iterable[str]:  # noqa: ARG001
    page = library().search(typed, SearchFilters(limit=MAX_VALUES))
    return _starting((row.author for row in page.results), typed)


def _names(typed: str, given: dict[str, str]) -> Iterable[str]:
    page = library().search(typed, SearchFilters(author=given.get("owner"), limit=MAX_VALUES))
    return _starting((row.id.partition("/")[2] for row in page.results), typed)


def _fixed(values: Iterable[str]) -> Callable[[str, dict[str, str]], Iterable[str]]:
    return lambda typed, given: _starting(values, typed)  # noqa: ARG005


_SOURCES: dict[tuple[str, str], Callable[[str, dict[str, str]], Iterable[str]]] = {
    ("set-up-local-model", "model"): _repos,
    ("choose-a-model", "task"): _fixed(TASKS),
    ("choose-a-model", "licence"): _fixed(LICENSES),
    ("hf://library/{name}", "name"): _local_names,
    ("hf://downloads/{id}", "id"): _downloads,
    ("hf://models/{owner}/{name}", "owner"): _owners,
    ("hf://models/{owner}/{name}", "name"): _names,
    ("hf://models/{owner}/{name}/card", "owner"): _owners,
    ("hf://models/{owner}/{name}/card", "name"): _names,
}
