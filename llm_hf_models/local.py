"""What is on this machine: list, show, remove, re-hash, name, import. Fetches nothing but metadata."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llm_hf_models import engine, quants, settings
from llm_hf_models.context import Context
from llm_hf_models.digests import FileDigests, digests_of
from llm_hf_models.errors import (
    BadInputError,
    DigestMismatchError,
    InvalidGgufError,
    MissingFileError,
    NetworkError,
    NotWritableError,
)
from llm_hf_models.gguf_header import ModelFacts
from llm_hf_models.gguf_names import read_name
from llm_hf_models.hub import RepoDetails, free_cached, scan_cache
from llm_hf_models.library import LibraryDB
from llm_hf_models.model_engine import ENDPOINT_KEY_ENV, ENDPOINT_MODEL, own_options
from llm_hf_models.pull_plan import refuse_invalid, short_names
from llm_hf_models.records import Check, LocalFile, LocalModel, State
from llm_hf_models.refs import ModelRef, RepoFile, parse_alias
from llm_hf_models.runtime import Health, ModelDefault, defaults, sends_key_in_the_clear
from llm_hf_models.search import details_of
from llm_hf_models.transfer import Event, Progress
from llm_hf_models.validate import check_shards


@dataclass(frozen=True)
class LocalModelView:
    """A local model as the faces show it. Times in Unix seconds, sizes in bytes."""

    model_id: str
    aliases: tuple[str, ...]
    state: State | Literal["remote"]
    kind: str
    repo: str | None
    revision: str | None
    commit: str | None
    quant: str
    size: int
    facts: ModelFacts
    files: tuple[LocalFile, ...]
    options: Mapping[str, Any]
    checks: tuple[Check, ...]
    added: float
    last_used: float | None
    hub: Mapping[str, Any]
    endpoint: str | None = None
    endpoint_model: str | None = None  # what it is called there
    key_env: str | None = None  # the environment variable that holds the key for it
    key_in_the_clear: bool = False  # whether that key goes over a network without TLS
    health: Health | None = None  # of one served elsewhere, where it was asked for
    defaults: tuple[ModelDefault, ...] = ()  # of one model that is shown alone
    fix: str | None = None  # the command that mends a state that is not ready


@dataclass(frozen=True)
class Removal:
    """What `rm` removes, or would. Bytes; `kept` are files that something else uses or that are not ours to remove."""

    model_id: str
    files: tuple[str, ...]
    freed_bytes: int
    kept: tuple[str, ...] = ()
    done: bool = False


@dataclass(frozen=True)
class Verification:
    """Re-hashed files of one model."""

    model_id: str
    matches: bool
    files: tuple[tuple[str, str], ...]  # (path, "matches" | "differs: …" | "missing" | "no digest recorded")
    fix: str | None = None


@dataclass(frozen=True)
class Imported:
    """A file that was already on the disk and is now a local model."""

    model: LocalModelView
    digest: str  # "matches owner/name@commit" | "not checked: …"


def view_whole(model: LocalModel, health: Health | None = None) -> LocalModelView:
    """The same with every default that holds for it."""
    return replace(view(model, health), defaults=defaults(model))


def view(model: LocalModel, health: Health | None = None) -> LocalModelView:
    """A local model with its state now, and what to do about that."""
    state: State | Literal["remote"] = "remote" if model.endpoint else model.state
    return LocalModelView(
        model_id=model.model_id,
        aliases=model.aliases,
        state=state,
        kind=model.facts.kind,
        repo=model.repo,
        revision=model.revision,
        commit=model.commit,
        quant=model.quant,
        size=model.size,
        facts=model.facts,
        files=model.files,
        options=own_options(model),
        checks=model.checks,
        added=model.added,
        last_used=model.last_used,
        hub=model.hub,
        endpoint=model.endpoint,
        endpoint_model=model.options.get(ENDPOINT_MODEL),
        key_env=model.options.get(ENDPOINT_KEY_ENV),
        key_in_the_clear=sends_key_in_the_clear(model),
        health=health,
        fix=fix_for(model) if state in ("missing", "changed", "unverified") else None,
    )


def fix_for(model: LocalModel) -> str:
    """The command that brings a model's files back, or proves them."""
    if model.state == "unverified":
        return (
            f"llm hf verify {model.model_id}" if model.repo else f"llm hf import FILE --repo owner/name ({model.quant})"
        )
    if model.repo is None:
        return f"llm hf import {shlex.quote(model.files[0].location)}"
    return f"llm hf pull {pull_ref(model)}"


