"""Render the change of an MCP host's file without secrets: values of other entries, and what a person added."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llm_hf_models.cli.jsonc import Document, Edit, Node, apply_edits
from llm_hf_models.cli.mcp_entry import SERVER_NAME
from llm_hf_models.cli.mcp_environment import CARRIED
from llm_hf_models.cli.mcp_hosts import ConfigChange
from llm_hf_models.system.text import clean_text


@dataclass(frozen=True)
class Texts:
    """The words for one kind of change: why it is not needed, and why the host must be restarted."""

    unneeded: str
    purpose: str


INSTALLATION = Texts("already contains this configuration", "use it")
REMOVAL = Texts(f"has no entry `{SERVER_NAME}`", "end the server")
MASK = '"…"'
MAX_LINE_CHARS = 2000
_SHOWN_KEYS = ("type", "command", "args")  # of the server's entry


def render_diff(change: ConfigChange) -> str:
    """Return the change as a unified diff. Strings outside the server's entry are masked."""
    before, after = (_format_file(content or b"", change.host.section) for content in (change.before, change.after))
    return "\n".join(difflib.unified_diff(before, after, str(change.path), str(change.path), lineterm=""))


def render_kept(change: ConfigChange) -> str:
    """Return a note about the parts of the existing entry that the change keeps, or an empty text."""
    if not change.kept:
        return ""
    note = f"Kept from the existing entry: {clean_text(', '.join(change.kept))}."
    if change.differing:
        note += f" The server may use other files than this shell because of {', '.join(change.differing)}."
    return f"{note} To replace the whole entry, add --reset."


def render_next_step_of_uninstallation(hosts: Sequence[str]) -> str:
    """Return what remains to be done: the entries of these MCP hosts, then the package itself."""
    package = "remove the package: llm uninstall llm-hf-models"
    if not hosts:
        return f"Now {package}"
    entries = "\n".join(f"    llm hf mcp {host} --uninstall" for host in hosts)
    return f"MCP hosts still start the server. Remove their entries:\n{entries}\nThen {package}"


def _format_file(content: bytes, section: str) -> list[str]:
    """Return the lines of a valid file. One with very long lines is shown reformatted and without comments."""
    document = Document(content.decode())
    root = document.root
    if root is None:
        return _clean_lines(document.text)
    servers = root.find(section)
    entry = servers.find(SERVER_NAME) if servers is not None else None
    edits = [Edit(node.start, node.end, MASK) for node in _list_masked(document, root, entry)]
    masked = apply_edits(document.text, edits)
    if max(map(len, masked.splitlines())) > MAX_LINE_CHARS:
        short = Document(masked)
        masked = json.dumps(short.decode(short.root), indent=2, ensure_ascii=False) if short.root else masked
    return _clean_lines(masked)


def _clean_lines(text: str) -> list[str]:
    return [clean_text(line, MAX_LINE_CHARS, keep_lines=True) for line in text.splitlines()]


def _list_masked(document: Document, node: Node, entry: Node | None) -> Iterator[Node]:
    """Yield the values below a node that are not shown."""
    if node is entry and node.kind == "object":
        yield from _list_masked_in_entry(document, node)
    elif node.kind == "string":
        yield node
    else:
        for child in node.children:
            yield from _list_masked(document, child, entry)


def _list_masked_in_entry(document: Document, entry: Node) -> Iterator[Node]:
    for key, member in zip(entry.keys, entry.children, strict=True):
        if key == "env" and member.kind == "object":
            for name, value in zip(member.keys, member.children, strict=True):
                if name.upper() not in CARRIED or "@" in document.text[value.start : value.end]:
                    yield value
        elif key not in _SHOWN_KEYS:
            yield from _list_masked(document, member, None)
