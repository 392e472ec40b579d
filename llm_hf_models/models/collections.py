"""Named sets of models: list and show them, and find their models for other verbs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    AmbiguousNameError,
    UnknownModelError,
)
from llm_hf_models.library.collections import CollectionRow, MemberRow
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models.collection_tree import CollectionTree
from llm_hf_models.models.collection_types import (
    CollectionMember,
    CollectionSummary,
    CollectionView,
    ContainedCollection,
)


def load_tree(db: Database) -> CollectionTree:
    """Read all collections."""
    return CollectionTree(db.list_collections())


def list_members(context: Context, name: str) -> tuple[CollectionMember, ...]:
    """Return the models of a collection and of those that it contains. A model in several is listed once.

    Raises:
        UnknownCollectionError: no collection has this name.
    """
    with context.open_database() as db, db.snapshot():
        tree = load_tree(db)
        return _list_members(db, tree, tree.get(name))


def list_members_by_collection(context: Context) -> dict[str, tuple[CollectionMember, ...]]:
    """Return the models of every collection, as `list_members` does, with one query for all."""
    with context.open_database() as db, db.snapshot():
        tree = load_tree(db)
        ids = db.find_local_ids({member.ref for row in tree for member in row.members if member.ref})
        return {row.name: _list_members(db, tree, row, ids) for row in tree}


def _list_members(
    db: Database, tree: CollectionTree, row: CollectionRow, known_ids: Mapping[str, str | None] | None = None
) -> tuple[CollectionMember, ...]:
    pairs = [(each, member, member.ref) for each in tree.walk(row) for member in each.members if member.ref]
    ids = db.find_local_ids(ref for _, _, ref in pairs) if known_ids is None else known_ids
    found: dict[str, CollectionMember] = {}
    for each, member, ref in pairs:
        found.setdefault((ids[ref] or ref).casefold(), _make_member(tree, each, member, ids[ref]))
    return tuple(found.values())


def _make_member(tree: CollectionTree, row: CollectionRow, member: MemberRow, model_id: str | None) -> CollectionMember:
    ref = member.ref or ""
    ref = f"hf://{ref}" if tree.has_name(ref) else ref  # without the prefix, it would not mean the repo
    found = CollectionMember(ref, model_id, member.role, member.note, row.name)
    return replace(found, fix=f"llm hf pull {ref}") if model_id is None and found.is_on_hub else found


def find_named_ref(context: Context, text: str) -> str | None:
    """Return the ref of the model that has a role, if a text that looks like a repo is its name. Otherwise None.

    A repo on the Hub may have the same name, because anyone can choose the name of an account.

    Raises:
        AmbiguousNameError: the text is the name of a collection.
        UnknownModelError: the model is not on the Hub.
    """
    text = text.strip()
    if "/" not in text or ":" in text or "@" in text:
        return None
    with context.open_database() as db:
        if db.find_name_owner(text):
            return None
        ref, found = db.find_role(text), load_tree(db).find(text)
    if ref and ref.startswith(("local/", "remote/")):
        raise UnknownModelError(f"{ref}, which is {text}, is not on the Hub", hint="Import or attach it again.")
    if found and not ref:
        raise AmbiguousNameError(
            f"{found.name} is a collection on this machine",
            cause="A repo on the Hub may have the same name.",
            hint=f"For its models: llm hf pull --collection {found.name}. For the repo, write hf://{text}.",
        )
    return ref


def select_models(db: Database, models: Sequence[LocalModel], collection: str | None) -> list[LocalModel]:
    """Return the models that are in a collection, in their order; all of them for None.

    Raises:
        UnknownCollectionError: no collection has this name.
    """
    if collection is None:
        return list(models)
    tree = load_tree(db)
    ids = {member.id for member in _list_members(db, tree, tree.get(collection))}
    return [model for model in models if model.model_id in ids]


def find_collections_of_models(db: Database) -> dict[str, tuple[str, ...]]:
    """Return the names of the collections that have each local model as a member, by its id."""
    pairs = [(row.name, member.ref) for row in db.list_collections() for member in row.members if member.ref]
    ids = db.find_local_ids({ref for _, ref in pairs})
    found: dict[str, list[str]] = {}
    for name, ref in pairs:
        if model_id := ids[ref]:
            found.setdefault(model_id, []).append(name)
    return {model_id: tuple(dict.fromkeys(names)) for model_id, names in found.items()}


def list_collections(context: Context) -> tuple[CollectionSummary, ...]:
    """Return all collections, sorted by name."""
    with context.open_database() as db, db.snapshot():
        tree = load_tree(db)
        ids = db.find_local_ids({member.ref for row in tree for member in row.members if member.ref})
    return tuple(_summarize(tree, row, ids) for row in tree)


def _summarize(tree: CollectionTree, row: CollectionRow, ids: dict[str, str | None]) -> CollectionSummary:
    refs = {member.ref for each in tree.walk(row) for member in each.members if member.ref}
    local = {model_id for ref in refs if (model_id := ids[ref])}
    missing = {ref.casefold() for ref in refs if ids[ref] is None}
    return CollectionSummary(row.name, row.note, row.source, row.created, len(local) + len(missing), len(local))


def show_collection(context: Context, name: str) -> CollectionView:
    """Return one collection with its models.

    Raises:
        UnknownCollectionError: no collection has this name.
    """
    with context.open_database() as db, db.snapshot():
        return make_view(db, name)


def make_view(db: Database, name: str, messages: Iterable[str] = ()) -> CollectionView:
    """Return one collection with its models, in an open library."""
    tree = load_tree(db)
    row = tree.get(name)
    start, notes = f"{row.name}/", {member.child: member.note for member in row.members if member.child}
    contained = tuple(
        ContainedCollection(each.name, each.name.casefold().startswith(start.casefold()), notes.get(each.name, ""))
        for each in tree.list_contained(row)
    )
    members = tuple(_add_clash(db, member) for member in _list_members(db, tree, row))
    return CollectionView(row.name, row.note, row.source, row.created, contained, members, tuple(messages))


def _add_clash(db: Database, member: CollectionMember) -> CollectionMember:
    if member.role is None:
        return member
    name = f"{member.collection}/{member.role}"
    owner = db.find_name_owner(name)
    return replace(member, clash=f"{name} is a name of {owner}, which is used instead") if owner else member
