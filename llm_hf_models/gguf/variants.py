"""Group a repo's files into variants by their names, and choose one variant. Nothing is read from disk or network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, TypeAlias

from llm_hf_models.errors import NoGgufError, QuantNotFoundError
from llm_hf_models.gguf.filenames import (
    GgufName,
    find_quant_type,
    find_whole_file,
    is_draft,
    is_model,
    is_projector,
    is_quant_name,
    parse_name,
)
from llm_hf_models.system.text import clean_text, quote_label

MAX_LABEL_CHARS = 120
MAX_LISTED = 40  # maximum number of labels in an error's hint


class SizedFile(Protocol):
    """A file with a path and a size in bytes, such as `hub.types.HubFile`."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class Variant:
    """One quantization of one repo: its shards in order and its mmproj, if any. Paths are relative to the repo."""

    quant: str  # `Q4_K_M`, `UD-Q4_K_XL`, `F16`; the file's stem if its name has no quantization
    files: tuple[str, ...]
    size: int  # bytes of the weights, without the mmproj
    mmproj: str | None = None
    mmproj_size: int = 0

    @property
    def shards(self) -> int:
        return len(self.files)

    @property
    def all_files(self) -> tuple[str, ...]:
        return (*self.files, self.mmproj) if self.mmproj else self.files


@dataclass(frozen=True)
class VariantChoice:
    """The variant that a pull without a quantization chooses, and the reason as text for a person."""

    variant: Variant
    reason: str


@dataclass(frozen=True)
class IncompleteSplit:
    """A split model that can't be pulled, because shards are missing or it was cut by bytes."""

    name: str  # the path up to the part's number
    files: tuple[str, ...]  # the parts that exist
    reason: str


# Best quality first, as measured by llama.cpp's quantize tool (`tools/quantize/README.md`: bits per weight and
# perplexity). A legacy type comes after the K-quant that is better at its size. The types `_L` and `_XL` of converters
# (embeddings and output at more bits) come before the plain type.
_QUALITY = """
    F64 F32 BF16 F16 Q8_K_XL Q8_0
    Q6_K_XL Q6_K_L Q6_K Q5_K_XL Q5_K_L Q5_K_M Q5_K_S Q5_1 Q5_0
    Q4_K_XL Q4_K_L Q4_K_M Q4_K_S NVFP4 MXFP4 IQ4_NL IQ4_XS Q4_1 Q4_0
    Q3_K_XL Q3_K_L Q3_K_M IQ3_M IQ3_S Q3_K_S IQ3_XS IQ3_XXS
    Q2_K_XL Q2_K_L Q2_K IQ2_M Q2_K_S IQ2_S IQ2_XS IQ2_XXS TQ2_0 IQ1_M IQ1_S TQ1_0 Q1_0
""".split()  # noqa: SIM905 - rows by bits are easier to read than forty quoted lines
_QUALITY_RANK = {name: rank for rank, name in enumerate(_QUALITY)}

# Short names for one of these types: those of the quantize tool (`Q4_K` is `Q4_K_M`) and those of converters.
_SHORT_FOR = {
    "Q3_K": "Q3_K_M",
    "Q4_K": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    "Q2": "Q2_K",
    "Q3": "Q3_K_M",
    "Q4": "Q4_0",
    "Q5": "Q5_0",
    "Q6": "Q6_K",
    "Q8": "Q8_0",
}

