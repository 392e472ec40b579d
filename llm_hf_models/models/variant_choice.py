"""The choice of one variant of a repo, and the remote header that informs it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

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
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.header import GgufHeader, name_file_in_errors, read_header
from llm_hf_models.gguf.memory_fit import Fit
from llm_hf_models.gguf.rules import Finding
from llm_hf_models.gguf.validate import check_header
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub.client import Hub, get_package_version
from llm_hf_models.hub.refs import ModelRef, RepoFile, RepoId
from llm_hf_models.hub.remote_file import RemoteFile
from llm_hf_models.hub.types import RepoDetails
from llm_hf_models.models import metadata_cache
from llm_hf_models.system.machine import read_memory

_ALLOW_INVALID_HINT = "--allow-invalid keeps the file all the same, unregistered."


def refuse_invalid(what: str, findings: Sequence[Finding], hint: str = _ALLOW_INVALID_HINT) -> None:
    """Raises InvalidGgufError with the first errors among findings, and what to do, where there are any."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        lines = [f"{finding.code}: {finding.message}" for finding in errors[:5]]
        raise InvalidGgufError(
            f"{what} breaks the rules of the GGUF format",
            code=errors[0].code,
            cause="\n".join(lines),
            hint=f"Nothing was registered. {hint}",
        )


def get_memory_for_models(context: Context) -> int:
    """Bytes that one model may take on this machine: all its memory less the reserve."""
    return max(0, read_memory().total_memory - context.settings().memory_reserve)


def assess_fit(variant: Variant, facts: ModelFacts | None, context: Context, room: int) -> Fit:
    """One variant weighed at the context length that settings ask for."""
    return fitting.assess_fit(
        variant.size, facts, context=context.settings().context, available=room, mmproj_bytes=variant.mmproj_size
    )


def choose_variant(
    context: Context, variants: Sequence[Variant], facts: ModelFacts | None
) -> gguf_variants.VariantChoice:
    """What a plain pull takes on this machine: one that fits with the context asked for, if any does."""
    room = get_memory_for_models(context)
    fits = {variant: assess_fit(variant, facts, context, room) for variant in variants}
    whole = any(fit.fits and not fit.reduced for fit in fits.values())
    return gguf_variants.choose_best(
        variants, lambda variant: fits[variant].fits and not (whole and fits[variant].reduced)
    )


def read_remote_header(
    context: Context, hub: Hub, repo: RepoId, details: RepoDetails, path: str
) -> tuple[GgufHeader, int]:
    """The header of a GGUF file that is still on the Hub, by Range requests; and how many bytes were fetched for it."""
    file, name = details.get_file(RepoFile(path)), RepoFile(path)
    now = context.settings()

    def read() -> tuple[GgufHeader, int]:
        with RemoteFile(
            lambda: hub.locate(repo, name, details.commit),
            timeout=now.metadata_seconds,
            connect_timeout=now.connect_seconds,
            total_seconds=now.header_seconds,
        ) as remote:
            header = read_header(remote, file_bytes=file.size, seconds=now.header_seconds)
            return header, remote.fetched_bytes

    with name_file_in_errors(f"{path} of {repo}"):
        return metadata_cache.request_with_retry(context, read)


@dataclass(frozen=True)
class VariantPreview:
    """What the header of a variant says, before the variant is fetched."""

    facts: ModelFacts
    findings: tuple[Finding, ...]


_PREVIEW: TypeAdapter[VariantPreview] = TypeAdapter(VariantPreview)


def fetch_preview(context: Context, hub: Hub, repo: RepoId, details: RepoDetails, variant: Variant) -> VariantPreview:
    """A variant's facts and findings, from the metadata cache by digest, else from its header on the Hub."""
    file = details.get_file(RepoFile(variant.files[0]))

    def ask() -> VariantPreview:
        header, _ = read_remote_header(context, hub, repo, details, file.path)
        return VariantPreview(header.facts, check_header(header, file_bytes=file.size).findings)

    return metadata_cache.cache_by_digest(
        context,
        f"preview:{get_package_version()}:{file.size}:{file.etag}"
        if file.etag
        else None,  # another version may judge otherwise
        ask,
        lambda preview: _PREVIEW.dump_json(preview).decode(),
        _PREVIEW.validate_json,
    )


