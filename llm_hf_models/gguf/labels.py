"""Label the variants of a repo. A label is unique in its repo, and valid after the colon of a model ref."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from llm_hf_models.gguf.filenames import WORD, GgufName, is_quant_name, split_words

MAX_LABEL_CHARS = 120


def assign_labels(names: Sequence[GgufName], repo: str = "") -> list[str]:
    """Return the labels of a repo's models: as short as possible, and unique when case is ignored.

    A model's label is its quantization. Without one, it is the part of the file's name that the other models and the
    repo's name don't have. If several models have the same quantization, the one whose name is a part of all the other
    names keeps the plain label, and the others add their distinguishing words. If only their folders differ, the one
    in the highest folder keeps the plain label. If there is none, all labels get the rest of the name, without the
    words at its ends that all these names and the repo's name have.

    Args:
        names: the first file of each model.
        repo: the repo's id or name.
    """
    repo_words = split_words(repo.rpartition("/")[2])
    labels = _label_by_folder(names, _label_shortest(names, repo_words))
    for make_label in (
        lambda name, shared: _join(
            _strip_words(name.before, shared), _get_type(name), _strip_words(name.after, shared)
        ),
        lambda name, _: _join(name.base, name.marks, _get_type(name)),
        lambda name, _: _join(name.folder, name.base, name.marks, _get_type(name)),
    ):
        labels = _lengthen_duplicates(names, labels, repo_words, make_label)
    return _number_duplicates(names, labels)


def _label_shortest(names: Sequence[GgufName], repo_words: set[str]) -> list[str]:
    words = [split_words(name.stem) for name in names]
    shared = repo_words | {"gguf"} | (set.intersection(*words) if len(words) > 1 else set())
    return [_sanitize(_get_type(name) or _strip_words(name.stem, shared) or name.stem) for name in names]


def _label_by_folder(names: Sequence[GgufName], labels: Sequence[str]) -> list[str]:
    """Put the folder before the labels of models that have the name of a model in a folder above."""
    longer = list(labels)
    for positions in _find_duplicates(labels):
        folders = [split_words(names[i].folder.replace("/", " ")) for i in positions]
        highest = _find_plain_words(folders)
        if highest is None or len({names[i].stem.casefold() for i in positions}) > 1:
            continue
        for position, words in zip(positions, folders, strict=True):
            if words != highest:
                longer[position] = _sanitize(_join(names[position].folder, longer[position]))
    return longer


def _lengthen_duplicates(
    names: Sequence[GgufName],
    labels: Sequence[str],
    repo_words: set[str],
    make_label: Callable[[GgufName, set[str]], str],
) -> list[str]:
    """Replace the labels that occur several times.

    Args:
        names: the first file of each model.
        labels: the labels so far.
        repo_words: the words of the repo's name.
        make_label: returns a longer label for a name and the words that it need not repeat.
    """
    longer = list(labels)
    for positions in _find_duplicates(labels):
        words = [split_words(f"{names[i].before} {names[i].after}") for i in positions]
        shared = _find_plain_words(words) or repo_words.intersection(*words)
        for position in positions:
            longer[position] = _sanitize(make_label(names[position], shared | {"gguf"}))
    return longer


def _find_duplicates(labels: Iterable[str]) -> list[list[int]]:
    """Return the positions of each label that occurs several times."""
    positions: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        positions.setdefault(label.casefold(), []).append(position)
    return [each for each in positions.values() if len(each) > 1]


def _find_plain_words(names: Sequence[set[str]]) -> set[str] | None:
    """Return the words of the name that is a part of all the other names, None if there is none."""
    shortest = min(names, key=len)
    return shortest if sum(shortest < words for words in names) == len(names) - 1 else None


def _number_duplicates(names: Sequence[GgufName], labels: Sequence[str]) -> list[str]:
    """Return the labels with a number after those that another model has as its label or as its file's name."""
    stems = {name.stem.casefold() for name in names}
    numbers: Counter[str] = Counter()  # used so far for each label
    taken: set[str] = set()
    unique = []
    for name, label in zip(names, labels, strict=True):
        own, key = label, label.casefold()
        while own.casefold() in taken or (own.casefold() in stems and own.casefold() != name.stem.casefold()):
            numbers[key] += 1
            own = f"{label}-{numbers[key] + 1}"
        taken.add(own.casefold())
        unique.append(own)
    return unique


def _get_type(name: GgufName) -> str:
    return f"UD-{name.type}" if name.dynamic else name.type


def _strip_words(text: str, known: set[str]) -> str:
    """Return the text without the known words at its start and end."""
    others = [match for match in WORD.finditer(text) if match.group().casefold() not in known]
    return text[others[0].start() : others[-1].end()] if others else ""


def _join(*parts: str) -> str:
    return "-".join(filter(None, parts))


def _sanitize(label: str) -> str:
    plain = "".join(char for char in unicodedata.normalize("NFKD", label) if not unicodedata.combining(char))
    label = re.sub(r"[^A-Za-z0-9._-]+|\.(?=[A-Za-z])", "-", plain)[-MAX_LABEL_CHARS:].strip("-._")
    return label if is_quant_name(label) else f"model-{label}".rstrip("-")