def pull_ref(model: LocalModel) -> str:
    """The ref that pulls this very model again."""
    return model.model_id.removeprefix("hf/")


def remove(context: Context, name: str, *, dry_run: bool) -> Removal:
    """Forgets a model and frees what nothing else uses; a person's own file in place is never touched."""
    with context.db() as db:
        model = db.find(name)
        shared = db.locations_in_use(without=model.model_id)
        ours = [file.location for file in model.files if file.location not in shared and model.place != "in place"]
        kept = tuple(file.location for file in model.files if file.location not in ours)
        if not dry_run:
            engine.stop_model(db, model.model_id)
            db.remove(model.model_id)  # first the record: a kill here leaves files that a pull adopts, never a lie
    if model.place == "cache":
        freed = _free_in_cache(context, ours, dry_run=dry_run)
    else:
        freed = _free_in_folder(ours, dry_run=dry_run)
    return Removal(model.model_id, tuple(ours), freed, kept, done=not dry_run)


def _free_in_cache(context: Context, locations: Sequence[str], *, dry_run: bool) -> int:
    wanted = set(locations)
    cache = context.cache_dir()
    return free_cached(cache, [file for file in scan_cache(cache) if str(file.location) in wanted], dry_run=dry_run)


def _free_in_folder(locations: Sequence[str], *, dry_run: bool) -> int:
    freed = 0
    for path in map(Path, locations):
        try:
            freed += path.stat().st_size
            if not dry_run:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise NotWritableError(f"Can't remove {path}", cause=error.strerror) from None
    return freed


def verify(context: Context, name: str, progress: Progress) -> Verification:
    """Re-hashes every file against its recorded digest, and records the outcome."""
    with context.db() as db:
        model = db.find(name)
        if model.endpoint:
            raise BadInputError(f"{model.model_id} is served elsewhere", cause="There are no files of it here.")
        files = tuple((file.path, _compare(file, progress)) for file in model.files)
        matches = all(result == "matches" for _, result in files)
        outcome = "matches" if matches else "differs" if _any_differs(files) else "not proven"
        db.add_check(
            model.model_id, Check("digest", outcome, time.time(), {"repo": model.repo, "commit": model.commit,
                                                                  "files": dict(files)})
        )  # fmt: skip
        fixed = view(db.model(model.model_id))
    return Verification(model.model_id, matches, files, None if matches else fixed.fix)


def _any_differs(files: Sequence[tuple[str, str]]) -> bool:
    return any(result.startswith("differs") for _, result in files)


def _compare(file: LocalFile, progress: Progress) -> str:
    if not Path(file.location).exists():
        return "missing"
    if not (file.sha256 or file.git_sha1):
        return "no digest recorded"
    found = _hash(Path(file.location), file.path, progress)
    expected, actual = (file.sha256, found.sha256) if file.sha256 else (file.git_sha1, found.git_sha1)
    return "matches" if expected == actual else f"differs: recorded {expected}, found {actual}"


def _hash(path: Path, name: str, progress: Progress) -> FileDigests:
    size = path.stat().st_size
    progress(Event("verifying", name, 0, size))
    found = digests_of(path, lambda done: progress(Event("progress", name, done, size)))
    progress(Event("done", name, size, size))
    return found


# Import


def import_file(
    context: Context, path: Path, *, repo: str | None, copy: bool, aliases: Sequence[str], progress: Progress
) -> Imported:
    """Registers a GGUF (all shards of a split one) that is on the disk already.

    Raises:
        MissingFileError, InvalidGgufError
        DigestMismatchError: the repo that it is said to come from has no such file.
    """
    paths = _shards_beside(path)
    report = check_shards(paths)
    refuse_invalid(path.name, report)
    aliases = [parse_alias(alias) for alias in aliases]
    facts = report.header.facts if report.header else ModelFacts()
    found = [_hash(shard, shard.name, progress) for shard in paths]
    ref = ModelRef.parse(repo) if repo else None
    details, problem = _details_or_why_not(context, ref)
    names = _names_in_repo(details, paths, found) if details else [shard.name for shard in paths]
    quant = _quant_of(names, facts)
    revision = f"@{ref.revision}" if ref and ref.revision else ""
    model_id = f"hf/{ref.repo}{revision}:{quant}" if ref else f"hf/local/{_stem(path)}:{quant}"
    places = _copied(paths) if copy else paths
    checks = _import_checks(report.findings, details)
    model = LocalModel(
        model_id=model_id,
        repo=str(ref.repo) if ref else None,
        revision=ref.revision if ref else None,
        commit=details.commit if details else None,
        quant=quant,
        files=tuple(
            LocalFile(name, "weights", place.stat().st_size, str(place), digest.sha256, None, place.stat().st_mtime_ns)
            for name, place, digest in zip(names, places, found, strict=True)
        ),
        facts=facts,
        aliases=(*aliases, *short_names(str(ref.repo) if ref else f"local/{_stem(path)}", quant)),
        checks=checks,
        place="folder" if copy else "in place",
    )
    with context.db() as db:
        registered = _register(db, model, aliases)
    digest = f"matches {ref.repo}@{details.commit}" if ref and details else f"not checked: {problem}"
    return Imported(view(registered), digest)


