"""Finding models on the Hub: search, and one repo in full. Fetches no weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from llm_hf_models import fit as fitting
from llm_hf_models import metadata_cache, quants, settings
from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, HfModelsError, InvalidGgufError, NoGgufError, QuantNotFoundError
from llm_hf_models.fit import Fit
from llm_hf_models.gguf_header import GgufHeader, ModelFacts, read_header, said_of
from llm_hf_models.hub import Hub, HubFile, RepoDetails, RepoSummary, SearchFilters, version
from llm_hf_models.hub_questions import checked_endpoint
from llm_hf_models.machine import machine
from llm_hf_models.metadata_cache import Freshness
from llm_hf_models.quants import Variant
from llm_hf_models.refs import HUB_HOSTS, ModelRef, RepoFile, RepoId, parse_revision
from llm_hf_models.remote_file import RemoteFile
from llm_hf_models.text import clean_text
from llm_hf_models.validate import Finding, check_header

# What a pull would take, Q4_K_M, weighs 4.85 bits a parameter (llama.cpp, tools/quantize/README.md): for rows
# of a search, where only the number of parameters is known.
ASSUMED_BITS_PER_WEIGHT = 4.85
FITS_PAGES = 5  # `fits` is decided here, so more rows are asked for than are shown
MAX_ROWS = 500


@dataclass(frozen=True)
class SearchResult(RepoSummary):
    """A row of a search, with what this machine knows of it."""

    here: tuple[str, ...] = ()  # ids of local models of that repo
    fits: bool | None = None  # estimated from its parameters; None where the Hub doesn't say


@dataclass(frozen=True)
class SearchPage:
    """What a search found. `loosen` suggests what to drop when it found nothing."""

    results: tuple[SearchResult, ...]
    freshness: Freshness
    loosen: tuple[str, ...] = ()


@dataclass(frozen=True)
class VariantInfo(Variant):
    """A variant, weighed against this machine."""

    bits_per_weight: float | None = None
    fit: Fit | None = None
    chosen: bool = False  # a plain pull would take this one
    here: str | None = None  # id of the local model


@dataclass(frozen=True)
class ModelInfo(RepoSummary):
    """One repo in full."""

    revision: str | None = None
    commit: str = ""
    variants: tuple[VariantInfo, ...] = ()
    choice_reason: str | None = None
    facts: ModelFacts | None = None  # from the header of the chosen variant where it was read
    chat_template: bool | None = None
    base_models: tuple[str, ...] = ()
    library: str | None = None
    access: str | None = None  # how to get access to a gated repo
    scan: str | None = None  # the Hub's scanners, as reported
    files: tuple[HubFile, ...] = ()
    card: str | None = None
    notes: tuple[str, ...] = ()  # what could not be found out, and why
    freshness: Freshness = field(default_factory=Freshness)


_SUMMARIES: TypeAdapter[list[RepoSummary]] = TypeAdapter(list[RepoSummary])
_DETAILS: TypeAdapter[RepoDetails] = TypeAdapter(RepoDetails)


def search(context: Context, query: str, filters: SearchFilters, *, fits: bool, refresh: bool) -> SearchPage:
    """One page of repos, with which of them fit and which are here."""
    asked = replace(filters, limit=min(filters.limit * FITS_PAGES, MAX_ROWS)) if fits else filters
    rows, freshness = metadata_cache.remembered(
        context,
        {"search": query, **asdict(asked)},
        lambda hub, etag: hub.search(query, asked, known_etag=etag),
        lambda answer: _SUMMARIES.dump_json(answer).decode(),
        _SUMMARIES.validate_json,
        refresh=refresh,
    )
    here = _here_by_repo(context)
    room = memory_for_models(context)
    results = [SearchResult(**vars(row), here=tuple(here.get(row.id, ())), fits=_row_fits(row, room)) for row in rows]
    if fits:
        results = [result for result in results if result.fits]
    loosen = () if results else _loosen(query, filters, fits=fits)
    return SearchPage(tuple(results[: filters.limit]), freshness, loosen)


def memory_for_models(context: Context) -> int:
    """Bytes that one model may take on this machine: all its memory less the reserve."""
    return max(0, machine().total_memory - context.settings().memory_reserve)


def _row_fits(row: RepoSummary, room: int) -> bool | None:
    if row.parameters is None:
        return None
    weights = int(row.parameters * ASSUMED_BITS_PER_WEIGHT / 8)
    return fitting.assess(weights, None, context=0, available=room).fits


def _here_by_repo(context: Context) -> dict[str, list[str]]:
    here: dict[str, list[str]] = {}
    with context.db() as db:
        for model in db.models():
            if model.repo and model.state != "missing":
                here.setdefault(model.repo, []).append(model.model_id)
    return here


def _loosen(query: str, filters: SearchFilters, *, fits: bool) -> tuple[str, ...]:
    """Options to drop, narrowest first."""
    candidates = (
        (fits, "drop --fits"),
        (filters.min_params is not None or filters.max_params is not None, "widen --min-params/--max-params"),
        (bool(filters.tags), "drop a --tag"),
        (filters.license, "drop --license"),
        (filters.language, "drop --language"),
        (filters.task, "drop --task"),
        (filters.gated is not None, "drop --gated/--no-gated"),
        (filters.author, "drop --author"),
        (len(query.split()) > 1, "use fewer words"),
        (filters.library is not None, "--library any (models without GGUF files too)"),
    )
    return tuple(advice for asked, advice in candidates if asked)


def details_of(context: Context, ref: ModelRef, *, refresh: bool = False) -> tuple[RepoDetails, Freshness]:
    """One repo at the commit that the ref's revision names, from the Hub or the metadata cache."""
    _say_who_is_asked(context, ref)
    return metadata_cache.remembered(
        context,
        {"details": str(ref.repo), "revision": ref.revision},
        lambda hub, etag: hub.details(ref.repo, ref.revision, known_etag=etag),
        lambda answer: _DETAILS.dump_json(answer).decode(),
        _DETAILS.validate_json,
        refresh=refresh,
    )