# A pull without a quantization chooses the first row for which a variant fits.
_PREFERENCE: tuple[tuple[str, str], ...] = (
    ("Q4_K_M", "the usual balance of size and quality, and llama.cpp's default"),
    ("Q4_K_XL", "like Q4_K_M, with its most sensitive tensors at more bits"),
    ("Q4_K_L", "like Q4_K_M, with embeddings and output at more bits"),
    ("Q4_K_S", "slightly smaller than Q4_K_M"),
    ("Q5_K_M", "the next K-quant above Q4_K_M"),
    ("Q5_K_XL", "a K-quant one step above Q4_K_M"),
    ("Q5_K_L", "a K-quant one step above Q4_K_M"),
    ("Q5_K_S", "a K-quant one step above Q4_K_M"),
    ("Q6_K", "nearly the quality of the full weights"),
    ("Q6_K_XL", "nearly the quality of the full weights"),
    ("Q6_K_L", "nearly the quality of the full weights"),
    ("MXFP4", "four-bit floats, used to train models such as gpt-oss"),
    ("NVFP4", "four-bit floats with finer scales"),
    ("Q8_0", "practically the quality of the full weights"),
    ("Q8_K_XL", "practically the quality of the full weights"),
    ("IQ4_NL", "close to Q4_K_S in quality and size"),
    ("IQ4_XS", "close to Q4_K_S, smaller, slower on some processors"),
    ("Q4_1", "an older four-bit type, large for its quality"),
    ("Q4_0", "an older four-bit type, fast on most processors"),
    ("Q5_1", "an older five-bit type"),
    ("Q5_0", "an older five-bit type"),
    ("Q3_K_XL", "lower quality than four bits, still usable"),
    ("Q3_K_L", "lower quality than four bits, still usable"),
    ("Q3_K_M", "lower quality than four bits, still usable"),
    ("IQ3_M", "lower quality than four bits, still usable"),
    ("IQ3_S", "lower quality than four bits, still usable"),
    ("F16", "the full weights"),
    ("BF16", "the full weights"),
    ("F32", "the full weights at twice the size they need"),
    ("F64", "the full weights at four times the size they need"),
    ("", "the file name has no quantization"),
    *((name, "low quality, below three and a half bits") for name in _QUALITY[_QUALITY.index("Q3_K_S") :]),
)
_PREFERENCE_RANK = {name: rank for rank, (name, _) in enumerate(_PREFERENCE)}
_UNSUPPORTED_REASON = "the only type available, but llama.cpp may not support it"
_GENERIC_BASES = {"", "model", "ggml-model"}  # base names that don't identify a model
_PROJECTOR_ORDER = ("F16", "BF16", "F32", "Q8_0")  # F16 runs on every device at full quality


def group_variants(files: Iterable[SizedFile]) -> list[Variant]:
    """Group a repo's files into variants, best quality first, each with a unique label.

    These files are left out:

    - incomplete splits; see `find_incomplete_splits`;
    - files that are not models by their names: projectors (each variant refers to its own), importance matrices, LoRA
      adapters, control vectors, vocabularies;
    - draft models, if the repo has another model.

    Args:
        files: all files of a repo, in any order; sizes in bytes.
    """
    sizes = {file.path: file.size for file in files}
    names = _parse_names(sizes)
    splits = [parts for parts in _group_shards(names) if not _explain_incomplete_split(parts)]
    splits = [parts for parts in splits if not is_draft(parts[0])] or splits
    projectors = [name for name in names if is_projector(name) and name.count <= 1]
    bases = {parts[0].base.casefold() for parts in splits}
    projector_choice = _ProjectorChoice(projectors, bases)
    grouped = []
    for label, parts in _assign_labels(splits):
        size = sum(sizes[part.path] for part in parts)
        variant = Variant(label, tuple(part.path for part in parts), size)
        if projector := projector_choice.choose(parts[0]):
            variant = replace(variant, mmproj=projector.path, mmproj_size=sizes[projector.path])
        grouped.append((parts[0], variant))
    return [variant for _, variant in sorted(grouped, key=lambda pair: _make_quality_key(*pair))]


def find_incomplete_splits(files: Iterable[SizedFile]) -> list[IncompleteSplit]:
    """Return the split models that `group_variants` leaves out, each with the reason."""
    paths = sorted({file.path for file in files})
    broken = [
        IncompleteSplit(parts[0].path.rpartition("-of-")[0][:-6], tuple(part.path for part in parts), reason)
        for parts in _group_shards(_parse_names(path for path in paths if "-of-" in path))
        if (reason := _explain_incomplete_split(parts))
    ]
    cut: dict[str, list[str]] = {}
    for path in paths:
        if whole := find_whole_file(path):
            cut.setdefault(whole, []).append(path)
    reason = "cut by bytes, which llama.cpp can't load until the parts are joined into one file"
    return broken + [IncompleteSplit(name, tuple(parts), reason) for name, parts in cut.items()]


def _parse_names(paths: Iterable[str]) -> list[GgufName]:
    return [name for path in sorted(paths) if (name := parse_name(path))]


def _group_shards(names: Iterable[GgufName]) -> list[list[GgufName]]:
    """Group the model files: the shards of one split together and in order, other files alone."""
    splits: dict[tuple[str, str, int], dict[int, GgufName]] = {}
    for name in names:
        if is_model(name):
            splits.setdefault(name.split_key, {}).setdefault(name.index, name)
    return [[parts[index] for index in sorted(parts)] for parts in splits.values()]


def _explain_incomplete_split(parts: Sequence[GgufName]) -> str | None:
    """Return why these shards are not a complete model, or None if they are."""
    present, count = {part.index for part in parts}, parts[0].count
    if count == 0:
        return None
    if invalid := sorted(index for index in present if not 1 <= index <= count):
        return f"shard number {invalid[0]} of {count} is invalid"
    if len(present) == count:
        return None
    first = next(index for index in range(1, count + 1) if index not in present)
    if len(present) == count - 1:
        return f"shard {first:05} of {count} is missing"
    return f"{count - len(present)} of {count} shards are missing, the first is {first:05}"


