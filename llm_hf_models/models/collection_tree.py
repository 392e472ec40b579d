"""Which collection contains which: by its name (`coding/small` is in `coding`) or as a member. No circles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llm_hf_models.errors import CircularCollectionError, UnknownCollectionError
from llm_hf_models.library.collections import CollectionRow
from llm_hf_models.system.text import clean_text, suggest_word


class CollectionTree:
    """All collections of the library, by name in any capitals."""

    def __init__(self, rows: Iterable[CollectionRow]) -> None:
        self._rows = {row.name.casefold(): row for row in rows}
        self._by_name: dict[str, list[CollectionRow]] = {}
        for key, row in self._rows.items():
            self._by_name.setdefault(key.rpartition("/")[0], []).append(row)

    def has_name(self, name: str) -> bool:
        """Return whether a name is that of a collection or of a role, in any capitals."""
        name = name.casefold()
        outer, _, role = name.rpartition("/")
        row = self._rows.get(outer)
        roles = (member.role.casefold() for member in row.members if member.role) if row else ()
        return name in self._rows or role in roles

    def find(self, name: str) -> CollectionRow | None:
        """Return the collection with this name, or None."""
        return self._rows.get(name.strip().casefold())

    def get(self, name: str) -> CollectionRow:
        """Return the collection with this name.

        Raises:
            UnknownCollectionError: no collection has this name.
        """
        if found := self.find(name):
            return found
        hint = suggest_word(name, (row.name for row in self._rows.values()))
        raise UnknownCollectionError(
            f"There is no collection {clean_text(name, 100)!r}",
            hint=f"{hint}List the collections with `llm hf collection list`.",
        )

    def __iter__(self) -> Iterator[CollectionRow]:
        return iter(self._rows.values())

    def list_below(self, row: CollectionRow) -> list[CollectionRow]:
        """Return the collections whose names start with the name of this one."""
        start = f"{row.name.casefold()}/"
        return [each for key, each in self._rows.items() if key.startswith(start)]

    def list_contained(self, row: CollectionRow) -> list[CollectionRow]:
        """Return the collections that a collection contains directly: by name first, then as members."""
        members = [self._rows[member.child.casefold()] for member in row.members if member.child]
        found = [*self._by_name.get(row.name.casefold(), ()), *members]
        return list({each.key: each for each in found}.values())

    def walk(self, row: CollectionRow) -> Iterator[CollectionRow]:
        """Yield a collection and all that it contains, each once, each before those in it."""
        waiting, seen = [row], set()
        while waiting:
            each = waiting.pop()
            if each.key not in seen:
                seen.add(each.key)
                yield each
                waiting += reversed(self.list_contained(each))

    def refuse_circle(self, container: CollectionRow, member: CollectionRow) -> None:
        """Raise if `container` would contain itself with `member` in it.

        Raises:
            CircularCollectionError: `member` is or contains `container`. The cause has the path.
        """
        if path := self._find_path(member, container):
            raise CircularCollectionError(
                f"{container.name} can't contain {member.name}",
                cause=f"It would contain itself: {' → '.join([container.name, *path])}",
            )

    def _find_path(self, start: CollectionRow, goal: CollectionRow) -> list[str] | None:
        """Return the names from one collection to another that it contains, at any depth; None if it doesn't."""
        before: dict[int, CollectionRow | None] = {start.key: None}
        waiting = [start]
        for each in waiting:
            if each.key == goal.key:
                names, step = [each.name], before[each.key]
                while step:
                    names.append(step.name)
                    step = before[step.key]
                return names[::-1]
            for inner in self.list_contained(each):
                if inner.key not in before:
                    before[inner.key] = each
                    waiting.append(inner)
        return None
