"""Pair a model with its projector (mmproj): by the names of both files, and by the widths in their headers.

llm_hf_models.gguf.variants finds the projectors among the files of a repo or folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.filenames import GgufName

_TYPE_ORDER = ("F16", "BF16", "F32", "Q8_0")  # F16 runs on every device at full quality
_GENERIC_BASES = {"", "model", "ggml-model"}  # base names that don't identify a model


class ProjectorIndex:
    """The projectors in a repo or folder, by the models that they can belong to.

    A projector whose name includes the base name of a model belongs to that model. The time to find the projectors of
    all models grows linearly with the number of files.
    """

    def __init__(self, projectors: Iterable[GgufName], bases: Collection[str]) -> None:
        """Sort the projectors.

        Args:
            projectors: the projectors in the repo or folder.
            bases: the base names of all models there.
        """
        owners = {_split_words(base) for base in bases if base.casefold() not in _GENERIC_BASES}
        most = max(map(len, owners), default=0)
        self._of_owner: dict[tuple[str, ...] | None, list[GgufName]] = {}  # None: those that name no model
        self._in_folder: dict[tuple[tuple[str, ...] | None, str], list[GgufName]] = {}
        for projector in sorted(projectors, key=_make_key):
            owner = _find_longest_run(_split_words(projector.stem), owners, most)
            self._of_owner.setdefault(owner, []).append(projector)
            self._in_folder.setdefault((owner, projector.folder), []).append(projector)

    def rank(self, name: GgufName) -> list[GgufName]:
        """Return the projectors that a model can have, the likeliest first.

        The likeliest is the one that names the model, then the one in the nearest parent folder, as llama.cpp chooses
        it, then by type.
        """
        return list(self._list_by_rank(name))

    def choose(self, name: GgufName) -> GgufName | None:
        """Return the likeliest projector of a model, or None if it can have none."""
        return next(self._list_by_rank(name), None)

    def _list_by_rank(self, name: GgufName) -> Iterator[GgufName]:
        parts = name.folder.split("/") if name.folder else []
        above = ["/".join(parts[:end]) for end in range(len(parts), -1, -1)]
        for owner in (_split_words(name.base), None):
            for folder in above:
                yield from self._in_folder.get((owner, folder), ())
            yield from (projector for projector in self._of_owner.get(owner, ()) if projector.folder not in above)


def _make_key(projector: GgufName) -> tuple[int, str]:
    return (*_TYPE_ORDER, projector.type).index(projector.type), projector.path


def _find_longest_run(words: tuple[str, ...], owners: Collection[tuple[str, ...]], most: int) -> tuple[str, ...] | None:
    """Return the longest run of words that is the name of a model."""
    runs = (
        words[start : start + size]
        for size in range(min(most, len(words)), 0, -1)
        for start in range(len(words) - size + 1)
    )
    return next((run for run in runs if run in owners), None)


def names_model(projector: GgufName, base: str) -> bool:
    """Return whether a projector's name includes a model's base name, with any separators (`gemma_3-4b`)."""
    words = _split_words(base)
    if base.casefold() in _GENERIC_BASES or not words:
        return False
    return _find_longest_run(_split_words(projector.stem), {words}, len(words)) is not None


def _split_words(text: str) -> tuple[str, ...]:
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
