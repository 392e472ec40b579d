"""Define the repos and files that a mirror serves. The protocol is in servers/hub_mirror.py."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from llm_hf_models.system.hashing import create_git_blob_hash


@dataclass(frozen=True)
class ServedFile:
    """A served file: its path in the repo and its location on disk. A file with a sha256 is an LFS file."""

    path: str
    location: Path
    size: int  # bytes
    sha256: str | None
    git_sha1: str | None
    scan: str | None = None  # the Hub's scan status: safe, unsafe, suspicious, queued
    scanners: tuple[tuple[str, str, str], ...] = ()  # (the Hub's scanner name, such as avScan; status; message)

    @property
    def etag(self) -> str:
        """The Hub's ETag of the file: its sha256 if it is an LFS file, else its git blob id."""
        return self.sha256 or self.git_sha1 or ""

    @property
    def lfs_pointer(self) -> bytes | None:
        """The pointer that git stores for an LFS file (git-lfs, docs/spec.md); None for a file stored in git."""
        if self.sha256 is None:
            return None
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
            self.sha256.encode(),
            self.size,
        )

    @property
    def blob_id(self) -> str:
        """The id of the git blob, which is the pointer if the file is an LFS file."""
        if self.lfs_pointer is None:
            return self.git_sha1 or ""
        blob = create_git_blob_hash(len(self.lfs_pointer))
        blob.update(self.lfs_pointer)
        return blob.hexdigest()


@dataclass(frozen=True)
class ServedRepo:
    """One repo at one commit. A catalog may hold several commits of one repo; lists show the first."""

    id: str
    commit: str
    files: tuple[ServedFile, ...]
    revisions: tuple[str, ...] = ("main",)  # branches and tags at this commit
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
    created: float | None = None  # Unix seconds; None means the same as `updated`
    trending: int = 0
    library: str | None = None  # None means gguf if the repo has a GGUF file
    scans_done: bool | None = None  # None: the repo was not scanned
    files_with_issues: tuple[tuple[str, str], ...] = ()  # (path, level)
    card: dict[str, object] = field(default_factory=dict)  # further fields of the model card's front matter

    @property
    def created_at(self) -> float:
        """The creation time, in Unix seconds."""
        return self.updated if self.created is None else self.created

    @property
    def has_gguf(self) -> bool:
        """Whether the name of any file ends in .gguf."""
        return any(file.path.lower().endswith(".gguf") for file in self.files)

    @property
    def library_name(self) -> str | None:
        """The library that the files are for, such as gguf."""
        return self.library or ("gguf" if self.has_gguf else None)

    @property
    def all_tags(self) -> tuple[str, ...]:
        """The tags, with those that the Hub derives: library, task, licence, base models, region."""
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
        """The number of parameters, if known."""
        total = (self.gguf or {}).get("total")
        return total if isinstance(total, int) else None

    def find_file(self, path: str) -> ServedFile | None:
        """Return the file at a path, or None."""
        return next((file for file in self.files if file.path == path), None)

    def compute_folder_id(self, path: str) -> str:
        """Return a substitute for a folder's git id: 40 hexadecimal digits that change with the folder's files."""
        inside = sorted(f"{file.path} {file.etag}" for file in self.files if file.path.startswith(f"{path}/"))
        return hashlib.sha1("\n".join(inside).encode(), usedforsecurity=False).hexdigest()


class Catalog(Protocol):
    """A list of repos to serve. The server calls `list_repos` for each request."""

    def list_repos(self) -> Sequence[ServedRepo]: ...
