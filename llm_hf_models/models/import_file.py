"""Registering a GGUF that is on the disk already: in place, or as a copy of our own. Fetches nothing but metadata."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llm_hf_models import paths as paths_module
from llm_hf_models import settings
from llm_hf_models.context import Context
from llm_hf_models.errors import (
    BadInputError,
    DigestMismatchError,
    DiskFullError,
    MissingFileError,
    NameTakenError,
    NetworkError,
    QuantNotFoundError,
    UnknownModelError,
)
from llm_hf_models.gguf import variants as gguf_variants
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.filenames import parse_name
from llm_hf_models.gguf.shards import find_projector, find_shards, is_only_model
from llm_hf_models.gguf.validate import check_shards
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub.refs import ModelRef, RepoFile, parse_alias
from llm_hf_models.hub.types import RepoDetails
from llm_hf_models.inference.options import extract_sampling
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import Check, FileRole, LocalFile, LocalModel
from llm_hf_models.models import names as models_names
from llm_hf_models.models.local_files import hash_with_progress
from llm_hf_models.models.local_models import make_view
from llm_hf_models.models.names import make_short_names
from llm_hf_models.models.repo_info import GENERATION_CONFIG, collect_repo_facts, fetch_details
from llm_hf_models.models.types import ImportResult
from llm_hf_models.models.variant_choice import refuse_invalid
from llm_hf_models.system.disk import require_space, translate_disk_error
from llm_hf_models.system.hashing import FileDigests
from llm_hf_models.transfer.types import Progress

MAX_STEM_CHARS = 80
MAX_CONFIG_BYTES = 2**20


@dataclass(frozen=True)
class _ClaimedOrigin:
    """Where a file is said to come from, and what the Hub says of that; `problem` is why it says nothing."""

    ref: ModelRef | None
    details: RepoDetails | None
    problem: str


@dataclass(frozen=True)
class _Files:
    """What makes up one model: the shards of its weights in order, then its projector."""

    weights: Sequence[Path]
    projector: Path | None = None

    @property
    def all(self) -> list[Path]:
        return [*self.weights, *([self.projector] if self.projector else [])]

    def replace_paths(self, places: Sequence[Path]) -> _Files:
        """The same files where they will stand."""
        count = len(self.weights)
        return _Files(places[:count], places[count] if self.projector else None)


def import_file(
    context: Context,
    path: Path,
    *,
    repo: str | None,
    copy: bool,
    mmproj: Path | None,
    with_mmproj: bool,
    aliases: Sequence[str],
    progress: Progress,
) -> ImportResult:
    """Registers a GGUF (all shards of a split one, and its projector) that is on the disk already.

    Args:
        context: the library.
        path: the file, or any of its shards.
        repo: where it is said to come from.
        copy: keep a copy of our own.
        mmproj: its projector; None takes one that lies beside it and can be no other model's.
        with_mmproj: False takes none.
        aliases: names for it.
        progress: told of hashing.

    Raises:
        MissingFileError, InvalidGgufError, StorageError
        BadInputError: the model is a projector, or the projector none.
        DigestMismatchError, QuantNotFoundError: the repo that it is said to come from has no such file, or it is not
            the one of the repo that was named.
        NameTakenError: an alias, or the id, is another model's, here or in llm.
    """
    names = [parse_alias(alias) for alias in aliases]
    ref = ModelRef.parse(repo) if repo else None
    seconds = context.settings().header_seconds
    try:
        given = _find_files(path, mmproj, with_mmproj=with_mmproj)
        models_names.refuse_taken_names(context, names, _check_files(given, seconds)[0].kind)
        with _prepare_places(given.all, copy=copy) as places:
            facts, checks = _check_files(given.replace_paths(places), seconds)
            digests = [hash_with_progress(place, place.name, progress) for place in places]
            origin = _look_up_origin(context, ref)
            found = _build_model(given, places, digests, origin, facts, copy=copy)
            found = replace(found, checks=(*_make_digest_check(origin.details), *checks))
            undecided = with_mmproj and given.projector is None
            with context.open_library() as db, db.transaction():
                registered = _register_model(db, _add_known_projector(db, found) if undecided else found, names)
    except OSError as error:
        raise MissingFileError(f"Can't read {error.filename or path}", cause=error.strerror) from None
    said = (
        f"matches {origin.details.id}@{origin.details.commit}" if origin.details else f"not checked: {origin.problem}"
    )
    return ImportResult(make_view(registered), said)


# Which files


def _find_files(path: Path, mmproj: Path | None, *, with_mmproj: bool) -> _Files:
    """The files of the model that a person means by one of them.

    Raises:
        MissingFileError, InvalidGgufError: as shards_beside.
        BadInputError: the projector is called like the model: copies stand in one folder.
    """
    weights = find_shards(path)
    if mmproj is None:
        return _Files(weights, find_projector(weights[0]) if with_mmproj else None)
    (projector,) = find_shards(mmproj)[:1]
    if projector.name in {weight.name for weight in weights}:
        raise BadInputError(f"Model and projector are both called {projector.name}", hint="Rename one of them.")
    return _Files(weights, projector)


def _check_files(files: _Files, seconds: float) -> tuple[ModelFacts, tuple[Check, ...]]:
    """The facts of a model, its projector's modalities among them, and that its structure is valid.

    Raises:
        InvalidGgufError: it is not.
        BadInputError: the model is a projector, or the projector none.
    """
    name = files.weights[0].name
    report = check_shards(files.weights, seconds=seconds)
    everything = f"All that is wrong with it: {shlex.join(['llm', 'hf', 'check', str(files.weights[0])])}"
    refuse_invalid(name, report.findings, everything)
    facts = report.header.facts if report.header else ModelFacts()
    if facts.kind == "mmproj":
        raise BadInputError(
            f"{name} is a vision projector, not a model", hint=f"llm hf import MODEL.gguf --mmproj {name}"
        )
    findings = [*report.findings]
    if files.projector is not None:
        projector = check_shards([files.projector], seconds=seconds)
        refuse_invalid(files.projector.name, projector.findings, "--no-mmproj imports the model without it.")
        if projector.header is None or projector.header.facts.kind != "mmproj":
            raise BadInputError(f"{files.projector.name} is no projector", hint="Projectors are often called mmproj-….")
        facts = replace(facts, modalities=projector.header.facts.modalities)
        findings += projector.findings
    return facts, (Check("structure", "valid", time.time(), {"findings": [vars(finding) for finding in findings]}),)


# Copies


@contextmanager
def _prepare_places(paths: Sequence[Path], *, copy: bool) -> Iterator[Sequence[Path]]:
    """Where the files will stand: where they are, or copied to a folder of their own that goes if this fails."""
    if not copy:
        yield paths
        return
    folder = paths_module.data_dir() / "imported" / secrets.token_hex(8)
    try:
        _copy_files(paths, folder)
        yield [folder / path.name for path in paths]
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not any(folder.iterdir()):
        folder.rmdir()


def _copy_files(paths: Sequence[Path], folder: Path) -> None:
    for path in paths:
        path.open("rb").close()  # what can't be read is no fault of the folder's
    needed = sum(path.stat().st_size for path in paths)
    try:
        require_space(folder, needed, settings.load().disk_reserve)
        folder.mkdir(parents=True)
        for path in paths:
            shutil.copyfile(path, folder / path.name)
    except DiskFullError as error:
        error.hint = "Nothing was copied. Free some space, or import it in place (without --copy)."
        raise
    except OSError as error:
        raise translate_disk_error(error, folder, needed, 0) from None


# What it is


def _look_up_origin(context: Context, ref: ModelRef | None) -> _ClaimedOrigin:
    if ref is None:
        return _ClaimedOrigin(None, None, "no repo was named (--repo owner/name)")
    try:
        return _ClaimedOrigin(ref, fetch_details(context, ref)[0], "")
    except NetworkError as error:
        return _ClaimedOrigin(ref, None, error.message)


def _build_model(
    given: _Files,
    places: Sequence[Path],
    digests: Sequence[FileDigests],
    origin: _ClaimedOrigin,
    facts: ModelFacts,
    *,
    copy: bool,
) -> LocalModel:
    ref, details = origin.ref, origin.details
    names = _find_repo_paths(details, given, digests) if details else [path.name for path in given.all]
    quant = _determine_quant(names, facts, origin)
    revision = f"@{ref.revision}" if ref and ref.revision else ""
    return LocalModel(
        model_id=f"hf/{ref.repo}{revision}:{quant}" if ref else f"hf/local/{_make_stem(given.weights[0])}:{quant}",
        repo=str(ref.repo) if ref else None,
        revision=ref.revision if ref else None,
        commit=details.commit if details else None,
        quant=quant,
        files=tuple(
            LocalFile(name, role, place.stat().st_size, str(place), digest.sha256, None, place.stat().st_mtime_ns)
            for name, role, place, digest in zip(names, _list_roles(given), places, digests, strict=True)
        ),
        facts=facts,
        place="folder" if copy else "in place",
        # A mirror must know what is gated.
        hub={**(collect_repo_facts(details) if details else {}), **_read_sampling(given.weights[0])},
    )


def _list_roles(files: _Files) -> list[FileRole]:
    weights: list[FileRole] = ["weights"] * len(files.weights)
    return [*weights, "mmproj"] if files.projector else weights


def _read_sampling(path: Path) -> dict[str, dict[str, float]]:
    """The sampling that a generation_config.json beside a model recommends, if it can only be this model's."""
    config = path.parent / GENERATION_CONFIG
    if not is_only_model(path):
        return {}
    try:
        with config.open("rb") as file:
            found = extract_sampling(json.loads(file.read(MAX_CONFIG_BYTES)))
    except (OSError, ValueError, RecursionError):
        return {}  # none, or a recommendation that can't be read
    return {"generation_config": found} if found else {}