def fetch_facts(context: Context, hub: Hub, repo: RepoId, details: RepoDetails, variant: Variant) -> ModelFacts:
    """A variant's facts alone."""
    return fetch_preview(context, hub, repo, details, variant).facts


def pick_variant(context: Context, hub: Hub, ref: ModelRef, details: RepoDetails) -> tuple[Variant | None, str]:
    """The variant that a ref means, and why it; None for a single file that is no model.

    Raises:
        FileNotFoundInRepoError, QuantNotFoundError, NoGgufError
    """
    return settle_variant(context, hub, ref, details, guess_variant(context, hub, ref, details))


def guess_variant(context: Context, hub: Hub, ref: ModelRef, details: RepoDetails) -> tuple[Variant | None, str]:
    """The same before any header was read: what was not asked for by name may yet be found not to fit.

    Raises:
        FileNotFoundInRepoError, QuantNotFoundError, NoGgufError
    """
    variants = gguf_variants.group_variants(details.files)
    if ref.file is not None:
        details.get_file(ref.file)  # a clear error where there is no such file
        return next((v for v in variants if ref.file.path in v.files), None), "the file that was asked for"
    if not variants:
        raise no_gguf_error(hub, details)
    if ref.quant is not None:
        return _find_named(variants, ref.quant, details), "the quantization that was asked for"
    choice = choose_variant(context, variants, None)
    return choice.variant, choice.reason


def _find_named(variants: Sequence[Variant], quant: str, details: RepoDetails) -> Variant:
    try:
        return gguf_variants.find_variant(variants, quant)
    except QuantNotFoundError as error:
        error.cause = "\n".join(list_incomplete(details)) or None
        raise


def list_incomplete(details: RepoDetails) -> list[str]:
    """The models of a repo that are not whole, each with what it lacks."""
    return [f"{split.name}: {split.reason}" for split in gguf_variants.find_incomplete_splits(details.files)]


def settle_variant(
    context: Context, hub: Hub, ref: ModelRef, details: RepoDetails, guessed: tuple[Variant | None, str]
) -> tuple[Variant | None, str]:
    """What `guess` found, weighed anew with the header of that variant where nothing was asked for by name."""
    variant, reason = guessed
    if variant is None or ref.file is not None or ref.quant is not None:
        return guessed
    with suppress(InvalidGgufError):  # whether it may be pulled is not judged here
        facts = fetch_facts(context, hub, ref.repo, details, variant)
        choice = choose_variant(context, gguf_variants.group_variants(details.files), facts)
        variant, reason = choice.variant, choice.reason
    return variant, reason


def no_gguf_error(hub: Hub, details: RepoDetails) -> NoGgufError:
    """The answer to a pull from a repo without a GGUF model: what one lacks, else conversions of it, best first."""
    if lacks := list_incomplete(details):
        hint = f"`llm hf info {details.id} --files` lists its files; any of them can be pulled by its name."
        return NoGgufError(f"{details.id} has no whole GGUF model", cause="\n".join(lacks), hint=hint)
    try:
        found = hub.find_conversions(RepoId.parse(details.id))
    except HfModelsError:
        found = []
    if not found:
        return NoGgufError(
            f"{details.id} has no GGUF files, and the Hub knows no GGUF conversion of it",
            hint=f"Look for one by name: llm hf search {details.id.partition('/')[2]}",
        )
    listed = "\n".join(f"  {row.id}  ({row.downloads or 0} downloads a month)" for row in found)
    return NoGgufError(
        f"{details.id} has no GGUF files",
        cause=f"GGUF conversions of it on the Hub:\n{listed}",
        hint=f"llm hf pull {found[0].id}",
    )
