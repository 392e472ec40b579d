"""Database tables of collections: named sets of models and of other collections."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from llm_hf_models.gguf.spellings import find_named
from llm_hf_models.library.registered_models import list_repo_names
from llm_hf_models.library.sqlite_file import SQLiteFile, encode_json
from llm_hf_models.system.json_values import UnixTime


@dataclass(frozen=True)
class MemberRow:
    """A member of a collection: either a model ref without `hf/`, or the name of another collection."""

    ref: str | None
    child: str | None
    role: str | None
    note: str


@dataclass(frozen=True)
class CollectionRow:
    """A collection with its own members, in the order in which they were added."""

    key: int
    name: str
    note: str
    source: str | None  # the address on the Hub that it was imported from
    created: UnixTime
    members: tuple[MemberRow, ...]


@dataclass(frozen=True)
class _Variant:
    quant: str
    files: tuple[str, ...]
    model_id: str


class CollectionTables(SQLiteFile):
    """The part of the database that stores collections."""

    def list_collections(self) -> list[CollectionRow]:
        """Return all collections, sorted by name, with their members."""
        with self.snapshot():
            rows = self.fetch_rows("select id, name, note, source, created from collections order by name")
            found = self.fetch_rows(
                "select m.collection, m.ref, c.name, m.role, m.note from collection_members m"
                " left join collections c on c.id = m.child order by m.collection, m.id"
            )
        members: dict[int, list[MemberRow]] = {row["id"]: [] for row in rows}
        for key, *values in found:
            members[key].append(MemberRow(*values))
        return [
            CollectionRow(row["id"], row["name"], row["note"], row["source"], row["created"], tuple(members[row["id"]]))
            for row in rows
        ]

    def insert_collection(self, name: str, note: str = "", source: str | None = None) -> int:
        """Insert a collection. Return its key."""
        cursor = self.execute(
            "insert into collections (name, note, source, created) values (?,?,?,?)", name, note, source, time.time()
        )
        return int(cursor.lastrowid or 0)

    def describe_collection(self, key: int, note: str, source: str | None) -> None:
        """Replace the note and the source of a collection."""
        self.write("update collections set note = ?, source = ? where id = ?", note, source, key)

    def rename_collection(self, key: int, name: str) -> None:
        """Replace the name of a collection."""
        self.write("update collections set name = ? where id = ?", name, key)

    def delete_collection(self, key: int) -> None:
        """Delete a collection. Its members, and its membership in others, are deleted with it."""
        self.write("delete from collections where id = ?", key)

    def insert_member(self, key: int, member: str | int) -> None:
        """Add a model ref, or the key of another collection, to a collection. A member is not added again."""
        column = "child" if isinstance(member, int) else "ref"
        self.write(f"insert or ignore into collection_members (collection, {column}) values (?,?)", key, member)  # noqa: S608 - a literal

    def set_member_role(self, key: int, ref: str, role: str | None) -> None:
        """Give a model of a collection a role, which no other one then has."""
        self.write("update collection_members set role = null where collection = ? and role = ?", key, role)
        self.write("update collection_members set role = ? where collection = ? and ref = ?", role, key, ref)

    def set_member_note(self, key: int, member: str | int, note: str) -> None:
        """Replace the note on a member of a collection."""
        column = "child" if isinstance(member, int) else "ref"
        sql = f"update collection_members set note = ? where collection = ? and {column} = ?"  # noqa: S608 - a literal
        self.write(sql, note, key, member)

    def delete_member(self, key: int, member: str | int) -> None:
        """Remove a model ref, or the key of another collection, from a collection."""
        column = "child" if isinstance(member, int) else "ref"
        self.write(f"delete from collection_members where collection = ? and {column} = ?", key, member)  # noqa: S608 - a literal

    def find_role(self, name: str) -> str | None:
        """Return the ref of the model that has a role, by `COLLECTION/ROLE` in any capitals. None if none has it."""
        collection, _, role = name.rpartition("/")
        rows = self.fetch_rows(
            "select ref from collection_members m join collections c on c.id = m.collection"
            " where c.name = ? and m.role = ?", collection, role
        )  # fmt: skip
        return rows[0]["ref"] if rows else None

    def suggest_collection(self, name: str) -> str:
        """Return the start of a hint if a name, in any capitals, is that of a collection; otherwise an empty text."""
        rows = self.fetch_rows("select name from collections where name = ?", name)
        return f"It is a collection: llm hf collection show {rows[0]['name']}. " if rows else ""

    def find_name_owner(self, name: str) -> str | None:
        """Return the id of a local model with exactly this id, alias or repo, in any capitals. None if none has it."""
        start = f"hf/{name}:"
        rows = self.fetch_rows(
            "select model_id from models left join aliases on aliases.model = models.id"
            " where model_id collate nocase in (?,?) or alias = ? or repo = ? collate nocase"
            " or substr(model_id, 1, ?) = ? collate nocase limit 1",
            name, f"hf/{name}", name, name, len(start), start,
        )  # fmt: skip
        return rows[0]["model_id"] if rows else None

    def find_local_ids(self, refs: Iterable[str]) -> dict[str, str | None]:
        """Return the id of the local model that each ref of a member means; None if it is not on this machine.

        A ref without a quantization means the newest local model of its repo.
        """
        ids: dict[str, str] = {}
        repos: dict[str, dict[str, int]] = {}
        for key, model_id, repo in self.fetch_rows("select id, model_id, repo from models order by added, id"):
            ids[model_id.casefold()] = model_id
            with_revision = model_id.removeprefix("hf/").partition(":")[0]
            for name in {*list_repo_names(model_id, repo), with_revision}:
                repos.setdefault(name.casefold(), {})[model_id] = key
        return {ref: ids.get(f"hf/{ref.casefold()}") or self._find_in_repo(ref, repos) for ref in refs}

    def _find_in_repo(self, ref: str, repos: dict[str, dict[str, int]]) -> str | None:
        head, _, spelling = ref.partition(":")
        if head == "hf":  # `hf://owner/name/file`, the form of a file without suffix
            owner, name, spelling = spelling[2:].split("/", 2)
            head = f"{owner}/{name}"
        models = repos.get(head.casefold())
        if not models:
            return None
        if not spelling:
            return list(models)[-1]
        files: dict[str, list[str]] = {}
        sql = (
            "select model_id, path from files join models on models.id = files.model"
            " where models.id in (select value from json_each(?)) and role = 'weights'"
        )
        for model_id, path in self.fetch_rows(sql, encode_json(list(models.values()))):
            files.setdefault(model_id, []).append(path)
        variants = [_Variant(each.partition(":")[2], tuple(paths), each) for each, paths in files.items()]
        found = find_named(variants, spelling)
        return found[0].model_id if len(found) == 1 else None
