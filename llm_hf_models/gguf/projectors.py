"""Pair a model with its projector (mmproj): by the names of both files, and by the widths in their headers.

llm_hf_models.gguf.variants finds the projectors among the files of a repo or folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import TypeAlias

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.filenames import GgufName

_TYPE_ORDER = ("F16", "BF16", "F32", "Q8_0")  # F16 runs on every device at full quality
_GENERIC_BASES = {"", "model", "ggml-model"}  # base names that don't identify a model
_Words: TypeAlias = tuple[str, ...]


class ProjectorChoice:
    """Chooses the projector of each model in a repo or folder by names.

    A model's projector is the one that names it, then the one in the nearest parent folder, as llama.cpp chooses it,
    then by type. A projector whose name includes the base name of another model belongs to that model. The projectors
    are sorted once, so that the time grows linearly with the number of files.
    """

    def __init__(self, projectors: Iterable[GgufName], bases: Iterable[str]) -> None:
        """Sort the projectors.

        Args:
            projectors: the projectors in the repo or folder.
            bases: the base names of all models there.
        """
        identifying = {_split_words(base) for base in bases if base.casefold() not in _GENERIC_BASES}
        lengths = sorted({len(words) for words in identifying}, reverse=True)
        self._sorted = [
            (projector, _find_longest_part(_split_words(projector.stem), identifying, lengths))
            for projector in sorted(projectors, key=_make_type_key)
        ]
        # By the only model that it can belong to (None: any), and by folder (None: in all folders).
        self._best: dict[tuple[_Words | None, str | None], GgufName] = {}
        for projector, owner in self._sorted:
            for folder in (projector.folder, None):
                self._best.setdefault((owner, folder), projector)

    def choose(self, name: GgufName) -> GgufName | None:
        """Return a model's projector, or None if there is none that can belong to it."""
        if not self._best:
            return None
        parts = name.folder.split("/") if name.folder else []
        folders = [*("/".join(parts[:end]) for end in range(len(parts), -1, -1)), None]
        keys = ((owner, folder) for owner in (_split_words(name.base), None) for folder in folders)
        return next((self._best[key] for key in keys if key in self._best), None)

    def rank(self, name: GgufName) -> list[GgufName]:
        """Return all projectors that can belong to a model. The first one is that of `choose`."""
        possible = [one for one, owner in self._sorted if owner in (_split_words(name.base), None)]
        first = self.choose(name)
        return sorted(possible, key=lambda one: one != first)


def _make_type_key(projector: GgufName) -> tuple[int, str]:
    return (*_TYPE_ORDER, projector.type).index(projector.type), projector.path


def _find_longest_part(words: _Words, parts: Collection[_Words], lengths: Iterable[int]) -> _Words | None:
    """Return the longest of `parts` that is a part of `words`. `lengths` are their lengths, longest first."""
    slices = (words[start : start + size] for size in lengths for start in range(len(words) - size + 1))
    return next((part for part in slices if part in parts), None)


def names_model(projector: GgufName, base: str) -> bool:
    """Return whether a projector's name includes a model's base name, with any separators (`gemma_3-4b`)."""
    words = _split_words(base)
    if base.casefold() in _GENERIC_BASES:
        return False
    return _find_longest_part(_split_words(projector.stem), {words}, [len(words)]) is not None


def _split_words(text: str) -> _Words:
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


def explain_mismatch(model: ModelFacts, projector: ModelFacts) -> str | None:
    """Return why a file can't be a model's projector, or None if the headers don't show that.

    llama.cpp refuses to load a model with a projector of another width (tools/mtmd/mtmd.cpp).
    """
    if projector.kind != "mmproj":
        return "not a projector, by its header"
    width, widths = model.embedding_length, projector.projection_widths
    if width is None or not widths or width in widths:
        return None
    other = f"width {widths[0]}" if len(widths) == 1 else "another width"
    return f"made for a model of {other}, and this model has width {width}"