def _assign_labels(splits: Sequence[list[GgufName]]) -> list[tuple[str, list[GgufName]]]:
    """Return each split with a label that is unique when case is ignored. Labels are as short as that allows."""
    choices = [_list_label_candidates(parts[0]) for parts in splits]
    levels = [0] * len(choices)
    for longest in range(1, 4):
        counts = Counter(labels[level].casefold() for labels, level in zip(choices, levels, strict=True))
        for position, labels in enumerate(choices):
            if counts[labels[levels[position]].casefold()] > 1:
                levels[position] = longest
    taken: set[str] = set()
    numbers: Counter[str] = Counter()  # used so far for each label
    labelled = []
    for parts, labels, level in zip(splits, choices, levels, strict=True):
        label, key = labels[level], labels[level].casefold()
        while label.casefold() in taken:
            numbers[key] += 1
            label = f"{labels[level]}-{numbers[key] + 1}"
        taken.add(label.casefold())
        labelled.append((label, parts))
    return labelled


def _list_label_candidates(name: GgufName) -> tuple[str, str, str, str]:
    """Return labels for one model from the shortest to the clearest. All are valid after the colon of a model ref."""
    quant = f"UD-{name.type}" if name.dynamic else name.type or name.stem
    marked = f"{name.marks}-{quant}" if name.marks and name.type else quant
    clear = f"{name.base}-{marked}" if name.base and name.type else marked
    full = f"{name.folder}-{clear}" if name.folder else clear
    return _sanitize_label(quant), _sanitize_label(marked), _sanitize_label(clear), _sanitize_label(full)


@lru_cache(maxsize=1024)
def _sanitize_label(label: str) -> str:
    label = re.sub(r"[^A-Za-z0-9._-]+|\.(?=[A-Za-z])", "-", label)[-MAX_LABEL_CHARS:].strip("-._")
    return label if is_quant_name(label) else f"model-{label}".rstrip("-")


class _ProjectorChoice:
    """Chooses the projector of each model: the one in the nearest parent folder, as llama.cpp chooses it, then by type.

    A projector whose name includes the base name of another model belongs to that model. The projectors are sorted
    once, so that the time grows linearly with the number of files.
    """

    def __init__(self, projectors: Iterable[GgufName], bases: set[str]) -> None:
        identifying = bases - _GENERIC_BASES
        lengths = sorted({len(base) for base in identifying}, reverse=True)
        # By the base name of the only model that it can belong to (None: any), and by folder (None: in all folders).
        self._best: dict[tuple[str | None, str | None], GgufName] = {}
        for projector in sorted(projectors, key=self._make_key):
            owner = _find_longest_part(projector.stem.casefold(), identifying, lengths)
            for folder in (projector.folder, None):
                self._best.setdefault((owner, folder), projector)

    @staticmethod
    def _make_key(projector: GgufName) -> tuple[int, str]:
        return (*_PROJECTOR_ORDER, projector.type).index(projector.type), projector.path

    def choose(self, name: GgufName) -> GgufName | None:
        """Return a model's projector, or None if there is none that can belong to it."""
        if not self._best:
            return None
        parts = name.folder.split("/") if name.folder else []
        for folder in (*("/".join(parts[:end]) for end in range(len(parts), -1, -1)), None):
            owners = (None, name.base.casefold())
            if found := [self._best[owner, folder] for owner in owners if (owner, folder) in self._best]:
                return min(found, key=self._make_key)
        return None


def _find_longest_part(text: str, parts: set[str], lengths: Iterable[int]) -> str | None:
    """Return the longest of `parts` that a text contains. `lengths` are their lengths, longest first."""
    slices = (text[start : start + size] for size in lengths for start in range(len(text) - size + 1))
    return next((part for part in slices if part in parts), None)


def find_certain_projector(files: Iterable[SizedFile], model: str) -> str | None:
    """Return the projector in a folder that can only belong to one model, otherwise None.

    Unlike a repo's files, the files in a folder may come from anywhere. So the projector's name must include the
    model's, or the folder must have no other model.

    Args:
        files: the files in the folder.
        model: the path of the model, or of one of its shards.
    """
    names = _parse_names(file.path for file in files)
    model_name = next((name for name in names if name.path == model), None)
    if model_name is None:
        return None
    bases = {parts[0].base.casefold() for parts in _group_shards(names)}
    base = model_name.base.casefold()
    is_only_model = bases <= {base}
    projectors = [
        name
        for name in names
        if is_projector(name)
        and name.count <= 1
        and (is_only_model or (base not in _GENERIC_BASES and base in name.stem.casefold()))
    ]
    projector = _ProjectorChoice(projectors, bases).choose(model_name)
    return projector.path if projector else None