def _say_who_is_asked(context: Context, ref: ModelRef) -> None:
    """Where an address was given whose host is another than the Hub that is asked."""
    asked = urlsplit(checked_endpoint(settings.endpoint())).hostname
    if context.notice and ref.host not in (None, asked, *HUB_HOSTS):
        context.notice(f"{ref.host} is not asked: {ref.repo} is looked for on {asked}. HF_ENDPOINT names another Hub.")


def with_revision(ref: ModelRef, revision: str | None) -> ModelRef:
    """The ref, pinned to a revision that was given beside it.

    Raises:
        BadInputError: it names another one itself.
    """
    if not revision:
        return ref
    if ref.revision not in (None, revision):
        raise BadInputError(f"Two revisions are given: {ref.revision} in the ref, and {clean_text(revision, 80)}")
    return replace(ref, revision=parse_revision(revision))


def info(context: Context, text: str, *, revision: str | None, card: bool, refresh: bool) -> ModelInfo:
    """One repo in full: its variants weighed, its header's facts, its access, what scanners said."""
    ref = with_revision(ModelRef.parse(text), revision)
    details, freshness = details_of(context, ref, refresh=refresh)
    hub, notes = context.hub(), []
    variants = quants.group(details.files)
    notes += [f"{line}: it can't be pulled as a model" for line in incomplete(details)]
    room = memory_for_models(context)
    facts, choice = None, None
    if variants:
        choice = choose_variant(context, variants, None)
        try:
            facts = facts_of(context, hub, ref.repo, details, choice.variant)
            choice = choose_variant(context, variants, facts)
        except HfModelsError as error:
            notes.append(f"The header of {choice.variant.files[0]} could not be read: {error.message}")
    card_text = _card(context, hub, details, notes) if card else None
    weighed = _weigh(context, details, variants, choice.variant if choice else None, facts, room)
    base = {name: value for name, value in vars(details).items() if name in RepoSummary.__dataclass_fields__}
    return ModelInfo(
        **base,
        revision=ref.revision,
        commit=details.commit,
        variants=weighed,
        choice_reason=choice.reason if choice else None,
        facts=facts,
        chat_template=facts.chat_template if facts else details.chat_template,
        base_models=details.base_models,
        library=details.library,
        access=_access(details),
        scan=scan_of(details),
        files=details.files,
        card=card_text,
        notes=tuple(notes),
        freshness=freshness,
    )


