"""Compare the files of a model with a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from llm_hf_models.signatures.hashing import is_hashing_needed
from llm_hf_models.signatures.types import Coverage, SignedFile, SignedManifest


@dataclass(frozen=True)
class KnownFile:
    """A file of a model, with the digests that are known without reading it again."""

    path: str  # relative to the repo or the model's folder
    size: int
    sha256: str | None
    digests: Mapping[str, str] = field(default_factory=dict)  # of the manifest's kind, by the names in the manifest


def match_files(manifest: SignedManifest, files: Iterable[KnownFile], unchecked_reason: str | None = None) -> Coverage:
    """Return which files the manifest lists with the same digest.

    Args:
        manifest: the signed files.
        files: the files of a model, which may be some of them.
        unchecked_reason: why digests of the manifest's kind may be unknown.
    """
    found: dict[str, list[str]] = {"matching": [], "differing": [], "unlisted": [], "unchecked": []}
    paths, entries = set(), manifest.group_entries()
    for file in files:
        paths.add(file.path)
        listed = entries.get("." if manifest.is_single_file() else file.path, ())
        found[_compare(manifest, listed, file)].append(file.path)
    others = entries.keys() - paths
    return Coverage(
        len(paths),
        len(found["matching"]),
        tuple(found["differing"]),
        tuple(found["unlisted"]),
        tuple(found["unchecked"]),
        unchecked_reason if found["unchecked"] else None,
        0 if manifest.is_single_file() else len(others),
    )


def _compare(manifest: SignedManifest, entries: Sequence[SignedFile], file: KnownFile) -> str:
    if not entries:
        return "unlisted"
    digests = dict(file.digests)
    if not is_hashing_needed(manifest) and file.sha256:
        digests[entries[0].name] = file.sha256
    known = [digests.get(entry.name) for entry in entries]
    has_other_size = entries[-1].end not in (None, file.size)
    if has_other_size or any(digest not in (None, entry.digest) for digest, entry in zip(known, entries, strict=True)):
        return "unlisted" if manifest.is_single_file() else "differing"
    return "unchecked" if None in known else "matching"
