"""Register a GGUF file that is already on this machine, in place or as a copy. Only metadata is downloaded."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    BadInputError,
    DigestMismatchError,
    FileChangedError,
    MissingFileError,
    NetworkError,
    QuantNotFoundError,
)
from llm_hf_models.gguf import variants as gguf_variants
from llm_hf_models.gguf.facts import ModelFacts, apply_task
from llm_hf_models.gguf.filenames import parse_name
from llm_hf_models.gguf.shards import find_shards, is_only_model
from llm_hf_models.gguf.validate import check_shards
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub.refs import ModelRef, RepoFile, parse_alias
from llm_hf_models.hub.types import RepoDetails
from llm_hf_models.inference.protocol.options import extract_sampling, validate_for_model
from llm_hf_models.library.records import IMPORTED_FROM, Check, FileRole, LocalFile, LocalModel
from llm_hf_models.models import names as models_names
from llm_hf_models.models import projector_choice
from llm_hf_models.models.default_options import set_options
from llm_hf_models.models.import_copies import prepare_locations
from llm_hf_models.models.import_entry import add_known_projector, list_short_names, register_model
from llm_hf_models.models.local_files import hash_with_progress
from llm_hf_models.models.local_models import make_view
from llm_hf_models.models.names import explain_taken_aliases
from llm_hf_models.models.repo_info import GENERATION_CONFIG, collect_repo_facts, fetch_repo, notify_of_name
from llm_hf_models.models.types import ImportResult
from llm_hf_models.models.variant_choice import group_variants, refuse_invalid, settle_ref
from llm_hf_models.system.hashing import FileDigests
from llm_hf_models.transfer.types import Progress

MAX_STEM_CHARS = 80
MAX_CONFIG_BYTES = 2**20


@dataclass(frozen=True)
class _ClaimedOrigin:
    """The repo that a file is from according to the user, with its details; `problem` is why there are none."""

    ref: ModelRef | None
    details: RepoDetails | None
    problem: str


@dataclass(frozen=True)
class _Files:
    """The files of one model: the shards of its weights in order, then its projector."""

    weights: Sequence[Path]
    projector: Path | None = None
    left_out: tuple[str, ...] = ()  # projectors of other models in the same folder, with the reasons

    @property
    def all(self) -> list[Path]:
        return [*self.weights, *([self.projector] if self.projector else [])]

    def replace_paths(self, locations: Sequence[Path]) -> _Files:
        """Return the same files at other locations."""
        count = len(self.weights)
        return _Files(locations[:count], locations[count] if self.projector else None, self.left_out)


@dataclass(frozen=True)
class ToolRecord:
    """What another tool has recorded about a model.

    `name` is the tool's name for it, `file_name` replaces the name of its file if that says nothing, `sha256` is the
    digest of its weights, and `source` is stored with the model.
    """

    name: str
    file_name: str | None = None
    sha256: str | None = None
    source: Mapping[str, str] = field(default_factory=dict)


def import_file(
    context: Context,
    path: Path,
    *,
    repo: str | None,
    copy: bool,
    mmproj: Path | None,
    with_mmproj: bool,
    aliases: Sequence[str],
    options: Mapping[str, str],
    progress: Progress,
    record: ToolRecord | None = None,
) -> ImportResult:
    """Register a GGUF on this machine, with all its shards and its projector.

    Args:
        context: The context with the library.
        path: The file, or any of its shards.
        repo: The repo that the file is from, if the user names one.
        copy: Store a copy of the files instead of using them in place.
        mmproj: The model's projector. With None, a projector in the same folder is used if it can't belong to
            another model.
        with_mmproj: False registers the model without a projector.
        aliases: The aliases of the model.
        options: Options to store for the model, as `llm hf set` does: `kind`, `pooling`.
        progress: Called with the progress of hashing.
        record: What the tool that the file belongs to has recorded.

    Raises:
        MissingFileError: A file can't be read.
        InvalidGgufError: A file breaks the rules of the GGUF format.
        StorageError: The copy failed.
        BadInputError: The model is a projector, or the projector is not one.
        DigestMismatchError: The named repo does not have the file, the model ref names another of its files, or the
            file is not the one that the tool has recorded.
        FileChangedError: A file was modified while it was read.
        QuantNotFoundError: The named repo does not have the quantization.
        NameTakenError: Another model, in the library or in llm, has an alias or the id.
    """
    names = [parse_alias(alias) for alias in aliases]
    ref = ModelRef.parse(repo) if repo else None
    seconds = context.settings().header_seconds
    try:
        given = _find_files(path, mmproj, seconds, with_mmproj=with_mmproj)
        models_names.refuse_taken_names(names, options.get("kind") or _check_files(given, seconds)[0].kind)
        with prepare_locations(given.all, copy=copy) as locations:
            facts, checks = _check_files(given.replace_paths(locations), seconds)
            digests = [hash_with_progress(location, location.name, progress) for location in locations]
            if record is not None:
                _refuse_damaged(record, digests[0])
            origin = _look_up_origin(context, ref)
            model = _build_model(given, locations, digests, origin, facts, copy=copy, record=record)
            model = replace(model, checks=(*_make_digest_check(origin.details), *checks))
            kind = options.get("kind") or model.facts.kind
            validate_for_model(options, model.model_id, embedding=kind == "embedding")
            may_have_known_projector = with_mmproj and given.projector is None
            with context.open_database() as db, db.transaction():
                if may_have_known_projector:
                    model = add_known_projector(db, model, seconds)
                registered = register_model(db, model, names)
                refused = explain_taken_aliases(db.list_models(), list_short_names(registered), registered.model_id)
            if options:
                registered = set_options(context, registered.model_id, options)
    except OSError as error:
        raise MissingFileError(f"Can't read {error.filename or path}", cause=error.strerror) from None
    digest_result = (
        f"matches {origin.details.id}@{origin.details.commit}" if origin.details else f"not checked: {origin.problem}"
    )
    return ImportResult(make_view(registered), digest_result, refused)


# Files


def _find_files(path: Path, mmproj: Path | None, seconds: float, *, with_mmproj: bool) -> _Files:
    """Find all files of the model, given one of them.

    Raises:
        MissingFileError: A file or shard does not exist.
        InvalidGgufError: A file is not a GGUF file.
        BadInputError: The projector has the same file name as the model, so that they can't be copied to one folder.
    """
    weights = find_shards(path)
    if mmproj is None:
        return _Files(weights, *projector_choice.find_in_folder(weights, seconds)) if with_mmproj else _Files(weights)
    (projector,) = find_shards(mmproj)[:1]
    if projector.name in {weight.name for weight in weights}:
        raise BadInputError(f"Model and projector have the same name {projector.name}", hint="Rename one of them.")
    return _Files(weights, projector)


def _check_files(files: _Files, seconds: float) -> tuple[ModelFacts, tuple[Check, ...]]:
    """Validate the files. Return the model's facts, including its projector's modalities, and the structure check.

    Raises:
        InvalidGgufError: A file is invalid.
        BadInputError: The model is a projector, or the projector is not one.
    """
    name = files.weights[0].name
    report = check_shards(files.weights, seconds=seconds)
    hint = f"To list all errors: {shlex.join(['llm', 'hf', 'check', str(files.weights[0])])}"
    refuse_invalid(name, report.findings, hint)
    facts = report.header.facts if report.header else ModelFacts()
    if facts.kind == "mmproj":
        raise BadInputError(
            f"{name} is a vision projector, not a model", hint=f"llm hf import MODEL.gguf --mmproj {name}"
        )
    findings = [*report.findings]
    if files.projector is not None:
        modalities, more = projector_choice.check_projector(files.projector, facts, seconds)
        facts = replace(facts, modalities=modalities)
        findings += more
    detail = {"findings": [vars(finding) for finding in findings], "left_out": files.left_out}
    return facts, (Check("structure", "valid", time.time(), detail),)


def _refuse_damaged(record: ToolRecord, digests: FileDigests) -> None:
    if record.sha256 is not None and record.sha256 != digests.sha256:
        raise DigestMismatchError(
            f"The file of {record.name} is damaged",
            cause=f"Its sha256 is {digests.sha256}, and the tool has recorded {record.sha256}.",
            hint="Download it again with that tool.",
        )


# The model


def _look_up_origin(context: Context, ref: ModelRef | None) -> _ClaimedOrigin:
    if ref is None:
        return _ClaimedOrigin(None, None, "no repo was named (--repo owner/name)")
    try:
        ref, details, _, note = fetch_repo(context, ref)
        notify_of_name(context, note)
        return _ClaimedOrigin(settle_ref(ref, details), details, "")
    except NetworkError as error:
        return _ClaimedOrigin(ref, None, error.message)


def _build_model(
    given: _Files,
    locations: Sequence[Path],
    digests: Sequence[FileDigests],
    origin: _ClaimedOrigin,
    facts: ModelFacts,
    *,
    copy: bool,
    record: ToolRecord | None,
) -> LocalModel:
    ref, details = origin.ref, origin.details
    facts = apply_task(facts, details.task) if details else facts
    names = _find_repo_paths(details, given, digests) if details else [path.name for path in given.all]
    if record and record.file_name and not details and len(given.weights) == 1:
        names[0] = f"{_clean_stem(record.file_name)}.gguf"
    quant = _determine_quant(names, facts, origin)
    revision = f"@{ref.revision}" if ref and ref.revision else ""
    return LocalModel(
        model_id=f"hf/{ref.repo}{revision}:{quant}" if ref else f"hf/local/{_make_stem(names[0])}:{quant}",
        repo=str(ref.repo) if ref else None,
        revision=ref.revision if ref else None,
        commit=details.commit if details else None,
        quant=quant,
        files=tuple(
            _build_local_file(name, role, path, digest)
            for name, role, path, digest in zip(names, _list_roles(given), locations, digests, strict=True)
        ),
        facts=facts,
        place="folder" if copy else "in place",
        # The repo's facts include `gated`, which a mirror needs.
        hub={
            **(collect_repo_facts(details) if details else {}),
            **({IMPORTED_FROM: record.source} if record else {}),
            **_read_sampling(given.weights[0]),
        },
    )


def _build_local_file(name: str, role: FileRole, path: Path, digests: FileDigests) -> LocalFile:
    stamp = digests.stamp
    if stamp is None:
        raise FileChangedError(
            f"{path.name} was modified while it was read", hint="Import it again once it is complete."
        )
    return LocalFile(name, role, stamp.size, str(path), digests.sha256, None, stamp.mtime_ns, stamp.ctime_ns)


def _list_roles(files: _Files) -> list[FileRole]:
    weights: list[FileRole] = ["weights"] * len(files.weights)
    return [*weights, "mmproj"] if files.projector else weights


def _read_sampling(path: Path) -> dict[str, dict[str, float]]:
    """Return the sampling from a generation_config.json in the model's folder, if no other model is there."""
    config = path.parent / GENERATION_CONFIG
    if not is_only_model(path):
        return {}
    try:
        with config.open("rb") as file:
            sampling = extract_sampling(json.loads(file.read(MAX_CONFIG_BYTES)))
    except (OSError, ValueError, RecursionError):
        return {}  # the file does not exist or can't be parsed
    return {"generation_config": sampling} if sampling else {}


