"""Choose one variant of a repo, with the facts from its headers on the Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from weakref import WeakKeyDictionary

from pydantic import TypeAdapter

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    HfModelsError,
    InvalidGgufError,
    NoGgufError,
    QuantNotFoundError,
)
from llm_hf_models.gguf import memory_fit as fitting
from llm_hf_models.gguf import variants as gguf_variants
from llm_hf_models.gguf.facts import ModelFacts, omit_totals
from llm_hf_models.gguf.file_kinds import DESCRIPTIONS, FileKind
from llm_hf_models.gguf.memory_fit import Fit
from llm_hf_models.gguf.rules import Finding
from llm_hf_models.gguf.spellings import find_matches, list_file_names
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import ModelRef, RepoFile, RepoId
from llm_hf_models.hub.session import get_package_version
from llm_hf_models.hub.types import RepoDetails
from llm_hf_models.models import metadata_cache
from llm_hf_models.models.repos.remote_headers import read_remote_headers
from llm_hf_models.models.repos.types import Conversion
from llm_hf_models.system.machine import read_memory
from llm_hf_models.system.text import quote_label

MAX_LISTED = 10  # files in a message
ALLOW_INVALID_HINT = "To keep the file without registering it, add --allow-invalid."


def refuse_invalid(name: str, findings: Sequence[Finding], hint: str = ALLOW_INVALID_HINT) -> None:
    """Raise InvalidGgufError with the first errors among the findings, if there are any."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        lines = [f"{finding.code}: {finding.message}" for finding in errors[:5]]
        raise InvalidGgufError(
            f"{name} breaks the rules of the GGUF format",
            code=errors[0].code,
            cause="\n".join(lines),
            hint=f"Nothing was registered. {hint}",
        )


def get_memory_for_models(context: Context) -> int:
    """Return the bytes that one model may use on this machine: all its memory minus the reserve."""
    return max(0, read_memory().total_memory_bytes - context.settings().memory_reserve_bytes)


def assess_fit(variant: Variant, facts: ModelFacts | None, tokens: int, memory: int) -> Fit:
    """Estimate the memory fit of one variant at a context length of `tokens`."""
    return fitting.assess_fit(variant.size, facts, context=tokens, available=memory, mmproj_bytes=variant.mmproj_size)


def choose_variant(
    context: Context, variants: Sequence[Variant], facts: ModelFacts | None
) -> gguf_variants.VariantChoice:
    """Choose the variant for a pull without a quantization: one that fits with the full context, if there is one."""
    now, available = context.settings(), get_memory_for_models(context)

    @cache
    def assess(variant: Variant) -> Fit:
        return assess_fit(variant, facts, now.context, available)

    def fits_fully(variant: Variant) -> bool:
        return assess(variant).fits and not assess(variant).reduced

    # The variants are assessed in the order of preference, and most repos need only the first one.
    choice = gguf_variants.choose_best(variants, fits_fully)
    if fits_fully(choice.variant):
        return choice
    return gguf_variants.choose_best(variants, lambda variant: assess(variant).fits)


@dataclass(frozen=True)
class VariantPreview:
    """The facts and findings from a variant's headers, before the variant is downloaded.

    If `problem` is set, it is the reason why figures are unknown: the header of a shard could not be read.
    """

    facts: ModelFacts
    findings: tuple[Finding, ...]
    problem: str | None = None


_PREVIEW: TypeAdapter[VariantPreview] = TypeAdapter(VariantPreview)

# Incomplete previews are not cached. But a plan requests the same one several times, with one client of the Hub.
_incomplete: WeakKeyDictionary[Hub, dict[str, VariantPreview]] = WeakKeyDictionary()


def fetch_preview(context: Context, hub: Hub, repo: RepoId, details: RepoDetails, variant: Variant) -> VariantPreview:
    """Return a variant's facts and findings, from the metadata cache by digest, else from its headers on the Hub.

    Raises:
        HfModelsError: The first header can't be read.
        InvalidGgufError: A header is not valid.
    """
    known = _incomplete.setdefault(hub, {})
    if variant.files[0] in known:
        return known[variant.files[0]]
    preview = metadata_cache.cache_by_digest(
        context,
        make_digest_key(f"preview:{get_package_version()}", details, variant.files),
        lambda: _read_preview(context, hub, repo, details, variant.files),
        lambda preview: _PREVIEW.dump_json(preview).decode(),
        _PREVIEW.validate_json,
        should_keep=lambda preview: preview.problem is None,
    )
    if preview.problem is not None:
        known[variant.files[0]] = preview
    return preview


