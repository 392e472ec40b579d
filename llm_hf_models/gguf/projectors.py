"""Pair a model with its projector (mmproj): by the names of both files, and by the widths in their headers.

llm_hf_models.gguf.variants finds the projectors among the files of a repo or folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.filenames import GgufName

_TYPE_ORDER = ("F16", "BF16", "F32", "Q8_0")  # F16 runs on every device at full quality
_GENERIC_BASES = {"", "model", "ggml-model"}  # base names that don't identify a model


def rank_projectors(name: GgufName, projectors: Iterable[GgufName], bases: Collection[str]) -> list[GgufName]:
    """Return the projectors that a model can have, the likeliest first.

    The likeliest is the one that names the model, then the one in the nearest parent folder, as llama.cpp chooses it,
    then by type. A projector whose name includes the base name of another model belongs to that model.

    Args:
        name: the model.
        projectors: the projectors in the repo or folder.
        bases: the base names of all models there.
    """

    def can_belong(projector: GgufName) -> bool:
        matches = [base for base in bases if names_model(projector, base)]
        return not matches or max(matches, key=len).casefold() == name.base.casefold()

    def make_key(projector: GgufName) -> tuple[bool, bool, int, int, str]:
        is_above = not projector.folder or f"{name.folder}/".startswith(f"{projector.folder}/")
        depth = projector.folder.count("/") + 1 if is_above and projector.folder else 0
        order = (*_TYPE_ORDER, projector.type).index(projector.type)
        return (not names_model(projector, name.base), not is_above, -depth, order, projector.path)

    return sorted(filter(can_belong, projectors), key=make_key)


def names_model(projector: GgufName, base: str) -> bool:
    """Return whether a projector's name includes a model's base name, with any separators (`gemma_3-4b`)."""
    if base.casefold() in _GENERIC_BASES:
        return False
    return f"-{_split_words(base)}-" in f"-{_split_words(projector.stem)}-"


def _split_words(text: str) -> str:
    return "-".join(re.findall(r"[^\W_]+", text.casefold()))


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
