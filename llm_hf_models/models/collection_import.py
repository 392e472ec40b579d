"""Copy a collection of the Hub into the library: its models, and the collections that it contains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    BadRefError,
    CircularCollectionError,
    HfModelsError,
    NameTakenError,
    UnknownCollectionError,
)
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.collections import CollectionSlug, HubCollection, HubItem
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.library.collections import CollectionRow
from llm_hf_models.library.database import Database
from llm_hf_models.models.collection_changes import insert_with_parents, open_for_change
from llm_hf_models.models.collection_names import MAX_NOTE_CHARS, parse_collection_name
from llm_hf_models.models.collection_tree import CollectionTree
from llm_hf_models.models.collection_types import CollectionImport, SkippedItem
from llm_hf_models.models.collections import load_tree
from llm_hf_models.models.metadata_cache import request_with_retry
from llm_hf_models.system.text import clean_text

MAX_DEPTH = 5  # of collections in collections
MAX_COLLECTIONS = 50  # requests to the Hub for one import
MAX_ITEMS = 2000  # in all collections of one import
MAX_ID_CHARS = 300  # of a skipped item
MAX_PART_CHARS = 40  # of the name of a collection that is made from a title
_REASONS = {
    "dataset": "It is a dataset.",
    "space": "It is a Space.",
    "paper": "It is a paper.",
    "bucket": "It is a bucket.",
    "unknown": "It is of an unknown kind.",
}


@dataclass
class _Node:
    """A collection of the Hub that was read, with the models and the collections to store."""

    slug: CollectionSlug
    title: str = ""
    note: str = ""
    models: dict[str, str] = field(default_factory=dict)  # each ref with its note
    inner: list[_Node] = field(default_factory=list)


class _Reader:
    """Reads a collection of the Hub and those in it, each once and within the limits."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._hub: Hub = context.hub()
        self._items = 0
        self._read: dict[str, _Node] = {}
        self.skipped: list[SkippedItem] = []

    def read(self, slug: CollectionSlug, path: tuple[str, ...] = ()) -> _Node:
        """Read a collection. `path` has the collections that it is in.

        Raises:
            UnknownCollectionError: the Hub has no such collection.
            NetworkError: a request failed.
        """
        found: HubCollection = request_with_retry(self._context, lambda: self._hub.fetch_collection(slug))
        note = ": ".join(part for part in (found.title, found.description) if part)
        node = self._read[str(slug).casefold()] = _Node(slug, found.title, clean_text(note, MAX_NOTE_CHARS))
        for number, item in enumerate(found.items):
            if self._items >= MAX_ITEMS:
                rest = f"{len(found.items) - number} items of {slug}"
                self.skipped.append(SkippedItem("unknown", rest, f"The limit is {MAX_ITEMS} items."))
                break
            self._items += 1
            if why := self._add(node, item, (*path, str(slug).casefold())):
                self.skipped.append(SkippedItem(item.kind, clean_text(item.id, MAX_ID_CHARS), why))
        return node

    def _add(self, node: _Node, item: HubItem, path: tuple[str, ...]) -> str | None:
        """Add an item to a collection. Return the reason if it is skipped."""
        if item.kind == "model":
            try:
                node.models.setdefault(str(RepoId.parse(item.id)), item.note)
            except BadRefError:
                return "Its name is not owner/name."
            return None
        return self._add_collection(node, item.id, path) if item.kind == "collection" else _REASONS[item.kind]

    def _add_collection(self, node: _Node, name: str, path: tuple[str, ...]) -> str | None:
        try:
            slug = CollectionSlug.parse(name)
        except BadRefError:
            return "Its name is not that of a collection."
        key = str(slug).casefold()
        if key not in self._read and (why := self._find_limit(path)):
            return why
        if key in path:
            return "It contains this collection."
        try:
            node.inner.append(self._read.get(key) or self.read(slug, path))
        except UnknownCollectionError:
            return "It does not exist, or it is private."
        return None

    def _find_limit(self, path: tuple[str, ...]) -> str | None:
        if len(path) >= MAX_DEPTH:
            return f"The limit is {MAX_DEPTH} collections in one another."
        return f"The limit is {MAX_COLLECTIONS} collections." if len(self._read) >= MAX_COLLECTIONS else None


def import_collection(context: Context, source: str, *, name: str | None, dry_run: bool) -> CollectionImport:
    """Store the models of a collection of the Hub as a collection of the library, or update one that was imported.

    Nothing is downloaded, and no model is removed from a collection.

    Args:
        context: the caller's context.
        source: `owner/title-ID`, or the address of the page.
        name: the name in the library; None makes one from the title.
        dry_run: change nothing.

    Raises:
        BadRefError: `source` is not a collection on the Hub.
        UnknownCollectionError: the Hub has no such collection.
        NameTakenError: the name is that of another collection.
        NetworkError: a request failed.
    """
    slug = CollectionSlug.parse(source)
    name = None if name is None else parse_collection_name(name)
    reader = _Reader(context)
    root = reader.read(slug)
    with open_for_change(context, dry_run=dry_run) as db:
        writer = _Writer(db, context.display_endpoint())
        writer.write(root, writer.choose_root(slug, name))
        return CollectionImport(
            writer.names[str(slug)],
            writer.make_address(slug),
            root.title,
            tuple(dict.fromkeys(writer.added)),
            tuple(ref for ref in dict.fromkeys(writer.kept) if ref not in writer.added),
            tuple(dict.fromkeys(writer.missing)),
            (*reader.skipped, *writer.skipped),
            tuple(each for each in writer.names.values() if each != writer.names[str(slug)]),
            done=not dry_run,
        )