def _rank_type(table: Mapping[str, int], quant_type: str) -> int:
    return table.get(_SHORT_FOR.get(quant_type, quant_type), len(table))


def _make_quality_key(name: GgufName, variant: Variant) -> tuple[int, bool, int, str]:
    return (_rank_type(_QUALITY_RANK, name.type), not name.dynamic, -variant.size, variant.quant)


_Rank: TypeAlias = tuple[int, bool, int]


def _rank_preference(variant: Variant) -> _Rank:
    """Return the sort key for choosing: by type, then plain before unsloth's, then the larger of several models."""
    quant_type, dynamic = find_quant_type(variant.quant)
    return (_rank_type(_PREFERENCE_RANK, quant_type), dynamic, -variant.size)


def _is_unsupported(rank: _Rank) -> bool:
    return rank[0] == len(_PREFERENCE)


def choose_best(variants: Sequence[Variant], fits: Callable[[Variant], bool]) -> VariantChoice:
    """Choose the most preferred variant that fits, Q4_K_M and similar K-quants first; the smallest if none fits.

    Args:
        variants: the result of `group_variants`.
        fits: returns whether this machine can run a variant.

    Returns:
        The variant, and the reason as text without sizes (`Q4_K_M: the usual balance …`).

    Raises:
        NoGgufError: `variants` is empty.
    """
    if not variants:
        raise NoGgufError("The files contain no GGUF model")
    ranked = sorted(((_rank_preference(variant), variant) for variant in variants), key=lambda pair: pair[0])
    candidates = [pair for pair in ranked if not _is_unsupported(pair[0])] or ranked
    for rank, variant in candidates:
        if fits(variant):
            return VariantChoice(variant, f"{quote_label(variant.quant)}: {_explain_choice(rank, variant, ranked)}")
    smallest = min((variant for _, variant in candidates), key=lambda variant: variant.size)
    reason = f"{quote_label(smallest.quant)}: no variant fits this machine's memory; this is the smallest"
    return VariantChoice(smallest, reason)


def _explain_choice(rank: _Rank, variant: Variant, ranked: Sequence[tuple[_Rank, Variant]]) -> str:
    reason = _UNSUPPORTED_REASON if _is_unsupported(rank) else _PREFERENCE[rank[0]][1]
    if len(ranked) == 1:
        return reason if _is_unsupported(rank) else "the only variant"
    first_rank, first = ranked[0]
    if variant != first and not _is_unsupported(first_rank):
        reason += f" ({quote_label(first.quant)} doesn't fit)"
    found = find_quant_type(variant.quant)
    same = sum(other[:2] == rank[:2] and find_quant_type(one.quant) == found for other, one in ranked) - 1
    return f"{reason}; {same} more of this type" if same else reason


def find_variant(variants: Sequence[Variant], quant: str) -> Variant:
    """Return the variant with this label, ignoring case and separators.

    The rules are tried in this order: the exact label, the same letters and digits (`q4km`), the only variant of the
    type (`Q4_K_M` for `i1-Q4_K_M`), the only variant whose label starts with the text (`Q6` for `Q6_K`).

    Raises:
        QuantNotFoundError: no variant or several variants match; the hint lists the variants.
    """
    wanted, plain = quant.strip().casefold(), _keep_letters_and_digits(quant)
    rules: tuple[Callable[[Variant], bool], ...] = (
        lambda variant: variant.quant.casefold() == wanted,
        lambda variant: _keep_letters_and_digits(variant.quant) == plain,
        lambda variant: _keep_letters_and_digits(find_quant_type(variant.quant)[0]) == plain,
        lambda variant: _keep_letters_and_digits(variant.quant).startswith(plain),
    )
    for rule in rules if plain else ():
        found = [variant for variant in variants if rule(variant)]
        if len(found) == 1:
            return found[0]
        if found:
            raise QuantNotFoundError(
                f"{clean_text(quant, 80)!r} matches {len(found)} variants", hint=f"Name one of: {_list_labels(found)}"
            )
    hint = f"Available variants: {_list_labels(variants)}" if variants else None
    raise QuantNotFoundError(f"There is no variant {clean_text(quant, 80)!r}", hint=hint)


def _keep_letters_and_digits(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())


def _list_labels(variants: Sequence[Variant]) -> str:
    more = f" and {len(variants) - MAX_LISTED} more" if len(variants) > MAX_LISTED else ""
    return ", ".join(quote_label(variant.quant) for variant in variants[:MAX_LISTED]) + more
