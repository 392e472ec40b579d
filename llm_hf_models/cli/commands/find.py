"""Commands that find models: search, info, inspect and check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.format import format_more
from llm_hf_models.cli.framework import format_examples, open_library
from llm_hf_models.cli.params import (
    COUNT,
    MAX_RESULTS,
    LocalName,
    json_option,
    quiet_option,
    refresh_option,
)
from llm_hf_models.cli.several import emit_in_parts, use_each
from llm_hf_models.cli.views import gguf as gguf_views
from llm_hf_models.cli.views import hub as hub_views
from llm_hf_models.errors import NotFoundError

if TYPE_CHECKING:
    from llm_hf_models.models.repos.types import CheckReport, Inspection, ModelInfo

NAME_OR_FILE = LocalName()


def _may_name_repo(names: Sequence[str]) -> bool:
    """Return whether a name may be a model ref. Files, aliases and ids of local models are read without the Hub."""
    return any(
        "/" in name and not name.startswith(("/", ".", "~", "hf/")) and not Path(name).exists() for name in names
    )


@click.command(
    epilog=format_examples(
        "llm hf inspect unsloth/Qwen3-0.6B-GGUF:Q8_0",
        "llm hf inspect ./model.gguf --metadata",
        "llm hf inspect Qwen3-0.6B --template",
    )
)
@click.argument("names", metavar="REF|FILE...", type=NAME_OR_FILE, nargs=-1, required=True)
@click.option("--metadata", is_flag=True, help="Show all metadata keys of the header.")
@click.option("--tensors", is_flag=True, help="List all tensors.")
@click.option("--template", is_flag=True, help="Print only the chat template.")
@quiet_option()
@json_option
def inspect(names: tuple[str, ...], metadata: bool, tensors: bool, template: bool, as_json: bool) -> None:
    """Show the header of a GGUF file.

    REF|FILE is a file, the name of a model on this machine, or a model on the Hub. From the Hub, only the header is
    downloaded. Of a split model, the headers of all shards are read, and the figures are those of the whole model.
    """
    library = open_library(uses_hub=_may_name_repo(names))

    def read(name: str) -> Inspection:
        found = library.inspect(name, metadata=metadata, tensors=tensors, template=template)
        if template and not as_json and found.chat_template is None:
            raise NotFoundError(f"{found.file} has no chat template")
        return found

    def render(found: Inspection) -> str:
        width = output.get_width()
        parts = [] if template else [gguf_views.render_inspection(found, width)]
        if found.metadata is not None:
            parts.append(gguf_views.render_metadata(found.metadata, width))
        if found.tensors is not None:
            parts.append(gguf_views.render_tensors(found.tensors, width))
        return "\n\n".join([*parts, found.chat_template or ""] if template else parts)

    use_each(names, read, emit_in_parts(render), as_json=as_json)


@click.command(
    epilog=format_examples(
        "llm hf check ./model.gguf", "llm hf check unsloth/Qwen3-0.6B-GGUF:Q8_0", "llm hf check Qwen3-0.6B"
    )
)
@click.argument("names", metavar="REF|FILE...", type=NAME_OR_FILE, nargs=-1, required=True)
@quiet_option("Print only reports with errors.", is_passed=True)
@json_option
@click.pass_context
def check(ctx: click.Context, names: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Check a GGUF file against the rules of its format.

    Checks the structure, the metadata and the chat template without running anything. For a model on the Hub, checks
    only the header. Exits with code 1 if there are errors.
    """
    library = open_library(uses_hub=_may_name_repo(names))

    def render(report: CheckReport) -> str:
        return gguf_views.render_check(report, output.get_width())

    emit = emit_in_parts(render)

    def show(report: CheckReport) -> None:
        if report.errors or not quiet:
            emit(report)

    reports = use_each(names, library.check, show, as_json=as_json)
    ctx.exit(1 if any(report.errors for report in reports) else 0)


