"""Plan an import from another tool: read the headers of its models, and find those that are registered already."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.errors import HfModelsError, MissingFileError, UnknownModelError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.shards import find_shards
from llm_hf_models.gguf.validate import check_shards
from llm_hf_models.library.records import IMPORTED_FROM, LocalModel
from llm_hf_models.models import projector_choice
from llm_hf_models.models.identity import list_weight_digests
from llm_hf_models.models.local_files import hash_with_progress
from llm_hf_models.other_tools.registry import Tool, get_tool, search_tool
from llm_hf_models.other_tools.store_files import ADAPTER
from llm_hf_models.other_tools.types import FoundModel, StoreFolder, ToolImportPlan, ToolModels
from llm_hf_models.system.text import clean_text, suggest_word
from llm_hf_models.transfer.types import Progress

_LATEST = ":latest"


def find_models(context: Context, tool_name: str, progress: Progress) -> ToolModels:
    """Return the models in the store of a tool. Nothing is registered.

    A file is hashed only if a local model has a file of the same size.

    Raises:
        BadInputError: The tool is not supported.
    """
    folders, found = search_tool(get_tool(tool_name))
    seconds = context.settings().header_seconds
    with context.open_database() as db:
        local = db.list_models()
    read = [model if model.problem else read_header(model, seconds) for model in found]
    return ToolModels(tool_name, folders, tuple(_mark_identical(read, local, progress)))


def plan_import(
    context: Context, tool_name: str, names: Sequence[str], progress: Progress, *, identical: bool
) -> ToolImportPlan:
    """Return the models that an import from a tool registers: all of them, or those named.

    Args:
        context: The context with the library.
        tool_name: The tool.
        names: The tool's names for the models; empty for all.
        progress: Called with the progress of hashing.
        identical: Also register models whose files a local model has.

    Raises:
        BadInputError: The tool is not supported.
        MissingFileError: The tool has no store on this machine, or it can't be read.
        UnknownModelError: The tool has no model of a name.
    """
    tool = get_tool(tool_name)
    found = find_models(context, tool_name, progress)
    refuse_missing_store(tool, found.folders, has_models=bool(found.models))
    chosen = [select(found.models, name, tool) for name in dict.fromkeys(names)] if names else found.models
    usable = [model for model in chosen if model.problem is None and (identical or model.identical_to is None)]
    left_out = tuple(model for model in chosen if model not in usable)
    return ToolImportPlan(tool_name, found.folders, tuple(usable), left_out)


def refuse_missing_store(tool: Tool, folders: Sequence[StoreFolder], *, has_models: bool) -> None:
    """Raise an error if no model was found, and none of the folders exists and can be read."""
    if has_models or any(folder.state == "read" for folder in folders):
        return
    unreadable = [folder for folder in folders if folder.state == "not readable"]
    if unreadable:
        raise MissingFileError(
            f"The models of {tool.label} can't be read",
            cause="\n".join(f"{clean_text(folder.path)}: {folder.problem}" for folder in unreadable),
        )
    places = ", ".join(clean_text(folder.path) for folder in folders)
    raise MissingFileError(f"{tool.label} has no models here", cause=f"There is no folder {places}.", hint=tool.hint)


def select(models: Iterable[FoundModel], name: str, tool: Tool) -> FoundModel:
    """Return the model with a name, in any capitals. The tag `latest` can be left out.

    Raises:
        UnknownModelError: The tool has no such model.
    """
    by_name: dict[str, FoundModel] = {}
    for model in models:
        by_name.setdefault(model.name.casefold(), model)
    wanted = name.casefold()
    found = by_name.get(wanted) or by_name.get(f"{wanted}{_LATEST}")
    if found is None:
        known = [model.name for model in by_name.values()]
        listed = f"{tool.label} has: {', '.join(known[:20])}." if known else f"{tool.label} has no models."
        raise UnknownModelError(
            f"{tool.label} has no model {clean_text(name, 80)!r}", hint=f"{suggest_word(name, known)}{listed}"
        )
    return found


# The files


def read_header(found: FoundModel, seconds: float) -> FoundModel:
    """Return the model with the facts of its header, its projector and its size, or with the problem of its files."""
    path = Path(found.files[0])
    try:
        weights = find_shards(path)
        report = check_shards(weights, seconds=seconds)
        size = sum(shard.stat().st_size for shard in weights)
    except OSError as error:
        return replace(found, problem=f"It can't be read: {error.strerror}.")
    except HfModelsError as error:
        return replace(found, problem=f"{error.message}.")
    facts = report.header.facts if report.header else ModelFacts()
    found = replace(found, files=tuple(map(str, weights)), size_bytes=size, kind=facts.kind, quant=facts.quantization)
    errors = [finding.message for finding in report.findings if finding.severity == "error"]
    is_adapter = bool(report.header and report.header.metadata.get("general.type") == "adapter")
    if errors or is_adapter or facts.kind == "mmproj":
        problem = "It is a projector, not a model." if facts.kind == "mmproj" else f"It is not valid: {errors[:1]}"
        return replace(found, problem=ADAPTER if is_adapter else problem.replace("['", "").replace("']", ""))
    return _read_projector(found, weights, facts, seconds)


def _read_projector(found: FoundModel, weights: list[Path], facts: ModelFacts, seconds: float) -> FoundModel:
    """Return the model with the projector that fits it, or with a note about the one that does not."""
    try:
        if found.projector is None:
            chosen = projector_choice.find_in_folder(weights, seconds)[0] if found.may_find_projector else None
        else:
            chosen = Path(found.projector)
        if chosen is None:
            return found
        projector_choice.check_projector(chosen, facts, seconds)
    except OSError as error:
        reason = f"it can't be read: {error.strerror}"
    except HfModelsError as error:
        reason = (error.cause or error.message).split("\n")[0].rstrip(".")
    else:
        return replace(found, projector=str(chosen), size_bytes=found.size_bytes + chosen.stat().st_size)
    return replace(found, projector=None, notes=(*found.notes, f"its projector: {clean_text(reason)}"))


# The models that are registered already


def _mark_identical(found: Iterable[FoundModel], local: Sequence[LocalModel], progress: Progress) -> list[FoundModel]:
    """Return the models, each with the local model that has the same files.

    Names of one model, with the same files and settings, are one model with the aliases of all of them.
    """
    marked: list[FoundModel] = []
    first: dict[object, int] = {}
    for model in found:
        if model.problem is not None:
            marked.append(model)
            continue
        key = (model.sha256 or tuple(map(os.path.realpath, model.files)), model.projector, repr(model.options))
        if key not in first:
            first[key] = len(marked)
            marked.append(replace(model, identical_to=find_identical(local, model, progress)))
            continue
        original = marked[first[key]]
        aliases = tuple(dict.fromkeys((*original.aliases, *model.aliases)))
        marked[first[key]] = replace(original, aliases=aliases)
        marked.append(replace(model, identical_to=original.identical_to or original.name))
    return marked


def find_identical(local: Iterable[LocalModel], found: FoundModel, progress: Progress) -> str | None:
    """Return the id of the local model whose weights are the same bytes, or None.

    The weights are hashed only if a local model has weights of the same sizes.
    """
    paths = {os.path.realpath(path) for path in found.files}
    digests: set[str | None] = set()
    for model in sorted(local, key=lambda model: not _is_record_of(model, found)):
        weights = [file for file in model.files if file.role == "weights"]
        if not weights or _is_other_record(model, found):
            continue
        if {os.path.realpath(file.location) for file in weights} == paths and model.state != "missing":
            return model.model_id
        if sum(file.size for file in weights) != _measure(found) or len(weights) != len(found.files):
            continue
        digests = digests or _hash(found, progress)
        if digests == list_weight_digests(model):
            return model.model_id
    return None


def _get_source(model: LocalModel) -> tuple[object, object]:
    """Return the tool that a local model was imported from, and that tool's name for it."""
    source = model.hub.get(IMPORTED_FROM)
    return (source.get("tool"), source.get("name")) if isinstance(source, dict) else (None, None)


def _is_record_of(model: LocalModel, found: FoundModel) -> bool:
    """Return whether a local model was imported from this one."""
    return _get_source(model) == (found.tool, found.name)


def _is_other_record(model: LocalModel, found: FoundModel) -> bool:
    """Return whether a local model was imported from another model of the same tool, with other settings."""
    tool, name = _get_source(model)
    same = all(model.options.get(key) == value for key, value in found.options.items())
    return tool == found.tool and name != found.name and not same


def _measure(found: FoundModel) -> int:
    try:
        return sum(os.stat(path).st_size for path in found.files)  # noqa: PTH116
    except OSError:
        return -1


def _hash(found: FoundModel, progress: Progress) -> set[str | None]:
    if found.sha256:  # the import compares it with the file
        return {found.sha256}
    try:
        return {hash_with_progress(Path(path), Path(path).name, progress).sha256 for path in found.files}
    except OSError:
        return set()
