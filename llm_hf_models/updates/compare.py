"""Compare a local model with the files of its repo now. Sends no requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llm_hf_models.gguf.variants import Variant, list_projectors
from llm_hf_models.hub.refs import RepoFile
from llm_hf_models.hub.types import HubFile, RepoDetails
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models.identity import list_weight_digests
from llm_hf_models.models.variant_choice import group_variants, list_incomplete
from llm_hf_models.system.text import quote_label
from llm_hf_models.updates.types import UpdateStatus

CARD = "README.md"
MAX_LISTED = 8  # quantizations in a note


@dataclass(frozen=True)
class Comparison:
    """How the repo of a model differs from the model's commit.

    Attributes:
        status: The kind of the difference.
        variant: The quantization in the repo now; None if it was removed.
        files: The paths of the changed files.
        changed: The files of the variant with bytes that the model does not have.
        note: More about the difference, for a person.
    """

    status: UpdateStatus
    variant: Variant | None = None
    files: tuple[str, ...] = ()
    changed: tuple[HubFile, ...] = ()
    note: str | None = None


OldFiles = Callable[[], Sequence[HubFile] | None]


def compare(model: LocalModel, details: RepoDetails, list_old_files: OldFiles) -> Comparison:
    """Return how a repo differs from the commit of a model.

    Args:
        model: The local model.
        details: The repo, at the commit that the model's branch has now.
        list_old_files: Returns the repo's files at the model's commit, or None if they are unknown.
    """
    if details.commit == model.commit:
        return Comparison("up to date", _find_variant(model, details))
    variant = _find_variant(model, details)
    if variant is None:
        return Comparison("removed", note=_explain_removal(model, details))
    variant = _leave_out_projector(model, variant, list_old_files)
    new = [details.get_file(RepoFile(path)) for path in variant.all_files]
    own = {digest for file in model.files for digest in (file.sha256, file.git_sha1) if digest}
    changed = tuple(file for file in new if file.etag not in own)
    lost = _has_projector(model) and variant.mmproj is None
    if changed or lost:
        note = "the repo no longer has a projector for it" if lost else None
        return Comparison("new files", variant, tuple(file.path for file in changed), changed, note)
    others = _list_differences(list_old_files(), details.files)
    return Comparison("card" if others == (CARD,) else "other files", variant, others)


def _find_variant(model: LocalModel, details: RepoDetails) -> Variant | None:
    """Return the model's quantization in its repo, which may have another name if its bytes are the same."""
    variants = group_variants(details)
    digests = {file.path: file.sha256 for file in details.files}
    weights = list_weight_digests(model)
    same = (one for one in variants if None not in weights and {digests.get(path) for path in one.files} == weights)
    named = (one for one in variants if one.quant.casefold() == model.quant.casefold())
    return next(named, None) or next(same, None)


def _explain_removal(model: LocalModel, details: RepoDetails) -> str:
    if incomplete := list_incomplete(details):
        return f"the repo has only a part of a model now: {'; '.join(incomplete)}"
    quants = [quote_label(variant.quant) for variant in group_variants(details)]
    more = f" and {len(quants) - MAX_LISTED} more" if len(quants) > MAX_LISTED else ""
    has = f"it has {', '.join(quants[:MAX_LISTED])}{more}" if quants else "it has no GGUF model"
    return f"the repo no longer has {quote_label(model.quant)}: {has}"


def _has_projector(model: LocalModel) -> bool:
    return any(file.role == "mmproj" for file in model.files)


def _leave_out_projector(model: LocalModel, variant: Variant, list_old_files: OldFiles) -> Variant:
    """Return the variant without a projector, if the model was pulled without the one that the repo had then."""
    if variant.mmproj is None or _has_projector(model):
        return variant
    weights = tuple(file.path for file in model.files if file.role == "weights")
    old_files = list_old_files()
    if weights and old_files and list_projectors(old_files, Variant(model.quant, weights, 0))[0]:
        return replace(variant, mmproj=None, mmproj_size=0)
    return variant


def _list_differences(old: Sequence[HubFile] | None, new: Sequence[HubFile]) -> tuple[str, ...]:
    """Return the paths of the files that differ; none if the old ones are unknown."""
    if old is None:
        return ()
    before, after = ({file.path: file.etag for file in files} for files in (old, new))
    return tuple(sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)))