def make_digest_key(prefix: str, details: RepoDetails, paths: Sequence[str]) -> str | None:
    """Return a key for values that depend only on these files and on the prefix; None if a digest is unknown.

    Another version of this package may find other things, so the prefix should contain the version.
    """
    files = [details.get_file(RepoFile(path)) for path in paths]
    if not all(file.etag for file in files):
        return None
    content = ":".join(f"{file.size}:{file.etag}" for file in files)
    return f"{prefix}:{content if len(files) == 1 else hashlib.sha256(content.encode()).hexdigest()}"


def _read_preview(
    context: Context, hub: Hub, repo: RepoId, details: RepoDetails, paths: Sequence[str]
) -> VariantPreview:
    headers = read_remote_headers(context, hub, repo, details, paths)
    if isinstance(headers.problem, InvalidGgufError):
        raise headers.problem
    header, findings = headers.merge(), headers.check().findings
    if headers.problem is None:
        return VariantPreview(header.facts, findings)
    return VariantPreview(omit_totals(header.facts, header.metadata), findings, headers.problem.message)


def fetch_facts(context: Context, hub: Hub, repo: RepoId, details: RepoDetails, variant: Variant) -> ModelFacts:
    """Return only the facts of a variant."""
    return fetch_preview(context, hub, repo, details, variant).facts


def pick_variant(context: Context, hub: Hub, ref: ModelRef, details: RepoDetails) -> tuple[Variant | None, str]:
    """Return the variant that a model ref names and the reason for it; None for a single file that is not a model.

    Args:
        context: the context.
        hub: the Hub's client.
        ref: the result of `settle_ref`.
        details: the repo's details.

    Raises:
        FileNotFoundInRepoError: The repo does not have the file.
        QuantNotFoundError: The repo does not have the quantization.
        NoGgufError: The repo has no GGUF model.
    """
    return settle_variant(context, hub, ref, details, guess_variant(context, hub, ref, details))


def guess_variant(context: Context, hub: Hub, ref: ModelRef, details: RepoDetails) -> tuple[Variant | None, str]:
    """Choose a variant as `pick_variant` does, but without a header, which may later show that the variant doesn't fit.

    Raises:
        FileNotFoundInRepoError: The repo does not have the file.
        QuantNotFoundError: The repo does not have the quantization.
        NoGgufError: The repo has no GGUF model.
    """
    variants = group_variants(details)
    if ref.file is not None:
        details.get_file(ref.file)  # raises a clear error if the file does not exist
        return next((v for v in variants if ref.file.path in v.files), None), "the requested file"
    if not variants:
        raise make_no_gguf_error(hub, details)
    if ref.quant is not None:
        return _find_named(variants, ref.quant, details), "the requested quantization"
    choice = choose_variant(context, variants, None)
    return choice.variant, choice.reason


def group_variants(details: RepoDetails) -> list[Variant]:
    """Return the variants of a repo, best quality first."""
    return gguf_variants.group_variants(details.files, details.id)


def settle_ref(ref: ModelRef, details: RepoDetails) -> ModelRef:
    """Return the model ref with the exact name of what its text after the colon means in this repo.

    The text may also be the name of a file in a folder, or a file's name without suffix. A ref that names nothing is
    returned unchanged, for the error of the search that follows.
    """
    text = ref.file.path if ref.file else ref.quant
    paths = [file.path for file in details.files]
    if text is None or (ref.file is not None and text in paths):
        return ref
    matches = find_matches(group_variants(details), text)
    if matches:
        is_quant = ref.quant is not None or len(matches) > 1
        return replace(ref, quant=text if is_quant else matches[0].quant, file=None)
    for fold in (str, str.casefold):
        named = [path for path in paths if fold(text) in map(fold, list_file_names(path))]
        if len(named) == 1:
            return replace(ref, quant=None, file=RepoFile(named[0]))
    # Ollama writes `:latest` for a model without a tag.
    return replace(ref, quant=None) if text.casefold() == "latest" else ref


