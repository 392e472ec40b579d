"""Prompts for a host's menu, and completions for their arguments and for the URIs of resources."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

from mcp_types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference
from pydantic import Field

from llm_hf_mcp import hidden_tools
from llm_hf_mcp.answers import run_in_time
from llm_hf_mcp.library_access import open_library
from llm_hf_mcp.texts.local import list_names
from llm_hf_mcp.vocabulary import LICENSES, TASKS
from llm_hf_models.errors import HfModelsError
from llm_hf_models.hub.types import SearchFilters
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

MAX_VALUES = 50
MAX_ARGUMENT_CHARS = 300


def choose_a_model(
    task: Annotated[str, Field(description="What the model is for, in plain words")],
    memory: Annotated[str, Field(description="Memory limit, such as 8GB (default: this machine's memory)")] = "",
    licence: Annotated[str, Field(description="Required licence, such as apache-2.0 (default: any)")] = "",
) -> str:
    """Choose an open model for a task that fits this machine."""
    lines = [f"Help me choose an open model that runs on this machine. I need it for: {_clean_argument(task)}."]
    if memory:
        lines.append(f"It may use at most {_clean_argument(memory)} of memory.")
    if licence:
        lines.append(f"Its licence must be {_clean_argument(licence)}.")
    lines.append(
        "Call hf_status and hf_list_models first. Then call hf_search_models with fits=true, compare two or three "
        "candidates with hf_get_model (quantizations that fit, licence, access, scans, downloads), and recommend one "
        "with reasons. "
        "Don't download anything before I agree."
    )
    return "\n".join(lines)


def set_up_local_model(
    model: Annotated[str, Field(description="owner/name, or owner/name:QUANT for a specific quantization")],
) -> str:
    """Download a model, verify it, and show that it works."""
    return (
        f"Set up the model {_clean_argument(model)} on this machine: hf_get_model to see its "
        "size and whether it fits, hf_download_model, hf_get_downloads with wait_seconds until it is done, "
        "hf_verify_model, and hf_run_prompt with one short prompt. Then report its names, its size, the results of the "
        "checks, and the command to prompt it: `llm -m NAME`."
    )


def _clean_argument(text: str) -> str:
    return clean_text(text, MAX_ARGUMENT_CHARS)


def register_prompts(server: MCPServer[Any]) -> None:
    """Register the prompts and completions."""
    server.prompt(name="choose-a-model", title="Choose a model")(choose_a_model)
    if not hidden_tools.is_hidden("hf_download_model"):  # the prompt is about that tool
        server.prompt(name="set-up-local-model", title="Set up a local model")(set_up_local_model)
    server.completion()(complete)  # type: ignore[no-untyped-call]  # the SDK's


async def complete(
    ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: CompletionContext | None
) -> Completion:
    """Return values that complete an argument: repos, owners, quantizations, local names, download ids."""
    about = ref.uri if isinstance(ref, ResourceTemplateReference) else ref.name
    given = (context.arguments if context else None) or {}
    suggest = _COMPLETERS.get((about, argument.name), _suggest_nothing)
    typed = clean_text(argument.value, MAX_ARGUMENT_CHARS)
    try:
        values = await run_in_time(lambda: list(suggest(typed, given)))
    except HfModelsError:
        values = []  # completions are optional, and the call itself reports the error
    return Completion(values=values[:MAX_VALUES], total=len(values), has_more=len(values) > MAX_VALUES)


def _suggest_nothing(typed: str, given: dict[str, str]) -> Iterable[str]:  # noqa: ARG001
    return ()


def _filter_by_prefix(values: Iterable[str], typed: str) -> list[str]:
    return [value for value in dict.fromkeys(values) if value.casefold().startswith(typed.casefold())]


def _suggest_local_names(typed: str, given: dict[str, str]) -> Iterable[str]:  # noqa: ARG001
    return _filter_by_prefix(list_names(open_library().list()), typed)


def _suggest_download_ids(typed: str, given: dict[str, str]) -> Iterable[str]:  # noqa: ARG001
    return _filter_by_prefix((str(row.id) for row in open_library().downloads(include_finished=True)), typed)


def _suggest_repos(typed: str, given: dict[str, str]) -> Iterable[str]:  # noqa: ARG001
    repo, colon, _ = typed.partition(":")
    if colon:
        return _filter_by_prefix((f"{repo}:{variant.quant}" for variant in open_library().info(repo).variants), typed)
    owner, slash, name = typed.rpartition("/")
    page = open_library().search(name, SearchFilters(author=owner if slash else None, limit=MAX_VALUES))
    return [row.id for row in page.results]


def _suggest_owners(typed: str, given: dict[str, str]) -> Iterable[str]:  # noqa: ARG001
    page = open_library().search(typed, SearchFilters(limit=MAX_VALUES))
    return _filter_by_prefix((row.author for row in page.results), typed)


def _suggest_repo_names(typed: str, given: dict[str, str]) -> Iterable[str]:
    page = open_library().search(typed, SearchFilters(author=given.get("owner"), limit=MAX_VALUES))
    return _filter_by_prefix((row.id.partition("/")[2] for row in page.results), typed)


def _suggest_from(values: Iterable[str]) -> Callable[[str, dict[str, str]], Iterable[str]]:
    return lambda typed, given: _filter_by_prefix(values, typed)  # noqa: ARG005


_COMPLETERS: dict[tuple[str, str], Callable[[str, dict[str, str]], Iterable[str]]] = {
    ("set-up-local-model", "model"): _suggest_repos,
    ("choose-a-model", "task"): _suggest_from(TASKS),
    ("choose-a-model", "licence"): _suggest_from(LICENSES),
    ("hf://library/{name}", "name"): _suggest_local_names,
    ("hf://downloads/{id}", "id"): _suggest_download_ids,
    ("hf://models/{owner}/{name}", "owner"): _suggest_owners,
    ("hf://models/{owner}/{name}", "name"): _suggest_repo_names,
    ("hf://models/{owner}/{name}/card", "owner"): _suggest_owners,
    ("hf://models/{owner}/{name}/card", "name"): _suggest_repo_names,
}
