"""Choose the projector (mmproj) of a model in a repo or folder, by names and by headers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, InvalidGgufError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.projectors import explain_mismatch
from llm_hf_models.gguf.rules import Finding
from llm_hf_models.gguf.shards import find_projectors
from llm_hf_models.gguf.validate import check_file, check_shards
from llm_hf_models.gguf.variants import Variant, list_projectors
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import RepoDetails
from llm_hf_models.models.repos.variant_choice import fetch_facts, fetch_preview, refuse_invalid
from llm_hf_models.system.text import quote_label

MAX_HEADERS = 8  # of projectors that are read until one fits
WITHOUT_HINT = "To pull the model without it, add --no-mmproj."
IMPORT_WITHOUT_HINT = "To import the model without it, add --no-mmproj."


def settle_projector(
    context: Context, hub: Hub, repo: RepoId, details: RepoDetails, variant: Variant, *, allow_invalid: bool
) -> tuple[Variant, tuple[str, ...]]:
    """Choose the projector of a variant among those in its repo, by the widths in their headers.

    Returns:
        The variant with its projector, or without one, and the projectors that were left out, with the reasons.

    Raises:
        InvalidGgufError: The projector's header is invalid, and `allow_invalid` is false.
    """
    found, of_others = list_projectors(details.files, variant)
    if not found and not of_others:
        return variant, ()
    try:
        facts = fetch_facts(context, hub, repo, details, variant)
    except InvalidGgufError:  # reported with the rest of the plan
        return variant, ()

    def read_facts(path: str) -> ModelFacts:
        size = details.get_file(RepoFile(path)).size
        try:
            preview = fetch_preview(context, hub, repo, details, Variant("mmproj", (path,), size))
        except InvalidGgufError as error:
            if allow_invalid:
                return ModelFacts(kind="mmproj")
            error.hint = WITHOUT_HINT
            raise
        if not allow_invalid:
            refuse_invalid(path, preview.findings, WITHOUT_HINT)
        return preview.facts

    chosen, left_out = _find_fitting(facts, found[:MAX_HEADERS], read_facts)
    if chosen is None:
        left_out += tuple(f"{quote_label(path)}: its name is that of another model" for path in of_others)
        return replace(variant, mmproj=None, mmproj_size=0), left_out
    return replace(variant, mmproj=chosen, mmproj_size=details.get_file(RepoFile(chosen)).size), left_out


def _find_fitting(
    model: ModelFacts, candidates: Iterable[str], read_facts: Callable[[str], ModelFacts]
) -> tuple[str | None, tuple[str, ...]]:
    """Return the first projector whose header fits the model, and those before it, each with the reason against it."""
    left_out: list[str] = []
    for path in candidates:
        reason = explain_mismatch(model, read_facts(path))
        if reason is None:
            return path, tuple(left_out)
        left_out.append(f"{quote_label(path)}: {reason}")
    return None, tuple(left_out)


def find_in_folder(weights: Sequence[Path], seconds: float) -> tuple[Path | None, tuple[str, ...]]:
    """Choose a model's projector in its folder.

    Returns:
        The projector, which may be invalid, and the projectors that were left out, with the reasons.
    """
    found = {path.name: path for path in find_projectors(weights[0])}
    if not found:
        return None, ()
    model = check_shards(weights, seconds=seconds).header
    name, left_out = _find_fitting(
        model.facts if model else ModelFacts(), found, lambda name: _read_facts(found[name], seconds)
    )
    return found[name] if name else None, left_out


def fits_model(path: Path, model: ModelFacts, seconds: float) -> bool:
    """Return whether a file can be a model's projector, by its header."""
    return explain_mismatch(model, _read_facts(path, seconds)) is None


def _read_facts(path: Path, seconds: float) -> ModelFacts:
    """Return the facts of a projector on disk. Its header may be invalid, which is reported later."""
    header = check_file(path, seconds=seconds).header
    return header.facts if header else ModelFacts(kind="mmproj")


def check_projector(path: Path, model: ModelFacts, seconds: float) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """Validate the projector of a model that is being imported. Return its modalities and findings.

    Raises:
        InvalidGgufError: The file is invalid.
        BadInputError: The file is not a projector, or that of another model.
    """
    report = check_file(path, seconds=seconds)
    refuse_invalid(path.name, report.findings, IMPORT_WITHOUT_HINT)
    facts = report.header.facts if report.header else ModelFacts()
    if facts.kind != "mmproj":
        raise BadInputError(f"{path.name} is not a vision projector", hint="Look for a file named mmproj-….gguf.")
    if reason := explain_mismatch(model, facts):
        raise BadInputError(
            f"{path.name} is the projector of another model", cause=f"It is {reason}.", hint=IMPORT_WITHOUT_HINT
        )
    return facts.modalities, report.findings
