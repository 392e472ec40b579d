"""Group a repo's files into variants by their names, and choose one variant. Nothing is read from disk or network."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from llm_hf_models.errors import NoGgufError, QuantNotFoundError
from llm_hf_models.gguf import quant_types
from llm_hf_models.gguf.file_kinds import FileKind, classify_files
from llm_hf_models.gguf.filenames import GgufName, find_whole_file, is_projector, parse_name
from llm_hf_models.gguf.labels import assign_labels
from llm_hf_models.gguf.projectors import ProjectorIndex, names_model
from llm_hf_models.gguf.quant_types import find_type
from llm_hf_models.gguf.spellings import find_matches
from llm_hf_models.system.json_values import json_name
from llm_hf_models.system.text import clean_text, quote_label, suggest_word

MIN_BITS, MAX_BITS = 1.5, 40  # per weight, of quantizations that are not known
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
    size: int = field(metadata=json_name("size_bytes"))  # of the weights, without the mmproj
    mmproj: str | None = None
    mmproj_size: int = field(default=0, metadata=json_name("mmproj_bytes"))

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
    *(
        (name, "low quality, below three and a half bits")
        for name in quant_types.QUALITY[quant_types.QUALITY.index("Q3_K_S") :]
    ),
)
_PREFERENCE_RANK = {name: rank for rank, (name, _) in enumerate(_PREFERENCE)}
_BITS_BY_PREFERENCE = {name: bits for name, _ in _PREFERENCE if (bits := quant_types.get_bits(name))}
_UNSUPPORTED_REASON = "the only type available, but llama.cpp may not support it"


def group_variants(files: Iterable[SizedFile], repo: str = "") -> list[Variant]:
    """Group a repo's files into variants, best quality first, each with a unique label.

    Incomplete splits are left out (see `find_incomplete_splits`), and files that are not models (see
    `find_companions`). Each variant refers to its own projector.

    Args:
        files: all files of a repo, in any order; sizes in bytes.
        repo: the repo's id or name. Labels don't repeat its words.
    """
    sizes = {file.path: file.size for file in files}
    names = _parse_names(sizes)
    splits = [parts for parts in _group_models(names, sizes) if not _explain_incomplete_split(parts)]
    projectors = [name for name in names if is_projector(name) and name.count <= 1]
    index = ProjectorIndex(projectors, {parts[0].base for parts in splits})
    variants = []
    for label, parts in zip(assign_labels([parts[0] for parts in splits], repo), splits, strict=True):
        size = sum(sizes[part.path] for part in parts)
        variant = Variant(label, tuple(part.path for part in parts), size)
        if projector := index.choose(parts[0]):
            variant = replace(variant, mmproj=projector.path, mmproj_size=sizes[projector.path])
        variants.append(variant)
    bits = _estimate_bits(variants)
    return sorted(variants, key=lambda variant: _make_quality_key(variant, bits[variant.quant]))


def find_companions(files: Iterable[SizedFile]) -> dict[str, FileKind]:
    """Return the GGUF files that are not models, each with its kind."""
    sizes = {file.path: file.size for file in files}
    groups = _group_shards(_parse_names(sizes))
    kinds = classify_files(groups, sizes)
    return {part.path: kind for parts, kind in zip(groups, kinds, strict=True) if kind != "model" for part in parts}


def find_incomplete_splits(files: Iterable[SizedFile]) -> list[IncompleteSplit]:
    """Return the split models that `group_variants` leaves out, each with the reason."""
    sizes = {file.path: file.size for file in files}
    paths = sorted(sizes)
    broken = [
        IncompleteSplit(parts[0].path.rpartition("-of-")[0][:-6], tuple(part.path for part in parts), reason)
        for parts in _group_models(_parse_names(paths), sizes)
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


def _group_models(names: Sequence[GgufName], sizes: Mapping[str, int]) -> list[list[GgufName]]:
    """Group the files that are models: the shards of one split together and in order, other files alone."""
    groups = _group_shards(names)
    return [parts for parts, kind in zip(groups, classify_files(groups, sizes), strict=True) if kind == "model"]


def _group_shards(names: Iterable[GgufName]) -> list[list[GgufName]]:
    splits: dict[str, dict[int, GgufName]] = {}
    for name in names:
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


def list_projectors(files: Iterable[SizedFile], variant: Variant) -> tuple[list[str], list[str]]:
    """Return the projectors in a variant's repo: those that it can have by their names, and those of other models.

    The first one of those that it can have is the variant's `mmproj`, as chosen by `group_variants`.
    """
    sizes = {file.path: file.size for file in files}
    names = _parse_names(sizes)
    projectors = [name for name in names if is_projector(name) and name.count <= 1]
    own = next((name for name in names if name.path == variant.files[0]), None)
    if own is None:
        return [], []
    splits = [parts for parts in _group_models(names, sizes) if not _explain_incomplete_split(parts)]
    found = [name.path for name in ProjectorIndex(projectors, {parts[0].base for parts in splits}).rank(own)]
    own_paths = set(found)
    return found, [name.path for name in projectors if name.path not in own_paths]


def list_certain_projectors(files: Iterable[SizedFile], model: str) -> list[str]:
    """Return the projectors in a folder that can only belong to one model, the likeliest first.

    Unlike a repo's files, the files in a folder may come from anywhere. So the projector's name must include the
    model's, or the folder must have no other model.

    Args:
        files: the files in the folder.
        model: the path of the model, or of one of its shards.
    """
    sizes = {file.path: file.size for file in files}
    names = _parse_names(sizes)
    model_name = next((name for name in names if name.path == model), None)
    if model_name is None:
        return []
    bases = {parts[0].base.casefold() for parts in _group_models(names, sizes)}
    is_only_model = bases <= {model_name.base.casefold()}
    projectors = [
        name
        for name in names
        if is_projector(name) and name.count <= 1 and (is_only_model or names_model(name, model_name.base))
    ]
    return [name.path for name in ProjectorIndex(projectors, bases).rank(model_name)]


def _estimate_bits(variants: Sequence[Variant]) -> dict[str, float | None]:
    """Return the bits per weight of each label: those of its type, those that it names (`3.7bpw`), or by its size.

    The size is compared with those of variants with a known type. The result is None if there are none, or if the size
    is that of another model.
    """
    of_type = {variant.quant: quant_types.get_bits(find_type(variant.quant).name) for variant in variants}
    weights = [variant.size / bits for variant in variants if (bits := of_type[variant.quant])]
    usual = statistics.median(weights) if weights else 0
    by_size = {variant.quant: variant.size / usual if usual else 0 for variant in variants}
    return {
        variant.quant: of_type[variant.quant]
        or quant_types.find_named_bits(variant.files[0])
        or (by_size[variant.quant] if MIN_BITS < by_size[variant.quant] < MAX_BITS else None)
        for variant in variants
    }


def _make_quality_key(variant: Variant, bits: float | None) -> tuple[float, bool, int, str]:
    found = find_type(variant.quant)
    return (quant_types.rank_quality(found.name, bits), not found.dynamic, -variant.size, variant.quant)


def _rank_preference(variant: Variant, bits: float | None) -> tuple[float, bool, bool, int]:
    """Return the sort key for choosing: by type, then plain before unsloth's, then the larger of several models.

    Of several files of one model, the one with the plain label comes first.

    A variant without a type comes after the type with the most similar bits per weight.
    """
    found = find_type(variant.quant)
    name = quant_types.expand_short_name(found.name)
    rank: float = _PREFERENCE_RANK.get(name, len(_PREFERENCE))
    if not name and bits is not None:
        rank = _PREFERENCE_RANK[min(_BITS_BY_PREFERENCE, key=lambda each: abs(_BITS_BY_PREFERENCE[each] - bits))] + 0.5
    has_more_words = (found.start, found.end) != (0, len(variant.quant))
    return (rank, found.dynamic, has_more_words, -variant.size)


def _is_unsupported(variant: Variant) -> bool:
    name = find_type(variant.quant).name
    return quant_types.expand_short_name(name) not in _PREFERENCE_RANK


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
    bits = _estimate_bits(variants)
    ordered = sorted(variants, key=lambda variant: _rank_preference(variant, bits[variant.quant]))
    candidates = [variant for variant in ordered if not _is_unsupported(variant)] or ordered
    for variant in candidates:
        if fits(variant):
            return VariantChoice(variant, f"{quote_label(variant.quant)}: {_explain_choice(variant, ordered)}")
    smallest = min(candidates, key=lambda variant: variant.size)
    reason = f"{quote_label(smallest.quant)}: no variant fits this machine's memory; this is the smallest"
    return VariantChoice(smallest, reason)


def _explain_choice(variant: Variant, ordered: Sequence[Variant]) -> str:
    name, dynamic = find_type(variant.quant)[:2]
    reason = dict(_PREFERENCE).get(quant_types.expand_short_name(name), _UNSUPPORTED_REASON)
    if len(ordered) == 1:
        return reason if _is_unsupported(variant) else "the only variant"
    first = ordered[0]
    if variant != first and not _is_unsupported(first):
        reason += f" ({quote_label(first.quant)} doesn't fit)"
    same = sum(find_type(other.quant)[:2] == (name, dynamic) for other in ordered) - 1
    return f"{reason}; {same} more of this type" if same and name else reason


def find_variant(variants: Sequence[Variant], text: str) -> Variant:
    """Return the variant that a text names, in any spelling that `spellings.find_matches` knows.

    Raises:
        QuantNotFoundError: no variant or several variants match; the hint lists the variants.
    """
    found = find_matches(variants, text)
    if len(found) == 1:
        return found[0]
    if found:
        raise QuantNotFoundError(
            f"{clean_text(text, 80)!r} matches {len(found)} variants", hint=f"Name one of: {_list_labels(found)}"
        )
    near = suggest_word(text, [variant.quant for variant in variants])
    hint = f"{near}Available variants: {_list_labels(variants)}" if variants else None
    raise QuantNotFoundError(f"There is no variant {clean_text(text, 80)!r}", hint=hint)


def _list_labels(variants: Sequence[Variant]) -> str:
    more = f" and {len(variants) - MAX_LISTED} more" if len(variants) > MAX_LISTED else ""
    return ", ".join(quote_label(variant.quant) for variant in variants[:MAX_LISTED]) + more
