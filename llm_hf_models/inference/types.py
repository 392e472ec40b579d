"""Result types of the load test. Holds no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["loads", "answers nonsense", "fails", "aborts", "times out", "exhausts memory"]


@dataclass(frozen=True)
class LoadResult:
    """What happened. Times in seconds, memory in bytes; None is what the child did not live to tell."""

    verdict: Verdict
    reason: str = ""  # one sentence; empty when it loads
    load_seconds: float | None = None
    peak_memory: int | None = None  # resident, mapped weights included
    tokens_per_second: float | None = None
    output: str = ""  # its words, cleaned and cut; empty for embeddings
    layers: tuple[str, ...] = ()  # which held, as the child said before it looked at the file
    missing: tuple[tuple[str, str], ...] = ()  # each other layer, and why not
    engine_log: str = ""  # llama.cpp's own, cleaned

    @property
    def passed(self) -> bool:
        return self.verdict == "loads"