def _find_repo_paths(details: RepoDetails, given: _Files, found: Sequence[FileDigests]) -> list[str]:
    """Under which paths the repo has these very bytes."""
    by_digest = {file.sha256: file.path for file in details.files if file.sha256}
    for path, digest in zip(given.all, found, strict=True):
        if digest.sha256 not in by_digest:
            near = next((file for file in details.files if RepoFile(file.path).name == path.name), None)
            theirs = (
                f"its {near.path} has sha256 {near.sha256}" if near else f"it has no file called {path.name} either"
            )
            raise DigestMismatchError(
                f"{path.name} is not a file of {details.id}",
                cause=f"Here sha256 is {digest.sha256}; at commit {details.commit[:12]} {theirs}.",
                hint="--no-mmproj imports the model without it."
                if path == given.projector
                else f"Without --repo it is kept as an import of unknown origin; or: llm hf pull {details.id}",
            )
    return [by_digest[digest.sha256] for digest in found]


def _determine_quant(names: Sequence[str], facts: ModelFacts, origin: _ClaimedOrigin) -> str:
    """What a pull from the repo would call it; else what its name says, then who imports it, then its header.

    Raises:
        DigestMismatchError, QuantNotFoundError: it is not the one of the repo that was named.
    """

    @dataclass(frozen=True)
    class Sized:
        path: str
        size: int

    ref, details = origin.ref, origin.details
    named = parse_name(names[0])
    if details is not None:
        variants = gguf_variants.group_variants(details.files)
    elif named is not None and named.type:
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
    """Refuses a variant that is not the one, of all that there are, which a ref names."""
    name = found.files[0]
    try:
        quant = gguf_variants.find_variant(variants, ref.quant).quant if ref.quant else found.quant
    except QuantNotFoundError as error:
        error.cause = f"{name} is {found.quant}."
        raise
    if quant != found.quant or (ref.file is not None and ref.file.path not in found.files):
        raise DigestMismatchError(
            f"{name} is not what {ref} names",
            cause=f"It is the {found.quant} of {ref.repo}.",
            hint=f"--repo {replace(ref, quant=found.quant, file=None)} says so.",
        )


