"""Listings of repos: paths and sizes of files that don't exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GB = 1_000_000_000


@dataclass(frozen=True)
class SizedPath:
    """A file in a listing."""

    path: str
    size: int


def make_listing(sizes: Mapping[str, float]) -> list[SizedPath]:
    """Return files with sizes in GB."""
    return [SizedPath(path, int(size * GB)) for path, size in sizes.items()]
