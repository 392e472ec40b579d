"""Merge the server's entry into a host's file. Everything that a person added to the entry is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from llm_hf_models.cli.jsonc import Document, Edit, Node, apply_edits
from llm_hf_models.cli.mcp_environment import CARRIED, strip_password

SERVER_NAME = "hf-models"
SERVER_COMMAND = "llm-hf-mcp"
SERVER_MODULE = ("-m", "llm_hf_mcp")
RESET_HINT = "To replace the whole entry, add --reset."
_MERGED_KEYS = ("type", "command", "args", "env")
_ADDRESS_KEYS = ("url", "serverUrl", "httpUrl")  # of an entry that connects to a running server
_PYTHON = re.compile(r"python[0-9.]*", re.IGNORECASE)


class EntryError(ValueError):
    """The file or its entry has a form that can't be merged with the new entry."""


@dataclass(frozen=True)
class Entry:
    """The entry to install.

    Attributes:
        command: the words that start the server, without its options.
        flags: the server's options.
        env: the variables to carry.
        type: the host's name for a server on stdin and stdout; None if the host needs none.
    """

    command: tuple[str, ...]
    flags: tuple[str, ...]
    env: Mapping[str, str]
    type: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry as hosts expect it."""
        value: dict[str, Any] = {"type": self.type} if self.type else {}
        value |= {"command": self.command[0], "args": [*self.command[1:], *self.flags]}
        return {**value, "env": dict(self.env)} if self.env else value


@dataclass(frozen=True)
class Merged:
    """The file's new text.

    Attributes:
        text: the text.
        kept: what the existing entry has that a new one would not have: names of options, variables and members.
        differing: kept variables that select other files or servers than this process uses.
        flags: the server's options in the entry; None if the entry starts another command, whose arguments are unknown.
    """

    text: str
    kept: tuple[str, ...]
    flags: tuple[str, ...] | None
    differing: tuple[str, ...] = ()


def merge_entry(text: str, section: str, entry: Entry, *, reset: bool = False) -> Merged:
    """Return the text with the entry in a section.

    Args:
        text: the host's file, empty if there is none.
        section: the key of the object that holds the servers.
        entry: the entry to install.
        reset: replace an existing entry instead of merging it.

    Raises:
        JsoncError: the text is not JSON with comments.
        EntryError: the text or the entry has another form.
    """
    document, value = Document(text), entry.to_json()
    root = document.root
    if root is None:
        gap = "" if not text.strip("\ufeff") or text.endswith("\n") else "\n"
        whole = json.dumps({section: {SERVER_NAME: value}}, indent=2, ensure_ascii=False)
        return Merged(f"{text}{gap}{whole}\n", (), entry.flags)
    servers = _require_object(root).find(section)
    if servers is None:
        return _make_merged(text, document.append(root, [(section, {SERVER_NAME: value})]), entry)
    existing = _require_object(servers, section).find(SERVER_NAME)
    if existing is None:
        return _make_merged(text, document.append(servers, [(SERVER_NAME, value)]), entry)
    if reset:
        is_same = document.decode(existing) == value
        return _make_merged(text, [] if is_same else [document.replace(existing, value)], entry)
    return _EntryMerge(document, existing, entry).merge()


def remove_entry(text: str, section: str) -> str:
    """Return the text without the server's entry in a section. Everything else keeps its bytes.

    Raises:
        JsoncError: the text is not JSON with comments.
        EntryError: the text has another form.
    """
    while (document := Document(text)).root is not None:
        servers = _require_object(document.root).find(section)
        if servers is None or _require_object(servers, section).find(SERVER_NAME) is None:
            break
        text = apply_edits(text, document.remove(servers, servers.keys.index(SERVER_NAME)))
    return text


def _require_object(node: Node, section: str | None = None) -> Node:
    if node.kind != "object":
        raise EntryError(
            f"{section!r} in the file is not an object." if section else "The file doesn't contain a JSON object."
        )
    return node


def _make_merged(text: str, edits: Sequence[Edit], entry: Entry) -> Merged:
    return Merged(apply_edits(text, edits), (), entry.flags)


class _EntryMerge:
    """One merge of a new entry into an existing one."""

    def __init__(self, document: Document, existing: Node, entry: Entry) -> None:
        self._document, self._existing, self._entry = document, existing, entry
        self._edits: list[Edit] = []
        self._missing: list[tuple[str | None, object]] = []  # members to add to the entry
        self._kept: list[str] = []
        self._kept_variables: list[str] = []

    def merge(self) -> Merged:
        self._require_local_server()
        if self._entry.type and self._find("type") is None:
            self._set("type", self._entry.type)
        flags = self._merge_command()
        self._merge_env()
        members = [key for key in dict.fromkeys(self._existing.keys) if key not in _MERGED_KEYS]
        self._edits += self._document.append(self._existing, self._missing)
        text = apply_edits(self._document.text, self._edits)
        differing = tuple(name for name in self._kept_variables if name.upper() in CARRIED)
        return Merged(text, (*self._kept, *self._kept_variables, *members), flags, differing)

    def _find(self, key: str, kind: str | None = None) -> Node | None:
        """Return the value of a key of the entry. A null is the same as a missing value."""
        node = self._existing.find(key)
        if node is None or self._document.is_null(node):
            return None
        if kind is not None and node.kind != kind:
            article = "an" if kind[0] in "ao" else "a"
            raise EntryError(f"{key!r} of the entry {SERVER_NAME!r} is not {article} {kind}. {RESET_HINT}")
        return node

    def _require_local_server(self) -> None:
        if self._existing.kind != "object":
            raise EntryError(f"The entry {SERVER_NAME!r} is not an object. {RESET_HINT}")
        kind = self._find("type", "string")
        if any(self._find(key) for key in _ADDRESS_KEYS) or (kind and self._document.decode(kind) != "stdio"):
            raise EntryError(f"The entry {SERVER_NAME!r} connects to a running server by its address. {RESET_HINT}")

    def _set(self, key: str, value: object) -> None:
        """Set a member of the entry that is missing or null, or that changes as a whole."""
        node = self._existing.find(key)
        if node is None:
            self._missing.append((key, value))
        else:
            self._edits.append(self._document.replace(node, value))

    def _merge_command(self) -> tuple[str, ...] | None:
        """Merge command and arguments. Return the server's options, or None if the entry starts another program."""
        node, array = self._find("command", "string"), self._find("args", "array")
        command = self._document.decode(node) if node else None
        args = [str(value) for value in self._document.decode(array)] if array else []
        lead = 0 if command is None else _count_command_words(command, args)
        # A command without a path is a person's choice: it works on every machine that shares the file.
        is_replaced = lead is not None and command != SERVER_COMMAND
        if not is_replaced:
            self._kept.append("command")
        elif command != self._entry.command[0]:
            self._set("command", self._entry.command[0])
        flags = merge_flags(args[lead or 0 :], self._entry.flags)
        if lead is not None:
            new_names = {_get_name(group) for group in _group_flags(self._entry.flags)}
            self._kept += [name for name in map(_get_name, _group_flags(flags)) if name not in new_names]
        self._merge_args(array, args, [*(self._entry.command[1:] if is_replaced else ()), *flags])
        return None if lead is None else tuple(flags)

    def _merge_args(self, array: Node | None, old: list[str], new: list[str]) -> None:
        if array is None:
            self._set("args", new)
        elif new[: len(old)] == old:
            self._edits += self._document.append(array, [(None, word) for word in new[len(old) :]])
        elif len(new) == len(old):
            pairs = zip(array.children, old, new, strict=True)
            self._edits += [self._document.replace(node, word) for node, was, word in pairs if was != word]
        else:
            self._edits.append(self._document.replace(array, new))

    def _merge_env(self) -> None:
        node, wanted = self._find("env", "object"), self._entry.env
        if node is None:
            if wanted:
                self._set("env", dict(wanted))
            return
        present = self._document.decode(node)
        self._edits += self._document.append(node, [(key, wanted[key]) for key in wanted if key not in present])
        self._kept_variables = [key for key, value in present.items() if wanted.get(key) != _strip_if_text(value)]


def _strip_if_text(value: object) -> object:
    """Return a variable's value as a new entry would have it. A person may have added a password to an address."""
    return strip_password(value) if isinstance(value, str) and "@" in value else value


def _count_command_words(command: str, args: Sequence[str]) -> int | None:
    """Return how many arguments come before the server's options; None if the command is another program's."""
    name = PureWindowsPath(command).name.removesuffix(".exe")
    if command == SERVER_COMMAND:
        return 0
    if not PurePosixPath(command).is_absolute() and not PureWindowsPath(command).is_absolute():
        return None
    if name == SERVER_COMMAND:
        return 0
    return 2 if _PYTHON.fullmatch(name) and tuple(args[:2]) == SERVER_MODULE else None


def merge_flags(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return old options with new ones, which replace options of the same name in their place.

    The server has no positional arguments, so a word without a dash is the value of the option before it.
    """
    groups = {_get_name(group): group for group in _group_flags(new)}
    merged = [groups.pop(_get_name(group), group) for group in _group_flags(old)]
    return [word for group in (*merged, *groups.values()) for word in group]


def _get_name(group: Sequence[str]) -> str:
    return group[0].partition("=")[0]


def _group_flags(words: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("-") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups
