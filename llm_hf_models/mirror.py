"""The Hub's protocol over the library, read-only: another machine, or any Hub client, pulls from it with HF_ENDPOINT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True)
class ServedFile:
    """A file that is served: its path in the repo, and where its bytes are."""

    path: str
    location: Path
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class ServedRepo:
    """One repo at one commit."""

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
    updated: float = 0.0
    gguf: dict[str, object] | None = None
    base_models: tuple[str, ...] = ()


class Catalogue(Protocol):
    """What a mirror serves; asked anew for each request."""

    def repos(self) -> Sequence[ServedRepo]: ...


def make_server(catalogue: Catalogue, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """A server that answers the Hub's protocol: search, info, tree, paths-info, resolve with Range and ETag, whoami.

    Call `serve_forever()` on it; `server_address` tells the port that was taken.
    """
    raise NotImplementedError
