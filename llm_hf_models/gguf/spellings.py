"""Find a model by a text that names its quantization or its file: as on the Hub, as in the file's name, or as typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from llm_hf_models.gguf.filenames import parse_name
from llm_hf_models.gguf.quant_types import find_type

_WORD = re.compile(r"[^\W_]+")


class Labelled(Protocol):
    """A model with a label and the paths of its files, such as `variants.Variant`."""

    @property
    def quant(self) -> str: ...
    @property
    def files(self) -> tuple[str, ...]: ...


Entry = TypeVar("Entry", bound=Labelled)


def find_matches(entries: Sequence[Entry], text: str) -> list[Entry]:
    """Return the models that a text names: those of `find_named`, otherwise by a part of their names.

    The text may then be the words of a stem in another order, or the start of a label.
    """
    words = _split_words(text)
    rules: tuple[Callable[[Entry], bool], ...] = (
        lambda entry: any(sorted(_split_words(stem)) == sorted(words) for stem in _list_stems(entry)),
        lambda entry: "".join(_split_words(entry.quant)).startswith("".join(words)),
    )
    found = find_named(entries, text)
    for rule in rules if words else ():
        found = found or [entry for entry in entries if rule(entry)]
    return found


def find_named(entries: Sequence[Entry], text: str) -> list[Entry]:
    """Return the models that a text names completely. The first rule with a match decides.

    The text may be the label, the path, name or stem of a file, the name of a folder with one model, the quantization
    in any spelling (`MXFP4_MOE`, `fp16`, `q4km`), or the stem or its last words with other separators.
    """
    if found := [entry for entry in entries if text in entry.files]:
        return found
    text = text.strip()
    words = _split_words(text)
    if not words:
        return []
    rules: tuple[Callable[[Entry], bool], ...] = (
        lambda entry: "".join(words) in ("".join(_split_words(name)) for name in (entry.quant, *_list_stems(entry))),
        lambda entry: any(_split_words(stem)[-len(words) :] == words for stem in _list_stems(entry)),
    )
    found = _find_by_file(entries, text) or _find_by_type(entries, text)
    for rule in rules:
        found = found or [entry for entry in entries if rule(entry)]
    return found


def _find_by_file(entries: Sequence[Entry], text: str) -> list[Entry]:
    """Return the models with this label or file name, or in this folder. Names in the same case count first."""
    folded = text.casefold()
    exact = [entry for entry in entries if entry.quant == text] or [
        entry for entry in entries if text in _list_file_names(entry)
    ]
    if len(exact) == 1:
        return exact
    if found := [entry for entry in entries if entry.quant.casefold() == folded]:
        return found
    if found := [entry for entry in entries if folded in map(str.casefold, _list_file_names(entry))]:
        return found
    in_folder = [entry for entry in entries if folded in map(str.casefold, _list_folders(entry))]
    return in_folder if len(in_folder) == 1 else []


def _find_by_type(entries: Sequence[Entry], text: str) -> list[Entry]:
    """Return the models of a type. `Q4_K_XL` is also the dynamic type if there is no other."""
    wanted = find_type(text)
    if (wanted.start, wanted.end) != (0, len(text)):
        return []
    typed = [(entry, found) for entry in entries if (found := find_type(entry.quant)).name == wanted.name]
    dynamic = [(entry, found) for entry, found in typed if found.dynamic == wanted.dynamic]
    whole = [(entry, found) for entry, found in dynamic if (found.start, found.end) == (0, len(entry.quant))]
    return [entry for entry, _ in whole or dynamic or typed]


def list_file_names(path: str) -> set[str]:
    """Return the names of a file: with and without its folder, its suffix and its number as a shard."""
    folder, slash, name = path.rpartition("/")
    parsed = parse_name(path)
    ends = {name, name[: -len(".gguf")], parsed.stem} if parsed else {name}
    return {f"{start}{end}" for start in ("", folder + slash) for end in ends}


def _list_file_names(entry: Labelled) -> set[str]:
    return {name for path in entry.files for name in list_file_names(path)}


def _list_stems(entry: Labelled) -> set[str]:
    return {parsed.stem for path in entry.files if (parsed := parse_name(path))}


def _list_folders(entry: Labelled) -> set[str]:
    folders = {path.rpartition("/")[0] for path in entry.files}
    return {name for folder in folders for name in (folder, *folder.split("/")) if name}


def _split_words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