def _card(context: Context, hub: Hub, details: RepoDetails, notes: list[str]) -> str | None:
    """The model card at that commit; None, and a note, where it can't be had."""
    try:
        return metadata_cache.kept_by_digest(
            context,
            f"card:{details.id}@{details.commit}",
            lambda: hub.card(RepoId.parse(details.id), details.commit),
            str,
            str,
        )
    except HfModelsError as error:
        notes.append(f"The model card could not be read: {error.message}")
        return None


def fit_of(variant: Variant, facts: ModelFacts | None, context: Context, room: int) -> Fit:
    """One variant weighed at the context length that settings ask for."""
    return fitting.assess(
        variant.size, facts, context=context.settings().context, available=room, mmproj_bytes=variant.mmproj_size
    )


def choose_variant(context: Context, variants: Sequence[Variant], facts: ModelFacts | None) -> quants.Choice:
    """What a plain pull takes on this machine: one that fits with the context asked for, if any does."""
    room = memory_for_models(context)
    fits = {variant: fit_of(variant, facts, context, room) for variant in variants}
    whole = any(fit.fits and not fit.reduced for fit in fits.values())
    return quants.choose(variants, lambda variant: fits[variant].fits and not (whole and fits[variant].reduced))


def _weigh(
    context: Context,
    details: RepoDetails,
    variants: Sequence[Variant],
    chosen: Variant | None,
    facts: ModelFacts | None,
    room: int,
) -> tuple[VariantInfo, ...]:
    with context.db() as db:
        here = {model.quant: model.model_id for model in db.models() if model.repo == details.id}
    parameters = (facts and facts.parameters) or details.parameters
    return tuple(
        VariantInfo(
            **vars(variant),
            bits_per_weight=round(variant.size * 8 / parameters, 2) if parameters else None,
            fit=fit_of(variant, facts, context, room),
            chosen=variant == chosen,
            here=here.get(variant.quant),
        )
        for variant in variants
    )


def _access(details: RepoDetails) -> str | None:
    if not details.gated:
        return None
    how = "at once" if details.gated == "auto" else "once its owners agree"
    return f"Ask for access on {settings.shown_endpoint()}/{details.id} (granted {how}), then `llm hf login`."


def scan_of(details: RepoDetails, paths: Sequence[str] | None = None) -> str | None:
    """What the Hub's scanners reported, in their words: of the whole repo, or of some of its files."""
    issues = [(path, level) for path, level in details.files_with_issues if paths is None or path in paths]
    levels = {file.path: file.scan for file in details.files if file.scan and (paths is None or file.path in paths)}
    if issues:
        return "; ".join(f"{path}: {level}" for path, level in issues)
    if levels:
        return ", ".join(sorted({level for level in levels.values() if level}))
    if details.scans_done is None:
        return None
    return "no issue reported" if details.scans_done else "not finished"


def header_of(context: Context, hub: Hub, repo: RepoId, details: RepoDetails, path: str) -> tuple[GgufHeader, int]:
    """The header of a GGUF file that is still on the Hub, by Range requests; and how many bytes were fetched for it."""
    file, name = details.file(RepoFile(path)), RepoFile(path)
    now = context.settings()

    def read() -> tuple[GgufHeader, int]:
        with RemoteFile(
            lambda: hub.locate(repo, name, details.commit),
            timeout=now.metadata_seconds,
            connect_timeout=now.connect_seconds,
            seconds=now.header_seconds,
        ) as remote:
            header = read_header(remote, file_bytes=file.size, seconds=now.header_seconds)
            return header, remote.fetched_bytes

    with said_of(f"{path} of {repo}"):
        return metadata_cache.patiently(context, read)


