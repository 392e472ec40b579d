"""Create, rename and delete collections, and change their members, each in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    AmbiguousNameError,
    BadInputError,
    NameTakenError,
    UnknownCollectionError,
    UnknownModelError,
)
from llm_hf_models.hub.refs import ModelRef
from llm_hf_models.library.collections import CollectionRow
from llm_hf_models.library.database import Database
from llm_hf_models.models.collection_names import list_parents, parse_collection_name, parse_note, parse_role
from llm_hf_models.models.collection_tree import CollectionTree
from llm_hf_models.models.collection_types import CollectionDeletion, CollectionView
from llm_hf_models.models.collections import load_tree, make_view
from llm_hf_models.models.names import refuse_taken_names
from llm_hf_models.system.text import clean_text

_URL_STARTS = ("hf://", "http://", "https://", "hf.co/", "huggingface.co/")  # of texts that never name a collection


@contextmanager
def open_for_change(context: Context, *, dry_run: bool) -> Iterator[Database]:
    """Open the library in one transaction. With `dry_run`, changes are made to a copy in memory, which is lost."""
    with (replace(context, reads_only=True) if dry_run else context).open_database() as db, db.transaction():
        yield db


# Creating, renaming and deleting


def create_collection(context: Context, name: str, *, note: str, dry_run: bool) -> CollectionView:
    """Create an empty collection, and those that its name is in.

    Raises:
        BadInputError: the name or the note is invalid.
        NameTakenError: the name is taken.
    """
    name, note = parse_collection_name(name), parse_note(note)
    with open_for_change(context, dry_run=dry_run) as db:
        tree = load_tree(db)
        if found := tree.find(name):
            raise NameTakenError(
                f"The collection {found.name} exists already",
                hint=f"Add models to it: llm hf collection add {found.name} REF",
            )
        return make_view(db, insert_with_parents(db, tree, name, note))


def insert_with_parents(db: Database, tree: CollectionTree, name: str, note: str, source: str | None = None) -> str:
    """Insert a collection and the missing ones that its name is in. Return its name, in the capitals of these.

    Raises:
        NameTakenError: a name is that of a local model, or of a role.
    """
    name = _adopt_capitals(tree, name)
    for each in (*list_parents(name), name):
        if tree.find(each) is None:
            _refuse_taken_name(db, each)
            db.insert_collection(each, *((note, source) if each == name else ()))
    return name


def _adopt_capitals(tree: CollectionTree, name: str) -> str:
    """Return the name, with the part that names existing collections as they write it."""
    for parent in reversed(list_parents(name)):
        if found := tree.find(parent):
            return found.name + name[len(parent) :]
    return name


def _refuse_taken_name(db: Database, name: str) -> None:
    if owner := db.find_name_owner(name):
        raise NameTakenError(f"{name!r} is a name of the local model {owner}", hint="Choose another name.")
    if ref := db.find_role(name):
        raise NameTakenError(f"{name!r} is the role of {ref} in another collection", hint="Choose another name.")


def rename_collection(context: Context, name: str, new_name: str, *, dry_run: bool) -> CollectionView:
    """Rename a collection. Those whose names start with its name keep their place in it.

    Raises:
        UnknownCollectionError: no collection has this name.
        NameTakenError: the new name is taken.
        CircularCollectionError: a collection would contain itself.
    """
    new_name = parse_collection_name(new_name)
    with open_for_change(context, dry_run=dry_run) as db:
        tree = load_tree(db)
        row = tree.get(name)
        is_same = new_name.casefold() == row.name.casefold()  # only the capitals change
        if f"{new_name}/".casefold().startswith(f"{row.name}/".casefold()) and not is_same:
            raise BadInputError(f"{row.name} can't be moved into itself")
        if not is_same and (found := tree.find(new_name)):
            raise NameTakenError(f"The collection {found.name} exists already", hint="Choose another name.")
        new_name = _adopt_capitals(tree, new_name)
        for each in () if is_same else (*list_parents(new_name), new_name):
            if tree.find(each) is None:
                _refuse_taken_name(db, each)
                if each != new_name:
                    db.insert_collection(each)
        for each_row in (row, *tree.list_below(row)):
            db.rename_collection(each_row.key, parse_collection_name(new_name + each_row.name[len(row.name) :]))
        _refuse_circle_by_name(db, new_name)
        return make_view(db, new_name)


def _refuse_circle_by_name(db: Database, name: str) -> None:
    tree = load_tree(db)
    if parents := list_parents(name):
        tree.refuse_circle(tree.get(parents[-1]), tree.get(name))


def delete_collection(context: Context, name: str, *, dry_run: bool) -> CollectionDeletion:
    """Delete a collection and those whose names start with its name. Models and their files are kept.

    Raises:
        UnknownCollectionError: no collection has this name.
    """
    with open_for_change(context, dry_run=dry_run) as db:
        tree = load_tree(db)
        row = tree.get(name)
        deleted = [row, *tree.list_below(row)]
        names = {each.name for each in deleted}
        refs = {member.ref.casefold() for each in deleted for member in each.members if member.ref}
        roles = (f"{each.name}/{member.role}" for each in deleted for member in each.members if member.role)
        others = (each for each in tree if each.name not in names)
        containers = (each.name for each in others if any(member.child in names for member in each.members))
        for each in deleted:
            db.delete_collection(each.key)
        return CollectionDeletion(
            row.name, tuple(sorted(names)), len(refs), tuple(roles), tuple(containers), done=not dry_run
        )


# Members


@dataclass(frozen=True)
class _Member:
    """What a user's text means as a member: a model ref without `hf/`, or a collection."""

    ref: str | None = None
    child: CollectionRow | None = None

    @property
    def key(self) -> str | int:
        return self.child.key if self.child else self.ref or ""