def _register(db: LibraryDB, model: LocalModel, aliases: Sequence[str]) -> LocalModel:
    with db.transaction():
        registered = db.register(model)
        for alias in aliases:
            db.add_alias(alias, registered.model_id)  # says whose it is where it is taken
    return registered


def _shards_beside(path: Path) -> list[Path]:
    """The file, or every shard of the split that it belongs to."""
    path = path.expanduser().absolute()
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}")

    @dataclass(frozen=True)
    class Sized:
        path: str
        size: int

    beside = [Sized(file.name, file.stat().st_size) for file in path.parent.glob("*.gguf")]
    for variant in quants.group(beside):
        if path.name in variant.files:
            return [path.parent / name for name in variant.files]
    incomplete = quants.incomplete_splits(beside)
    if any(path.name.startswith(split.name) for split in incomplete):
        raise InvalidGgufError(
            f"{path.name} is one shard of a split model, and not all of them are beside it", code="split-incomplete"
        )
    return [path]


def _details_or_why_not(context: Context, ref: ModelRef | None) -> tuple[RepoDetails | None, str]:
    if ref is None:
        return None, "no repo was named (--repo owner/name)"
    try:
        return details_of(context, ref)[0], ""
    except NetworkError as error:
        return None, error.message


def _names_in_repo(details: RepoDetails, paths: Sequence[Path], found: Sequence[FileDigests]) -> list[str]:
    """Under which paths the repo has these very bytes."""
    by_digest = {file.sha256: file.path for file in details.files if file.sha256}
    names = []
    for path, digest in zip(paths, found, strict=True):
        if digest.sha256 not in by_digest:
            near = next((file for file in details.files if RepoFile(file.path).name == path.name), None)
            theirs = (
                f"its {near.path} has sha256 {near.sha256}" if near else f"it has no file called {path.name} either"
            )
            raise DigestMismatchError(
                f"{path.name} is not a file of {details.id}",
                cause=f"Here sha256 is {digest.sha256}; at commit {details.commit[:12]} {theirs}.",
                hint=f"Without --repo it is kept as an import of unknown origin; or: llm hf pull {details.id}",
            )
        names.append(by_digest[digest.sha256])
    return names


def _quant_of(names: Sequence[str], facts: ModelFacts) -> str:
    @dataclass(frozen=True)
    class Sized:
        path: str
        size: int

    named = read_name(names[0])
    if named is not None and named.type:
        return quants.group([Sized(name, 1) for name in names])[0].quant
    return facts.quantization or "GGUF"


def _stem(path: Path) -> str:
    """A file's name as part of a model id: letters, digits, dots, dashes and underscores."""
    name = read_name(path.name)
    stem = (name.base or name.stem) if name else path.name
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in stem).strip("._-")
    return safe or "model"


def _copied(paths: Sequence[Path]) -> list[Path]:
    folder = settings.home() / "imported"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        copies = []
        for path in paths:
            partial = folder / f"{path.name}.partial"
            shutil.copyfile(path, partial)
            copies.append(partial.replace(folder / path.name))
    except OSError as error:
        raise NotWritableError(f"Can't copy into {folder}", cause=error.strerror) from None
    return copies


def _import_checks(findings: Sequence[Any], details: RepoDetails | None) -> tuple[Check, ...]:
    now = time.time()
    structure = Check("structure", "valid", now, {"findings": [vars(finding) for finding in findings]})
    if details is None:
        return (structure,)
    return (Check("digest", "matches", now, {"repo": details.id, "commit": details.commit}), structure)
