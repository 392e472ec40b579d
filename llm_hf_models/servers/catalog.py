"""What a mirror serves: repos and their files, and whoever knows of them. No protocol here (servers/hub_mirror.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from llm_hf_models.system.hashing import create_git_blob_hash


@dataclass(frozen=True)
class ServedFile:
    """A file that is served: its path in the repo, and where its bytes are. One with a sha256 is an LFS file."""

    path: str
    location: Path
    size: int  # bytes
    sha256: str | None
    git_sha1: str | None
    scan: str | None = None  # the Hub's word: safe, unsafe, suspicious, queued
    scanners: tuple[tuple[str, str, str], ...] = ()  # (the Hub's name of one, such as avScan; its status; its message)

    @property
    def etag(self) -> str:
        """What the Hub names its bytes by: sha256 for LFS, git blob id otherwise."""
        return self.sha256 or self.git_sha1 or ""

    @property
    def lfs_pointer(self) -> bytes | None:
        """What git keeps in an LFS file's place (git-lfs, docs/spec.md); None of a file that git keeps itself."""
        if self.sha256 is None:
            return None
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
            self.sha256.encode(),
            self.size,
        )

    @property
    def blob_id(self) -> str:
        """The git blob's id: of the pointer where the file is LFS."""
        if self.lfs_pointer is None:
            return self.git_sha1 or ""
        blob = create_git_blob_hash(len(self.lfs_pointer))
        blob.update(self.lfs_pointer)
        return blob.hexdigest()


@dataclass(frozen=True)
class ServedRepo:
    """One repo at one commit. A catalogue may hold several commits of one repo; the first is what a list shows."""

    id: str
    commit: str
    files: tuple[ServedFile, ...]
    revisions: tuple[str, ...] = ("main",)  # names that mean this commit
    task: str | None = None
    tags: tuple[str, ...] = ()
    license: str | None = None
    gated: Literal["auto", "manual", False] = False
    private: bool = False
    downloads: int = 0
    likes: int = 0
    updated: float = 0.0  # Unix seconds
    gguf: dict[str, object] | None = None
    base_models: tuple[str, ...] = ()
    created: float | None = None  # Unix seconds; None is `updated`
    trending: int = 0
    library: str | None = None  # None is gguf where there is such a file
    scans_done: bool | None = None  # None: nobody scanned
    files_with_issues: tuple[tuple[str, str], ...] = ()  # (path, level)
    card: dict[str, object] = field(default_factory=dict)  # more of the model card's front matter

    @property
    def created_at(self) -> float:
        """When it was made, in Unix seconds."""
        return self.updated if self.created is None else self.created

    @property
    def has_gguf(self) -> bool:
        """Whether any of its files is a GGUF file by name."""
        return any(file.path.lower().endswith(".gguf") for file in self.files)

    @property
    def library_name(self) -> str | None:
        """The library that its files are for."""
        return self.library or ("gguf" if self.has_gguf else None)

    @property
    def all_tags(self) -> tuple[str, ...]:
        """Its tags with those that the Hub derives: library, task, licence, base models, region."""
        derived = [
            self.library_name or "",
            "gguf" if self.has_gguf else "",
            self.task or "",
            *(f"base_model:{base}" for base in self.base_models),
            *(f"base_model:quantized:{base}" for base in self.base_models if self.has_gguf),
            f"license:{self.license}" if self.license else "",
            "region:us",
        ]
        return tuple(dict.fromkeys(tag for tag in (*self.tags, *derived) if tag))

    @property
    def parameters(self) -> int | None:
        """Its number of parameters, where known."""
        total = (self.gguf or {}).get("total")
        return total if isinstance(total, int) else None

    def file(self, path: str) -> ServedFile | None:
        """The file at that path, or None."""
        return next((file for file in self.files if file.path == path), None)

    def compute_folder_id(self, path: str) -> str:
        """A stand-in for a folder's git id: 40 hexadecimal digits that change with what is in it."""
        inside = sorted(f"{file.path} {file.etag}" for file in self.files if file.path.startswith(f"{path}/"))
        return hashlib.sha1("\n".join(inside).encode(), usedforsecurity=False).hexdigest()


class Catalog(Protocol):
    """What a mirror serves; asked anew for each request."""

    def list_repos(self) -> Sequence[ServedRepo]: ...
