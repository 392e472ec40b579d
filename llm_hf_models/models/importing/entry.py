"""Register an imported model in the library, next to or instead of a model that has its id or its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llm_hf_models.errors import NameTakenError, UnknownModelError
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models.names import make_short_names
from llm_hf_models.models.repos import projector_choice
from llm_hf_models.models.repos.identity import find_model_of_variant


def register_model(db: Database, imported: LocalModel, aliases: Sequence[str]) -> LocalModel:
    """Register the model under an id that no other model has. Keep existing copies of the same files."""
    model = _choose_entry(db, imported)
    registered = db.register(replace(model, aliases=list_short_names(model)))
    for alias in aliases:
        db.add_alias(alias, registered.model_id)  # raises an error that names the other model if it is taken
    if registered.files != imported.files:
        for file in imported.files:
            if imported.place == "folder":  # a second copy of files that the library already has
                Path(file.location).unlink()
    return db.get_model(registered.model_id)


def list_short_names(model: LocalModel) -> tuple[str, ...]:
    """Return the short names that a model gets if no other model has them."""
    repo = model.model_id.removeprefix("hf/").partition(":")[0].partition("@")[0]
    return make_short_names(repo, model.quant) if model.revision is None else ()


def add_known_projector(db: Database, imported: LocalModel, seconds: float) -> LocalModel:
    """Add the projector of an earlier import of the same model, so that a second import keeps it if it fits."""
    existing = _find_model(db, imported.model_id)
    if existing is None or existing.place != imported.place or _get_digests(existing) != _get_digests(imported):
        return imported
    known = [
        file
        for file in existing.files
        if file.role == "mmproj"
        and Path(file.location).is_file()
        and projector_choice.fits_model(Path(file.location), imported.facts, seconds)
    ]
    if not known:
        return imported
    facts = replace(imported.facts, modalities=existing.facts.modalities)
    return replace(imported, files=(*imported.files, *known), facts=facts)


def _choose_entry(db: Database, imported: LocalModel) -> LocalModel:
    """Return the model to register: the imported one, maybe with another id, or the existing one with the same files.

    Raises:
        NameTakenError: Another model has the id, which the repo determines.
    """
    if imported.repo and (same := find_model_of_variant(
        db.list_models(), imported.repo, imported.quant, imported.revision)):  # fmt: skip
        imported = replace(imported, model_id=same.model_id, repo=imported.repo if imported.commit else same.repo)
    base, _, quant = imported.model_id.rpartition(":")
    number = 1
    while (existing := _find_model(db, imported.model_id)) is not None:
        is_replaceable = existing.state == "missing" or _get_locations(existing) == _get_locations(imported)
        if is_replaceable or (_get_digests(existing) == _get_digests(imported) and existing.place == "in place"):
            return imported
        if _get_digests(existing) == _get_digests(imported):
            return _add_origin(existing, imported)
        if imported.repo is not None:
            location = existing.files[0].location if existing.files else existing.endpoint
            raise NameTakenError(
                f"{imported.model_id} is already the id of another file: {location}",
                hint=f"llm hf rm {imported.model_id}",
            )
        number += 1
        imported = replace(imported, model_id=f"{base}-{number}:{quant}")
    return imported


def _add_origin(existing: LocalModel, imported: LocalModel) -> LocalModel:
    """Return the existing model, with the verified origin if it had none."""
    if existing.commit is not None or imported.commit is None:
        return existing
    # Don't keep the existing facts: they may be those of a chat template that the user has set.
    checks = (*imported.checks, *existing.checks)
    return replace(existing, commit=imported.commit, hub=imported.hub, facts=imported.facts, checks=checks)


def _find_model(db: Database, model_id: str) -> LocalModel | None:
    try:
        return db.get_model(model_id)
    except UnknownModelError:
        return None


def _get_locations(model: LocalModel) -> set[str]:
    return {file.location for file in model.files}


def _get_digests(model: LocalModel) -> set[str | None]:
    return {file.sha256 for file in model.files if file.role == "weights"}