def _find_repo_paths(details: RepoDetails, given: _Files, digests: Sequence[FileDigests]) -> list[str]:
    """Return the paths of the files in the repo, found by their digests."""
    by_digest = {file.sha256: file.path for file in details.files if file.sha256}
    for path, digest in zip(given.all, digests, strict=True):
        if digest.sha256 not in by_digest:
            namesake = next((file for file in details.files if RepoFile(file.path).name == path.name), None)
            in_repo = (
                f"{namesake.path} in the repo has {namesake.sha256}"
                if namesake
                else f"the repo has no file named {path.name}"
            )
            raise DigestMismatchError(
                f"{path.name} is not a file of {details.id}",
                cause=f"Its sha256 is {digest.sha256}; at commit {details.commit[:12]} {in_repo}.",
                hint=projector_choice.IMPORT_WITHOUT_HINT
                if path == given.projector
                else f"Import it without --repo as a file of unknown origin, or: llm hf pull {details.id}",
            )
    return [by_digest[digest.sha256] for digest in digests]


def _determine_quant(names: Sequence[str], facts: ModelFacts, origin: _ClaimedOrigin) -> str:
    """Return the quantization that a pull from the repo would use, else that of the file name, the ref or the header.

    Raises:
        DigestMismatchError: The model ref names another file of the repo.
        QuantNotFoundError: The repo does not have the quantization of the model ref.
    """

    @dataclass(frozen=True)
    class Sized:
        path: str
        size: int

    ref, details = origin.ref, origin.details
    parsed = parse_name(names[0])
    if details is not None:
        variants = group_variants(details)
    elif parsed is not None and parsed.type:
        variants = gguf_variants.group_variants([Sized(name, 1) for name in names])
    else:
        variants = []
    found = next((variant for variant in variants if names[0] in variant.files), None)
    if ref is not None and found is not None:
        _refuse_other_variant(ref, variants, found)
    if found is not None:
        return found.quant
    return (ref.quant if ref else None) or facts.quantization or "GGUF"


