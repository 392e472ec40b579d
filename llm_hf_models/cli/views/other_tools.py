"""Text about the models in the stores of other tools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import Column, format_fields, format_table
from llm_hf_models.cli.views.local import render_import
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_models.other_tools.types import (
        FoundModel,
        ImportedModel,
        ModelfilePlan,
        StoreFolder,
        ToolImport,
        ToolImportPlan,
    )

MAX_OPTION_CHARS = 60
MAX_LEFT_OUT = 20  # in a note


def render_plan(plan: ToolImportPlan, max_width: int | None) -> str:
    """Return the models that would be registered, with their options, and those that would be left out."""
    parts = []
    if plan.models:
        columns = [
            Column("NAME", min_width=20, keep_end=True),
            Column("QUANT", rank=2),
            Column("SIZE", rank=1, right=True),
            Column("REPO", rank=3, min_width=12, keep_end=True),
            Column("DETAILS", below=True),
        ]
        rows = [
            [model.name, model.quant or "", format_size(model.size_bytes), model.repo or "", _describe(model)]
            for model in plan.models
        ]
        parts.append(format_table(columns, rows, max_width=max_width))
    parts += _list_left_out(plan.left_out, max_width)
    parts += _list_folder_problems(plan.folders)
    count = len(plan.models)
    return "\n".join([*parts, f"{count} {'model' if count == 1 else 'models'} would be registered. Nothing is copied."])


def _describe(model: FoundModel) -> str:
    options = ", ".join(_shorten(f"{key} {cli_format.format_value(value)}") for key, value in model.options.items())
    projector = "with its projector" if model.projector else ""
    notes = [*model.notes, "its template in Go's language"] if model.has_foreign_template else model.notes
    not_used = f"not taken over: {'; '.join(notes)}" if notes else ""
    texts = (projector, f"options: {options}" if options else "", not_used)
    return "; ".join(filter(None, texts))


def _shorten(text: str) -> str:
    return clean_text(text, MAX_OPTION_CHARS)


def _list_left_out(models: Sequence[FoundModel], max_width: int | None) -> list[str]:
    if not models:
        return []
    rows = [[model.name, _explain(model)] for model in models]
    return [
        format_table(
            [Column("LEFT OUT", min_width=20, keep_end=True), Column("REASON", below=True)], rows, max_width=max_width
        )
    ]


def _explain(model: FoundModel) -> str:
    return model.problem or f"identical to {model.identical_to}"


def _list_folder_problems(folders: Iterable[StoreFolder]) -> list[str]:
    return [f"{clean_text(folder.path)}: {clean_text(folder.problem, 500)}" for folder in folders if folder.problem]


def render_imported(done: ImportedModel) -> str:
    """Return the model that was registered, and the settings that were not taken over."""
    notes = "".join(f"\nNot taken over: {clean_text(note, 300)}." for note in done.notes)
    return f"{clean_text(done.name)}: {render_import(done.result)}{notes}"


def render_left_out(done: ToolImport) -> str:
    """Return the models that were not registered and the folders that could not be read, each with the reason."""
    lines = [f"Left out {clean_text(model.name)}: {_explain(model)}" for model in done.left_out[:MAX_LEFT_OUT]]
    if len(done.left_out) > MAX_LEFT_OUT:
        lines.append(f"{len(done.left_out) - MAX_LEFT_OUT} more were left out: add --dry-run to list all.")
    if any(model.identical_to for model in done.left_out):
        lines.append("To register identical models too, add --all.")
    if not done.imported and not done.failed:
        lines.append("No model was registered.")
    return "\n".join([*lines, *_list_folder_problems(done.folders)])


def render_failed(done: ToolImport) -> str:
    """Return the models that could not be registered, each with the reason."""
    return "\n".join(f"Error: {clean_text(name)}: {clean_text(reason, 500)}" for name, reason in done.failed.items())


def render_modelfile_plan(plan: ModelfilePlan, max_width: int | None) -> str:
    """Return the model that a Modelfile describes."""
    model = plan.model
    options = {key: _shorten(cli_format.format_value(value)) for key, value in model.options.items()}
    notes = [*model.notes, "TEMPLATE: it is in Go's language"] if model.has_foreign_template else model.notes
    fields = [
        ("From", plan.base),
        ("File", model.files[0]),
        ("Projector", model.projector),
        ("Quantization", model.quant),
        ("Size", format_size(model.size_bytes)),
        *((f"Option {key}", text) for key, text in options.items()),
        *(("Not taken over", note) for note in notes),
    ]
    return format_fields(fields, max_width=max_width)