@dataclass(frozen=True)
class Preview:
    """What the header of a variant says, before the variant is fetched."""

    facts: ModelFacts
    findings: tuple[Finding, ...]


_PREVIEW: TypeAdapter[Preview] = TypeAdapter(Preview)


def preview_of(context: Context, hub: Hub, repo: RepoId, details: RepoDetails, variant: Variant) -> Preview:
    """A variant's facts and findings, from the metadata cache by digest, else from its header on the Hub."""
    file = details.file(RepoFile(variant.files[0]))

    def ask() -> Preview:
        header, _ = header_of(context, hub, repo, details, file.path)
        return Preview(header.facts, check_header(header, file_bytes=file.size).findings)

    return metadata_cache.kept_by_digest(
        context,
        f"preview:{version()}:{file.size}:{file.etag}" if file.etag else None,  # another version may judge otherwise
        ask,
        lambda preview: _PREVIEW.dump_json(preview).decode(),
        _PREVIEW.validate_json,
    )


def facts_of(context: Context, hub: Hub, repo: RepoId, details: RepoDetails, variant: Variant) -> ModelFacts:
    """A variant's facts alone."""
    return preview_of(context, hub, repo, details, variant).facts


def pick(context: Context, hub: Hub, ref: ModelRef, details: RepoDetails) -> tuple[Variant | None, str]:
    """The variant that a ref means, and why it; None for a single file that is no model.

    Raises:
        FileNotFoundInRepoError, QuantNotFoundError, NoGgufError
    """
    return settle(context, hub, ref, details, guess(context, hub, ref, details))


def guess(context: Context, hub: Hub, ref: ModelRef, details: RepoDetails) -> tuple[Variant | None, str]:
    """The same before any header was read: what was not asked for by name may yet be found not to fit.

    Raises:
        FileNotFoundInRepoError, QuantNotFoundError, NoGgufError
    """
    variants = quants.group(details.files)
    if ref.file is not None:
        details.file(ref.file)  # a clear error where there is no such file
        return next((v for v in variants if ref.file.path in v.files), None), "the file that was asked for"
    if not variants:
        raise no_gguf(hub, details)
    if ref.quant is not None:
        return _named(variants, ref.quant, details), "the quantization that was asked for"
    choice = choose_variant(context, variants, None)
    return choice.variant, choice.reason


def _named(variants: Sequence[Variant], quant: str, details: RepoDetails) -> Variant:
    try:
        return quants.find(variants, quant)
    except QuantNotFoundError as error:
        error.cause = "\n".join(incomplete(details)) or None
        raise


def incomplete(details: RepoDetails) -> list[str]:
    """The models of a repo that are not whole, each with what it lacks."""
    return [f"{split.name}: {split.reason}" for split in quants.incomplete_splits(details.files)]


def settle(
    context: Context, hub: Hub, ref: ModelRef, details: RepoDetails, guessed: tuple[Variant | None, str]
) -> tuple[Variant | None, str]:
    """What `guess` found, weighed anew with the header of that variant where nothing was asked for by name."""
    variant, reason = guessed
    if variant is None or ref.file is not None or ref.quant is not None:
        return guessed
    with suppress(InvalidGgufError):  # whether it may be pulled is not judged here
        facts = facts_of(context, hub, ref.repo, details, variant)
        choice = choose_variant(context, quants.group(details.files), facts)
        variant, reason = choice.variant, choice.reason
    return variant, reason


def no_gguf(hub: Hub, details: RepoDetails) -> NoGgufError:
    """The answer to a pull from a repo without a GGUF model: what one lacks, else conversions of it, best first."""
    if lacks := incomplete(details):
        hint = f"`llm hf info {details.id} --files` lists its files; any of them can be pulled by its name."
        return NoGgufError(f"{details.id} has no whole GGUF model", cause="\n".join(lacks), hint=hint)
    try:
        found = hub.conversions(RepoId.parse(details.id))
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
