"""Make a lockfile from the library, and write it to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    HfModelsError,
    LockfileError,
    MissingFileError,
    NotWritableError,
    UnknownCollectionError,
)
from llm_hf_models.library.records import ENDPOINT_KEY_ENV, ENDPOINT_KEY_NAME, ENDPOINT_MODEL, TEMPLATE, LocalModel
from llm_hf_models.lockfiles import signature
from llm_hf_models.lockfiles.parse import MAX_TEXT_CHARS, parse_lockfile, read_lockfile
from llm_hf_models.lockfiles.toml_text import sort_files, write_lockfile
from llm_hf_models.lockfiles.types import LockedFact, LockedFile, LockedModel, Lockfile, LockResult
from llm_hf_models.models.collection_types import CollectionMember
from llm_hf_models.models.collections import list_members
from llm_hf_models.models.signing import is_signature_file
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.user_files import write_user_file


def select_models(
    context: Context, names: Sequence[str], collection: str | None
) -> tuple[list[LocalModel], tuple[str, ...]]:
    """Return the named models and those of a collection, or all; and the members that are not on this machine.

    Raises:
        UnknownModelError, UnknownCollectionError: A name is unknown.
    """
    members = _list_members(context, collection) if collection is not None else ()
    absent = tuple(f"{member.ref} is not on this machine" for member in members if member.id is None)
    with context.open_database() as db:
        if not names and collection is None:
            return db.list_models(), ()
        found = [db.find_model(name) for name in names] + [db.get_model(one.id) for one in members if one.id]
    return list({model.model_id: model for model in found}.values()), absent


def _list_members(context: Context, collection: str) -> tuple[CollectionMember, ...]:
    try:
        return list_members(context, collection)
    except UnknownCollectionError as error:
        with suppress(HfModelsError), context.open_database() as db:
            model_id = db.find_model(collection).model_id
            error.cause = f"It is a name of the model {model_id}."
            error.hint = (
                f"Make a collection of it: llm hf collection create NAME, llm hf collection add NAME {model_id}"
            )
        raise


def make_lockfile(models: Iterable[LocalModel]) -> tuple[Lockfile, tuple[str, ...]]:
    """Return a lockfile of some models, and the models that can't be locked, with the reasons."""
    locked, left_out = [], []
    for model in models:
        if problem := find_problem(model):
            left_out.append(f"{model.model_id}: {problem}")
        else:
            locked.append(lock_model(model))
    return Lockfile(tuple(sorted(locked, key=lambda model: (model.id.casefold(), model.id)))), tuple(left_out)


@dataclass(frozen=True)
class Target:
    """The file of a lockfile to write, and the private key that signs it."""

    path: Path
    key: Path | None = None
    ask_passphrase: Callable[[], str] | None = None


def lock(context: Context, names: Sequence[str], collection: str | None, target: Target | None) -> LockResult:
    """Return the text of a lockfile, and write it to `target` if that is given.

    Raises:
        LockfileError: The target is another file than a lockfile, or its signature is another file.
        BadKeyError: The key can't be used.
        NotWritableError: The file can't be written.
        UnknownModelError, UnknownCollectionError: A name is unknown.
    """
    models, absent = select_models(context, names, collection)
    lockfile, left_out = make_lockfile(models)
    text = write_lockfile(lockfile)
    parse_lockfile(text)  # a name that an earlier version accepted could make a file that this one refuses
    result = LockResult(text, len(lockfile.models), lockfile.size_bytes, left_out=(*left_out, *absent))
    return result if target is None else _write(result, target)


def _write(result: LockResult, target: Target) -> LockResult:
    refuse_other_file(target.path)
    content, path = result.text.encode(), signature.get_signature_path(target.path)
    result = replace(result, path=str(target.path))
    if target.key is None:
        write_file(target.path, content)
        is_stale = path.exists() and is_signature_file(path)
        return replace(result, warnings=(f"{path} is the signature of an older lockfile",) if is_stale else ())
    signature.refuse_other_file(path)
    signed = signature.sign_content(content, target.path.name, target.key, target.ask_passphrase)
    write_file(target.path, content)
    write_file(path, signed)
    return replace(result, signature=str(path))


def find_problem(model: LocalModel) -> str | None:
    """Return why a model can't be locked, or None."""
    if model.endpoint is None and not all(file.sha256 or file.git_sha1 for file in model.files):
        return "a file has no recorded digest"
    if model.endpoint is None and not model.files:
        return "it has no files"
    return None


def lock_model(model: LocalModel) -> LockedModel:
    """Return the entry of a local model in a lockfile. It has the name of an API key, never the key."""
    options = {key: value for key, value in model.user_options.items() if key != TEMPLATE and value is not None}
    facts = {check.kind: LockedFact(check.kind, clean_text(check.result, MAX_TEXT_CHARS) or "unknown", check.at)
             for check in reversed(model.checks)}  # fmt: skip
    common = {
        "aliases": tuple(sorted(model.aliases, key=str.casefold)),
        "options": options,
        "template": model.user_template,
        "facts": tuple(facts[kind] for kind in sorted(facts)),
    }
    if model.endpoint is not None:
        return LockedModel(
            model.model_id,
            endpoint=model.endpoint,
            endpoint_model=model.options.get(ENDPOINT_MODEL) or model.model_id.rpartition("/")[2],
            key_env=model.options.get(ENDPOINT_KEY_ENV),
            key_name=model.options.get(ENDPOINT_KEY_NAME),
            kind="embedding" if model.facts.kind == "embedding" else "chat",
            modalities=tuple(sorted(model.facts.modalities)),
            **common,  # type: ignore[arg-type]
        )
    repo = model.repo if model.commit else None  # an import whose origin is only claimed is proven by its digest
    return LockedModel(
        model.model_id,
        quant=model.quant,
        repo=repo,
        revision=model.revision if repo else None,
        commit=model.commit,
        files=tuple(sort_files(map(_lock_file, model.files))),
        license=_get_text(model, "license"),
        task=_get_text(model, "task"),
        gated=model.hub.get("gated") or None,
        private=bool(model.hub.get("private")),
        generation_config=dict(model.hub.get("generation_config") or {}),
        **common,  # type: ignore[arg-type]
    )


def _lock_file(file: object) -> LockedFile:
    path, role, size, sha256, sha1 = (getattr(file, name) for name in ("path", "role", "size", "sha256", "git_sha1"))
    return LockedFile(path, "mmproj" if role == "mmproj" else "weights", size, sha256, None if sha256 else sha1)


def _get_text(model: LocalModel, name: str) -> str | None:
    value = model.hub.get(name)
    return clean_text(value, MAX_TEXT_CHARS) or None if isinstance(value, str) else None


# The file


def refuse_other_file(path: Path) -> None:
    """Raise an error if a file exists that is not a lockfile, so that it is not overwritten.

    Raises:
        LockfileError: The file is not a lockfile.
    """
    if not path.exists():
        return
    try:
        read_lockfile(path)
    except (LockfileError, MissingFileError) as error:
        raise LockfileError(
            f"{path} exists and is not a lockfile of this version",
            cause=f"{error.message}.",
            hint="Choose another name, or remove it.",
        ) from None


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that it is complete or unchanged. A link to it stays a link.

    Raises:
        NotWritableError: The file can't be written.
    """
    try:
        write_user_file(path.resolve(), content, replace=True)
    except (OSError, ValueError) as error:
        raise NotWritableError(f"Can't write {path}", cause=getattr(error, "strerror", None)) from None