def add_members(
    context: Context, name: str, texts: Sequence[str], *, role: str | None, note: str | None, dry_run: bool
) -> CollectionView:
    """Add models and collections to a collection, or change the role and the note of a member.

    Args:
        context: the caller's context.
        name: the collection.
        texts: names of local models, refs, or names of collections.
        role: the role of the model; empty removes the one that it has, and None keeps it.
        note: the note on each member; None keeps the one that it has.
        dry_run: return the collection as it would be.

    Raises:
        UnknownCollectionError: no collection has this name.
        UnknownModelError, BadRefError, AmbiguousNameError: a text names nothing, or several models.
        CircularCollectionError: a collection would contain itself.
        NameTakenError: the role's name is that of a model or a collection.
    """
    note = None if note is None else parse_note(note)
    if role and len(texts) == 1:
        _refuse_names_of_other_plugins(context, name, parse_role(role), texts[0])
    with open_for_change(context, dry_run=dry_run) as db:
        tree = load_tree(db)
        row, messages = tree.get(name), []
        members = [_parse_member(db, tree, text) for text in texts]
        if role is not None and (len(members) != 1 or members[0].child):
            raise BadInputError("A role is for one model")
        for member in members:
            if member.child:
                tree.refuse_circle(row, member.child)
            db.insert_member(row.key, member.key)
            if note is not None:
                db.set_member_note(row.key, member.key, note)
        if role is not None and members[0].ref:
            messages = _set_role(db, tree, row, members[0].ref, role)
        return make_view(db, row.name, messages)


def _refuse_names_of_other_plugins(context: Context, name: str, role: str, text: str) -> None:
    """Raise if llm would use a model of another plugin for a role. This starts llm, so no transaction is open.

    Raises:
        UnknownCollectionError: no collection has this name.
        NameTakenError: a model of another plugin has the role's name.
    """
    kind = "chat"
    with context.open_database() as db:
        row = load_tree(db).get(name)
        with suppress(UnknownModelError, AmbiguousNameError):
            kind = db.find_model(text).facts.kind
    refuse_taken_names([f"{row.name}/{role}"], kind)


def _set_role(db: Database, tree: CollectionTree, row: CollectionRow, ref: str, role: str) -> list[str]:
    if not role:
        db.set_member_role(row.key, ref, None)
        return []
    name = f"{row.name}/{role}"
    if tree.find(name):
        raise NameTakenError(f"{name} is a collection", hint="Choose another role.")
    if owner := db.find_name_owner(name):
        raise NameTakenError(
            f"{name!r} is already a name of {owner}",
            cause="That model would be used instead.",
            hint="Choose another role.",
        )
    previous = db.find_role(name)
    db.set_member_role(row.key, ref, role)
    return [f"{name} was {previous} before."] if previous and previous != ref else []


def _parse_member(db: Database, tree: CollectionTree, text: str) -> _Member:
    """Return what a text means. A local model wins over a collection, which wins over a repo on the Hub."""
    text = text.strip()
    try:
        return _Member(db.find_model(text).model_id.removeprefix("hf/"))
    except UnknownModelError as error:
        if ref := db.find_role(text):  # of a model that is not on this machine
            return _Member(ref)
        if not text.casefold().startswith(_URL_STARTS) and (child := tree.find(text)):
            return _Member(child=child)
        if "/" not in text:
            raise UnknownModelError(
                f"{clean_text(text, 80)!r} is neither a local model nor a collection",
                hint=f"{error.hint} For a model on the Hub, write owner/name or owner/name:QUANT.",
            ) from None
    return _Member(str(ModelRef.parse(text)))


def remove_members(context: Context, name: str, texts: Sequence[str], *, dry_run: bool) -> CollectionView:
    """Remove models and collections from a collection. Models and their files are kept.

    Raises:
        UnknownCollectionError: no collection has this name, or the collection does not have a member.
    """
    with open_for_change(context, dry_run=dry_run) as db:
        tree = load_tree(db)
        row = tree.get(name)
        for key in [_find_member(db, tree, row, text) for text in texts]:
            db.delete_member(row.key, key)
        return make_view(db, row.name)


def _find_member(db: Database, tree: CollectionTree, row: CollectionRow, text: str) -> str | int:
    own = {member.ref.casefold(): member.ref for member in row.members if member.ref}
    if ref := own.get(text.strip().casefold().removeprefix("hf/")):
        return ref
    found = _parse_member(db, tree, text)
    if found.child and any(member.child == found.child.name for member in row.members):
        return found.child.key
    ids = db.find_local_ids(own.values())
    for ref, model_id in ids.items():
        if found.ref and found.ref.casefold() in (ref.casefold(), (model_id or "").removeprefix("hf/").casefold()):
            return ref
    raise UnknownCollectionError(
        f"{clean_text(text, 100)!r} is not in {row.name}",
        hint=f"List its members with `llm hf collection show {row.name}`.",
    )
