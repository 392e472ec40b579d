"""Write a lockfile as TOML: sorted, one entry a line, and the same text for the same content."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from llm_hf_models.lockfiles.types import LockedFact, LockedFile, LockedModel, Lockfile
from llm_hf_models.system.json_values import format_utc
from llm_hf_models.system.text import is_hidden

HEADER = "# Lockfile of llm-hf-models. Make a machine match it: llm hf sync FILE"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ENDPOINT_FIELDS = ("endpoint", "endpoint_model", "key_env", "key_name", "kind")


def write_lockfile(lockfile: Lockfile) -> str:
    """Return the text of a lockfile. Characters that an editor does not show are escaped."""
    lines = [HEADER, f"version = {lockfile.version}"]
    for model in sorted(lockfile.models, key=lambda model: (model.id.casefold(), model.id)):
        lines += ["", *_write_model(model)]
    return "\n".join(lines) + "\n"


def _write_model(model: LockedModel) -> Iterator[str]:
    yield "[[models]]"
    for name in ("id", "repo", "revision", "commit", "quant", "license", "task", "gated", *_ENDPOINT_FIELDS):
        if (value := getattr(model, name)) not in (None, ""):
            yield f"{name} = {_write_value(value)}"
    if model.private:
        yield "private = true"
    yield from _write_list("modalities", map(_write_value, sorted(model.modalities)))
    yield from _write_list("files", map(_write_file, sort_files(model.files)))
    yield from _write_list("aliases", map(_write_value, sorted(model.aliases, key=str.casefold)))
    yield from _write_list("facts", map(_write_fact, sorted(model.facts, key=lambda fact: fact.kind)))
    if model.template is not None:
        yield f"template = {_write_value(model.template)}"
    for table in ("options", "generation_config"):
        if values := getattr(model, table):
            yield f"[models.{table}]"
            yield from (f"{_write_key(key)} = {_write_value(values[key])}" for key in sorted(values))


def sort_files(files: Iterable[LockedFile]) -> list[LockedFile]:
    """Return files in the order of a lockfile: the shards of the weights, then the projector."""
    return sorted(files, key=lambda file: (file.role != "weights", file.path))


def _write_list(name: str, items: Iterable[str]) -> list[str]:
    lines = [f"    {item}," for item in items]
    return [f"{name} = [", *lines, "]"] if lines else []


def _write_file(file: LockedFile) -> str:
    digest = {"sha256": file.sha256} if file.sha256 else {"git_sha1": file.git_sha1}
    return _write_value({"path": file.path, "role": file.role, "size": file.size_bytes, **digest})


def _write_fact(fact: LockedFact) -> str:
    return f"{{ kind = {_write_value(fact.kind)}, result = {_write_value(fact.result)}, at = {format_utc(fact.at)} }}"


def _write_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _write_text(key)


def _write_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _write_lines(value) if "\n" in value else _write_text(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_write_key(key)} = {_write_inline(one)}" for key, one in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_write_inline, value)) + "]"
    return format_utc(value) if isinstance(value, datetime) else repr(value)


def _write_inline(value: object) -> str:
    """Return a value without a line break: an inline table must be one line."""
    return _write_text(value) if isinstance(value, str) else _write_value(value)


def _write_text(text: str) -> str:
    return '"' + "".join(map(_escape, text)) + '"'


def _write_lines(text: str) -> str:
    """Return a text over several lines, so that a changed line is one line in a diff."""
    escaped = "".join(char if char in '\n\t"' else _escape(char) for char in text)
    escaped = escaped.replace('"""', '""\\"')
    escaped = escaped[:-1] + '\\"' if escaped.endswith('"') else escaped
    return f'"""\n{escaped}"""'


def _escape(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if not is_hidden(char):
        return char
    if "\ud800" <= char <= "\udfff":  # half of a character, which no file can hold
        return "\\uFFFD"
    return json.dumps(char)[1:-1] if char in "\n\t\r\b\f" else f"\\U{ord(char):08X}"