def _find_named(variants: Sequence[Variant], quant: str, details: RepoDetails) -> Variant:
    try:
        return gguf_variants.find_variant(variants, quant)
    except QuantNotFoundError as error:
        error.cause = "\n".join((*list_incomplete(details), *list_left_out(details))) or None
        raise


def list_incomplete(details: RepoDetails) -> list[str]:
    """List the incomplete models of a repo, each with its missing parts."""
    return [
        f"{quote_label(split.name)}: {split.reason}" for split in gguf_variants.find_incomplete_splits(details.files)
    ]


def list_left_out(details: RepoDetails) -> list[str]:
    """List the GGUF files of a repo that can't be pulled, such as those with names that not every system can store."""
    left_out = [(path, reason) for path, reason in details.left_out if path.lower().endswith(".gguf")]
    more = [f"{len(left_out) - MAX_LISTED} more GGUF files"] if len(left_out) > MAX_LISTED else []
    return [f"{quote_label(path)}: {reason.rstrip('.')}" for path, reason in left_out[:MAX_LISTED]] + more


def list_companions(details: RepoDetails) -> list[str]:
    """List the GGUF files of a repo that are neither models nor projectors, a line for each kind."""
    paths: dict[FileKind, list[str]] = {}
    for path, kind in gguf_variants.find_companions(details.files).items():
        if kind != "projector":
            paths.setdefault(kind, []).append(quote_label(path))
    return [
        f"{', '.join(found[:MAX_LISTED])}{' and more' if len(found) > MAX_LISTED else ''}: {DESCRIPTIONS[kind]}"
        for kind, found in paths.items()
    ]


def settle_variant(
    context: Context, hub: Hub, ref: ModelRef, details: RepoDetails, guessed: tuple[Variant | None, str]
) -> tuple[Variant | None, str]:
    """Choose again with the header of the guessed variant, unless the model ref names a file or a quantization."""
    variant, reason = guessed
    if variant is None or ref.file is not None or ref.quant is not None:
        return guessed
    with suppress(InvalidGgufError):  # the caller decides whether an invalid file may be pulled
        facts = fetch_facts(context, hub, ref.repo, details, variant)
        choice = choose_variant(context, group_variants(details), facts)
        variant, reason = choice.variant, choice.reason
    return variant, reason


def find_conversions(hub: Hub, details: RepoDetails) -> tuple[Conversion, ...]:
    """Return the GGUF conversions of a repo, most downloaded first; none if the Hub can't be asked."""
    try:
        return tuple(Conversion(row.id, row.downloads) for row in hub.find_conversions(RepoId.parse(details.id)))
    except HfModelsError:
        return ()


def make_no_gguf_error(hub: Hub, details: RepoDetails) -> NoGgufError:
    """Return the error for a repo without a complete GGUF model.

    It lists the missing parts of incomplete models, else the GGUF conversions of the repo on the Hub, best first.
    """
    if incomplete := list_incomplete(details):
        hint = f"List its files with `llm hf info {details.id} --files`, and pull one by its name."
        return NoGgufError(f"{details.id} has no complete GGUF model", cause="\n".join(incomplete), hint=hint)
    if others := [*list_left_out(details), *list_companions(details)]:
        hint = f"List its files with `llm hf info {details.id} --files`."
        return NoGgufError(f"{details.id} has no GGUF model that can be pulled", cause="\n".join(others), hint=hint)
    conversions = find_conversions(hub, details)
    if not conversions:
        return NoGgufError(
            f"{details.id} has no GGUF files, and the Hub lists no GGUF conversion of it",
            hint=f"Search for one by name: llm hf search {details.id.partition('/')[2]}",
        )
    listed = "\n".join(f"  {row.id}  ({row.downloads or 0:,} downloads a month)" for row in conversions)
    return NoGgufError(
        f"{details.id} has no GGUF files",
        cause=f"GGUF conversions of it on the Hub:\n{listed}",
        hint=f"llm hf pull {conversions[0].id}",
    )