@click.command(
    epilog=format_examples(
        "llm hf search qwen3",
        "llm hf search --author unsloth --max-params 8B --fits",
        "llm hf search coder --sort downloads --limit 5 --json",
    )
)
@click.argument("query", nargs=-1)
@click.option("--author", metavar="OWNER", help="Only repos of this user or organisation.")
@click.option("--task", metavar="TASK", help="Only this task (pipeline tag), such as text-generation.")
@click.option(
    "--library", metavar="NAME", default="gguf", show_default=True, help="Only repos for this library; `any` for all."
)
@click.option("--license", metavar="LICENCE", help="Only this licence, such as apache-2.0.")
@click.option("--language", metavar="CODE", help="Only models for this language, such as en.")
@click.option("tags", "--tag", metavar="TAG", multiple=True, help="Only repos with this tag; repeatable.")
@click.option("--min-params", type=COUNT, help="At least this many parameters, such as 500M.")
@click.option("--max-params", type=COUNT, help="At most this many parameters, such as 8B.")
@click.option("--gated/--no-gated", default=None, help="Only gated repos, or only repos that are not gated.")
@click.option("--fits", is_flag=True, help="Only models that fit this machine's memory.")
@click.option(
    "--sort",
    type=click.Choice(["trending", "downloads", "likes", "created", "updated"]),
    default="trending",
    show_default=True,
    help="Sort order.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_RESULTS),
    metavar="N",
    default=20,
    show_default=True,
    help="Maximum number of results.",
)
@refresh_option
@quiet_option("Print only the repos.", is_passed=True)
@json_option
def search(
    query: tuple[str, ...], library: str, fits: bool, refresh: bool, quiet: bool, as_json: bool, **filters: object
) -> None:
    """Find models on the Hub.

    Lists repos whose name contains the words of QUERY. Without QUERY, only the options filter the list. QUANT is the
    quantization that a plain pull downloads, as far as the file names show. SIZE (of QUANT) and FITS are estimated from
    the number of parameters.
    """
    from llm_hf_models.hub.types import SearchFilters

    search_filters = SearchFilters(library=None if library == "any" else library, **filters)  # type: ignore[arg-type]
    page = open_library(uses_hub=True).search(" ".join(query), search_filters, fits=fits, refresh=refresh)
    if as_json:
        output.print_json(page)
    elif page.results and quiet:
        output.emit("\n".join(result.id for result in page.results))
    elif page.results:
        output.emit(hub_views.render_search(page, output.get_width()))
        if page.more:
            output.note(format_more(len(page.results)))
        _note_freshness(hub_views.render_freshness(page.freshness))
    else:
        output.note(hub_views.render_no_results(page))


def _note_freshness(text: str | None) -> None:
    if text:
        output.note(click.style(text, dim=True))


@click.command(
    epilog=format_examples(
        "llm hf info unsloth/Qwen3-0.6B-GGUF",
        "llm hf info hf.co/unsloth/Qwen3-0.6B-GGUF --card",
        "llm hf info unsloth/Qwen3-0.6B-GGUF --files",
    )
)
@click.argument("refs", metavar="REF...", nargs=-1, required=True)
@click.option("--revision", metavar="REVISION", help="Branch, tag or commit instead of the default branch.")
@click.option("--files", is_flag=True, help="List all files of the repo.")
@click.option("--card", is_flag=True, help="Show the model card.")
@refresh_option
@quiet_option("Hide notes.")
@json_option
def info(refs: tuple[str, ...], revision: str | None, files: bool, card: bool, refresh: bool, as_json: bool) -> None:
    """Show a model on the Hub and which variants fit.

    The variant that a plain pull downloads is shown in bold. REF is owner/name, optionally with @REVISION, or the URL
    of the model's page.
    """
    library = open_library(uses_hub=True)

    def render(found: ModelInfo) -> str:
        width = output.get_width()
        parts = [hub_views.render_info(found, width)]
        if files:
            parts.append(hub_views.render_repo_files(found, width))
        if card and found.card is not None:  # without a card, the notes give the reason
            text = output.render_markdown(found.card, max_width=width) if found.card else "The repo has no model card."
            parts.append(text)
        return "\n\n".join(parts)

    emit = emit_in_parts(render)

    def show(found: ModelInfo) -> None:
        emit(found)
        _note_freshness(hub_views.render_freshness(found.freshness))

    use_each(
        refs,
        lambda ref: library.info(ref, revision=revision, card=card, refresh=refresh),
        show,
        as_json=as_json,
    )