class _Writer:
    """Writes the collections that were read into the library, in one transaction."""

    def __init__(self, db: Database, endpoint: str) -> None:
        self._db, self._endpoint = db, endpoint
        self.names: dict[str, str] = {}  # of collections of the library, by slug
        self.added: list[str] = []
        self.kept: list[str] = []
        self.missing: list[str] = []
        self.skipped: list[SkippedItem] = []

    def make_address(self, slug: CollectionSlug) -> str:
        """Return the address of the page of a collection."""
        return f"{self._endpoint}/collections/{slug}"

    def choose_root(self, slug: CollectionSlug, name: str | None) -> str:
        """Return the name of the collection: the given one, that of an earlier import, or one from the title.

        Raises:
            NameTakenError: a collection that was not imported from there has the name.
        """
        tree = load_tree(self._db)
        earlier = self._find_earlier(tree, slug)
        if name is None and earlier:
            return earlier.name
        chosen = name or _make_part(slug)
        if (row := tree.find(chosen)) and row.source != self.make_address(slug):
            raise NameTakenError(
                f"The collection {row.name} exists already, and is not from {self.make_address(slug)}",
                hint="Choose another name with --name.",
            )
        return chosen

    def _find_earlier(self, tree: CollectionTree, slug: CollectionSlug) -> CollectionRow | None:
        address = self.make_address(slug).casefold()
        return next((row for row in tree if row.source and row.source.casefold() == address), None)

    def write(self, node: _Node, name: str) -> None:
        """Store a collection under a name, and those in it below the first one's name."""
        tree = load_tree(self._db)
        if tree.find(name) is None:
            name = insert_with_parents(self._db, tree, name, node.note, self.make_address(node.slug))
        row = load_tree(self._db).get(name)
        self.names[str(node.slug)] = row.name
        self._write_models(row, node)
        for inner in node.inner:
            if str(inner.slug) not in self.names:
                self.write(inner, self._choose_name(inner.slug))
            self._write_collection(row.name, self.names[str(inner.slug)])

    def _write_models(self, row: CollectionRow, node: _Node) -> None:
        before = {member.ref.casefold() for member in row.members if member.ref}
        heads = {ref.partition(":")[0] for ref in before}
        for ref, note in node.models.items():
            if ref.casefold() in heads:  # also if the user has added one of its quantizations
                self.kept.append(ref)
                continue
            self._db.insert_member(row.key, ref)
            self._db.set_member_note(row.key, ref, note)
            self.added.append(ref)
        now = {ref.casefold() for ref in node.models}
        own = (member.ref for member in row.members if member.ref)
        self.missing += [ref for ref in own if ref.partition(":")[0].casefold() not in now]

    def _write_collection(self, container: str, name: str) -> None:
        if name.rpartition("/")[0] == container:  # it is in it by its name
            return
        tree = load_tree(self._db)
        outer, inner = tree.get(container), tree.get(name)
        try:
            tree.refuse_circle(outer, inner)
        except CircularCollectionError as error:  # with a member that the user has added
            self.skipped.append(SkippedItem("collection", name, f"{error.message}. {error.cause}"))
        else:
            self._db.insert_member(outer.key, inner.key)

    def _choose_name(self, slug: CollectionSlug) -> str:
        """Return the name for a collection in the first one: that of an earlier import, or a new one."""
        root = next(iter(self.names.values()))
        tree = load_tree(self._db)
        earlier = self._find_earlier(tree, slug)
        if earlier and earlier.name.casefold().startswith(f"{root}/".casefold()):
            return earlier.name
        return next(name for name in _number(f"{root}/{_make_part(slug)}") if _is_free(self._db, tree, name))


def _is_free(db: Database, tree: CollectionTree, name: str) -> bool:
    return tree.find(name) is None and not db.find_name_owner(name) and not db.find_role(name)


def _number(name: str) -> Iterator[str]:
    """Yield a name, and the same with the numbers from 2."""
    yield name
    for number in range(2, MAX_COLLECTIONS * 2):
        yield f"{name}-{number}"


def _make_part(slug: CollectionSlug) -> str:
    """Return a part of a name of a collection from the title in a slug."""
    part = re.sub(r"[._-]{2,}", "-", slug.title)[:MAX_PART_CHARS].strip("._-")
    try:
        return parse_collection_name(part)
    except HfModelsError:  # it is empty or reserved
        return f"from-{slug.owner}"[:MAX_PART_CHARS].rstrip("._-")