def _refuse_other_variant(ref: ModelRef, variants: Sequence[Variant], found: Variant) -> None:
    """Raise an error if the model ref names another variant of the repo than the one that was found."""
    name = found.files[0]
    try:
        quant = gguf_variants.find_variant(variants, ref.quant).quant if ref.quant else found.quant
    except QuantNotFoundError as error:
        error.cause = f"{name} is {found.quant}."
        raise
    if quant != found.quant or (ref.file is not None and ref.file.path not in found.files):
        raise DigestMismatchError(
            f"{name} is not the file that {ref} names",
            cause=f"It is the {found.quant} variant of {ref.repo}.",
            hint=f"Use --repo {replace(ref, quant=found.quant, file=None)}.",
        )


def _make_stem(path: str) -> str:
    """Return a file's name as a part of a model id, and of a repo's name on a mirror."""
    name = parse_name(path)
    return _clean_stem((name.base or name.stem) if name else path)


def _clean_stem(stem: str) -> str:
    safe = re.sub(r"\.{2,}", ".", re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9._-]+", "-", stem)))
    return safe[:MAX_STEM_CHARS].strip("._-") or "model"


def _make_digest_check(details: RepoDetails | None) -> tuple[Check, ...]:
    if details is None:
        return ()
    return (Check("digest", "matches", time.time(), {"repo": details.id, "commit": details.commit}),)