def _make_stem(path: Path) -> str:
    """A file's name as part of a model id, and of a repo's name where a mirror serves it."""
    name = parse_name(path.name)
    stem = (name.base or name.stem) if name else path.name
    safe = re.sub(r"\.{2,}", ".", re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9._-]+", "-", stem)))
    return safe[:MAX_STEM_CHARS].strip("._-") or "model"


def _make_digest_check(details: RepoDetails | None) -> tuple[Check, ...]:
    if details is None:
        return ()
    return (Check("digest", "matches", time.time(), {"repo": details.id, "commit": details.commit}),)


# The entry


def _register_model(db: Database, found: LocalModel, aliases: Sequence[str]) -> LocalModel:
    """The entry, under an id that is no other model's. What we keep ourselves already stays where it is."""
    model = _choose_entry(db, found)
    names = make_short_names(model.model_id.removeprefix("hf/").partition(":")[0].partition("@")[0], model.quant)
    registered = db.register(replace(model, aliases=names if model.revision is None else ()))
    for alias in aliases:
        db.add_alias(alias, registered.model_id)  # says whose it is where it is taken
    if registered.files != found.files:
        for file in found.files:
            if found.place == "folder":  # a second copy, which nobody needs
                Path(file.location).unlink()
    return db.get_model(registered.model_id)


