"""Register the models of other tools in place, with their settings as options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    AccessError,
    BadInputError,
    DigestMismatchError,
    HfModelsError,
    InterruptedByUserError,
    NotFoundError,
)
from llm_hf_models.hub.refs import parse_alias
from llm_hf_models.inference.protocol.options import validate_for_model
from llm_hf_models.models import local_models, names
from llm_hf_models.models.default_options import set_options
from llm_hf_models.models.import_file import ToolRecord, import_file
from llm_hf_models.models.types import ImportResult, LocalModelView
from llm_hf_models.other_tools.plan import plan_import
from llm_hf_models.other_tools.registry import TOOLS
from llm_hf_models.other_tools.types import FoundModel, ImportedModel, ToolImport
from llm_hf_models.system.text import clean_text
from llm_hf_models.transfer.types import Progress

MAX_UNANSWERED = 2  # requests in a row, after which the Hub is not asked about the other models


def import_models(
    context: Context,
    tool_name: str,
    selected: Sequence[str],
    progress: Progress,
    *,
    identical: bool,
    aliases: Sequence[str] = (),
) -> ToolImport:
    """Register the models of a tool where they are. If one fails, the others are still registered.

    Args:
        context: The context with the library.
        tool_name: The tool.
        selected: The tool's names for the models; empty for all.
        progress: Called with the progress of hashing.
        identical: Also register models whose files a local model has.
        aliases: The aliases of the model, if only one is registered.

    Raises:
        BadInputError: The tool is not supported, or aliases were given for several models.
        MissingFileError: The tool has no store on this machine, or it can't be read.
        UnknownModelError: The tool has no model of a name.
    """
    plan = plan_import(context, tool_name, selected, progress, identical=identical)
    if aliases and len(plan.models) > 1:
        raise BadInputError(f"An alias is for one model, and {len(plan.models)} would be imported")
    imported: list[ImportedModel] = []
    failed: dict[str, str] = {}
    taken, unanswered = TakenNames(), 0
    for found in plan.models:
        try:
            done = import_found(context, found, progress, taken, aliases=aliases)
            imported.append(done)
            model = done.result.model
            if found.repo:
                unanswered = unanswered + 1 if model.repo and model.commit is None else 0
            if unanswered == MAX_UNANSWERED:
                context = context.limit_time(0)
        except InterruptedByUserError:
            raise
        except HfModelsError as error:
            if len(plan.models) == 1:
                raise
            failed[found.name] = " ".join(filter(None, (f"{error.message}.", error.cause)))
    return ToolImport(tool_name, plan.folders, tuple(imported), plan.left_out, failed)


def import_found(
    context: Context, found: FoundModel, progress: Progress, taken: TakenNames, *, aliases: Sequence[str] = ()
) -> ImportedModel:
    """Register one model where it is, with its options and the proposed aliases that are free."""
    result = _register(context, found, progress, aliases)
    model_id = result.model.id
    notes = [*found.notes, *_store_options(context, result.model, found.options)]
    if found.has_foreign_template:
        applies = "the template in the file's header applies" if result.model.facts.chat_template else (
            "the file's header has no template either, so the engine's default applies"
        )  # fmt: skip
        notes.append(f"its template is in Go's language, which the engine does not have: {applies}")
    refused = dict(result.refused_aliases)
    for alias in found.aliases:
        if problem := _add_if_free(context, alias, result.model, taken):
            refused[alias] = problem
    with context.open_database() as db:
        model = local_models.make_view(db.get_model(model_id))
    return ImportedModel(found.name, replace(result, model=model, refused_aliases=refused), tuple(notes))


def _register(context: Context, found: FoundModel, progress: Progress, aliases: Sequence[str]) -> ImportResult:
    """Register the files. A repo that does not have them is dropped from the record, with the reason."""
    source = {"tool": found.tool, "name": found.name, **({"license": found.license} if found.license else {})}
    record = ToolRecord(found.name, found.stem, found.sha256, source)

    def register(repo: str | None) -> ImportResult:
        return import_file(
            context,
            Path(found.files[0]),
            repo=repo,
            copy=False,
            mmproj=Path(found.projector) if found.projector else None,
            with_mmproj=found.projector is not None,
            aliases=aliases,
            options={},
            progress=progress,
            record=record,
        )

    if found.repo is None:
        result = register(None)
        tool = TOOLS.get(found.tool)
        matches = f"; it is the one that {tool.label} has recorded" if tool and found.sha256 else ""
        return replace(result, digest=f"not compared with the Hub, because no repo is recorded{matches}")
    try:
        return register(found.repo)
    except (AccessError, DigestMismatchError, NotFoundError) as error:
        result = register(None)
        return replace(result, digest=f"not checked: {clean_text(error.message)}")


def _store_options(context: Context, model: LocalModelView, options: Mapping[str, Any]) -> list[str]:
    """Store the options that are valid for the model. Return a note for each of the others."""
    notes = []
    for key, value in options.items():
        try:
            validate_for_model({key: value}, model.id, embedding=model.kind == "embedding")
            set_options(context, model.id, {key: value})
        except BadInputError as error:
            notes.append(error.message)
    return notes


class TakenNames:
    """The names of other plugins' models in llm. They are read once: that starts llm, which takes about a second."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Mapping[str, str]] = {}

    def find_owner(self, name: str, kind: str) -> str | None:
        """Return the model in llm that has a name, for models of a kind."""
        kind = "embedding" if kind == "embedding" else "chat"
        if kind not in self._by_kind:
            self._by_kind[kind] = names.list_names_in_llm(kind)
        return self._by_kind[kind].get(name)


def _add_if_free(context: Context, alias: str, model: LocalModelView, taken: TakenNames) -> str | None:
    """Give the model an alias that its tool proposes. Return why that is not possible, or None."""
    try:
        parse_alias(alias)
        if owner := taken.find_owner(alias, model.kind):
            return f"is the name of {owner} in llm"
        with context.open_database() as db:
            db.add_alias(alias, model.id)
    except BadInputError as error:
        return error.message.removeprefix(repr(alias)).strip()
    return None
