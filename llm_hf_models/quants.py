"""From a repo's file names to its variants, and choosing one of them. Reads no file and no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class SizedFile(Protocol):
    """What grouping needs to know of a file; `hub.HubFile` is one."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class Variant:
    """One quantization of one repo: its shards in order and, if any, its mmproj. Paths are inside the repo."""

    quant: str  # `Q4_K_M`, `UD-Q4_K_XL`, `F16`; the file's stem where no quantization is in its name
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
class Choice:
    """The variant that a plain pull takes, and why, in words for a person."""

    variant: Variant
    reason: str


def group(files: Iterable[SizedFile]) -> list[Variant]:
    """The variants among a repo's files, largest quality first. Incomplete splits are left out; see `incomplete_splits`."""
    raise NotImplementedError


def choose(variants: Sequence[Variant], fits: Callable[[Variant], bool]) -> Choice:
    """The best variant that fits: Q4_K_M and its K-quant kin when several do; the smallest when none does.

    Raises:
        NoGgufError: there is nothing to choose from.
    """
    raise NotImplementedError


def find(variants: Sequence[Variant], quant: str) -> Variant:
    """The variant that a person named, whatever the case they wrote it in.

    Raises:
        QuantNotFoundError: none or several match; the hint lists those there are.
    """
    raise NotImplementedError