def _add_known_projector(db: Database, found: LocalModel) -> LocalModel:
    """The entry with the projector that it was imported with before: a second import without a word on it keeps it."""
    there = _find_model(db, found.model_id)
    if there is None or there.place != found.place or _get_digests(there) != _get_digests(found):
        return found
    known = [file for file in there.files if file.role == "mmproj" and Path(file.location).is_file()]
    if not known:
        return found
    facts = replace(found.facts, modalities=there.facts.modalities)
    return replace(found, files=(*found.files, *known), facts=facts)


def _choose_entry(db: Database, found: LocalModel) -> LocalModel:
    base, _, quant = found.model_id.rpartition(":")
    number = 1
    while (there := _find_model(db, found.model_id)) is not None:
        gone = there.state == "missing" or _get_locations(there) == _get_locations(found)
        if gone or (_get_digests(there) == _get_digests(found) and there.place == "in place"):
            return found
        if _get_digests(there) == _get_digests(found):
            return _add_origin(there, found)
        if found.repo is not None:
            raise NameTakenError(
                f"{found.model_id} is another file: {there.files[0].location if there.files else there.endpoint}",
                hint=f"llm hf rm {found.model_id}",
            )
        number += 1
        found = replace(found, model_id=f"{base}-{number}:{quant}")
    return found


def _add_origin(there: LocalModel, found: LocalModel) -> LocalModel:
    """The entry that is there, with the origin that it lacked and that was proven now."""
    if there.commit is not None or found.commit is None:
        return there
    # Not its own facts: those are of the chat template that a person may have set.
    checks = (*found.checks, *there.checks)
    return replace(there, commit=found.commit, hub=found.hub, facts=found.facts, checks=checks)


def _find_model(db: Database, model_id: str) -> LocalModel | None:
    try:
        return db.get_model(model_id)
    except UnknownModelError:
        return None


def _get_locations(model: LocalModel) -> set[str]:
    return {file.location for file in model.files}


def _get_digests(model: LocalModel) -> set[str | None]:
    return {file.sha256 for file in model.files if file.role == "weights"}
